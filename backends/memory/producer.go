package memory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

type producer struct {
	b      *Backend
	queue  string
	closed bool // guarded by Broker.mu
}

// Publish stores copies. The messages of one call that pass the checks are stored together and in order; those that do
// not are reported and harm no other.
func (p *producer) Publish(ctx context.Context, ms []*driver.Message) error {
	const op = "publish"
	if err := p.b.batch(op, len(ms)); err != nil {
		return err
	}
	errs, copies := make(driver.BatchError, len(ms)), make([]*driver.Message, 0, len(ms))
	for i, m := range ms {
		if errs[i] = p.check(op, m); errs[i] == nil {
			c := clone(m)
			copies = append(copies, &c)
		}
	}
	if err := p.store(ctx, op, copies); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
		if len(copies) == len(ms) {
			return err
		}
	}
	return errs.OrNil()
}

func (p *producer) check(op string, m *driver.Message) error {
	cfg := p.b.broker.cfg
	switch {
	case m == nil:
		return fail(op, driver.Invalid, errors.New("nil message"))
	case m.Lane != "" && cfg.NoLanes:
		return fail(op, driver.Invalid, fmt.Errorf("lane %q: no lanes here", m.Lane))
	case size(m) > cfg.MaxBytes:
		return fail(op, driver.TooLarge, fmt.Errorf("%d bytes, the broker takes %d", size(m), cfg.MaxBytes))
	}
	return checkDelay(op, m.Delay, p.b.broker.caps.Delay)
}

func checkDelay(op string, d time.Duration, can driver.Delaying) error {
	switch {
	case d <= 0:
		return nil
	case can.By == driver.Nobody:
		return fail(op, driver.Invalid, errors.New("no delays here"))
	case can.Max > 0 && d > can.Max:
		return fail(op, driver.Invalid, fmt.Errorf("delay %v, the broker takes %v", d, can.Max))
	}
	return nil
}

func (p *producer) store(ctx context.Context, op string, ms []*driver.Message) error {
	if err := ctx.Err(); err != nil {
		return fail(op, driver.Unavailable, err)
	}
	p.b.broker.mu.Lock()
	defer p.b.broker.mu.Unlock()
	if p.closed {
		return fail(op, driver.Closed, nil)
	}
	if len(ms) == 0 {
		return nil
	}
	if err := p.b.reach(op); err != nil {
		return err
	}
	q, err := p.b.broker.existing(op, p.queue)
	if err != nil {
		return err
	}
	now := time.Now()
	q.advance(now)
	for _, m := range ms {
		q.add(m, now)
	}
	q.serve(now)
	q.rouse()
	return nil
}

// Close ends the producer. There is never anything to wait for.
func (p *producer) Close(context.Context) error {
	p.b.broker.mu.Lock()
	defer p.b.broker.mu.Unlock()
	p.closed = true
	return nil
}
