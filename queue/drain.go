package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// drain ends a run: wait, cancel, wait, settle, close. A handler that has not returned is not given back: its lease runs
// out by itself, so that nobody else starts the message beside it.
func (r *run) drain(ctx context.Context) error {
	for _, d := range r.slots.takeSuspects() {
		d.submit(ruling{verdict: VerdictRelease}, func(error) {})
	}
	var cut int
	if !r.idle(r.cfg.Drain) {
		cut = r.cutShort()
	}
	stuck := !r.idle(r.cfg.Grace)
	// Verdicts get a fresh context: the one that ended must not cut them off.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.callTimeout()+r.c.cfg.Lease/3)
	defer cancel()
	if stuck {
		n := r.slots.count()
		return errors.Join(fmt.Errorf("%w: %d of %s still running; leases run out by themselves", ErrStuck, n, r.queue), r.c.abandon(closing))
	}
	err := r.c.Close(closing)
	if cut > 0 {
		err = errors.Join(fmt.Errorf("%w: %d of %s", ErrReleased, cut, r.queue), err)
	}
	return err
}

// cutShort ends the contexts of what runs and returns how many there were.
func (r *run) cutShort() int {
	var ds []*Delivery
	r.slots.each(func(j *job) { ds = append(ds, j.d) })
	for _, d := range ds {
		d.cancel(ErrDraining)
	}
	return len(ds)
}

// idle waits at most so long until nothing runs. Abort ends the wait.
func (r *run) idle(most time.Duration) bool {
	timer := time.NewTimer(max(most, 0))
	defer timer.Stop()
	for r.slots.count() > 0 {
		select {
		case <-r.slots.changed:
		case <-timer.C:
			return r.slots.count() == 0
		case <-r.abort:
			return r.slots.count() == 0
		}
	}
	return true
}

// abandon is Close without giving anything back: verdicts under way are finished, other leases run out.
func (c *Consumer) abandon(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.flush(ctx)
	c.end()
	c.done.Wait()
	for _, out := range c.takeOutlets() {
		err = errors.Join(err, out.Close(ctx))
	}
	return err
}
