package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Ack implements driver.Consumer. AMQP does not confirm acks: the driver asks the same channel something after each, and
// the server answers in order.
func (c *Consumer) Ack(ctx context.Context, ds []*driver.Delivery) error {
	return c.settleAll(ctx, "ack", ds, func(*receipt) phase { return acked })
}

// Nack implements driver.Consumer. There is no delay: a message with one is published again, with Message.Delay.
func (c *Consumer) Nack(ctx context.Context, rs []driver.Return) error {
	const op = "nack"
	ds := make([]*driver.Delivery, len(rs))
	for i, r := range rs {
		if r.Delay > 0 {
			return invalid(op, fmt.Errorf("delay of %v: RabbitMQ gives messages back at once", r.Delay))
		}
		ds[i] = r.D
	}
	return c.settleAll(ctx, op, ds, func(r *receipt) phase {
		if r.lane != "" {
			c.hints.add(r.lane, 0)
		}
		return returned
	})
}

func (c *Consumer) settleAll(ctx context.Context, op string, ds []*driver.Delivery, as func(*receipt) phase) error {
	if !c.calls.enter() {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	errs := make(driver.BatchError, len(ds))
	if len(ds) == 1 {
		errs[0] = fail(op, c.settle(ctx, ds[0], as))
		return errs.OrNil()
	}
	var all sync.WaitGroup
	for i, d := range ds {
		all.Go(func() { errs[i] = fail(op, c.settle(ctx, d, as)) })
	}
	all.Wait()
	return errs.OrNil()
}

func (c *Consumer) settle(ctx context.Context, d *driver.Delivery, as func(*receipt) phase) error {
	r, err := c.receiptOf(d)
	if err != nil {
		return err
	}
	wait, err := r.begin()
	switch {
	case errors.Is(err, errDone):
		if as == nil || as(r) == acked {
			return nil
		}
		return lost(errSettled)
	case err != nil:
		return err
	case wait != nil:
		return r.outcome(ctx, wait)
	}
	if !c.background(func() { c.finish(r, as(r)) }) {
		return driver.Closed
	}
	return r.outcome(ctx, r.done)
}

// finish settles and says what came of it.
func (c *Consumer) finish(r *receipt, as phase) {
	c.mu.Lock()
	keep := c.wants(r.k)
	r.k.next, r.k.verdict = keep, true
	if keep {
		c.rouse() // no other consumer need be started
	}
	c.mu.Unlock()
	err := r.k.settle(r, as == acked, keep)
	r.finish(err, as)
	if err != nil {
		r.k.fail(err)
		return
	}
	c.mu.Lock()
	mine, alive := r.k.cur == r, r.k.tag != ""
	if mine {
		r.k.cur, r.k.next, r.k.verdict = nil, false, false
	}
	if mine && alive {
		r.k.use = open
		c.reap()
	}
	c.mu.Unlock()
	if mine && !alive {
		c.rest(r.k)
	}
}

// outcome waits for a settlement. When ctx ends first it is not known.
func (r *receipt) outcome(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.err
	case <-ctx.Done():
		return &driver.Error{Kind: driver.Ambiguous, Err: context.Cause(ctx)}
	}
}

// Extend implements driver.Consumer: one question to the server proves that it hears us, for all deliveries at once. A
// lease is never longer than what the server grants a client that falls silent (see session.patience), whatever the term.
func (c *Consumer) Extend(ctx context.Context, ds []*driver.Delivery, term time.Duration) ([]driver.Lease, error) {
	const op = "extend"
	if !c.calls.enter() {
		return nil, &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	leases := make([]driver.Lease, len(ds))
	errs := make(driver.BatchError, len(ds))
	asked := map[*session]time.Time{}
	for i, d := range ds {
		r, err := c.receiptOf(d)
		if err == nil && r.session.Err() != nil {
			err = lost(context.Cause(r.session))
		}
		if err != nil {
			errs[i] = fail(op, err)
			continue
		}
		sent, done := asked[r.k.s]
		if !done {
			if sent, err = r.k.s.ping(ctx); err != nil {
				errs[i] = fail(op, err)
				continue
			}
			asked[r.k.s] = sent
		}
		lease, ok := r.grant(sent, term)
		if !ok {
			errs[i] = fail(op, lost(errLapsed))
			continue
		}
		leases[i] = lease
	}
	return leases, errs.OrNil()
}
