package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// maxDelay is the longest delay in one call: a queue's TTL is a number of milliseconds of 32 bits.
const maxDelay = 24 * 24 * time.Hour

// laneArgs are the arguments of a lane's queue. Whatever an operator may want to change later (timeouts, lengths) is left
// to policies: an argument that differs from that of the existing queue is refused by the server.
func (b *Backend) laneArgs() amqp.Table {
	if b.config.Type == Classic {
		return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic, "x-max-priority": int64(b.config.MaxPriority)}
	}
	// Holdfast counts, and dead-letters at its own limits: the server's default of 20 would lose a message after twenty
	// deploys (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
	return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int64(-1)}
}

// declareQueue makes sure that a queue's default lane and its exchanges exist.
func (b *Backend) declareQueue(ctx context.Context, s *session, n names) error {
	if b.config.Existing {
		return b.exists(ctx, s, n.queue)
	}
	return s.call(ctx, func(ch *amqp.Channel) error {
		b.meter.count(callDeclare)
		if err := ch.ExchangeDeclare(n.exchange(), amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
			return explain(err)
		}
		return b.declareLane(ch, n, "")
	})
}

// declareLane makes sure that a lane's queue exists and gets what is published under its key.
func (b *Backend) declareLane(ch *amqp.Channel, n names, lane string) error {
	b.meter.count(callDeclare)
	if _, err := ch.QueueDeclare(n.lane(lane), true, false, false, false, b.laneArgs()); err != nil {
		return explain(err)
	}
	return ch.QueueBind(n.lane(lane), n.key(lane), n.exchange(), false, nil)
}

// laneMakers is how many lanes are made at a time: a quorum queue takes the server some milliseconds.
const laneMakers = 8

// declareLanes is declareLane for many.
func (b *Backend) declareLanes(ctx context.Context, s *session, n names, lanes []string) error {
	if len(lanes) == 1 {
		return s.call(ctx, func(ch *amqp.Channel) error { return b.declareLane(ch, n, lanes[0]) })
	}
	next := make(chan string, len(lanes))
	for _, lane := range lanes {
		next <- lane
	}
	close(next)
	errs := make([]error, min(laneMakers, len(lanes)))
	return s.do(ctx, func() error {
		var makers sync.WaitGroup
		for i := range errs {
			makers.Go(func() { errs[i] = b.makeLanes(s, n, next) })
		}
		makers.Wait()
		return errors.Join(errs...)
	})
}

func (b *Backend) makeLanes(s *session, n names, lanes <-chan string) error {
	ch, err := s.open()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	for lane := range lanes {
		if err := b.declareLane(ch, n, lane); err != nil {
			return err
		}
	}
	return nil
}

// exists returns an error if there is no such queue. A refusal closes the channel, so it gets one of its own.
func (b *Backend) exists(ctx context.Context, s *session, queue string) error {
	_, err := b.depth(ctx, s, queue)
	return err
}

// depth is how many messages of a queue are ready.
func (b *Backend) depth(ctx context.Context, s *session, queue string) (int, error) {
	var ready int
	err := s.call(ctx, func(ch *amqp.Channel) error {
		b.meter.count(callDepth)
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		ready = q.Messages
		return err
	})
	if err != nil { // the call may go on, and writes ready
		return 0, err
	}
	return ready, nil
}

// declareDelay makes sure that what holds messages back for a class of delays exists: a queue whose messages all have the
// same TTL, so that none waits behind one with a longer delay, and a fanout in front of it, so that the routing key stays
// that of the lane to which the message goes when its time is over. The move is at least once
// (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
//
// It goes when it was not used for a while. Publishing is not a use, declaring is: delays keep theirs fresh.
func (b *Backend) declareDelay(ch *amqp.Channel, n names, class time.Duration) error {
	b.meter.count(callDeclare)
	name := n.delay(class)
	args := amqp.Table{
		amqp.QueueTypeArg:        amqp.QueueTypeQuorum,
		"x-message-ttl":          class.Milliseconds(),
		"x-expires":              (class + 2*delayFresh).Milliseconds(),
		"x-dead-letter-exchange": n.exchange(),
		"x-dead-letter-strategy": "at-least-once",
		"x-overflow":             "reject-publish",
		"x-delivery-limit":       int64(-1),
	}
	if err := ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, true, false, false, nil); err != nil {
		return explain(err)
	}
	if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
		return explain(err)
	}
	return ch.QueueBind(name, "", name, false, nil)
}

// delayFresh is how long a delay queue is known to exist after it was declared: it lives for twice as long as this, and
// for its TTL. So what it holds has at least this long to get into its lane, should that be away when its time is over.
const delayFresh = 12 * time.Hour

// isMissing reports whether the server has no such queue or exchange.
func isMissing(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == amqp.NotFound && classify(err) == driver.NotFound
}

// atLeast4 reports whether a server's version is 4.minor or newer.
func atLeast4(version string, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > 4 || a == 4 && b >= minor
}
