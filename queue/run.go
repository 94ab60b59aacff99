package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// run is one Run of a Worker.
type run struct {
	*Worker
	c       *Consumer
	handler Handler
	listed  chan struct{} // closed when the lanes are known that were there at the beginning
	aborted <-chan struct{}

	abandoned atomic.Int64 // handlers that run although their slots were freed
	cut       atomic.Int64 // messages given back because the drain cut their handlers short
}

// receive is the loop: wait for a free slot, ask for as many messages as there are, start them.
func (r *run) receive(ctx context.Context) {
	pause := backoff{first: 50 * time.Millisecond, top: topPause}
	for ctx.Err() == nil {
		began := time.Now()
		r.asked.Store(int64(time.Since(r.made)))
		for _, d := range r.slots.tired(time.Now()) {
			d.submit(ruling{verdict: VerdictRelease, delay: minRedelay}, func(error) {}) // a lost one is not sent
		}
		if j := r.slots.next(); j != nil {
			r.start(j)
			continue
		}
		err, recalled := r.ask(ctx)
		switch {
		case err == nil:
			pause.reset()
		case !recalled:
			// From the beginning of the call: a driver that has waited itself, for its connection, is asked again at once.
			sleep(ctx, pause.pause()-time.Since(began))
		}
	}
}

// ask receives and starts what the free slots can take, or waits until there is one. A call is recalled when slots,
// limits or lanes change that its demand did not know.
func (r *run) ask(ctx context.Context) (err error, recalled bool) {
	// First, so that no change falls between the look at the slots and the call: it is either seen or recalls.
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	r.interrupt.Store(&stop)

	free := min(r.slots.free(), r.c.room())
	if free <= 0 {
		r.await(ctx)
		return nil, false
	}
	want, wait := r.want(free)
	if want.Lanes != nil && len(want.Lanes) == 0 { // every lane is at its bound
		r.await(rctx)
		return nil, false
	}
	ds, raw, err := r.c.receive(rctx, want, wait)
	if r.lanes != nil && (err == nil || len(raw) > 0) {
		r.lanes.answered(want, raw)
	}
	recalled = rctx.Err() != nil
	for _, d := range ds {
		r.place(d, ctx.Err() == nil)
	}
	return err, recalled
}

// await returns after aloneWait at the latest, so that a suspect does not wait longer.
func (r *run) await(ctx context.Context) {
	timer := time.NewTimer(aloneWait)
	defer timer.Stop()
	select {
	case <-r.slots.changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// recheck is how long a call may wait that leaves a lane out for a reason that nobody reports the end of.
const recheck = 100 * time.Millisecond

// want is the demand for so many free slots.
func (r *run) want(free int) (driver.Want, time.Duration) {
	if r.lanes == nil {
		return driver.Want{Max: free}, longPoll
	}
	want, again := r.lanes.want(free, time.Now(), r.slots.rooms())
	if again {
		return want, recheck
	}
	return want, longPoll
}

// place starts what was received, or gives it back.
func (r *run) place(d *Delivery, live bool) {
	if !live {
		d.submit(ruling{verdict: VerdictRelease}, func(error) {})
		return
	}
	switch j, how := r.slots.take(d); how {
	case placed:
		r.start(j)
	case noSlot:
		d.submit(ruling{verdict: VerdictRelease}, func(error) {})
	case atBound:
		d.submit(ruling{verdict: VerdictRelease, delay: minRedelay}, func(error) {})
	case parked:
	}
}

func (r *run) start(j *job) {
	if r.lanes != nil {
		j.charge = r.lanes.started(j.d.Lane, j.began)
	}
	go r.execute(j) // owned by drain, which waits for its slot
}

// execute runs the handler and sends its verdict on its way. The slot is free when the handler has returned; settling
// goes on within the window.
func (r *run) execute(j *job) {
	d := j.d
	ctx, cancel := d.ctx, context.CancelFunc(func() {})
	if r.cfg.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, r.cfg.Timeout, ErrTimeout)
	}
	defer cancel()
	if d.ctx.Err() != nil { // its lease was lost, or the drain came, before it began
		r.ended(j, context.Cause(ctx), context.Cause(ctx))
		return
	}
	call(r.cfg.Hooks.Started, d)
	err := errExited
	defer func() { // also when the handler ends its goroutine
		call2(r.cfg.Hooks.Ended, d, err)
		r.ended(j, err, context.Cause(ctx))
	}()
	err = safely(ctx, r.handler, d)
}

// ended sends the verdict of a handler that is done, and frees its slot.
func (r *run) ended(j *job, err, cause error) {
	said := judge(err, cause)
	if errors.Is(cause, ErrDraining) && said.verdict == VerdictRelease {
		r.cut.Add(1)
	}
	j.d.submit(said, func(error) {})
	if !r.free(j) {
		r.abandoned.Add(-1)
	}
}

// free returns false if that was done before.
func (r *run) free(j *job) bool {
	ran, opened := r.slots.put(j.d)
	if !ran {
		return false
	}
	if j.charge != nil {
		r.lanes.ended(j.charge, time.Since(j.began))
	}
	if opened { // the call under way left the tenant's lanes out
		r.recall()
	}
	return true
}

func safely(ctx context.Context, h Handler, d *Delivery) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", ErrPanic, p, debug.Stack())
		}
	}()
	return h(ctx, d)
}

// judge turns what a handler returned, and why its context ended (nil: it did not), into a verdict.
func judge(err, cause error) ruling {
	if err == nil {
		return ruling{verdict: VerdictAck}
	}
	var said *verdictError
	if errors.As(err, &said) && (said.verdict != VerdictRetry || !errors.Is(cause, ErrDraining)) {
		return ruling{verdict: said.verdict, err: err, delay: said.delay, chosen: true}
	}
	if errors.Is(cause, ErrDraining) {
		return ruling{verdict: VerdictRelease, err: err}
	}
	return ruling{verdict: VerdictRetry, err: err}
}

// watchHandlers reports handlers that ignore the end of their context.
func (r *run) watchHandlers(ctx context.Context) {
	tick := time.NewTicker(max(r.cfg.StuckAfter/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, j := range r.newlyStuck(time.Now()) {
			r.c.stats.stuck.Add(1)
			took := time.Since(j.began)
			r.c.log.Error("handler does not return", "queue", r.queue, "id", j.d.ID, "running", took)
			call2(r.cfg.Hooks.Stuck, j.d, took)
			if j.timeout {
				r.c.keeper.lose(j.d, ErrStuck)
				if r.free(j) {
					r.abandoned.Add(1)
				}
			}
		}
	}
}

func (r *run) newlyStuck(now time.Time) []*job {
	var found []*job
	r.slots.each(func(j *job) {
		timedOut := r.cfg.Timeout > 0 && now.Sub(j.began) >= r.cfg.Timeout
		if j.ended.IsZero() && (j.d.ctx.Err() != nil || timedOut) {
			j.ended, j.timeout = now, timedOut && j.d.ctx.Err() == nil
		}
		ignores := !j.ended.IsZero() && now.Sub(j.ended) >= r.cfg.StuckAfter
		overruns := r.cfg.Longest > 0 && now.Sub(j.began) >= r.cfg.Longest+r.cfg.StuckAfter
		if !j.stuck && (ignores || overruns) {
			j.stuck = true
			found = append(found, j)
		}
	})
	return found
}
