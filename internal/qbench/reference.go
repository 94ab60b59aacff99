package qbench

import (
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/replay"
)

// reference replays the run in virtual time with no overhead: the same messages at the instants at which the broker had
// confirmed them, and the workers as they really came and went. What a measured run takes longer is the cost of the
// broker and of the workers.
func (r *run) reference(all []sample, t *history.Timeline) replay.Result {
	in := replay.Input{
		Retry: r.plan.load.Retry, RetryDelay: redelay(r.plan.load.Retry), Lanes: r.plan.load.Lanes,
		Weights: r.plan.load.Weights, Detect: r.detect(), Workers: r.workersOf(t),
	}
	for _, s := range all {
		if s.stored {
			in.Jobs = append(in.Jobs, *s.Job)
			in.Arrivals = append(in.Arrivals, s.arrived)
		}
	}
	return replay.Replay(in)
}

// workersOf are the workers with their real times, up to the end of the run.
func (r *run) workersOf(t *history.Timeline) []replay.Worker {
	var workers []replay.Worker
	for _, p := range t.Processes {
		if len(p.Slots) == 0 {
			continue
		}
		w := replay.Worker{Up: max(0, r.since(p.Ready)), Slots: p.Slots[0].N}
		if down := min(p.Drain, p.Down); down < r.end {
			w.Down, w.Killed = max(time.Nanosecond, r.since(down)), down == p.Down
		}
		workers = append(workers, w)
	}
	return workers
}

// idleWhileBacklog is the share of the workers' slot time that was idle although a message waited, up to the last end
// of a message.
func (r *run) idleWhileBacklog(t *history.Timeline, last time.Duration) float64 {
	return t.Idle(history.IdleOptions{From: r.t0, To: r.t0 + int64(last)}).Share
}
