package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// schedulingRules are family S: who gets the next slot, and who does not wait for it.
var schedulingRules = []Rule{
	{
		ID: "S01", Name: "scale_up", Tier: Smoke,
		Claim: "a worker that is added starts a message at once, however long the jobs of the others are",
		Check: scaleUp,
	},
	{
		ID: "S02", Name: "work_conserving", Tier: Fast,
		Claim: "no slot is idle while a message waits",
		Check: workConserving,
	},
	{
		ID: "S03", Name: "no_head_of_line", Tier: Fast,
		Claim: "a long job does not hold up the messages behind it",
		Check: noHeadOfLine,
	},
	{
		ID: "S04", Name: "no_hoarding", Tier: Fast,
		Claim: "a worker leases no message that it cannot start",
		Needs: func(s Setting) string {
			if s.Caps.Sharing != driver.PerMessage {
				return "messages are shared by partition"
			}
			return ""
		},
		Check: noHoarding,
	},
	{
		ID: "S05", Name: "noisy_neighbour", Tier: Fast,
		Claim: "a tenant's flood does not hold up the others",
		Needs: needsLanes, Denied: lanesDenied, Emulated: fairByLanes,
		Check: noisyNeighbour,
	},
	{
		ID: "S06", Name: "tenant_cap", Tier: Fast,
		Claim: "a tenant never runs more messages at once than its cap, and those beyond it stand in nobody's way",
		Needs: needsLanes, Denied: lanesDenied,
		Check: tenantCap,
	},
	{
		ID: "S07", Name: "weights", Tier: Fast,
		Claim: "tenants with work get slot time by their weights",
		Needs: needsLanes, Denied: lanesDenied, Emulated: fairByLanes,
		Check: weights,
	},
	{
		ID: "S08", Name: "priority_shares", Tier: Fast,
		Claim: "with PriorityShares a lower priority gets its share however much of the higher one waits",
		Needs: needsLanes, Denied: lanesDenied, Emulated: priorityByLanes,
		Check: priorityShares,
	},
	{
		ID: "S09", Name: "priority_order", Tier: Fast,
		Claim: "of what waits, the highest priority starts first",
		Needs: needsPriorities, Denied: lanesDenied, Emulated: priorityByLanes,
		Check: priorityOrder,
	},
	{
		ID: "S10", Name: "priority_kept", Tier: Fast,
		Claim: "a message that comes back keeps its priority",
		Needs: needsPriorities, Denied: lanesDenied, Emulated: priorityByLanes,
		Check: priorityKept,
	},
	{
		ID: "S11", Name: "late_priority", Tier: Fast,
		Claim: "a late message of high priority overtakes what waits, and not what runs",
		Needs: needsPriorities, Denied: lanesDenied, Emulated: priorityByLanes,
		Check: latePriority,
	},
	{
		ID: "S12", Name: "key_order", Tier: Fast,
		Claim: "with Needs.KeyOrder messages of a key run in order and one at a time, over all workers, and keys beside each other",
		Needs: needsKeyOrder, Denied: keyOrderDenied,
		Check: keyOrder,
	},
	{
		ID: "S13", Name: "scale_down", Tier: Fast,
		Claim: "workers that are asked to end finish what they run and leave the rest to those that stay",
		Check: scaleDown,
	},
	{
		ID: "S14", Name: "gauge", Tier: Fast,
		Claim: "the gauge of a queue is the truth of the last five seconds, and what runs is in it",
		Needs: func(s Setting) string {
			if !s.Gauges {
				return "no gauge"
			}
			return ""
		},
		Check: gauge,
	},
	{
		ID: "S15", Name: "concurrency", Tier: Fast,
		Claim: "a worker runs exactly as many messages as Limits.Concurrency says, also when it changes",
		Check: concurrency,
	},
	{
		ID: "S16", Name: "pause", Tier: Fast,
		Claim: "a paused worker starts nothing and keeps the leases of what it runs",
		Check: pause,
	},
	{
		ID: "S17", Name: "control_while_busy", Tier: Fast,
		Claim: "a worker whose slots all hold long jobs keeps their leases, takes new limits and ends when asked",
		Check: controlWhileBusy,
	},
}

// unit is the run time of a short job: long enough that the way of a message hardly counts beside it.
const unit = 100 * time.Millisecond

// runs are all runs so far, by start.
func (e *Env) runs() []*history.Run {
	var all []*history.Run
	for _, m := range e.Timeline().Messages {
		for _, d := range m.Deliveries {
			all = append(all, d.Runs...)
		}
	}
	slices.SortStableFunc(all, func(a, b *history.Run) int { return cmp.Compare(a.From, b.From) })
	return all
}

// atLeast holds when so many runs have begun.
func atLeast(n int) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		begun := 0
		for _, p := range t.Processes {
			begun += len(p.Runs)
		}
		return begun >= n
	}
}

func scaleUp(e *Env) {
	const more = 7
	job := max(4*e.Lease, 2*e.slack()) // a worker that waits for a job to end waits too long
	patient := With(func(s *crew.Spec) { s.Drain = job + late })
	first := e.Worker(patient)
	e.Publish(queue.Lanes{}, e.Jobs(100, job, nil)...)
	e.Await("the first worker runs a job", late, atLeast(1))
	ws := e.Workers(more, patient)
	e.awaitReady(ws...)
	e.Await("every new worker runs a job", job+late, func(t *history.Timeline) bool {
		return !slices.ContainsFunc(ws, func(w *Worker) bool { return len(w.life(t).Runs) == 0 })
	})
	t := e.Timeline()
	var most time.Duration
	for _, w := range ws {
		p := w.life(t)
		took := time.Duration(p.Runs[0].From - p.Ready)
		e.Check(took <= e.slack(), "worker %s was ready for %v before it started a job, with a backlog of %d", w.Name, took, 100-more)
		most = max(most, took)
	}
	e.Note("to the first job", "%v", most.Round(time.Millisecond))
	e.Drain(append(ws, first), job+late)
	v := e.Valid(history.Options{FaultFree: true})
	e.Check(v.Completed == more+1, "%d messages were completed by %d workers that each ran one", v.Completed, more+1)
}

// idleBefore is the part of the slot time of n slots that was idle from the moment at to the last start, and how many
// starts there were: as long as there was a start to come, a message waited.
func (e *Env) idleBefore(n int, at int64) (idle, total time.Duration, starts int) {
	runs := slices.DeleteFunc(e.runs(), func(r *history.Run) bool { return r.From < at })
	last := runs[len(runs)-1].From
	total = time.Duration(n) * time.Duration(last-at)
	idle = total
	for _, r := range runs {
		idle -= time.Duration(min(r.To, last) - r.From)
	}
	return idle, total, len(runs)
}

// workConserving compares skewed jobs with equal ones: for those any way of sharing them keeps the slots busy, and the
// idle time left is that of handing messages over.
func workConserving(e *Env) {
	const n, equal, skewed = 4, 40, 80
	ws := e.Workers(n)
	e.awaitReady(ws...)
	e.Publish(queue.Lanes{}, e.Jobs(equal, unit, nil)...)
	e.Await("the equal jobs are done", equal*unit+late, finished(equal))
	idle, _, starts := e.idleBefore(n, e.runs()[0].From)
	handover := idle / time.Duration(starts)
	e.Check(handover < 2*unit, "a slot is idle for %v from one job of %v to the next", handover, unit)

	jobs := e.Jobs(skewed, unit, func(i int, j *Job) {
		j.ID += "/skewed"
		if i%10 == 3 {
			j.Run = 30 * unit
		}
	})
	at := e.now()
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the skewed jobs are done", skewed*4*unit+late, finished(equal+skewed))
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	first := slices.IndexFunc(e.runs(), func(r *history.Run) bool { return r.From >= at })
	idle, total, starts := e.idleBefore(n, e.runs()[first].From)
	allowed := total/50 + max(2*handover, unit/10)*time.Duration(starts)
	e.Check(idle <= allowed, "slots were idle for %v of %v while messages waited; %v would be 2 %% and what handing over takes", idle, total, allowed)
	e.Note("idle while backlog", "%.2f %%", 100*idle.Seconds()/total.Seconds())
	e.Note("hand-over", "%v", handover.Round(10*time.Microsecond))
}

func noHeadOfLine(e *Env) {
	const short = 20
	w := e.Worker(Slots(4))
	e.awaitReady(w)
	jobs := e.Jobs(1+short, unit, func(i int, j *Job) {
		j.Tenant = "one"
		if i == 0 {
			j.Run = 6 * short * unit / 3 // six times what the other three slots need
		}
	})
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the messages are done", jobs[0].Run+late, finished(1+short))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	t := e.Timeline()
	long := runsOf(t.Message(jobs[0].ID))[0]
	for _, j := range jobs[1:] {
		r := runsOf(t.Message(j.ID))[0]
		e.Check(r.To < long.To, "message %s ended only after the long job ahead of it", j.ID)
	}
}

// noHoarding looks at it from both sides: the worker's journal at every moment, and the broker's gauge while every slot
// is busy.
func noHoarding(e *Env) {
	const procs, slots = 2, 2
	ws := e.Workers(procs, Slots(slots))
	e.awaitReady(ws...)
	long := max(e.Lease, 3*time.Second)
	jobs := e.Jobs(6*procs*slots, unit, func(i int, j *Job) {
		if i < procs*slots {
			j.Run = long
		}
	})
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every slot is busy", late, atLeast(procs*slots))
	if g, can := e.Open().(driver.Gauger); can {
		e.Sleep(long / 4)
		now, err := g.Gauge(e.Ctx, e.Queue)
		e.Must(err, "gauge")
		busy := !slices.ContainsFunc(e.runs(), func(r *history.Run) bool { return r.Returned })
		e.Check(!busy || now.InFlight == procs*slots, "%d slots are busy, and %d messages are leased", procs*slots, now.InFlight)
	}
	e.Await("the messages are done", long+late, finished(len(jobs)))
	e.Drain(ws, late)
	if e.Caps.Lanes {
		e.oneOfMany(len(jobs))
	}
	e.Valid(history.Options{Drained: true, FaultFree: true})
	e.leasesFit(slots)
}

// oneOfMany has one slot face the lanes of many tenants, after done messages of other tests.
func (e *Env) oneOfMany(done int) {
	const tenants = 150
	lanes := queue.Lanes{Tenants: true}
	jobs := e.Jobs(tenants, unit/5, func(i int, j *Job) { j.ID += "/lane"; j.Tenant = fmt.Sprint("tenant", i) })
	e.Publish(lanes, jobs...)
	w := e.Worker(laned(lanes))
	e.Await("the tenants' messages are done", tenants*unit/2+late, finished(done+tenants))
	e.Drain([]*Worker{w}, late)
	for _, p := range e.Timeline().Processes {
		if p.Name != w.Name {
			continue
		}
		for i, r := range p.Runs[1:] {
			e.Check(r.Delivery.At >= p.Runs[i].To, "one slot and %d lanes: message %s was leased while another one ran", tenants, r.Delivery.Msg.ID)
		}
	}
}

// leasesFit checks that no process ever held more messages than it had slots, those just about to start included, and
// gave none back unstarted.
func (e *Env) leasesFit(slots int) {
	type change struct {
		at    int64
		delta int
	}
	changes := map[string][]change{}
	for _, m := range e.Timeline().Messages {
		for _, d := range m.Deliveries {
			e.Check(len(d.Runs) > 0, "message %s was leased by %s, which could not start it", m.ID, d.Proc.Name)
			changes[d.Proc.Name] = append(changes[d.Proc.Name], change{d.At, 1}, change{d.Runs[0].To, -1})
		}
	}
	for proc, cs := range changes {
		slices.SortFunc(cs, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.delta, b.delta)) })
		held := 0
		for _, c := range cs {
			held += c.delta
			e.Check(held <= slots, "%s held %d messages with %d slots", proc, held, slots)
		}
	}
}
