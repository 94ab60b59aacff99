package memory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var (
	errStale   = errors.New("not the current lease of the message")
	errForeign = errors.New("leased by another consumer")
	errSession = errors.New("the session has ended")
)

// Ack removes messages for good.
func (c *consumer) Ack(ctx context.Context, ds []*driver.Delivery) error {
	return c.each(ctx, "ack", ds, func(q *queue, r *receipt, _ int, now time.Time) error {
		if r.confirmed() {
			return nil
		}
		if !r.current() {
			return fail("ack", driver.LeaseLost, errStale)
		}
		r.m.acked = true
		q.remove(r.m, now)
		return nil
	})
}

// Nack puts messages back in their old places, deliverable after their delays.
func (c *consumer) Nack(ctx context.Context, rs []driver.Return) error {
	const op = "nack"
	cfg, can := c.b.broker.cfg, c.b.broker.caps.Redelay
	ds := make([]*driver.Delivery, len(rs))
	for i := range rs {
		ds[i] = rs[i].D
	}
	return c.each(ctx, op, ds, func(q *queue, r *receipt, i int, now time.Time) error {
		back := rs[i]
		if err := checkDelay(op, back.Delay, can); err != nil {
			return err
		}
		if !cfg.NoCarry && len(back.State) > maxState {
			return fail(op, driver.Invalid, fmt.Errorf("state of %d bytes, the broker takes %d", len(back.State), maxState))
		}
		if !r.current() {
			return fail(op, driver.LeaseLost, errStale)
		}
		if !cfg.NoCarry {
			r.m.carried = back.State
		}
		q.giveBack(r.m, now.Add(back.Delay), now)
		return nil
	})
}

// Extend makes leases last until term from now, also if that is earlier than before. It is refused for a lease that
// has run out, even if nobody else has the message yet.
func (c *consumer) Extend(ctx context.Context, ds []*driver.Delivery, term time.Duration) ([]driver.Lease, error) {
	const op = "extend"
	if c.b.broker.cfg.NoExtend {
		return make([]driver.Lease, len(ds)), fail(op, driver.Invalid, errors.New("leases cannot be extended here"))
	}
	if term <= 0 {
		return make([]driver.Lease, len(ds)), fail(op, driver.Invalid, fmt.Errorf("term %v", term))
	}
	longest := c.b.broker.cfg.MaxTerm
	leases := make([]driver.Lease, len(ds))
	err := c.each(ctx, op, ds, func(q *queue, r *receipt, i int, now time.Time) error {
		if !r.current() {
			return fail(op, driver.LeaseLost, errStale)
		}
		until := now.Add(term)
		if longest > 0 && until.Sub(r.m.grantedAt) > longest {
			return fail(op, driver.LeaseLost, fmt.Errorf("a lease lasts %v at most", longest))
		}
		r.m.due = until
		q.clock.fix(r.m.pos)
		leases[i] = driver.Lease{Until: until, Session: r.session.context()}
		return nil
	})
	return leases, err
}

// each does one request on several deliveries. What can be refused without asking the broker (a receipt that is not
// ours, an ended session) is refused so during an outage too.
func (c *consumer) each(
	ctx context.Context, op string, ds []*driver.Delivery,
	do func(q *queue, r *receipt, i int, now time.Time) error,
) error {
	if err := c.b.batch(op, len(ds)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fail(op, driver.Unavailable, err)
	}
	c.b.broker.mu.Lock()
	defer c.b.broker.mu.Unlock()
	if err := c.open(op); err != nil {
		return err
	}
	errs, send := make(driver.BatchError, len(ds)), make(map[int]*receipt, len(ds))
	for i, d := range ds {
		r, err := c.receipt(op, d)
		if errs[i] = err; err == nil {
			send[i] = r
		}
	}
	if len(send) == 0 {
		return errs.OrNil()
	}
	q, err := c.reach(op)
	if err != nil && len(send) == len(ds) {
		return err
	}
	if err != nil {
		for i := range send {
			errs[i] = err
		}
		return errs
	}
	now := time.Now()
	q.advance(now)
	for i := range ds {
		if r := send[i]; r != nil {
			errs[i] = do(q, r, i, now)
		}
	}
	q.serve(now)
	q.rouse()
	return errs.OrNil()
}

// receipt finds the lease that d was given with, unless it is plain that nothing can be done with it. The caller holds
// Broker.mu.
func (c *consumer) receipt(op string, d *driver.Delivery) (*receipt, error) {
	if d == nil {
		return nil, fail(op, driver.Invalid, errors.New("nil delivery"))
	}
	r, ok := d.Receipt.(*receipt)
	switch {
	case !ok || r == nil:
		return nil, fail(op, driver.Invalid, fmt.Errorf("receipt of type %T", d.Receipt))
	case r.holder != c:
		return nil, fail(op, driver.LeaseLost, errForeign)
	case r.session.over():
		return nil, fail(op, driver.LeaseLost, errSession)
	}
	return r, nil
}
