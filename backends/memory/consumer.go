package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

type consumer struct {
	b     *Backend
	id    int // in the order of opening
	queue string
	term  time.Duration

	// Broker.mu guards what follows.
	closed  bool
	held    map[*message]struct{} // leased and not settled
	session *session              // of the leases granted now; nil before the first
}

// Receive leases what is wanted, in the order of w.Lanes or, without lanes, of publishing. Receivers that wait are
// served in the order in which they came.
func (c *consumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.checkWant(w); err != nil {
		return nil, err
	}
	q, parked, got, err := c.receive(ctx, w, wait)
	if parked != nil {
		got, err = q.await(ctx, parked, wait)
	}
	if err != nil {
		return nil, err
	}
	for _, d := range got {
		d.Header, d.Body = maps.Clone(d.Header), bytes.Clone(d.Body)
	}
	return got, nil
}

func (c *consumer) checkWant(w driver.Want) error {
	if w.Max < 1 {
		return fail("receive", driver.Invalid, fmt.Errorf("want %d messages", w.Max))
	}
	for _, l := range w.Lanes {
		if l.Lane != "" && c.b.broker.cfg.NoLanes {
			return fail("receive", driver.Invalid, fmt.Errorf("lane %q: no lanes here", l.Lane))
		}
	}
	return nil
}

// receive takes what is there, or joins those who wait.
func (c *consumer) receive(
	ctx context.Context, want driver.Want, wait time.Duration,
) (*queue, *waiter, []*driver.Delivery, error) {
	q, err := c.enter(ctx, "receive")
	if err != nil {
		return nil, nil, nil, err
	}
	defer c.b.broker.mu.Unlock()
	now := time.Now()
	q.advance(now)
	q.serve(now) // those who came before
	got := q.take(c, want, now)
	var parked *waiter
	if len(got) == 0 && wait > 0 {
		parked = q.park(c, want)
	}
	q.rouse()
	return q, parked, got, nil
}

// enter begins a request: like Backend.enter.
func (c *consumer) enter(ctx context.Context, op string) (*queue, error) {
	if err := ctx.Err(); err != nil {
		return nil, fail(op, driver.Unavailable, err)
	}
	c.b.broker.mu.Lock()
	err := c.open(op)
	var q *queue
	if err == nil {
		q, err = c.reach(op)
	}
	if err != nil {
		c.b.broker.mu.Unlock()
		return nil, err
	}
	return q, nil
}

// open says whether the consumer can still be used. The caller holds Broker.mu.
func (c *consumer) open(op string) error {
	if c.closed || c.b.closed {
		return fail(op, driver.Closed, nil)
	}
	return nil
}

// reach sends a request to the queue. The caller holds Broker.mu.
func (c *consumer) reach(op string) (*queue, error) {
	if err := c.b.reach(op); err != nil {
		return nil, err
	}
	return c.b.broker.existing(op, c.queue)
}

// Close gives back what is leased, available at once, and ends calls of Receive under way with driver.Closed. A second
// Close returns nil.
func (c *consumer) Close(context.Context) error {
	b := c.b.broker
	b.mu.Lock()
	if c.closed {
		b.mu.Unlock()
		return nil
	}
	c.closed = true
	delete(c.b.consumers, c)
	if q := b.queues[c.queue]; q != nil {
		q.fail(fail("receive", driver.Closed, nil), func(w *waiter) bool { return w.c == c })
	}
	over := c.endSession()
	b.mu.Unlock()

	// The holder learns of its loss before anybody else can get the message.
	for _, s := range over {
		s.cancel(fail("session", driver.Closed, nil))
	}
	return c.giveAllBack()
}

func (c *consumer) giveAllBack() error {
	b := c.b.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[c.queue]
	if c.b.killed || q == nil {
		return nil
	}
	now := time.Now()
	q.advance(now)
	if b.down {
		if len(c.held) == 0 {
			return nil
		}
		return fail("close", driver.Unavailable, fmt.Errorf("%d leases run out by the clock: %w", len(c.held), errOutage))
	}
	for m := range c.held {
		q.giveBack(m, now, now)
	}
	q.serve(now)
	q.rouse()
	return nil
}
