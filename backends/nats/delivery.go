package nats

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// deliver makes deliveries of what was leased. Messages that were delivered before wait for their state; those whose
// state cannot be read are given back, and so is everything if ctx ends meanwhile.
func (c *Consumer) deliver(ctx context.Context, got []*receiptMsg) ([]*driver.Delivery, error) {
	ds := make([]*driver.Delivery, 0, len(got))
	var unread []*receipt
	var failed error
	for i, err := range c.recall(ctx, got) {
		if err != nil {
			failed = fmt.Errorf("state of a returned message: %w", err)
			unread = append(unread, got[i].receipt)
		} else {
			ds = append(ds, c.delivery(got[i]))
		}
	}
	if failed == nil {
		for _, m := range got {
			c.hold(m.receipt)
		}
		return ds, nil
	}
	if ctx.Err() != nil {
		c.background(func() { c.giveBack(got) })
		return nil, causeOf(ctx)
	}
	c.background(func() {
		ctx, cancel := context.WithTimeout(c.b.life, c.b.config.Timeout)
		defer cancel()
		c.returnLeases(ctx, unread, nakAfter(unreadable))
	})
	if len(ds) == 0 {
		return nil, failed
	}
	for _, d := range ds {
		c.hold(d.Receipt.(*receipt))
	}
	return ds, nil
}

func (c *Consumer) delivery(m *receiptMsg) *driver.Delivery {
	r := m.receipt
	count := max(int(r.delivered)-r.memory.unseen, 1)
	return &driver.Delivery{
		Message: driver.Message{
			ID:     messageID(c.names.stream, r.sequence),
			Lane:   r.lane.name,
			Header: decodeHeaders(m.msg.Header),
			Body:   m.msg.Data,
		},
		State:         r.memory.state,
		DeliveryCount: count,
		Redelivered:   count > 1,
		SentAt:        time.Unix(0, r.stamp),
		Granted:       r.lease(),
		Live:          r.lease,
		Receipt:       r,
		Raw:           m.msg,
	}
}

// messageID is the server's own name of a message.
func messageID(stream string, sequence uint64) string {
	return fmt.Sprintf("%s:%d", stream, sequence)
}
