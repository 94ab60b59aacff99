package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// run is one Run of a Worker.
type run struct {
	*Worker
	c       *Consumer
	handler Handler
}

// receive is the loop: wait for a free slot, ask for as many messages as there are, start them.
func (r *run) receive(ctx context.Context) {
	pause := backoff{first: 50 * time.Millisecond, top: 5 * time.Second}
	for ctx.Err() == nil {
		r.asked.Store(time.Now().UnixNano())
		if j := r.slots.next(); j != nil {
			r.start(j)
			continue
		}
		free := min(r.slots.free(), r.c.room())
		if free <= 0 {
			r.await(ctx)
			continue
		}
		want, wait := r.want(free)
		if want.Max == 0 {
			r.await(ctx)
			continue
		}
		rctx, stop := context.WithCancel(ctx)
		r.interrupt.Store(&stop)
		ds, _, err := r.c.receive(rctx, want, wait)
		recalled := rctx.Err() != nil
		stop()
		for _, d := range ds {
			r.place(d, ctx.Err() == nil)
		}
		switch {
		case err == nil:
			pause.reset()
		case !recalled:
			sleep(ctx, pause.pause())
		}
	}
}

func (r *run) await(ctx context.Context) {
	select {
	case <-r.slots.changed:
	case <-ctx.Done():
	}
}

// want is the demand for so many free slots.
func (r *run) want(free int) (driver.Want, time.Duration) {
	if r.lanes == nil {
		return driver.Want{Max: free}, longPoll
	}
	want, capped := r.lanes.want(free, r.slots.tenantRoom)
	if len(want.Lanes) == 0 {
		want.Max = 0
	}
	if capped { // a slot that becomes free may open a lane again that is not asked for now
		return want, time.Second
	}
	return want, longPoll
}

// place starts what was received, or gives it back.
func (r *run) place(d *Delivery, live bool) {
	if !live {
		d.submit(ruling{verdict: VerdictRelease}, func(error) {})
		return
	}
	switch j, full := r.slots.take(d); {
	case full:
		d.submit(ruling{verdict: VerdictRelease, delay: minRedelay}, func(error) {})
	case j != nil:
		r.start(j)
	}
}

func (r *run) start(j *job) {
	if r.lanes != nil {
		j.charge = r.lanes.started(j.d.Lane)
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
	call(r.cfg.Hooks.Started, d)
	err := safely(ctx, r.handler, d)
	call2(r.cfg.Hooks.Ended, d, err)
	d.submit(judge(err, context.Cause(ctx)), func(error) {})
	r.free(j)
}

func (r *run) free(j *job) {
	if !r.slots.put(j.d) {
		return
	}
	if r.lanes != nil {
		r.lanes.ended(j.d.Lane, j.charge, time.Since(j.began))
	}
	if r.cappedLanes() {
		r.recall()
	}
}

// cappedLanes: a lane may be open again that the receive under way does not ask for.
func (r *run) cappedLanes() bool {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	return r.slots.limits.PerTenant > 0 || len(r.slots.limits.Tenants) > 0
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
	if errors.As(err, &said) {
		return ruling{verdict: said.verdict, err: err, delay: said.delay, chosen: true}
	}
	if errors.Is(cause, ErrDraining) {
		return ruling{verdict: VerdictRelease, err: err}
	}
	return ruling{verdict: VerdictRetry, err: err}
}

// watchLanes keeps the lane table up to date.
func (r *run) watchLanes(ctx context.Context) {
	watcher, can := r.backend.(driver.LaneWatcher)
	if r.lanes == nil || !can {
		return
	}
	pause := backoff{first: 100 * time.Millisecond, top: 5 * time.Second}
	for ctx.Err() == nil {
		events, err := watcher.Watch(ctx, r.queue)
		if err != nil {
			r.c.trouble("watch lanes", err)
			sleep(ctx, pause.pause())
			continue
		}
		for e := range events {
			if r.lanes.add(e.Lane) {
				r.recall()
			}
		}
		sleep(ctx, pause.pause()) // the channel ended although ctx did not
	}
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
				r.free(j)
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
