package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// parkFor is how long a pull may wait at the server. A waiting pull cannot be called back: this bounds how long Close
// waits for it, and how late a new lane is noticed by who waits at one.
const parkFor = time.Second

// Consumer leases messages of one queue.
type Consumer struct {
	b     *Backend
	names names
	term  time.Duration
	lanes *lanes
	hints *hints
	calls gate // Receive, Ack, Nack and Extend
	tasks gate // what goes on in the background

	life context.Context // ends with Close
	end  context.CancelCauseFunc

	mu     sync.Mutex
	epoch  string
	held   map[*receipt]struct{} // delivered and, as far as known, not settled
	tidy   int                   // size of held at which expired leases are dropped from it
	broken time.Time             // when the connection last broke; zero once the same server has answered again
}

// OpenConsumer implements driver.Backend.
func (b *Backend) OpenConsumer(ctx context.Context, queue string, config driver.ConsumerConfig) (
	driver.Consumer, error) {
	const op = "open consumer"
	n, err := b.config.names(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	if config.Term < 0 {
		return nil, invalid(op, fmt.Errorf("term: %v", config.Term))
	}
	if config.Term == 0 {
		config.Term = defaultTerm
	}
	info, err := b.ensureQueue(ctx, n)
	if err != nil {
		return nil, fail(op, harmless(err))
	}
	c := &Consumer{
		b: b, names: n, term: config.Term, lanes: newLanes(n), epoch: epochOf(info),
		held: make(map[*receipt]struct{}), tidy: 64,
	}
	c.life, c.end = context.WithCancelCause(context.Background())
	c.hints = newHints(b, n.hints, c.hint)
	if err := c.discover(ctx); err != nil {
		return nil, fail(op, err)
	}
	if err := c.forgetOrphans(ctx, info.State.FirstSeq); err != nil {
		return nil, fail(op, err)
	}
	if err := b.register(op, func() { b.consumers[c] = struct{}{} }); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Consumer) hint(name string) {
	if l, err := c.lanes.get(name); err == nil {
		l.hint()
	}
}

func (c *Consumer) currentEpoch() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *Consumer) setEpoch(epoch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = epoch
}

// Receive implements driver.Consumer.
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
	got, err := c.receive(ctx, w, time.Now().Add(wait))
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
	ds, fresh, err := c.lanes.demands(w)
	if err != nil || len(ds) == 0 {
		return nil, err
	}
	if w.Lanes == nil && c.lanes.discoverDue() {
		if err := c.discover(ctx); err != nil {
			return nil, err
		}
	}
	if len(ds) == 1 && (w.Lanes != nil || c.lanes.count() == 1) {
		return c.receiveOne(ctx, w, ds[0], deadline)
	}
	return c.receiveMany(ctx, w, deadline, fresh)
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
		if w.Lanes == nil && c.lanes.discoverDue() {
			if err := c.discover(ctx); err != nil {
				return nil, err
			}
			if c.lanes.count() > 1 {
				return c.receiveMany(ctx, w, deadline, false)
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
// The signs of the lanes are swept first if stale.
func (c *Consumer) receiveMany(ctx context.Context, w driver.Want, deadline time.Time, stale bool) (
	[]*receiptMsg, error) {
	var wake chan struct{}
	defer func() {
		if wake != nil {
			c.hints.leave(wake)
		}
	}()
	for ; ; stale = false {
		ds, _, err := c.lanes.demands(w)
		if err == nil {
			err = c.sweep(ctx, w, ds, stale)
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
			if fresh { // until now nobody listened: what the lanes are thought to hold is old
				if err := c.sweep(ctx, w, ds, true); err != nil {
					return nil, err
				}
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

// background runs f until Close has waited for it.
func (c *Consumer) background(f func()) {
	if !c.tasks.enter() {
		return // closed: what is leased runs out
	}
	go func() {
		defer c.tasks.leave()
		f()
	}()
}

// hold keeps track of what was delivered, for Close and for a broken connection.
func (c *Consumer) hold(r *receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= c.tidy {
		now := time.Now()
		for r := range c.held {
			if r.over(now) {
				delete(c.held, r)
			}
		}
		c.tidy = 2*len(c.held) + 64
	}
	c.held[r] = struct{}{}
	r.doubt(c.broken)
}

func (c *Consumer) release(r *receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, r)
}

func (c *Consumer) holding() []*receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*receipt, 0, len(c.held))
	for r := range c.held {
		all = append(all, r)
	}
	return all
}

// doubt says that the connection broke. A message that came just before and is still on its way to the caller is
// doubted in hold.
func (c *Consumer) doubt(at time.Time) {
	c.mu.Lock()
	c.broken = at
	c.mu.Unlock()
	for _, r := range c.holding() {
		r.doubt(at)
	}
}

// trust says that the server of before has answered again.
func (c *Consumer) trust() {
	c.mu.Lock()
	c.broken = time.Time{}
	c.mu.Unlock()
	for _, r := range c.holding() {
		r.trust()
	}
}

// Close implements driver.Consumer. It gives back what is not settled, and waits for that and for what cancelled calls
// still give back, at most until ctx ends.
func (c *Consumer) Close(ctx context.Context) error {
	c.end(driver.Closed)
	c.hints.close()
	defer c.b.forget(nil, c)
	select {
	case <-c.calls.shut():
	case <-ctx.Done():
		return causeOf(ctx)
	}
	c.returnHeld(ctx)
	select {
	case <-c.tasks.shut():
		return nil
	case <-ctx.Done():
		return causeOf(ctx)
	}
}
