package queue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var errLeaseOver = errors.New("its time was over before the verdict could be sent")

// ruling is a verdict as it was given.
type ruling struct {
	verdict Verdict
	err     error         // why, for a retry or a reject
	delay   time.Duration // not before
	chosen  bool          // delay is the caller's, not the policy's
	reason  Reason        // for a dead letter without a handler's verdict
}

// op is a verdict on its way to the broker: a copy to store first (or none), then an ack or a return.
type op struct {
	Settlement
	d     *Delivery
	copy  *driver.Message // stored before the original is acked; nil: none
	ret   *driver.Return  // in place; nil: ack
	told  *Settlement     // what the Settling hook was called with; nil: it was not
	fails error           // why it fails though the message is settled: its dead letter was refused
	pause backoff
	done  func(error)
}

// settler sends verdicts: three coalescing loops, so that a slow dead-letter queue holds up no ack, and what comes in
// while a call is under way shares the next one.
type settler struct {
	c                     *Consumer
	acks, returns, copies *coalescer[*op]
	wg                    sync.WaitGroup // pauses before another try
	under                 atomic.Int64   // verdicts without an outcome
}

func newSettler(c *Consumer) *settler {
	s := &settler{c: c}
	most := c.caps.MaxBatch
	s.acks = newCoalescer(most, s.sendAcks)
	s.returns = newCoalescer(most, s.sendReturns)
	s.copies = newCoalescer(most, s.sendCopies)
	return s
}

func (s *settler) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, loop := range []*coalescer[*op]{s.acks, s.returns, s.copies} {
		wg.Go(func() { loop.run(ctx) })
	}
	wg.Wait()
	s.wg.Wait()
	for _, loop := range []*coalescer[*op]{s.acks, s.returns, s.copies} {
		for _, o := range loop.close() {
			s.finish(o, ErrClosed)
		}
	}
}

func (s *settler) submit(d *Delivery, r ruling, done func(error)) {
	s.under.Add(1)
	o := s.c.plan(d, r)
	o.done = done
	s.route(o)
}

func (s *settler) route(o *op) {
	loop := s.acks
	switch {
	case o.copy != nil:
		loop = s.copies
	case o.ret != nil:
		loop = s.returns
	}
	if !loop.add(o) {
		s.finish(o, ErrClosed)
	}
}

// sendable calls the Settling hook for what may still be sent, and ends the rest.
func (s *settler) sendable(ops []*op) []*op {
	kept := ops[:0]
	now := time.Now()
	for _, o := range ops {
		if err := o.d.lapsed(now); err != nil {
			s.finish(o, err)
			continue
		}
		if o.told == nil {
			told := o.Settlement
			o.told = &told
			call2(s.c.cfg.Hooks.Settling, o.d, told)
		}
		kept = append(kept, o)
	}
	return kept
}

func (s *settler) sendAcks(ctx context.Context, ops []*op) {
	if ops = s.sendable(ops); len(ops) == 0 {
		return
	}
	ds := make([]*driver.Delivery, len(ops))
	for i, o := range ops {
		ds[i] = o.d.in
		o.d.ack()
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.callTimeout())
	defer cancel()
	s.conclude(ops, s.c.in.Ack(ctx, ds))
}

// sendReturns waits for extensions in flight, bounded by the call's timeout: one that arrived after the return would
// overwrite its delay.
func (s *settler) sendReturns(ctx context.Context, ops []*op) {
	ctx, cancel := context.WithTimeout(ctx, s.c.callTimeout())
	defer cancel()
	for _, o := range ops {
		if inFlight := o.d.part(); inFlight != nil {
			select {
			case <-inFlight:
			case <-ctx.Done():
			}
		}
	}
	if ops = s.sendable(ops); len(ops) == 0 {
		return
	}
	rs := make([]driver.Return, len(ops))
	for i, o := range ops {
		rs[i] = *o.ret
	}
	s.conclude(ops, s.c.in.Nack(ctx, rs))
}

// sendCopies stores copies, and passes the originals of those that are confirmed on to be acked. The deduplication id
// of a copy is the same at every try, so sending it again after an unknown outcome is safe.
func (s *settler) sendCopies(ctx context.Context, ops []*op) {
	if ops = s.sendable(ops); len(ops) == 0 {
		return
	}
	var live, dead []*op
	for _, o := range ops {
		if o.Dead != "" {
			dead = append(dead, o)
		} else {
			live = append(live, o)
		}
	}
	s.store(ctx, s.c.name, live)
	s.store(ctx, s.c.cfg.DeadLetters, dead)
}

func (s *settler) store(ctx context.Context, target string, ops []*op) {
	if len(ops) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.copyTimeout())
	defer cancel()
	ms := make([]*driver.Message, len(ops))
	for i, o := range ops {
		ms[i] = o.copy
	}
	out, err := s.c.outlet(ctx, target)
	if err == nil {
		err = out.Publish(ctx, ms)
	}
	if driver.KindOf(err) == driver.NotFound {
		s.c.dropOutlet(ctx, target) // opening it anew makes the queue
	}
	var again []*op
	for i, o := range ops {
		switch one := driver.Outcome(err, i); {
		case one == nil:
			s.stored(o)
		case retryable(one) || driver.KindOf(one) == driver.NotFound:
			s.c.trouble(o.Verdict.String(), one)
			again = append(again, o)
		case o.Dead != "":
			s.c.stay(o)
			o.fails = one
			s.route(o)
		default:
			s.finish(o, one)
		}
	}
	s.later(again)
}

func (s *settler) stored(o *op) {
	if o.Dead != "" {
		s.c.log.Warn("message dead-lettered", "queue", s.c.name, "id", o.d.ID, "reason", o.Dead, "attempt", o.d.Attempt)
		call2(s.c.cfg.Hooks.DeadLettered, o.d, o.Dead)
	} else {
		call2(s.c.cfg.Hooks.Copied, o.d, o.d.Generation+1)
	}
	o.copy = nil
	s.route(o)
}

// conclude ends what was settled and tries the rest again while its lease lasts.
func (s *settler) conclude(ops []*op, err error) {
	now := time.Now()
	var again []*op
	for i, o := range ops {
		one := driver.Outcome(err, i)
		switch {
		case one == nil && o.d.lapsed(now) != nil:
			// Confirmed, but too late to know that nobody else had the message by then.
			s.finish(o, o.d.lapsed(now))
		case one == nil:
			s.c.fine()
			s.finish(o, nil)
		case retryable(one):
			s.c.trouble(o.Verdict.String(), one)
			again = append(again, o)
		default:
			s.finish(o, one)
		}
	}
	s.later(again)
}

// later tries ops again after a pause. A delivery whose lease runs out meanwhile ends with ErrLeaseLost at that try.
func (s *settler) later(ops []*op) {
	for _, o := range ops {
		if o.pause.first == 0 {
			o.pause = backoff{first: 50 * time.Millisecond, top: time.Second}
		}
	}
	if len(ops) == 0 {
		return
	}
	pause := ops[0].pause.pause()
	s.wg.Go(func() {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.c.life.Done():
		}
		for _, o := range ops {
			s.route(o)
		}
	})
}

// finish ends a verdict: exactly once for each op.
func (s *settler) finish(o *op, err error) {
	d, c := o.d, s.c
	if errors.Is(err, ErrLeaseLost) {
		c.keeper.lose(d, err) // a process that was frozen finds out here before its keeper does
	}
	d.mu.Lock()
	d.state = settled
	d.mu.Unlock()
	c.keeper.drop(d)
	if err == nil {
		err = o.fails
	}
	said := o.Settlement
	if o.told != nil {
		said = *o.told // another one since then is what became of it when its dead letter was refused
	}
	if err != nil {
		err = c.wrap(said.Verdict.String(), d.ID, err)
	}
	c.stats.settled(o, err)
	if err != nil {
		c.log.Warn("verdict not settled: the message will come again", "queue", c.name, "id", d.ID, "verdict", said.Verdict, "err", err)
	}
	call3(c.cfg.Hooks.Settled, d, said, err)
	d.cancel(context.Canceled)
	o.done(err)
	s.under.Add(-1)
	c.poke()
}

func (s *settler) pending() int64 { return s.under.Load() }

func call[A any](f func(A), a A) {
	if f != nil {
		f(a)
	}
}

func call2[A, B any](f func(A, B), a A, b B) {
	if f != nil {
		f(a, b)
	}
}

func call3[A, B, C any](f func(A, B, C), a A, b B, c C) {
	if f != nil {
		f(a, b, c)
	}
}
