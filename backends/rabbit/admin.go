package rabbit

import (
	"context"
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// CreateQueue implements driver.Admin. On servers before 4.3, and for classic queues, how long a job may run is a matter of
// the server's consumer_timeout or of a policy.
func (b *Backend) CreateQueue(ctx context.Context, queue string) error {
	return b.manage(ctx, "create queue", queue, func(s *session, n names) error { return b.declareQueue(ctx, s, n) })
}

// DeleteQueue implements driver.Admin: with its lanes, what is held back for it, and its registry.
func (b *Backend) DeleteQueue(ctx context.Context, queue string) error {
	return b.manage(ctx, "delete queue", queue, func(s *session, n names) error {
		if err := b.exists(ctx, s, n.queue); err != nil {
			return err
		}
		if b.config.Existing { // the exchange of that name is somebody else's
			return s.call(ctx, func(ch *amqp.Channel) error {
				b.meter.count(callDeclare)
				_, err := ch.QueueDelete(n.queue, false, false, false)
				return err
			})
		}
		lanes, err := b.lanesOf(ctx, s, n)
		if err != nil {
			return err
		}
		return s.call(ctx, func(ch *amqp.Channel) error { return b.remove(ch, n, lanes) })
	})
}

// remove deletes everything that belongs to a queue; what is not there is no error for the server.
func (b *Backend) remove(ch *amqp.Channel, n names, lanes map[string]bool) error {
	drop := func(queue string) error {
		b.meter.count(callDeclare)
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	}
	// What holds messages back goes first: it would fill the lanes again.
	for _, class := range delayClasses(maxDelay) {
		if err := errors.Join(drop(n.delay(class)), ch.ExchangeDelete(n.delay(class), false, false)); err != nil {
			return err
		}
	}
	lanes[""] = true
	for lane := range lanes {
		if err := drop(n.lane(lane)); err != nil {
			return err
		}
	}
	return errors.Join(drop(n.registry()), ch.ExchangeDelete(n.exchange(), false, false), ch.ExchangeDelete(n.hints(), false, false))
}

// PurgeQueue implements driver.Admin. The server purges only what is not leased, so the queues are deleted and made again:
// what is leased is gone, and consumers lose it with ErrLeaseLost.
func (b *Backend) PurgeQueue(ctx context.Context, queue string) error {
	return b.manage(ctx, "purge queue", queue, func(s *session, n names) error {
		if b.config.Existing {
			return invalid("", errors.New("the queue would be deleted and made anew: Config.Existing is set"))
		}
		if err := b.exists(ctx, s, n.queue); err != nil {
			return err
		}
		lanes, err := b.lanesOf(ctx, s, n)
		if err != nil {
			return err
		}
		lanes[""] = true
		return s.call(ctx, func(ch *amqp.Channel) error {
			for _, class := range delayClasses(maxDelay) {
				b.meter.count(callDeclare)
				if _, err := ch.QueueDelete(n.delay(class), false, false, false); err != nil {
					return err
				}
			}
			for lane := range lanes {
				b.meter.count(callDeclare)
				if _, err := ch.QueueDelete(n.lane(lane), false, false, false); err != nil {
					return err
				}
				if err := b.declareLane(ch, n, lane); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Gauge implements driver.Gauger: what is ready, over all lanes. AMQP tells nothing else; the rest is -1, unless
// Config.Management is set.
func (b *Backend) Gauge(ctx context.Context, queue string) (driver.Gauge, error) {
	var g driver.Gauge
	err := b.manage(ctx, "gauge", queue, func(s *session, n names) error {
		if err := b.exists(ctx, s, n.queue); err != nil {
			return err
		}
		lanes, err := b.lanesOf(ctx, s, n)
		if err != nil {
			return err
		}
		lanes[""] = true
		g = driver.Gauge{Delayed: -1, InFlight: -1, Oldest: -1}
		if b.config.Management != "" {
			if g, err = b.managed(ctx, n, lanes); err != nil {
				return err
			}
		}
		for lane := range lanes {
			ready, err := b.depth(ctx, s, n.lane(lane))
			if err != nil && !isMissing(err) {
				return err
			}
			g.Ready += ready
		}
		return nil
	})
	return g, err
}

// manage runs f with the connection that receives, which the server never blocks.
func (b *Backend) manage(ctx context.Context, op, queue string, f func(*session, names) error) error {
	n, err := newNames(queue)
	if err != nil {
		return fail(op, err)
	}
	s, err := b.in.session(ctx, b.config.Timeout)
	if err == nil {
		err = f(s, n)
	}
	return fail(op, err)
}
