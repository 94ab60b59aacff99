package crew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

var (
	errOrdered  = errors.New("told to fail")
	errGiveBack = errors.New("told to give back")
)

// handle does what a message's body says.
func (j *diary) handle(ctx context.Context, d *queue.Delivery) error {
	defer j.handlers.Done()
	o, err := workload.DecodeOrder(d.Body)
	if err != nil {
		return queue.Reject(err)
	}
	if o.Do == workload.Release && d.Releases < o.Times {
		return queue.Release(errGiveBack)
	}
	if err := j.spend(ctx, o); err != nil {
		return err
	}
	j.note(j.about(d, history.SideEffect))
	switch {
	case o.Crash:
		j.kill()
	case o.Do == workload.Panic && d.Attempt <= max(o.Times, 1):
		panic("told to panic")
	case o.Do == workload.Reject:
		return queue.Reject(errOrdered)
	case o.Fails(d.Attempt-1) && o.After > 0:
		return queue.RetryAfter(errOrdered, o.After)
	case o.Fails(d.Attempt - 1):
		return fmt.Errorf("attempt %d: %w", d.Attempt, errOrdered)
	}
	return nil
}

// spend takes the order's run time the way it says.
func (j *diary) spend(ctx context.Context, o workload.Order) error {
	if j.fail == InJob {
		wait(context.Background(), o.Run/2)
		j.die(InJob)
	}
	switch o.Do {
	case workload.Busy:
		for end := time.Now().Add(o.Run); time.Now().Before(end) && ctx.Err() == nil; {
		}
	case workload.Deaf:
		wait(context.Background(), o.Run)
		return nil
	default:
		wait(ctx, o.Run)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// ignores reports whether d's handler will not honour its context.
func ignores(d *queue.Delivery) bool {
	o, err := workload.DecodeOrder(d.Body)
	return err == nil && o.Do == workload.Deaf
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
