package qbench

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/replay"
)

// ending is how the watch over a run ended.
type ending int

// The endings.
const (
	endedFinished    ending = iota + 1 // every message is completed or dead-lettered
	endedEmpty                         // some are not, but the broker has none left
	endedOvertime                      // the time limit was exceeded
	endedDeserted                      // no worker is left
	endedInterrupted                   // by a signal
)

// drained reports whether nothing can come any more: what is not finished is lost.
func (e ending) drained() bool { return e == endedFinished || e == endedEmpty }

const (
	gaugeEvery = time.Second     // how often the broker is asked whether it is empty, once nothing runs
	settleTime = 2 * time.Second // for the broker to have forgotten what was settled
)

// watch looks after the run until it ends.
func (r *run) watch(ctx context.Context, pub *publisher) (ending, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	limit := timeLimit(r.plan)
	void := emptiness{r: r}
	for {
		if err := r.poll(); err != nil {
			return 0, err
		}
		now := history.Now()
		switch {
		case ctx.Err() != nil:
			return endedInterrupted, nil
		case pub.over() && len(r.track.pending) == 0:
			return endedFinished, nil
		case pub.over() && void.certain(ctx):
			return endedEmpty, nil
		case r.since(now) > limit:
			r.complain("the time limit of %s was exceeded", span(limit))
			return endedOvertime, nil
		case !r.nemesis.alive():
			r.complain("no worker was left")
			return endedDeserted, nil
		}
		if err := r.nemesis.step(now); err != nil {
			return 0, err
		}
		r.progress.step(r.track, now)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// over reports whether publishing has ended.
func (p *publisher) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// timeLimit is generous: three times what the reference needs, and a minute.
func timeLimit(p *plan) time.Duration {
	in := replay.FromWorkload(p.load, nil, p.lease)
	in.RetryDelay = redelay(p.load.Retry)
	for range p.workers {
		in.Workers = append(in.Workers, replay.Worker{Slots: p.slots})
	}
	return 3*replay.Replay(in).Makespan + time.Minute
}

// emptiness finds out that the broker has no message left although some are not finished: they were lost, or they were
// acked by a worker that died before it could say so.
type emptiness struct {
	r     *run
	next  time.Time
	since int64 // of the first answer in a row that it is empty; 0: it was not
}

// certain reports whether nothing runs, nothing has happened since the broker said that it is empty, and it says so
// again. A broker that cannot say is taken for empty when nothing has happened for so long that every lease is over.
func (v *emptiness) certain(ctx context.Context) bool {
	t := v.r.track
	if len(t.running) > 0 || time.Now().Before(v.next) {
		return false
	}
	v.next = time.Now().Add(gaugeEvery)
	empty, known := v.r.broker.empty(ctx, v.r.queue)
	now := history.Now()
	switch {
	case !known:
		return time.Duration(now-t.last) > 3*v.r.plan.lease+10*time.Second
	case !empty:
		v.since = 0
	case v.since == 0 || t.last > v.since:
		v.since = now
	default:
		return true
	}
	return false
}

// wind brings the workers to an end: they drain if the run came to its own end, and are killed otherwise.
func (r *run) wind(how ending) {
	r.progress.clear()
	if !how.drained() {
		return // execute kills what is left
	}
	if err := r.crew.Drain(drainTime); err != nil {
		r.complain("the workers did not end well: %v", err)
	}
	if how == endedFinished && !r.comesEmpty() {
		r.complain("the broker still has messages although all were settled")
	}
}

// comesEmpty reports whether the broker has nothing left that could run again, as far as it can tell.
func (r *run) comesEmpty() bool {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	tick := time.NewTicker(settleTime / 10)
	defer tick.Stop()
	for {
		if empty, known := r.broker.empty(ctx, r.queue); empty || !known {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
