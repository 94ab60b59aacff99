package rabbit

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The registry of a queue's lanes is a stream that holds the name of each: AMQP has no way to list queues. A lane is
// entered before its queue is made, so that no message waits where nobody looks. It is read from the beginning, and
// followed for the lanes that come later.
//
// The first entry is that of the default lane, so that a stream that somebody has made is not empty, and its end can be
// found: a stream does not say how much it holds.

// registryBatch is how many entries the server sends ahead of what was acknowledged.
const registryBatch = 500

// endPause is how long after an entry of the last chunk the next one must come, if there is one.
const endPause = 100 * time.Millisecond

// enter adds names of lanes to the registry, and makes the registry if there is none.
func (b *Backend) enter(ctx context.Context, s *session, n names, lanes []string) error {
	return s.do(ctx, func() error {
		ch, err := s.open()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		b.meter.count(callDeclare)
		if _, err := ch.QueueDeclarePassive(n.registry(), true, false, false, false, nil); err != nil {
			if !isMissing(err) {
				return err
			}
			again, err := s.open() // the refusal has closed the first one
			if err != nil {
				return err
			}
			ch = again
			if _, err := ch.QueueDeclare(n.registry(), true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeStream}); err != nil {
				return explain(err)
			}
			lanes = append([]string{""}, lanes...)
		}
		return b.append(ch, n, lanes)
	})
}

func (b *Backend) append(ch *amqp.Channel, n names, lanes []string) error {
	if err := ch.Confirm(false); err != nil {
		return err
	}
	sent := make([]*amqp.DeferredConfirmation, 0, len(lanes))
	for _, lane := range lanes {
		b.meter.count(callPublish)
		done, err := ch.PublishWithDeferredConfirm("", n.registry(), false, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, Body: []byte(lane),
		})
		if err != nil {
			return err
		}
		sent = append(sent, done)
	}
	for _, done := range sent {
		if !done.Wait() {
			return errors.New("the list of lanes was not stored")
		}
	}
	return nil
}

// follow reports the lanes of the registry to found, and once that all are reported that were there at first. It returns
// when ctx or the session ends, or the registry is not there (isMissing) or no more.
func (b *Backend) follow(ctx context.Context, s *session, n names, found func(lane string, listed bool)) error {
	ch, err := s.open()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	last, err := b.lastEntry(ctx, s, n)
	if err != nil {
		return err
	}
	if err := ch.Qos(registryBatch, 0, false); err != nil {
		return err
	}
	b.meter.count(callConsume)
	entries, err := ch.Consume(n.registry(), "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
	if err != nil {
		return err
	}
	timer := time.NewTimer(endPause)
	defer timer.Stop()
	listed, near := false, last < 0
	for {
		select {
		case e, open := <-entries:
			if !open {
				return amqp.ErrClosed
			}
			found(string(e.Body), listed)
			if at := offset(&e); at >= last {
				near = true
			}
			if err := e.Ack(false); err != nil {
				return err
			}
			timer.Reset(endPause)
		case <-timer.C:
			if near && !listed {
				listed = true
				found("", true)
			}
			if !listed {
				timer.Reset(endPause)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// lastEntry is the offset of an entry of the last chunk, or -1 if there is none.
func (b *Backend) lastEntry(ctx context.Context, s *session, n names) (int64, error) {
	ch, err := s.open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = ch.Close() }()
	if err := ch.Qos(1, 0, false); err != nil {
		return 0, err
	}
	b.meter.count(callConsume)
	entries, err := ch.Consume(n.registry(), "", false, false, false, false, amqp.Table{"x-stream-offset": "last"})
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(time.Second) // its maker died before it made the first entry
	defer timer.Stop()
	select {
	case e, open := <-entries:
		if !open {
			return 0, amqp.ErrClosed
		}
		return offset(&e), nil
	case <-timer.C:
		return -1, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func offset(d *amqp.Delivery) int64 {
	at, _ := d.Headers["x-stream-offset"].(int64)
	return at
}

// lanesOf lists the lanes of a queue that are known now. There are none where nobody has used any.
func (b *Backend) lanesOf(ctx context.Context, s *session, n names) (map[string]bool, error) {
	all := map[string]bool{}
	errListed := errors.New("listed")
	err := s.do(ctx, func() error {
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		return b.follow(ctx, s, n, func(lane string, listed bool) {
			if listed {
				stop(errListed)
			}
			all[lane] = true
		})
	})
	if errors.Is(err, errListed) || isMissing(err) {
		return all, nil
	}
	return nil, err
}
