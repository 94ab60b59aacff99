package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// parkFor is how long a pull may wait at the server. A waiting pull cannot be called back: this bounds how long Close
// waits for it, and how late a new lane is noticed by who waits at one.
const parkFor = time.Second

// Receive implements driver.Consumer. While there is no connection it waits for one: a caller that is refused would come
// back too late or too often.
func (c *Consumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	const op = "receive"
	if w.Max < 1 {
		return nil, invalid(op, fmt.Errorf("want of %d messages", w.Max))
	}
	if !c.calls.enter() {
		return nil, &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.life, func() { cancel(driver.Closed) })
	defer stop()

	c.hints.tidy()
	deadline := time.Now().Add(wait)
	if err := c.b.connected(ctx, wait); err != nil {
		return nil, receiveError(op, err)
	}
	got, err := c.receive(ctx, w, deadline)
	if len(got) == 0 {
		if ctx.Err() != nil && err == nil {
			err = causeOf(ctx)
		}
		return nil, receiveError(op, err)
	}
	ds, err := c.deliver(ctx, got)
	return ds, receiveError(op, err)
}

// receiveError leaves the end of the caller's context as it is.
func receiveError(op string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fail(op, harmless(err))
}

func (c *Consumer) receive(ctx context.Context, w driver.Want, deadline time.Time) ([]*receiptMsg, error) {
	ds, err := c.lanes.demands(w)
	if err != nil || len(ds) == 0 {
		return nil, err
	}
	if w.Lanes == nil && c.lanes.askDue() {
		if err := c.discover(ctx); err != nil {
			return nil, err
		}
	}
	if len(ds) == 1 && (w.Lanes != nil || c.lanes.count() == 1) {
		return c.receiveOne(ctx, w, ds[0], deadline)
	}
	return c.receiveMany(ctx, w, deadline)
}

// receiveOne serves the demand for a single lane with a pull that waits at the server.
func (c *Consumer) receiveOne(ctx context.Context, w driver.Want, d demand, deadline time.Time) ([]*receiptMsg, error) {
	for {
		began := time.Now()
		got, err := c.fetchFrom(ctx, d.lane, d.max, min(time.Until(deadline), jittered(parkFor)))
		if len(got) > 0 || err != nil {
			return got, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, nil
		}
		if time.Since(began) < hintSettle {
			// Refused at once: others wait for more than there is, or too many wait.
			if err := c.rest(ctx, nil, min(left, jittered(4*hintSettle))); err != nil {
				return nil, err
			}
		}
		if w.Lanes == nil && c.lanes.askDue() {
			if err := c.discover(ctx); err != nil {
				return nil, err
			}
			if c.lanes.count() > 1 {
				return c.receiveMany(ctx, w, deadline)
			}
		}
	}
}

// fetchFrom is fetch, and once more when the lane's consumer turns out to be gone: somebody removed it, or the queue,
// which may exist again by now.
func (c *Consumer) fetchFrom(ctx context.Context, l *lane, n int, wait time.Duration) ([]*receiptMsg, error) {
	got, err := c.fetch(ctx, l, n, max(wait, 0))
	noLane := errors.Is(err, errNoLane)
	if noLane || errors.Is(err, errNoAnswer) {
		// A pull that was on its way when the queue was deleted is never answered.
		if _, gone := c.b.missing(ctx, c.names.stream); gone != nil {
			return nil, gone
		}
	}
	if noLane {
		if _, err := c.b.ensureStream(ctx, c.b.stateStream(c.names)); err != nil {
			return nil, err
		}
		got, err = c.fetch(ctx, l, n, max(wait, 0))
	}
	if errors.Is(err, errBusy) {
		return nil, nil
	}
	return got, err
}

// receiveMany serves the demand for several lanes: it asks those that may hold something, one after the other so that
// it never leases more than w.Max, and then waits for a hint or the next sweep.
//
// A hint cannot get lost in between: hints are listened to before the lanes are asked for the last time before the
// wait, and one that comes while they are asked leaves a token in wake.
func (c *Consumer) receiveMany(ctx context.Context, w driver.Want, deadline time.Time) ([]*receiptMsg, error) {
	var wake chan struct{}
	defer func() {
		if wake != nil {
			c.hints.leave(wake)
		}
	}()
	for {
		ds, err := c.lanes.demands(w)
		if err == nil {
			err = c.sweep(ctx, w, ds)
		}
		if err != nil {
			return nil, err
		}
		got, again, err := c.collect(ctx, w, ds)
		if len(got) > 0 || err != nil {
			return got, err
		}
		if wake == nil {
			var fresh bool
			wake, fresh = c.hints.listen()
			if fresh {
				c.lanes.expire(ds) // until now nobody listened
			}
			continue // a hint may have come just before
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, nil
		}
		next := jittered(sweepEvery(len(ds)))
		if again {
			next = hintSettle
		}
		if err := c.rest(ctx, wake, min(left, next)); err != nil {
			return nil, err
		}
	}
}

// rest waits for a hint, at most for d.
func (c *Consumer) rest(ctx context.Context, wake <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
		return causeOf(ctx)
	}
	return nil
}

// collect asks the lanes of ds that may hold something until w.Max is reached or none is left. It reports whether a
// lane must be asked again shortly. An error ends it; what was leased before comes without the error.
func (c *Consumer) collect(ctx context.Context, w driver.Want, ds []demand) (got []*receiptMsg, again bool, err error) {
	for left := w.Max; left > 0; {
		ready, signs := readyOf(ds)
		if len(ready) == 0 {
			break
		}
		share := left
		if w.Lanes == nil {
			share = (left + len(ready) - 1) / len(ready)
		}
		for i, d := range ready {
			n := min(share, left, d.max)
			if n == 0 {
				continue
			}
			ms, err := c.fetchFrom(ctx, d.lane, n, 0)
			if err != nil {
				if len(got) > 0 {
					err = nil
				}
				return got, again, err
			}
			if len(ms) < n && d.lane.empty(signs[i]) {
				again = true
			}
			if len(ms) < n {
				d.max = 0
			}
			d.max -= min(d.max, len(ms))
			if len(ms) > 0 {
				c.lanes.served(d.lane)
			}
			got, left = append(got, ms...), left-len(ms)
		}
	}
	return got, again, nil
}

func readyOf(ds []demand) (ready []*demand, signs []uint64) {
	for i := range ds {
		if ds[i].max == 0 {
			continue
		}
		if n, ok := ds[i].lane.ready(); ok {
			ready, signs = append(ready, &ds[i]), append(signs, n)
		}
	}
	return ready, signs
}
