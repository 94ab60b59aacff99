// Package replay works a workload off in virtual time, with no overhead: the reference that a measured run is compared
// with. It knows neither clocks nor goroutines; the same input gives the same result.
//
// The reference is an online scheduler like the real ones: it hands the first eligible message to a free slot at once
// and never waits for a better one. It is given the workers that really were there, so that what is left between it and
// a measured run is the cost of the broker and of the workers.
//
// # Rules
//
// A message is eligible from its arrival until it starts, and again from the end of its retry delay after a failure, or
// Input.Detect after the death of the worker that ran it. Whenever a slot is free and a message is eligible, one starts
// at once. The first to start is that of the highest priority, then the earliest in order of publication: a message
// that came back has kept its place. Where tenants take turns, the tenant goes first, within a priority, that was
// charged the least slot time for its weight; it is charged for the whole of a start when that begins, and a tenant that
// had nothing to do for a while saves nothing up. The slot that has been free longest takes the message.
//
// At one instant, jobs end before workers leave, workers leave before others come, and all that happens before messages
// start. A slot serves one message at a time and holds none in reserve.
package replay

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

// Input is what is replayed. Times count from the start of the run and are not negative.
type Input struct {
	Jobs     []workload.Job
	Arrivals []time.Duration // of each job; nil: Job.At
	Workers  []Worker
	Retry    workload.Retry
	// RetryDelay, if not nil, takes the place of Retry.Delay: how long j waits after its failure of that number, the
	// first being 1. It is called more than once and must always answer the same.
	RetryDelay func(failure int, j workload.Job) time.Duration
	Lanes      workload.Lanes
	Weights    map[string]float64 // of tenants, where they take turns; a tenant without an entry has weight 1
	Detect     time.Duration      // from the death of a worker until its messages are eligible again
	// Observe, if not nil, is called for each start when it has ended, in order of the ends.
	Observe func(Span)
}

// Worker is one process that works on messages.
type Worker struct {
	Up    time.Duration // from when on it takes messages
	Down  time.Duration // when it stops to take messages; 0: never
	Slots int           // how many at once; 0: none, such a worker does nothing
	// Killed says how it goes down: if true, what it works on is lost at Down and starts from zero elsewhere; if false,
	// it finishes what it works on.
	Killed bool
}

// Ending is how a start ended.
type Ending int

// The endings.
const (
	Succeeded Ending = iota
	Failed           // the handler failed: retried or dead-lettered
	Lost             // the worker was killed
	// Crashed: the message ended it (workload.Job.Crash). Its neighbours go on; that they died is for Workers to say.
	Crashed
)

// Span is one start of a job.
type Span struct {
	Job, Worker int // positions in Input
	Start, End  time.Duration
	Ending      Ending
}

// Outcome is what became of one job.
type Outcome struct {
	Arrival    time.Duration
	FirstStart time.Duration // without meaning if Starts is 0
	Done       time.Duration // its completion, or when it became a dead letter; without meaning unless Finished
	Starts     int
	Failures   int  // starts that failed
	Finished   bool // completed or dead-lettered
	Dead       bool // dead-lettered
}

// Dwell returns how long the job waited for its first start.
func (o Outcome) Dwell() time.Duration { return o.FirstStart - o.Arrival }

// Result is what the reference made of an Input.
type Result struct {
	Makespan   time.Duration // the last completion or dead-lettering
	LowerBound time.Duration // no schedule, however clever, could have been done before
	Jobs       []Outcome     // aligned with Input.Jobs

	Busy   time.Duration // slot time with a job: Useful + Failed + Wasted
	Useful time.Duration // of starts that succeeded
	Failed time.Duration // of starts that failed
	Wasted time.Duration // of starts without an end: killed or crashed
	Idle   time.Duration // time of free slots, while jobs were left
	// IdleWhileBacklog is the part of Idle during which a message was eligible: zero, or this package is wrong.
	IdleWhileBacklog time.Duration

	Starts       int
	Completed    int
	DeadLettered int
	Unfinished   int // jobs that were left when the last worker was gone
}

// Efficiency returns reference makespan / measured makespan, the share of the run that any queue needs.
func (r Result) Efficiency(measured time.Duration) float64 {
	if measured <= 0 {
		return 0
	}
	return r.Makespan.Seconds() / measured.Seconds()
}

// FromWorkload returns the Input for a workload on the given workers.
func FromWorkload(w *workload.Workload, workers []Worker, detect time.Duration) Input {
	return Input{
		Jobs: w.Messages, Workers: workers, Retry: w.Retry, Lanes: w.Lanes, Weights: w.Weights, Detect: detect,
	}
}

// Replay works in off.
func Replay(in Input) Result {
	e := newEngine(in)
	e.run()
	e.result.LowerBound = lowerBound(&in, e.result.Jobs)
	return e.result
}

// Dwell returns how long the jobs that pick selects waited for their first start, in microseconds and to three digits;
// a nil pick selects all. Jobs that never started are not in it: Unfinished says whether there are any.
func (r Result) Dwell(pick func(job int) bool) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, max(2, r.longestDwell().Microseconds()), 3)
	for i, o := range r.Jobs {
		if o.Starts > 0 && (pick == nil || pick(i)) {
			// The longest dwell is the bound of the histogram, so that no value can be refused.
			_ = h.RecordValue(o.Dwell().Microseconds())
		}
	}
	return h
}

func (r Result) longestDwell() time.Duration {
	var longest time.Duration
	for _, o := range r.Jobs {
		if o.Starts > 0 {
			longest = max(longest, o.Dwell())
		}
	}
	return longest
}
