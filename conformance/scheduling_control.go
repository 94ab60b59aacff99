package conformance

import (
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func scaleDown(e *Env) {
	const n, run = 28, 3 * unit
	ws := e.Workers(8)
	e.awaitReady(ws...)
	e.Publish(queue.Lanes{}, e.Jobs(n, run, nil)...)
	e.Await("every worker is at work", late, func(t *history.Timeline) bool {
		return !slices.ContainsFunc(ws, func(w *Worker) bool { return len(w.life(t).Runs) == 0 })
	})
	at := e.now()
	e.Drain(ws[1:], run+late)
	e.Check(!finished(n)(e.Timeline()), "the work was done before the workers were asked to end")
	e.Await("the one that stays does the rest", n*run+late, finished(n))
	e.Drain(ws[:1], late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n && v.Releases == 0, "%d of %d messages were completed, %d were given back", v.Completed, n, v.Releases)
	t := e.Timeline()
	for _, w := range ws[1:] {
		p := w.life(t)
		last := p.Runs[len(p.Runs)-1]
		e.Check(p.Drain >= at && p.Drain != history.Never, "worker %s did not drain", w.Name)
		after := time.Duration(last.From - p.Drain)
		e.Check(after <= e.slack()/10, "worker %s started a message %v after it was asked to end", w.Name, after)
	}
}

// truth is what a gauge should say at a moment, from the journals.
type truth struct {
	ready, running int
	oldest         int64 // when the oldest message that is not settled was confirmed; Never: there is none
}

func (e *Env) truth() truth {
	u := truth{oldest: history.Never}
	for _, m := range e.Timeline().Messages {
		if m.Finished() != history.Never {
			continue
		}
		u.oldest = min(u.oldest, m.Publishes[0].Answered)
		if len(m.Deliveries) > 0 {
			u.running++
		} else {
			u.ready++
		}
	}
	return u
}

// gaugeAgrees waits, five seconds at most, for a gauge that says what the journals say.
func (e *Env) gaugeAgrees(g driver.Gauger, when string, want truth) {
	near := func(got, want int) bool { return 10*max(got-want, want-got) <= want }
	began := time.Now()
	for {
		before := e.truth()
		now, err := g.Gauge(e.Ctx, e.Queue)
		e.Must(err, "gauge")
		age := time.Duration(e.now() - before.oldest)
		same := before == e.truth()
		right := near(now.Ready, before.ready) && (now.InFlight < 0 || near(now.InFlight, before.running))
		if before.oldest != history.Never && now.Oldest >= 0 {
			right = right && max(now.Oldest-age, age-now.Oldest) <= age/10+time.Second/2
		}
		if same && right {
			e.Check(before.ready == want.ready && before.running == want.running, "%s: %+v, expected %+v: the rule has shown nothing", when, before, want)
			e.Note("gauge, "+when, "right within %v", time.Since(began).Round(time.Millisecond))
			return
		}
		e.Check(time.Since(began) < 5*time.Second, "%s: for five seconds the gauge says %+v; the journals say %+v, the oldest of %v", when, now, before, age)
		e.Sleep(50 * time.Millisecond)
	}
}

// gauge looks when more waits than runs, when all that is left runs, and when nothing is left.
func gauge(e *Env) {
	const slots, n = 4, 14
	g := e.Open().(driver.Gauger)
	run := max(e.Lease, 6*time.Second)
	w := e.Worker(Slots(slots))
	jobs := e.Jobs(n, unit, func(i int, j *Job) {
		if i < slots {
			j.Run = run
		}
	})
	e.Publish(queue.Lanes{}, jobs[:slots]...)
	e.Await("every slot is busy", late, atLeast(slots))
	e.Sleep(run / 4) // so that the oldest is not the youngest
	e.Publish(queue.Lanes{}, jobs[slots:]...)
	e.gaugeAgrees(g, "backlog", truth{ready: n - slots, running: slots})
	e.Await("the backlog is done", run+late, finished(n))
	last := e.Jobs(slots, run, func(_ int, j *Job) { j.ID += "/last" })
	e.Publish(queue.Lanes{}, last...)
	e.Await("every slot is busy again", late, atLeast(n+slots))
	e.gaugeAgrees(g, "all running", truth{running: slots})
	e.Await("the last ones are done", run+late, finished(n+slots))
	e.gaugeAgrees(g, "done", truth{})
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

// atStarts is the most messages that ran at the starts from one moment to another, each start included.
func (e *Env) atStarts(from, to int64) int {
	most := 0
	runs := e.runs()
	for _, r := range runs {
		if r.From < from || r.From >= to {
			continue
		}
		n := 0
		for _, o := range runs {
			if o.From <= r.From && r.From < o.To {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func concurrency(e *Env) {
	const n = 150
	limits := []int{5, 2, 8}
	w := e.Worker(Slots(limits[0]))
	e.awaitReady(w)
	e.Publish(queue.Lanes{}, e.Jobs(n, 2*unit, nil)...)
	for i, l := range limits {
		if i > 0 {
			w.Tell(crew.Command{Limits: &queue.Limits{Concurrency: l}})
		}
		from, begun := e.now(), len(e.runs())
		e.Await("the backlog runs under the limit", late, atLeast(begun+4*l))
		got := e.atStarts(from, e.now())
		e.Check(got == l, "under a limit of %d, %d messages ran at once", l, got)
	}
	e.Await("the messages are done", n*2*unit+late, finished(n))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	peak := e.Timeline().Peak(history.ByProcess)[w.Name]
	e.Check(peak == slices.Max(limits), "%d messages ran at once, the highest limit was %d", peak, slices.Max(limits))
}

// pause pauses a worker over several leases of what it runs.
func pause(e *Env) {
	const slots, more = 2, 4
	run := 2 * e.Lease
	w := e.Worker(Slots(slots))
	jobs := e.Jobs(slots+more, unit, func(i int, j *Job) {
		if i < slots {
			j.Run = run
		}
	})
	e.Publish(queue.Lanes{}, jobs[:slots]...)
	e.Await("every slot is busy", late, atLeast(slots))
	w.Tell(crew.Command{Pause: true})
	paused := e.now()
	e.Publish(queue.Lanes{}, jobs[slots:]...)
	e.Await("what runs ends well", run+late, finished(slots))
	e.Sleep(e.Lease)
	e.Check(len(e.runs()) == slots, "a paused worker started %d messages", len(e.runs())-slots)
	if e.Caps.Extend {
		extended := slices.DeleteFunc(e.Events(history.Extend, w.Name), func(ev history.Event) bool { return ev.T < paused })
		e.Check(len(extended) >= slots, "a paused worker extended leases %d times", len(extended))
	}
	w.Tell(crew.Command{Resume: true})
	e.Await("the messages are done", more*unit+late, finished(slots+more))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

func controlWhileBusy(e *Env) {
	const slots = 2
	run := 5 * e.Lease
	if e.Tier == Full {
		run = 10 * e.Lease
	}
	w := e.Worker(Slots(slots), With(func(s *crew.Spec) { s.Drain = 2 * run }))
	e.Publish(queue.Lanes{}, e.Jobs(slots, run, nil)...)
	e.Await("every slot is busy", late, atLeast(slots))
	e.Sleep(2 * e.Lease)
	short := e.Jobs(1, unit, func(_ int, j *Job) { j.ID += "/short" })[0]
	e.Publish(queue.Lanes{}, short)
	w.Tell(crew.Command{Limits: &queue.Limits{Concurrency: slots + 1}})
	e.Await("the new slot is used", late, finished1(short.ID))
	after := e.Jobs(1, unit, func(_ int, j *Job) { j.ID += "/after" })[0]
	w.Term()
	e.Await("the worker drains", late, func(t *history.Timeline) bool { return w.life(t).Drain != history.Never })
	asked := e.now()
	e.Publish(queue.Lanes{}, after)
	e.Check(w.Exit(run+late) == crew.ExitDrained, "the worker did not end well")
	v := e.Valid(history.Options{FaultFree: true})
	e.Check(v.Completed == slots+1 && v.Unfinished == 1, "%d messages were completed, %d left, expected %d and 1", v.Completed, v.Unfinished, slots+1)
	var end int64
	for _, r := range e.runs() {
		e.Check(r.From < asked, "a draining worker started a message")
		end = max(end, r.To)
	}
	gone := time.Duration(w.life(e.Timeline()).Down - end)
	e.Check(gone <= e.slack()+e.Lease, "the worker ended %v after its last job", gone)
}
