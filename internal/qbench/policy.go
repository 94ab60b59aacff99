package qbench

import (
	"math"
	"time"

	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// minRedelay is what package queue raises shorter retry delays to.
const minRedelay = 200 * time.Millisecond

// lanes are those of package queue for a workload's policy.
func lanes(w *workload.Workload) queue.Lanes {
	l := queue.Lanes{Priorities: w.Lanes.ByPriority(), Tenants: w.Lanes.ByTenant()}
	if l.Tenants {
		l.Weights = w.Weights
	}
	return l
}

// retry is the policy of package queue for a workload's. It has no jitter, so that the reference schedule, which knows
// the same delays, differs from the run only by what the broker and the workers cost.
func retry(r workload.Retry) queue.Retry {
	top := r.Cap
	if top == 0 {
		top = math.MaxInt64 / 4
	}
	return queue.Retry{
		MaxAttempts: r.Attempts(), MaxCrashes: r.Crashes(), Base: max(r.Base, 1), Factor: 2, Max: max(top, 1), Jitter: -1,
	}
}

// redelay is how long a message really waits after a failure.
func redelay(r workload.Retry) func(failure int, j workload.Job) time.Duration {
	return func(failure int, _ workload.Job) time.Duration { return max(r.Delay(failure), minRedelay) }
}

// needs are those of the workload: order per key if its messages have keys.
func needs(w *workload.Workload) queue.Needs {
	var n queue.Needs
	for _, j := range w.Messages {
		if j.Key != "" {
			n.KeyOrder = true
			break
		}
	}
	return n
}

// detect is how long after the death of a worker the broker gives its messages away, by its own statement.
func (r *run) detect() time.Duration {
	if d := r.broker.Capabilities().DeathDetected; d > 0 {
		return d
	}
	return r.plan.lease
}

// spec is what a worker process is told.
func (r *run) spec(name string) crew.Spec {
	return crew.Spec{
		Name: name, URL: r.broker.shared, Queue: r.queue, Limits: queue.Limits{Concurrency: r.plan.slots},
		Lease: r.plan.lease, Longest: r.plan.work.Longest, Lanes: lanes(r.plan.load), Retry: retry(r.plan.load.Retry),
		Needs: needs(r.plan.load), Drain: drainTime, Grace: time.Second,
	}
}

// check asks package queue whether the broker can do what the workload needs, before a process is started for it.
func (r *run) check() error {
	s := r.spec("check")
	_, err := queue.NewWorker(r.broker.Backend, r.queue, queue.WorkerConfig{
		Limits: s.Limits, Lease: s.Lease, Longest: s.Longest, Lanes: s.Lanes, Retry: s.Retry, Needs: s.Needs,
	})
	if err != nil {
		return brokerFailed(err)
	}
	return nil
}
