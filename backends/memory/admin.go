package memory

import (
	"context"
	"maps"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// CreateQueue makes a queue. One that exists is no error.
func (b *Backend) CreateQueue(ctx context.Context, queue string) error {
	if err := b.open(ctx, "create queue", queue); err != nil {
		return err
	}
	b.broker.mu.Unlock()
	return nil
}

// DeleteQueue removes a queue with its messages. What its producers and consumers do next is refused with
// driver.NotFound until there is a queue of that name again; they go on with the new one then.
func (b *Backend) DeleteQueue(ctx context.Context, queue string) error {
	return b.with(ctx, "delete queue", queue, func(q *queueAt) {
		q.purge()
		q.fail(fail("receive", driver.NotFound, nil), func(*waiter) bool { return true })
		delete(b.broker.queues, queue)
	})
}

// PurgeQueue removes the messages of a queue, leased ones included: settling those is refused with driver.LeaseLost.
// Deduplication ids stay known.
func (b *Backend) PurgeQueue(ctx context.Context, queue string) error {
	return b.with(ctx, "purge queue", queue, func(q *queueAt) { q.purge() })
}

// Gauge counts the messages of a queue. Ready includes those that wait for another of their key.
func (b *Backend) Gauge(ctx context.Context, queue string) (driver.Gauge, error) {
	var g driver.Gauge
	err := b.with(ctx, "gauge", queue, func(q *queueAt) {
		g = driver.Gauge{Ready: q.count[ready] + q.count[blocked], Delayed: q.count[delayed], InFlight: q.count[leased]}
		if q.first != nil {
			g.Oldest = q.now.Sub(q.first.sentAt)
		}
	})
	return g, err
}

// Peek returns copies of up to n messages in the order in which they were published, whatever state they are in.
func (b *Backend) Peek(ctx context.Context, queue string, n int) ([]*driver.Message, error) {
	var found []*driver.Message
	err := b.with(ctx, "peek", queue, func(q *queueAt) {
		for m := q.first; m != nil && len(found) < n; m = m.next {
			found = append(found, m.stored)
		}
	})
	for i, m := range found {
		c := clone(m)
		found[i] = &c
	}
	return found, err
}

// Calls counts the requests that reached the broker, by name: "publish", "receive", "ack", "nack", "extend" and so on.
// A Receive is one request, however long it waits.
func (b *Backend) Calls() map[string]int64 {
	b.broker.mu.Lock()
	defer b.broker.mu.Unlock()
	return maps.Clone(b.calls)
}

// Ping returns nil unless the connection or the broker is down.
func (b *Backend) Ping(ctx context.Context) error {
	if err := b.enter(ctx, "ping"); err != nil {
		return err
	}
	b.broker.mu.Unlock()
	return nil
}

// queueAt is a queue in which everything has happened that was due by now.
type queueAt struct {
	*queue
	now time.Time
}

// with runs one request on an existing queue.
func (b *Backend) with(ctx context.Context, op, queue string, do func(q *queueAt)) error {
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	defer b.broker.mu.Unlock()
	q, err := b.broker.existing(op, queue)
	if err != nil {
		return err
	}
	at := &queueAt{queue: q, now: time.Now()}
	q.advance(at.now)
	do(at)
	q.serve(at.now)
	q.rouse()
	return nil
}
