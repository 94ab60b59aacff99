package queue

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// RedriveConfig configures Redrive. The zero value moves everything back to where it came from.
type RedriveConfig struct {
	// To is the queue to publish to. Empty: the one each message came from.
	To string
	// Lanes must be those of the queue's producers.
	Lanes Lanes
	// Limit is the most messages to move. Zero: no limit.
	Limit int
	// Idle is how long the dead-letter queue must be empty for Redrive to be done. Zero: 1 s.
	Idle time.Duration
}

// Redrive moves dead letters back: with their ID, body and headers, with attempts and crashes at zero. Each is stored
// again before its dead letter is acked, so that one that is killed in the middle loses nothing and may repeat one
// message. It returns how many were moved.
func Redrive(ctx context.Context, b driver.Backend, deadLetters string, cfg RedriveConfig) (moved int, err error) {
	setDefault(&cfg.Idle, time.Second)
	c, err := NewConsumer(ctx, b, deadLetters, ConsumerConfig{})
	if err != nil {
		return 0, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.callTimeout())
		defer cancel()
		err = errors.Join(err, c.Close(closing))
	}()
	for cfg.Limit == 0 || moved < cfg.Limit {
		want := 64
		if cfg.Limit > 0 {
			want = min(want, cfg.Limit-moved)
		}
		ds, received, err := c.receive(ctx, driver.Want{Max: want}, cfg.Idle)
		if err != nil || !received {
			return moved, err
		}
		for _, d := range ds {
			if err := c.redrive(ctx, d, cfg); err != nil {
				return moved, err
			}
			moved++
		}
	}
	return moved, nil
}

func (c *Consumer) redrive(ctx context.Context, d *Delivery, cfg RedriveConfig) error {
	to := cfg.To
	if to == "" {
		to = d.env.origin
	}
	if to == "" {
		return c.wrap("redrive", d.ID, invalid("the message does not say which queue it came from: set RedriveConfig.To"))
	}
	e := d.env
	e.record, e.due, e.reason, e.origin = record{}, time.Time{}, "", ""
	e.generation++
	m := c.copyMessage(d, &e)
	m.Header, m.Lane = e.headers(d.Header), cfg.Lanes.lane(e.tenant, e.priority, c.caps)
	if d.env.reason == ReasonEnvelope { // as it came, for a reader that understands it
		m.DedupID = ""
		m.Header = without(d.in.Header, headerReason, headerOrigin, headerError)
	}
	out, err := c.outlet(ctx, to)
	if err == nil {
		err = driver.Outcome(out.Publish(ctx, []*driver.Message{m}), 0)
	}
	if err != nil {
		return c.wrap("redrive", d.ID, err)
	}
	return d.Ack(ctx)
}

func without(h map[string]string, names ...string) map[string]string {
	kept := make(map[string]string, len(h))
	for name, value := range h {
		kept[name] = value
	}
	for _, name := range names {
		delete(kept, name)
	}
	return kept
}
