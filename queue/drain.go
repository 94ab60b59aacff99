package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// drain ends a run: wait, cancel, wait, settle, close. A handler that has not returned is not given back: its lease runs
// out by itself, so that nobody else starts the message beside it.
func (r *run) drain(ctx context.Context) error {
	for _, d := range r.slots.takeSuspects() {
		d.submit(ruling{verdict: VerdictRelease}, func(error) {})
	}
	if !r.idle(r.cfg.Drain) {
		r.cutShort()
	}
	r.idle(r.cfg.Grace)
	// Verdicts get a fresh context: the one that ended must not cut them off.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.callTimeout()+r.c.cfg.Lease/3)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() { // the second signal does not wait for a broker that does not answer
		select {
		case <-r.aborted:
			sleep(closing, abortWait)
			cancel()
		case <-closing.Done():
		}
	})
	var errs []error
	if n := r.cut.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%w: %d of %s", ErrReleased, n, r.queue))
	}
	// One that was abandoned runs too: the driver's Close would give its message back.
	if n := int64(r.slots.count()) + r.abandoned.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%w: %d of %s still running; leases run out by themselves", ErrStuck, n, r.queue), r.c.abandon(closing))
	} else {
		errs = append(errs, r.c.Close(closing))
	}
	return errors.Join(errs...)
}

// abortWait is the moment that verdicts under way still get after Abort.
const abortWait = 200 * time.Millisecond

// cutShort ends the contexts of what runs.
func (r *run) cutShort() {
	var ds []*Delivery
	r.slots.each(func(j *job) { ds = append(ds, j.d) })
	for _, d := range ds {
		d.cancel(ErrDraining)
	}
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
		case <-r.aborted:
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
