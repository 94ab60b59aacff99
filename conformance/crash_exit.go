package conformance

import (
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

func drains(e *Env) {
	const slots, n = 2, 6
	e.Publish(queue.Lanes{}, e.Jobs(n, e.Lease/2, nil)...)
	w := e.Worker(Slots(slots))
	e.Await("its slots are full", late, runningOn(w, slots))
	w.Term()
	code := w.Exit(e.Lease + late)
	e.Check(code == crew.ExitDrained, "the worker ended with code %d", code)
	life := w.life(e.Timeline())
	// Its slots were full, so a further start would have been one after the signal.
	e.Check(len(life.Runs) == slots, "the worker started %d messages; %d ran when it was asked to end", len(life.Runs), slots)
	for _, r := range life.Runs {
		e.Check(r.Returned && r.Err == "", "the job of message %s was not finished: %q", r.Delivery.Msg.ID, r.Err)
	}
	heirs := e.Workers(1, Slots(slots))
	e.Await("every message is done", n*e.Lease/2+late, finished(n))
	e.Drain(heirs, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n && v.Releases == 0, "%d messages completed, %d given back", v.Completed, v.Releases)
}

// runningOn: so many handlers run in w.
func runningOn(w *Worker, n int) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		running := 0
		if p := w.life(t); p != nil {
			for _, r := range p.Runs {
				if !r.Returned {
					running++
				}
			}
		}
		return running == n
	}
}

func drainTooShort(e *Env) {
	const n = 2
	lease := 10 * e.Lease // far longer than a message that was given back may wait
	long := With(func(s *crew.Spec) { s.Lease, s.Drain = lease, e.Lease/4 })
	e.Publish(queue.Lanes{}, e.Jobs(n, 2*e.Lease, nil)...)
	w := e.Worker(Slots(n), long)
	e.Await("its slots are full", late, runningOn(w, n))
	heir := e.Worker(Slots(n), long)
	e.awaitReady(heir)
	w.Term()
	code := w.Exit(e.Lease + late)
	e.Check(code == crew.ExitReleased, "the worker ended with code %d", code)
	e.Await("the messages are done", 2*e.Lease+2*late, finished(n))
	e.Drain([]*Worker{heir}, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Releases == n, "%d of %d jobs ran again for being given back", v.Releases, n)
	var most time.Duration
	for _, m := range e.Timeline().Messages {
		rs := runsOf(m)
		first, again := rs[0].Delivery, rs[1].Delivery
		back := first.Settled()
		e.Check(back != nil && back.Verdict == history.VerdictRelease, "message %s was not given back", m.ID)
		e.Check(again.Attempt == 1, "being given back cost message %s an attempt", m.ID)
		took := time.Duration(rs[1].From - back.Sent)
		e.Check(took < min(2*time.Second+e.slack(), lease/2), "message %s started elsewhere %v after it was given back", m.ID, took)
		most = max(most, took)
	}
	e.Note("restart", "%v", most.Round(time.Millisecond))
}

func secondSignal(e *Env) {
	ws := e.Workers(2, With(func(s *crew.Spec) { s.Drain, s.Grace = 20*e.Lease+4*late, 20*e.Lease+4*late }))
	e.awaitReady(ws...)
	// It ignores its context: nothing but leaving without it is at once.
	job := e.Jobs(1, 0, func(_ int, j *Job) { j.Do, j.Run = workload.Deaf, 10*e.Lease+2*late })[0]
	e.Publish(queue.Lanes{}, job)
	w, heirs := named(ws, e.awaitRun(job.ID, 1, late))
	w.Term()
	e.Await("it drains", late, func(t *history.Timeline) bool { return w.life(t).Drain != history.Never })
	asked := time.Now()
	w.TermAgain()
	code := w.Exit(late)
	e.Check(code == crew.ExitStuck, "the worker ended with code %d", code)
	e.Check(time.Since(asked) <= e.slack(), "the worker took %v to leave", time.Since(asked))
	e.awaitRun(job.ID, 2, e.comeback()+late)
	again := e.Timeline().Message(job.ID)
	e.Check(len(again.Deliveries[0].Settles) == 0, "the message was settled on leaving: its handler still ran")
	e.measureRedelivery(1)
	for _, h := range heirs {
		h.Kill() // it has the same job now, and would drain as slowly
	}
	e.Valid(history.Options{})
}
