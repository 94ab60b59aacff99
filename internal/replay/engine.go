package replay

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

// engine is the state of one replay at the instant now.
type engine struct {
	in      *Input
	order   []int32 // jobs in order of publication; the rank of a message is its place here
	rankOf  []int32
	arrived int // how many of order have
	events  events
	serial  int64
	waiting *ready
	slots   []slot
	first   []int // of each worker, its first slot
	free    []int // slots in the order in which they became free; may hold some that are gone
	crashes []int // by job; nil unless one crashes

	now      time.Duration
	busy     int // slots with a job
	idle     int // slots without one whose worker takes messages
	left     int // jobs not finished
	makespan time.Duration
	result   Result
}

// slot works on one message at a time.
type slot struct {
	worker int
	job    int // -1: none
	since  time.Duration
	up     bool
}

type eventKind int

// The order in which events of one instant happen.
const (
	jobEnds eventKind = iota
	workerDown
	workerUp
	jobBack // a message is eligible again
)

type event struct {
	at      time.Duration
	kind    eventKind
	serial  int64 // orders the rest, as they were scheduled
	subject int   // slot, worker or job
}

func newEngine(in Input) *engine {
	n := len(in.Jobs)
	e := &engine{in: &in, order: make([]int32, n), rankOf: make([]int32, n), left: n}
	e.result.Jobs = make([]Outcome, n)
	for j := range in.Jobs {
		e.order[j] = int32(j)
		at := in.Jobs[j].At
		if in.Arrivals != nil {
			at = in.Arrivals[j]
		}
		e.result.Jobs[j].Arrival = at
	}
	slices.SortStableFunc(e.order, func(a, b int32) int {
		return cmp.Compare(e.result.Jobs[a].Arrival, e.result.Jobs[b].Arrival)
	})
	for rank, j := range e.order {
		e.rankOf[j] = int32(rank)
	}
	if slices.ContainsFunc(in.Jobs, func(j workload.Job) bool { return j.Crash }) {
		e.crashes = make([]int, n)
	}
	e.waiting = newReady(&in, e.order)
	e.addWorkers()
	return e
}

func (e *engine) addWorkers() {
	e.first = make([]int, len(e.in.Workers))
	for i, w := range e.in.Workers {
		e.first[i] = len(e.slots)
		for range w.Slots {
			e.slots = append(e.slots, slot{worker: i, job: -1})
		}
		if w.Down > 0 && w.Down <= w.Up {
			continue
		}
		e.schedule(event{at: w.Up, kind: workerUp, subject: i})
		if w.Down > 0 {
			e.schedule(event{at: w.Down, kind: workerDown, subject: i})
		}
	}
}

func (e *engine) schedule(ev event) {
	e.serial++
	ev.serial = e.serial
	heap.Push(&e.events, ev)
}

// run goes from instant to instant until every job is finished or nothing can happen any more.
func (e *engine) run() {
	for e.left > 0 {
		next, ok := e.next()
		if !ok {
			break
		}
		e.advance(next)
		for len(e.events) > 0 && e.events[0].at == e.now {
			e.handle(heap.Pop(&e.events).(event))
		}
		for e.arrived < len(e.order) && e.result.Jobs[e.order[e.arrived]].Arrival <= e.now {
			e.waiting.arrive(int32(e.arrived))
			e.arrived++
		}
		e.dispatch()
	}
	e.result.Makespan, e.result.Unfinished = e.makespan, e.left
}

// next returns the instant of the next event or arrival.
func (e *engine) next() (time.Duration, bool) {
	var at time.Duration
	ok := false
	if e.arrived < len(e.order) {
		at, ok = e.result.Jobs[e.order[e.arrived]].Arrival, true
	}
	if len(e.events) > 0 && (!ok || e.events[0].at < at) {
		at, ok = e.events[0].at, true
	}
	return max(at, e.now), ok
}

// advance moves the clock, and counts what slots did meanwhile from their number, not from the jobs' run times: that
// the two agree is what the tests check.
func (e *engine) advance(to time.Duration) {
	passed := to - e.now
	e.now = to
	e.result.Busy += time.Duration(e.busy) * passed
	e.result.Idle += time.Duration(e.idle) * passed
	if e.waiting.size > 0 {
		e.result.IdleWhileBacklog += time.Duration(e.idle) * passed
	}
}

func (e *engine) handle(ev event) {
	switch ev.kind {
	case jobEnds:
		// The end of a start that was lost still comes; its slot is empty, and stays so, since no worker comes back.
		if e.slots[ev.subject].job >= 0 {
			e.end(ev.subject)
		}
	case workerDown:
		e.workerDown(ev.subject)
	case workerUp:
		first := e.first[ev.subject]
		for s := first; s < first+e.in.Workers[ev.subject].Slots; s++ {
			e.slots[s].up = true
			e.idle++
			e.free = append(e.free, s)
		}
	case jobBack:
		if e.crashes != nil && e.crashes[ev.subject] >= e.in.Retry.Crashes() {
			e.finish(ev.subject, true)
			return
		}
		e.waiting.giveBack(e.rankOf[ev.subject])
	}
}

// dispatch starts messages while there is one that is eligible and a slot for it.
func (e *engine) dispatch() {
	for e.waiting.size > 0 && e.idle > 0 {
		s := e.free[0]
		e.free = e.free[1:]
		if e.slots[s].up {
			e.start(s, int(e.order[e.waiting.take(e.cost)]))
		}
	}
}

func (e *engine) cost(rank int32) time.Duration { return e.in.Jobs[e.order[rank]].Run }

func (e *engine) start(s, job int) {
	e.idle--
	e.busy++
	e.result.Starts++
	o := &e.result.Jobs[job]
	if o.Starts == 0 {
		o.FirstStart = e.now
	}
	o.Starts++
	e.schedule(event{at: e.now + e.in.Jobs[job].Run, kind: jobEnds, subject: s})
	sl := &e.slots[s]
	sl.job, sl.since = job, e.now
}

// end is the end of a handler: its verdict.
func (e *engine) end(s int) {
	job := e.slots[s].job
	j, o := e.in.Jobs[job], &e.result.Jobs[job]
	switch {
	case j.Crash:
		e.vacate(s, Crashed)
		e.crashes[job]++
		e.schedule(event{at: e.now + e.in.Detect, kind: jobBack, subject: job})
	case !j.Fails(o.Failures):
		e.vacate(s, Succeeded)
		e.finish(job, false)
	default:
		e.vacate(s, Failed)
		o.Failures++
		if o.Failures >= e.in.Retry.Attempts() {
			e.finish(job, true)
			return
		}
		e.schedule(event{at: e.now + e.retryDelay(o.Failures, j), kind: jobBack, subject: job})
	}
}

func (e *engine) retryDelay(failure int, j workload.Job) time.Duration {
	if e.in.RetryDelay != nil {
		return max(0, e.in.RetryDelay(failure, j))
	}
	return e.in.Retry.Delay(failure)
}

func (e *engine) workerDown(worker int) {
	w, first := e.in.Workers[worker], e.first[worker]
	for s := first; s < first+w.Slots; s++ {
		sl := &e.slots[s]
		sl.up = false
		switch job := sl.job; {
		case job < 0:
			e.idle--
		case w.Killed:
			e.vacate(s, Lost)
			e.schedule(event{at: e.now + e.in.Detect, kind: jobBack, subject: job})
		}
	}
}

// vacate ends the start in a slot and frees it if its worker still takes messages.
func (e *engine) vacate(s int, how Ending) {
	sl := &e.slots[s]
	span := Span{Job: sl.job, Worker: sl.worker, Start: sl.since, End: e.now, Ending: how}
	sl.job = -1
	e.busy--
	if sl.up {
		e.idle++
		e.free = append(e.free, s)
	}
	spent := span.End - span.Start
	switch how {
	case Succeeded:
		e.result.Useful += spent
	case Failed:
		e.result.Failed += spent
	default:
		e.result.Wasted += spent
	}
	if e.in.Observe != nil {
		e.in.Observe(span)
	}
}

func (e *engine) finish(job int, dead bool) {
	o := &e.result.Jobs[job]
	o.Done, o.Finished, o.Dead = e.now, true, dead
	e.makespan = e.now
	e.left--
	if dead {
		e.result.DeadLettered++
	} else {
		e.result.Completed++
	}
}

// events is a heap with the earliest first.
type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, k int) bool {
	a, b := &h[i], &h[k]
	if a.at != b.at {
		return a.at < b.at
	}
	if a.kind != b.kind {
		return a.kind < b.kind
	}
	return a.serial < b.serial
}
func (h events) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
