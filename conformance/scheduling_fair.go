package conformance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func fairByLanes(c driver.Capabilities) string {
	if !c.TenantFairness {
		return "a lane for each tenant, served by slot time"
	}
	return ""
}

// lanesDenied asks a backend without lanes for every kind of them.
func lanesDenied(e *Env) {
	e.refusesAll("lanes of tenants", queue.Lanes{Tenants: true}, queue.Needs{})
	e.refusesAll("lanes of tenants and priorities", queue.Lanes{Tenants: true, Priorities: true}, queue.Needs{})
	e.refusesAll("shares of priorities", queue.Lanes{Priorities: true, PriorityShares: map[int]float64{1: 1}}, queue.Needs{})
	e.refusesAll("Needs.Lanes", queue.Lanes{}, queue.Needs{Lanes: true})
}

// refusesAll checks that everything that can be made for a queue is refused with an error that says what the broker lacks.
func (e *Env) refusesAll(what string, lanes queue.Lanes, needs queue.Needs) {
	b := e.Open()
	_, worker := queue.NewWorker(b, e.Queue, queue.WorkerConfig{Lanes: lanes, Needs: needs, Logger: e.log})
	c, consumer := queue.NewConsumer(e.Ctx, b, e.Queue, queue.ConsumerConfig{Lanes: lanes, Needs: needs, Logger: e.log})
	if consumer == nil {
		e.Cleanup(func() error { return c.Close(context.WithoutCancel(e.Ctx)) })
	}
	p, producer := queue.NewProducer(e.Ctx, b, e.Queue, queue.ProducerConfig{Lanes: lanes, Needs: needs, Logger: e.log})
	if producer == nil {
		e.Cleanup(func() error { return p.Close(context.WithoutCancel(e.Ctx)) })
	}
	for who, err := range map[string]error{"worker": worker, "consumer": consumer, "producer": producer} {
		var unsupported *queue.UnsupportedError
		e.Check(errors.As(err, &unsupported), "the broker has no %s, and a %s that asked for it was not refused: %v", what, who, err)
	}
}

// laned gives a worker lanes.
func laned(l queue.Lanes) WorkerOption { return With(func(s *crew.Spec) { s.Lanes = l }) }

// waited is how long a message waited from its confirmed publish to its first start.
func waited(m *history.Message) time.Duration {
	return time.Duration(runsOf(m)[0].From - m.Publishes[0].Answered)
}

// p95 sorts ds.
func p95(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[int(math.Ceil(0.95*float64(len(ds))))-1]
}

// noisyNeighbour publishes the same work of four tenants twice, alone and behind the flood of a fifth.
func noisyNeighbour(e *Env) {
	const tenants, each = 4, 15
	flood := 1500
	if e.Tier == Full {
		flood = 10_000
	}
	lanes := queue.Lanes{Tenants: true}
	w := e.Worker(Slots(4), laned(lanes))
	e.awaitReady(w)
	quiet := func(when string) []Job {
		return e.Jobs(tenants*each, unit, func(i int, j *Job) {
			j.ID, j.Tenant = fmt.Sprintf("%s/%s", j.ID, when), fmt.Sprintf("quiet%d", i%tenants)
		})
	}
	measure := func(jobs []Job) time.Duration {
		e.Publish(lanes, jobs...)
		e.Await("the quiet tenants' messages are done", 4*tenants*each*unit+late, func(t *history.Timeline) bool { return allDone(t, jobs) })
		var ds []time.Duration
		for _, j := range jobs {
			ds = append(ds, waited(e.Timeline().Message(j.ID)))
		}
		return p95(ds)
	}
	control := measure(quiet("alone"))
	began := e.now()
	e.Publish(lanes, e.Jobs(flood, unit, func(_ int, j *Job) { j.ID += "/flood"; j.Tenant = "noisy" })...)
	e.Await("the flood runs", late, func(t *history.Timeline) bool {
		return slices.ContainsFunc(w.life(t).Runs, func(r *history.Run) bool { return r.From > began })
	})
	loud := measure(quiet("loud"))
	e.Check(loud <= 3*control, "the quiet tenants' messages waited %v at the 95th percentile alone, and %v behind a flood of %d", control, loud, flood)
	e.Note("p95 alone", "%v", control.Round(time.Millisecond))
	e.Note("p95 behind the flood", "%v", loud.Round(time.Millisecond))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{FaultFree: true})
}

func tenantCap(e *Env) {
	const slots, most, busy, calm = 8, 2, 24, 8
	lanes := queue.Lanes{Tenants: true}
	w := e.Worker(Slots(slots), laned(lanes), With(func(s *crew.Spec) { s.Limits.PerTenant = most }))
	e.awaitReady(w)
	jobs := e.Jobs(busy+calm, 2*unit, func(i int, j *Job) {
		if j.Tenant = "busy"; i >= busy {
			j.Tenant = fmt.Sprintf("calm%d", i%2)
		}
	})
	e.Publish(lanes, jobs...)
	e.Await("the messages are done", busy*2*unit+late, finished(busy+calm))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	t := e.Timeline()
	for who, n := range t.Peak(history.ByTenant) {
		e.Check(n <= most, "tenant %s ran %d messages at once, its cap is %d", who, n, most)
	}
	e.Check(t.Peak(history.ByTenant)["busy"] == most, "the busy tenant never reached its cap of %d", most)
	var last, calmest int64
	for i, j := range jobs {
		r := runsOf(t.Message(j.ID))[0]
		if i < busy {
			last = max(last, r.From)
		} else {
			calmest = max(calmest, r.From)
		}
	}
	e.Check(calmest < last, "a message of a tenant far from its cap started after all those of the one at its cap")
	e.leasesFit(slots)
	e.coolAt(w, len(jobs), time.Duration(t.To-t.From))
}

// coolAt checks that the worker did not ask in a hot loop.
func (e *Env) coolAt(w *Worker, jobs int, took time.Duration) {
	calls := map[string]int{}
	total := 0
	for _, ev := range e.Events(crew.Calls, w.Name) {
		total += ev.N - calls[ev.Cause]
		calls[ev.Cause] = ev.N
	}
	most := 30*jobs + int(50*took.Seconds())
	e.Check(total <= most, "%d requests for %d messages in %v: %v", total, jobs, took, calls)
	e.Note("requests a message", "%.1f", float64(total)/float64(jobs))
}

// shares are the parts of slot time by name, in the time in which all of them had work: from the latest first start to
// the earliest last start of one.
func (e *Env) shares(name func(m *history.Message) string) map[string]float64 {
	first, last := map[string]int64{}, map[string]int64{}
	for _, r := range e.runs() {
		who := name(r.Delivery.Msg)
		if _, seen := first[who]; !seen {
			first[who] = r.From
		}
		last[who] = r.From
	}
	var from, to int64 = 0, math.MaxInt64
	for who := range first {
		from, to = max(from, first[who]), min(to, last[who])
	}
	had, total := map[string]float64{}, 0.0
	for _, r := range e.runs() {
		if d := min(r.To, to) - max(r.From, from); d > 0 {
			had[name(r.Delivery.Msg)] += float64(d)
			total += float64(d)
		}
	}
	for who := range had {
		had[who] /= total
	}
	return had
}

// within checks a share, and notes it.
func (e *Env) within(shares map[string]float64, who string, want float64) {
	got := shares[who]
	e.Check(math.Abs(got-want) <= want/10, "%s had %.1f %% of the slot time, its share is %.1f %%", who, 100*got, 100*want)
	e.Note(who, "%.1f %%", 100*got)
}

func weights(e *Env) {
	run := 100
	if e.Tier == Full {
		run = 300
	}
	weight := map[string]float64{"one": 1, "two": 2, "four": 4}
	lanes := queue.Lanes{Tenants: true, Weights: weight}
	var jobs []Job
	for who, w := range weight {
		jobs = append(jobs, e.Jobs(int(w)*run, unit/2, func(_ int, j *Job) { j.ID += "/" + who; j.Tenant = who })...)
	}
	e.Publish(lanes, jobs...)
	w := e.Worker(Slots(4), laned(lanes))
	e.Await("the messages are done", time.Duration(len(jobs))*unit/2+late, finished(len(jobs)))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	s := e.shares(func(m *history.Message) string { return m.Tenant })
	for who, w := range weight {
		e.within(s, who, w/7)
	}
}

func priorityShares(e *Env) {
	const low, high = 60, 180
	lanes := queue.Lanes{Priorities: true, PriorityShares: map[int]float64{5: 3}}
	e.Publish(lanes, e.Jobs(low+high, unit/2, func(i int, j *Job) {
		if i < high {
			j.Priority = 5
		}
	})...)
	w := e.Worker(Slots(4), laned(lanes))
	e.Await("the messages are done", (low+high)*unit/2+late, finished(low+high))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	s := e.shares(func(m *history.Message) string { return fmt.Sprint("priority ", m.Priority) })
	e.within(s, "priority 5", 0.75)
	e.within(s, "priority 0", 0.25)
}
