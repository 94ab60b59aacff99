package conformance

import (
	"maps"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// crashRules are family C: what is left of the work of a process that dies, drains or hangs.
var crashRules = []Rule{
	{
		ID: "C01", Name: "killed_in_job", Tier: Smoke,
		Claim: "the job of a killed worker starts on another one within the redelivery bound, and completes",
		Check: killedInJob,
	},
	{
		ID: "C02", Name: "killed_at_every_point", Tier: Fast,
		Claim: "wherever a worker is killed, a message that was not acked runs again, and an acked one does not",
		Check: killedAtEveryPoint,
	},
	{
		ID: "C03", Name: "killed_before_start", Tier: Fast,
		Claim: "messages that a killed worker had received and not started come back within the redelivery bound",
		Check: killedBeforeStart,
	},
	{
		ID: "C04", Name: "all_killed", Tier: Fast,
		Claim: "when all workers are killed nothing is lost, and workers that come later finish the work",
		Check: allKilled,
	},
	{
		ID: "C05", Name: "kill_storm", Tier: Fast,
		Claim: "nothing is lost and nothing is dead-lettered for the crashes of others while workers are killed one after the other",
		Check: killStorm,
	},
	{
		ID: "C06", Name: "job_that_kills", Tier: Fast,
		Claim: "a message that ends its process each time is dead-lettered after MaxCrashes starts, and nothing else is",
		Needs: needsCounts,
		Check: jobThatKills,
	},
	{
		ID: "C07", Name: "drain", Tier: Smoke,
		Claim: "a worker that is asked to end starts nothing more, finishes what runs, and leaves nothing to be done again",
		Check: drains,
	},
	{
		ID: "C08", Name: "drain_too_short", Tier: Fast,
		Claim: "jobs that outlast the drain are given back at once and at no cost, and start elsewhere long before their leases end",
		Check: drainTooShort,
	},
	{
		ID: "C09", Name: "second_signal", Tier: Fast,
		Claim: "a second signal ends a worker at once; what ran comes back when its lease is over",
		Check: secondSignal,
	},
	{
		ID: "C10", Name: "producer_killed", Tier: Fast,
		Claim: "every message whose publishing was confirmed exists, though its producer is killed in the middle of a batch",
		Needs: needsProcesses,
		Check: producerKilled,
	},
	{
		ID: "C11", Name: "rolling_restart", Tier: Full,
		Claim: "workers restarted one by one lose nothing, repeat nothing, and keep up with the work",
		Check: rollingRestart,
	},
	{
		ID: "C13", Name: "hung_handler", Tier: Fast,
		Claim: "a handler that ignores the end of its context is reported, and after its timeout its message runs elsewhere",
		Check: hungHandler,
	},
}

func needsCounts(s Setting) string {
	if s.Caps.Counting == driver.Uncounted {
		return "deliveries are not counted"
	}
	return ""
}

// slack is what a bound of time allows for beside what it is about: a busy machine takes a while to pass a message on.
func (e *Env) slack() time.Duration {
	if e.Virtual {
		return time.Second
	}
	return 5 * time.Second
}

// comeback is the redelivery bound: how long after the death of its worker a message may wait for its next start, while
// a slot is free.
func (e *Env) comeback() time.Duration {
	if known := e.Caps.DeathDetected; known > 0 {
		return known + e.slack()
	}
	return e.Lease + e.slack()
}

// awaitReady waits until the workers receive.
func (e *Env) awaitReady(ws ...*Worker) {
	e.Await("the workers are ready", late, func(t *history.Timeline) bool {
		return !slices.ContainsFunc(ws, func(w *Worker) bool { return w.life(t) == nil || w.life(t).Ready == history.Never })
	})
}

// life is the worker's process in the history, or nil.
func (w *Worker) life(t *history.Timeline) *history.Process {
	for _, p := range t.Processes {
		if p.Name == w.Name {
			return p
		}
	}
	return nil
}

// awaitRun waits until a message has started n times in all, and returns the last of these runs.
func (e *Env) awaitRun(id string, n int, within time.Duration) *history.Run {
	var run *history.Run
	e.Await("message "+id+" starts", within, func(t *history.Timeline) bool {
		rs := runsOf(t.Message(id))
		if len(rs) >= n {
			run = rs[n-1]
		}
		return run != nil
	})
	return run
}

// runsOf are the runs of a message by time; none if m is nil.
func runsOf(m *history.Message) []*history.Run {
	var rs []*history.Run
	if m != nil {
		for _, d := range m.Deliveries {
			rs = append(rs, d.Runs...)
		}
	}
	slices.SortStableFunc(rs, func(a, b *history.Run) int { return int(a.From - b.From) })
	return rs
}

// named returns the worker that runs r, and the others.
func named(ws []*Worker, r *history.Run) (one *Worker, others []*Worker) {
	for _, w := range ws {
		if w.Name == r.Delivery.Proc.Name {
			one = w
		} else {
			others = append(others, w)
		}
	}
	return one, others
}

// measureRedelivery checks the redelivery bound of every message that was in work when its worker went, and notes the
// longest time.
func (e *Env) measureRedelivery(want int) {
	var most time.Duration
	rs := e.Timeline().Redeliveries()
	for _, r := range rs {
		e.Check(!r.Missing, "message %s of %s did not run again", r.Msg, r.Proc)
		took := time.Duration(r.Latency)
		e.Check(took <= e.comeback(), "message %s ran again %v after its worker went; the bound is %v", r.Msg, took, e.comeback())
		most = max(most, took)
	}
	e.Check(len(rs) >= want, "%d messages were in work when their worker went, expected %d", len(rs), want)
	e.Note("redelivery", "%v", most.Round(time.Millisecond))
}

func killedInJob(e *Env) {
	ws := e.Workers(2)
	e.awaitReady(ws...)
	job := e.Jobs(1, e.Lease, nil)[0]
	e.Publish(queue.Lanes{}, job)
	first := e.awaitRun(job.ID, 1, late)
	victim, heirs := named(ws, first)
	victim.Kill()
	again := e.awaitRun(job.ID, 2, e.comeback()+late)
	e.Check(again.Delivery.Proc.Name == heirs[0].Name, "it ran again in the killed worker")
	if e.Caps.Counting == driver.Counted {
		e.Check(again.Delivery.Deliveries == 2, "the second delivery says that it is number %d", again.Delivery.Deliveries)
	}
	e.Check(again.Delivery.Attempt == 1, "the crash counts as a failure: attempt %d", again.Delivery.Attempt)
	e.Await("it completes", e.Lease+late, finished(1))
	e.Drain(heirs, late)
	e.measureRedelivery(1)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == 1 && v.Duplicates.Total == v.Duplicates.ByCause[history.CauseKill], "completed %d, duplicates %v", v.Completed, v.Duplicates)
}

// outcome is what must be seen of the delivery whose worker died.
type outcome struct {
	started, returned, effect, acked bool
	again                            bool // the message runs again
}

func killedAtEveryPoint(e *Env) {
	points := map[crew.Failpoint]outcome{
		crew.AfterReceive: {again: true},
		crew.InJob:        {started: true, again: true},
		crew.BeforeAck:    {started: true, returned: true, effect: true, again: true},
		crew.AfterAckSent: {started: true, returned: true, effect: true, acked: true, again: !e.Caps.SettleConfirmed},
	}
	victims := map[crew.Failpoint]*Worker{}
	for point := range points {
		victims[point] = e.Worker(With(func(s *crew.Spec) { s.Fail = point }))
	}
	e.awaitReady(slices.Collect(maps.Values(victims))...)
	e.Publish(queue.Lanes{}, e.Jobs(len(points), e.Lease/10, nil)...)
	for point, w := range victims {
		e.Check(w.Exit(late) == -1, "the worker to be killed %s ended by itself", point)
	}
	heir := e.Worker(Slots(len(points)))
	e.Await("every message is done", e.comeback()+late, finished(len(points)))
	e.Drain([]*Worker{heir}, late)
	e.Quietly(e.Consumer(e.Queue, queue.ConsumerConfig{}), 2*e.Lease+e.Caps.DeathDetected, "every message was acked")
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == len(points), "%d of %d messages were completed", v.Completed, len(points))
	for point, want := range points {
		e.checkOutcome(victims[point], point, want)
	}
}

func (e *Env) checkOutcome(w *Worker, point crew.Failpoint, want outcome) {
	var last *history.Delivery
	for _, m := range e.Timeline().Messages {
		for _, d := range m.Deliveries {
			if d.Proc.Name == w.Name {
				last = d
			}
		}
	}
	e.Check(last != nil, "%s: the worker received nothing", point)
	got := outcome{started: len(last.Runs) > 0, effect: len(last.Effects) > 0, acked: len(last.Settles) > 0}
	got.returned = got.started && last.Runs[0].Returned
	for _, r := range runsOf(last.Msg) {
		got.again = got.again || r.From > last.At && r.Delivery != last
	}
	if point == crew.AfterAckSent && !e.Caps.SettleConfirmed {
		got.again = want.again // it may run again, and need not
	}
	e.Check(got == want, "killed %s: %+v, expected %+v", point, got, want)
}

func killedBeforeStart(e *Env) {
	const n = 8
	e.Publish(queue.Lanes{}, e.Jobs(n, e.Lease/20, nil)...)
	victim := e.Worker(Slots(n), With(func(s *crew.Spec) { s.Fail = crew.AfterReceive }))
	e.Check(victim.Exit(late) == -1, "the worker to be killed ended by itself")
	heir := e.Worker(Slots(n))
	e.awaitReady(heir)
	e.Await("every message is done", e.comeback()+late, finished(n))
	e.Drain([]*Worker{heir}, late)
	e.Valid(history.Options{Drained: true})
	t := e.Timeline()
	began := max(victim.life(t).Down, heir.life(t).Ready)
	held := 0
	for _, m := range t.Messages {
		r := runsOf(m)[0]
		took := time.Duration(r.From - began)
		e.Check(took <= e.comeback(), "message %s started %v after its worker was killed; the bound is %v", m.ID, took, e.comeback())
		if r.Delivery.Deliveries > 1 {
			held++
		}
	}
	if e.Caps.Counting == driver.Counted && e.Caps.MaxReceive != 1 {
		e.Check(held > 1, "the killed worker held %d messages: the rule has shown nothing", held)
	}
}

func allKilled(e *Env) {
	const n = 30
	e.Publish(queue.Lanes{}, e.Jobs(n, e.Lease/8, nil)...)
	ws := e.Workers(3, Slots(2))
	e.Await("some messages are done", late+e.Lease, finished(n/5))
	for _, w := range ws {
		w.Kill()
	}
	e.Sleep(e.Lease + e.Caps.DeathDetected + time.Second) // nobody is there when the messages come back
	e.Check(!finished(n)(e.Timeline()), "the workers were done before they were killed")
	heirs := e.Workers(2, Slots(2))
	e.Await("every message is done", e.Lease*n/8+late, finished(n))
	e.Drain(heirs, late)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == n, "%d of %d messages were completed", v.Completed, n)
	e.Check(v.Redelivered > 0, "no message was in work when the workers were killed")
}
