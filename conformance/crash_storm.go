package conformance

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// replace starts a worker for each that has gone, and returns those that are there.
func (e *Env) replace(ws []*Worker, options ...WorkerOption) []*Worker {
	for i, w := range ws {
		if w.Gone() {
			ws[i] = e.Worker(options...)
		}
	}
	return ws
}

// killStorm kills a random busy worker every lease, while messages arrive that take 0.7 of all slots.
func killStorm(e *Env) {
	const workers, slots, ticks = 4, 2, 8
	kills := 4
	if e.Tier == Full {
		kills = 30
	}
	tick, n := e.Lease/ticks, 0
	ws := e.Workers(workers, Slots(slots))
	e.awaitReady(ws...)
	random := rand.New(rand.NewPCG(e.Seed, 0))
	for k := range kills {
		for i := range ticks { // jobs of two ticks, so that every kill meets some
			burst := workers*slots*7*(i+1)/20 - workers*slots*7*i/20
			e.Publish(queue.Lanes{}, e.Jobs(burst, 2*tick, func(i int, j *Job) { j.ID = fmt.Sprintf("%s-%d", e.Queue, n+i) })...)
			n += burst
			e.Sleep(tick)
		}
		if k < kills-1 {
			e.Sleep(tick / 2) // no job ends at this moment
			busy := e.busy(ws)
			victim := busy[random.IntN(len(busy))]
			victim.Kill()
			victim.Exit(late)
			ws = e.replace(ws, Slots(slots))
		}
	}
	e.Await("every message is done", 5*e.Lease+2*late, finished(n))
	e.Drain(ws, late)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == n && v.DeadLettered == 0, "%d of %d messages completed, %d dead-lettered", v.Completed, n, v.DeadLettered)
	e.Check(v.Redelivered > 0, "no killed worker had a message in work")
	t := e.Timeline()
	useful := v.Work.Useful / float64(workers*slots)
	e.Note("wasted work", "%.1f %%", 100*v.Work.Ratio)
	e.Note("makespan", "%.2f of the arrivals'", time.Duration(lastDone(t)-t.From).Seconds()/max(useful/0.7, 0.001))
}

// busy are the workers in which a handler runs.
func (e *Env) busy(ws []*Worker) []*Worker {
	t := e.Timeline()
	busy := slices.DeleteFunc(slices.Clone(ws), func(w *Worker) bool { return runningOn(w, 0)(t) })
	e.Check(len(busy) > 0, "no worker has anything to do")
	return busy
}

// lastDone is when the last message was done.
func lastDone(t *history.Timeline) int64 {
	last := t.From
	for _, m := range t.Messages {
		if at := m.Finished(); at != history.Never {
			last = max(last, at)
		}
	}
	return last
}

// jobThatKills publishes a killer among innocents, and keeps workers alive until it is dead.
func jobThatKills(e *Env) {
	const workers, slots, crashes, n = 2, 3, 4, 60
	options := []WorkerOption{Slots(slots), With(func(s *crew.Spec) { s.Retry.MaxCrashes = crashes })}
	ws := e.Workers(workers, options...)
	e.awaitReady(ws...)
	killer := Job{ID: e.Queue + "-killer", Order: workload.Order{Crash: true, Run: e.Lease / 20}}
	jobs := e.Jobs(n, e.Lease/8, nil)
	e.Publish(queue.Lanes{}, append([]Job{jobs[0], killer}, jobs[1:]...)...)
	over := time.Now().Add(time.Duration(crashes+1)*e.comeback() + 2*late)
	for !finished(n + 1)(e.Timeline()) {
		e.Check(time.Now().Before(over), "the messages are not done in time")
		ws = e.replace(ws, options...)
		e.Sleep(20 * time.Millisecond)
	}
	ws = e.replace(ws, options...)
	e.awaitReady(ws...)
	e.Drain(ws, late)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == n && v.DeadLettered == 1, "%d innocents of %d completed, %d messages dead-lettered", v.Completed, n, v.DeadLettered)
	m := e.Timeline().Message(killer.ID)
	starts := runsOf(m)
	e.Check(len(starts) == crashes, "the killer started %d times, MaxCrashes is %d", len(starts), crashes)
	e.Check(len(m.Deaths) == 1 && m.Deaths[0].Reason == string(queue.ReasonCrashes), "the killer's deaths: %+v", m.Deaths)
	e.checkAlone(starts[len(starts)-1])
	e.checkFlow(starts)
	e.inspectDead(killer.ID)
}

// checkAlone: nothing ran beside r in its process.
func (e *Env) checkAlone(r *history.Run) {
	for _, o := range r.Delivery.Proc.Runs {
		beside := o != r && o.From < r.To && r.From < o.To
		e.Check(!beside, "message %s ran beside one that had killed its process twice", o.Delivery.Msg.ID)
	}
}

// checkFlow: other messages were completed between the crashes of the killer.
func (e *Env) checkFlow(starts []*history.Run) {
	for i, r := range starts[1:] {
		done := 0
		for _, m := range e.Timeline().Messages {
			if at := m.Finished(); at > starts[i].From && at < r.From {
				done++
			}
		}
		// A broker that notices a death at once leaves no time in which another message could be done.
		if gap := time.Duration(r.From - starts[i].From); i == 0 && gap > e.Lease/2 {
			e.Check(done > 0, "nothing was completed between the first crash and the second")
		}
	}
}

// inspectDead reads the dead letter of a message.
func (e *Env) inspectDead(id string) {
	c := e.Consumer(e.Queue+".dead", queue.ConsumerConfig{})
	d := e.Receive(c, 1, late)[0]
	e.Check(d.ID == id && d.Dead != nil, "the dead letter is %s, %+v", d.ID, d.Dead)
	e.Check(d.Dead.Reason == queue.ReasonCrashes && d.Dead.Origin == e.Queue, "the dead letter says %+v", *d.Dead)
	order, err := workload.DecodeOrder(d.Body)
	e.Check(err == nil && order.Crash, "the dead letter has another body: %v", err)
	e.Must(d.Ack(e.Ctx), "ack the dead letter")
}

// producerKilled kills producers until some died between sending a batch and hearing of it.
func producerKilled(e *Env) {
	cut := 0
	for producers := 0; cut < 2; producers++ {
		e.Check(producers < 10, "no producer was killed in the middle of a batch")
		p := e.Worker(With(func(s *crew.Spec) { s.Publish = &crew.Publishing{Batch: 10} }))
		e.Await("the producer has published", late, func(t *history.Timeline) bool { return publishedBy(t, p, history.Confirmed) >= 200 })
		p.Kill()
		e.Check(p.Exit(late) == -1, "the producer ended by itself")
		if publishedBy(e.Timeline(), p, history.Ambiguous) > 0 {
			cut++
		}
	}
	ws := e.Workers(2, Slots(16))
	e.Await("every message is done", 4*late, storedDone)
	e.Drain(ws, late)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == v.Confirmed+v.Recovered, "%d completed of %d confirmed and %d recovered", v.Completed, v.Confirmed, v.Recovered)
	e.Note("unconfirmed", "%d of %d, %d of them stored", v.Published-v.Confirmed, v.Published, v.Recovered)
}

// publishedBy counts the messages of a producer that ended so.
func publishedBy(t *history.Timeline, p *Worker, o history.Outcome) int {
	n := 0
	for _, m := range t.Messages {
		for _, one := range m.Publishes {
			if one.Proc == p.Name && one.Outcome == o {
				n++
			}
		}
	}
	return n
}

// rollingRestart compares a run in which every worker is replaced, one by one, with a run in which none is.
func rollingRestart(e *Env) {
	calm := e.rolled("calm", false)
	rolled := e.rolled("rolled", true)
	e.Note("backlog", "%d, %d without restarts", rolled, calm)
	e.Check(rolled <= 2*calm, "the backlog rose to %d messages; without restarts it was %d", rolled, calm)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.DeadLettered == 0 && v.Releases == 0, "%d messages dead-lettered, %d given back", v.DeadLettered, v.Releases)
}

// rolled returns the highest backlog of one run.
func (e *Env) rolled(name string, restart bool) int {
	const workers, rounds, burst = 8, 10, 16 // two jobs a worker in the time that restarts one
	base := e.Queue
	e.Queue = base + "-" + name
	defer func() { e.Queue = base }()
	period := e.Lease
	ws := e.Workers(workers)
	e.awaitReady(ws...)
	n := 0
	for k := range rounds {
		e.Publish(queue.Lanes{}, e.Jobs(burst, period/4, func(i int, j *Job) { j.ID = fmt.Sprintf("%s-%d", e.Queue, n+i) })...)
		n += burst
		if k < workers && restart {
			ws[k].Term()
		}
		e.Sleep(period)
		if k < workers && restart {
			e.Check(ws[k].Exit(late) == crew.ExitDrained, "worker %s did not end well", ws[k].Name)
			ws[k] = e.Worker()
		}
	}
	e.Await("every message is done", late+time.Duration(n)*period/8, func(t *history.Timeline) bool { return e.undone(t) == 0 })
	e.Drain(ws, late)
	return e.backlog(e.Timeline())
}

// undone counts the messages of the present queue that are not done.
func (e *Env) undone(t *history.Timeline) int {
	n := 0
	for _, m := range t.Messages {
		if m.Queue == e.Queue && m.Finished() == history.Never {
			n++
		}
	}
	return n
}

// backlog is the highest number of messages of the present queue that were published and not done.
func (e *Env) backlog(t *history.Timeline) int {
	var steps []step
	for _, m := range t.Messages {
		if m.Queue == e.Queue {
			steps = append(steps, step{m.Publishes[0].Answered, 1}, step{m.Finished(), -1})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), b.by-a.by) })
	now, most := 0, 0
	for _, s := range steps {
		now += s.by
		most = max(most, now)
	}
	return most
}

// step is a change of a count.
type step struct {
	at int64
	by int
}
