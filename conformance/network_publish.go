package conformance

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// cutWhilePublishing cuts connections after so many bytes of a batch.
func cutWhilePublishing(e *Env) {
	const batch = 4
	cuts := []int64{1, 7, 64, 300, 700, 1500, 2100, 2500, 3500, 4400, 6000, 7900, 8500}
	for _, after := range cuts {
		l := e.line()
		p, err := queue.NewProducer(e.Ctx, l, e.Queue, queue.ProducerConfig{Patience: -1, Hooks: e.Published(), Logger: e.log})
		e.Must(err, "open a producer")
		jobs := e.Jobs(batch, 0, func(_ int, j *Job) { j.ID, j.Bytes = fmt.Sprintf("%s-%d", j.ID, after), 2<<10 })
		l.proxy.Set(proxy.Fault{CutAfterUp: after, Refuse: true})
		err = e.publishWith(p, jobs...)
		for i := range jobs {
			one := driver.Outcome(err, i)
			known := one == nil || errors.Is(one, queue.ErrAmbiguous) || errors.Is(one, queue.ErrUnavailable)
			e.Check(known, "cut after %d bytes: %v", after, one)
		}
		l.proxy.Cut()
	}
	e.drainQueue()
	v := e.Valid(history.Options{Drained: true}) // among others: what was refused for certain is not there
	e.Check(v.Completed == v.Confirmed+v.Recovered, "%d completed of %d confirmed and %d recovered", v.Completed, v.Confirmed, v.Recovered)
	ambiguous := 0
	for _, m := range e.Timeline().Messages {
		if m.Publishes[0].Outcome == history.Ambiguous {
			ambiguous++
		}
	}
	e.Check(ambiguous > 0, "no cut met a message on its way")
	e.Note("ambiguous", "%d of %d, %d of them stored", ambiguous, v.Published, v.Recovered)
}

// drainQueue lets a worker do what is in the queue, until nothing has come for a while.
func (e *Env) drainQueue() {
	slots := 8
	if e.Caps.Dedup == 0 {
		slots = 1 // a message that was stored twice is two messages to the broker, but one to the checker
	}
	w := e.Worker(Slots(slots))
	e.awaitReady(w)
	quiet, seen := time.Now(), 0
	e.Await("the queue is empty", e.Lease+2*late, func(t *history.Timeline) bool {
		if n := len(e.Events(history.Deliver, "")); n > seen {
			seen, quiet = n, time.Now()
		}
		idle := runningOn(w, 0)(t) && storedDone(t)
		return idle && time.Since(quiet) > e.Lease/2
	})
	e.Drain([]*Worker{w}, late)
}

// storedDone: every message that is known to be stored is done.
func storedDone(t *history.Timeline) bool {
	for _, m := range t.Messages {
		stored := len(m.Deliveries) > 0 || m.Publishes[0].Outcome == history.Confirmed
		if stored && m.Finished() == history.Never {
			return false
		}
	}
	return true
}

// confirmationLost holds the broker's answers back while messages go through.
func confirmationLost(e *Env) {
	told := e.Jobs(1, 0, func(_ int, j *Job) { j.ID += "-told" })[0]
	err := e.publishUnheard(told, queue.Report)
	e.Check(errors.Is(err, queue.ErrAmbiguous), "the confirmation was lost, and Publish said: %v", err)
	again := e.Jobs(1, 0, func(_ int, j *Job) { j.ID += "-again" })[0]
	err = e.publishUnheard(again, queue.Resend)
	e.Check(err == nil, "sent again after the confirmation was lost: %v", err)
	e.drainQueue()
	// Without deduplication the second copy is there as well.
	v := e.Judge(history.Options{Drained: true, AllowUnexplained: true})
	e.Check(v.Lost == 0 && v.Unexpected == 0 && v.Overlaps == 0 && (v.Valid || e.Caps.Dedup == 0), "the history is not valid: %v", v.InvalidReasons)
	e.Check(v.Recovered == 1 && v.Completed == 2, "of two stored messages %d were completed, %d of them without a confirmation", v.Completed, v.Recovered)
	runs := len(runsOf(e.Timeline().Message(again.ID)))
	if e.Caps.Dedup > 0 {
		e.Check(runs == 1, "the message that was sent again ran %d times", runs)
	}
}

// publishUnheard publishes a message while nothing of the broker's arrives, and breaks the connection when the message
// is there.
func (e *Env) publishUnheard(j Job, policy queue.OnAmbiguous) error {
	l := e.line()
	p, err := queue.NewProducer(e.Ctx, l, e.Queue, queue.ProducerConfig{OnAmbiguous: policy, Hooks: e.Published(), Logger: e.log})
	e.Must(err, "open a producer")
	arrived := e.grows()
	e.fault("answers are held back")
	l.proxy.Set(proxy.Fault{HoldDown: true})
	result := make(chan error, 1)
	go func() { result <- e.publishWith(p, j) }()
	e.Await("the message is stored", late, func(*history.Timeline) bool { return arrived() })
	l.proxy.Cut()
	l.proxy.Set(proxy.Fault{})
	e.heal("the connection is broken, and can be made again")
	return <-result
}

// grows returns whether the queue holds more than at the call of grows. Where the broker cannot tell, that is taken to be
// so after a while.
func (e *Env) grows() func() bool {
	g, can := e.Open().(driver.Gauger)
	began := time.Now()
	depth := func() int {
		d, err := g.Gauge(e.Ctx, e.Queue)
		e.Must(err, "gauge")
		return d.Ready + d.InFlight + max(d.Delayed, 0)
	}
	before := 0
	if can {
		before = depth()
	}
	return func() bool {
		if !can {
			return time.Since(began) > e.Lease/2
		}
		return depth() > before
	}
}
