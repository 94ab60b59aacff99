package rabbit

import (
	"context"
	"errors"
	"maps"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// What was pushed and nobody wants goes back. On quorum queues from 4.3 on basic.nack leaves no trace in the count of
// losses. Elsewhere the next delivery would look like one after a crash, and a message that was given back five times
// would die of it without ever having been started. There it goes back as a copy, at the tail, which carries in a header
// how often it was lost so far.
const (
	beforeHeader = "hf-before" // deliveries that count from before the copy
	backHeader   = "hf-back"   // as tagHeader, on copies: these do not turn a foreign message into one of ours
)

// giveBackHeld returns the slot's delivery, which is being settled. k.rpc is held.
func (k *slot) giveBackHeld(r *receipt) error {
	if k.c.b.caps.Counting != driver.CountedApart && k.c.b.copies(r.m) {
		if k.c.copyBack(r) == nil {
			return k.send(r, true)
		}
	}
	return k.send(r, false)
}

// copies: the server refuses a copy with somebody else's name in it.
func (b *Backend) copies(m *amqp.Delivery) bool { return m.UserId == "" || m.UserId == b.config.user }

// copyBack publishes a delivery again and returns nil when the copy is stored.
func (c *Consumer) copyBack(r *receipt) error {
	ctx, cancel := context.WithTimeout(c.b.life, c.b.config.Timeout)
	defer cancel()
	out, err := c.back.outlet(ctx)
	if err != nil {
		return err
	}
	m := r.m
	headers := maps.Clone(m.Headers)
	if headers == nil {
		headers = amqp.Table{}
	}
	delete(headers, "x-delivery-count")
	delete(headers, "x-acquired-count")
	headers[beforeHeader] = int64(c.b.losses(m))
	p := &parcel{key: c.names.lane(r.lane), tagHeader: backHeader, pub: amqp.Publishing{
		Headers: headers, ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, DeliveryMode: amqp.Persistent,
		Priority: m.Priority, CorrelationId: m.CorrelationId, ReplyTo: m.ReplyTo, Expiration: m.Expiration,
		MessageId: m.MessageId, Timestamp: m.Timestamp, Type: m.Type, UserId: m.UserId, AppId: m.AppId, Body: m.Body,
	}}
	if p.sent, err = out.send(p); err != nil {
		return err
	}
	select {
	case <-p.sent.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	out.settle()
	if !p.sent.Acked() || out.returned(p.tag) {
		return errors.New("the copy was not stored")
	}
	return nil
}

// losses is how often a message was handed over and came to nothing, as far as the server tells.
func (b *Backend) losses(m *amqp.Delivery) int {
	n := count(m.Headers, beforeHeader)
	switch {
	case b.caps.Counting == driver.Counted:
		n += count(m.Headers, "x-delivery-count")
	case m.Redelivered:
		n++
	}
	return n
}
