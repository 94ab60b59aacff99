package conformance

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// leaseRules are family L: leases, their extension, and who comes too late.
var leaseRules = []Rule{
	{
		ID: "L01", Name: "long_job", Tier: Smoke,
		Claim: "a job of ten leases is not given to anybody else while its worker lives",
		Needs: needsKept,
		Check: longJob,
	},
	{
		ID: "L02", Name: "told_before_the_end", Tier: Fast,
		Claim: "when a lease cannot be extended its handler's context ends before the broker can give the message away",
		Check: toldBeforeTheEnd,
	},
	{
		ID: "L03", Name: "zombie_verdict", Tier: Smoke,
		Claim: "a late verdict is ErrLeaseLost and changes nothing at the broker",
		Check: zombieVerdict,
	},
	{
		ID: "L09", Name: "extensions_spread", Tier: Fast,
		Claim: "leases obtained together are not extended together",
		Needs: needsExtend,
		Check: extensionsSpread,
	},
	{
		ID: "L10", Name: "busy_handlers", Tier: Fast,
		Claim: "handlers that use up the processor do not starve extensions",
		Needs: func(s Setting) string {
			if s.Virtual {
				return "a busy handler holds virtual time up"
			}
			return needsExtend(s)
		},
		Check: busyHandlers,
	},
	{
		ID: "L11", Name: "monotonic", Tier: Fast,
		Claim: "leases are counted by the monotonic clock, so that a wall clock that is set does not matter",
		Needs: func(s Setting) string {
			if s.Virtual {
				return "virtual time has one clock, without monotonic readings"
			}
			return ""
		},
		Check: monotonic,
	},
	{
		ID: "L14", Name: "counted_from_the_send", Tier: Fast,
		Claim: "a lease is counted from before the request was sent, however late the answer is",
		Check: countedFromTheSend,
	},
	{
		ID: "L15", Name: "fencing", Tier: Fast,
		Claim: "the fencing token rises with every delivery of a message",
		Needs: func(s Setting) string {
			if !s.Caps.Fencing {
				return "no exact count of deliveries"
			}
			return ""
		},
		Denied: fencingDenied,
		Check:  fencing,
	},
}

func needsExtend(s Setting) string {
	if !s.Caps.Extend {
		return "leases that cannot be prolonged"
	}
	return ""
}

// needsKept: what keeps a lease for as long as a job takes is an extension, or a session that lives.
func needsKept(s Setting) string {
	if s.Caps.Session {
		return ""
	}
	return needsExtend(s)
}

// longJob has a second worker lie in wait.
func longJob(e *Env) {
	ws := e.Workers(2)
	e.Publish(queue.Lanes{}, e.Jobs(1, 10*e.Lease, nil)...)
	e.Await("the job is done", 10*e.Lease+2*late, finished(1))
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	e.once("its worker was alive")
	if e.Caps.Extend {
		by := e.lateness(e.Lease)
		median := by[len(by)/2] // a machine that stalls for a moment is late now and then
		e.Check(median <= e.Lease/6, "extensions come %v after a third of the lease is over", median)
		e.Check(len(by) >= 20, "only %d extensions in ten leases", len(by))
		e.Note("extensions", "%d, the latest by %v", len(by), max(by[len(by)-1], 0).Round(time.Millisecond))
	}
}

// lateness is by how much each extension missed a third of its lease until it was confirmed, sorted.
func (e *Env) lateness(lease time.Duration) []time.Duration {
	type held struct {
		proc string
		num  int64
	}
	last := map[held]int64{}
	for _, ev := range e.Events(history.Deliver, "") {
		last[held{ev.Proc, ev.Delivery}] = ev.T
	}
	var by []time.Duration
	for _, ev := range e.Events(history.Extend, "") {
		k := held{ev.Proc, ev.Delivery}
		by = append(by, time.Duration(ev.T-last[k])-lease/3)
		last[k] = ev.T
	}
	e.Check(len(by) > 0, "nothing was extended")
	slices.Sort(by)
	return by
}

// toldBeforeTheEnd makes the connection a hole twice: for so short that the lease survives, and for good.
func toldBeforeTheEnd(e *Env) {
	const n = 3
	l := e.line()
	started, told := make(chan *queue.Delivery, 2*n), make(chan told, n)
	var patient sync.Map // messages whose handlers wait for the end of their context
	cfg := queue.WorkerConfig{Limits: queue.Limits{Concurrency: n}, Hooks: e.Journaled("holder"), Retry: often}
	e.Handle(l.Backend, cfg, func(ctx context.Context, d *queue.Delivery) error {
		started <- d
		if _, waits := patient.Load(d.ID); !waits {
			timer := time.NewTimer(e.Lease * 3 / 2)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		told <- toldAt(ctx, d)
		return context.Cause(ctx)
	})
	if e.Caps.Extend && !e.Caps.Session { // a session may end with the connection
		e.survives(l, started, n)
	}
	jobs := e.Jobs(n, 0, func(i int, j *Job) { j.ID += "/lost"; patient.Store(j.ID, true) })
	e.Publish(queue.Lanes{}, jobs...)
	for range n {
		await(e, "the handlers start", late, started)
	}
	l.silence()
	taken := e.Receive(e.Puller("taker", e.Open(), queue.ConsumerConfig{Retry: often}), n, e.back())
	for range n {
		t := await(e, "a handler is told", late, told)
		e.Check(errors.Is(t.cause, queue.ErrLeaseLost), "the handler's context ended with: %v", t.cause)
		spare := t.until.Sub(t.at)
		e.Check(spare > 0, "the handler was told %v after the broker could give its message away", -spare)
		e.Note("told before the end", "%v", spare.Round(time.Millisecond))
	}
	for _, d := range taken {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	l.sever()
	e.Valid(history.Options{Drained: true, Fencing: e.Caps.Fencing})
}

// told is when and why the context of a handler ended, and when its lease would have.
type told struct {
	at, until time.Time
	cause     error
}

func toldAt(ctx context.Context, d *queue.Delivery) told {
	return told{at: time.Now(), until: d.LeaseUntil(), cause: context.Cause(ctx)}
}

// survives: what cannot be extended for a third of its lease is extended after that.
func (e *Env) survives(l *line, started <-chan *queue.Delivery, n int) {
	jobs := e.Jobs(n, 0, func(_ int, j *Job) { j.ID += "/kept" })
	e.Publish(queue.Lanes{}, jobs...)
	for range n {
		await(e, "the handlers start", late, started)
	}
	l.hole()
	e.Sleep(e.Lease / 3)
	l.heal()
	e.Await("handlers over a short hole are done", 2*e.Lease+late, finished(n))
	for _, j := range jobs {
		d := e.Timeline().Message(j.ID).Deliveries[0]
		e.Check(d.Lost == history.Never, "message %s lost its lease in a hole of a third of it: %s", j.ID, d.LostCause)
	}
	e.once("the hole was short")
}

// busyHandlers fill a worker that has one processor with handlers that never wait. A lease longer than the suite's
// leaves the machine's other work some influence before it is taken for the handlers'.
func busyHandlers(e *Env) {
	lease, run := max(e.Lease, 8*time.Second), 2*max(e.Lease, 8*time.Second)
	w := e.Worker(Slots(4), With(func(s *crew.Spec) { s.Lease, s.Procs = lease, 1 }))
	jobs := e.Jobs(4, run, func(_ int, j *Job) { j.Do = workload.Busy })
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the handlers run", late, e.hold(w, jobs))
	before, known := w.cpu()
	e.Sleep(run / 2)
	if after, _ := w.cpu(); known {
		e.Note("processor", "%.0f %%", 100*float64(after-before)/float64(run/2))
	}
	e.Await("every message is done", run+2*late, finished(4))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	e.once("its worker was alive")
	by := e.lateness(lease)
	worst := by[len(by)-1]
	e.Check(len(by) >= 8, "only %d extensions of four messages in two leases", len(by))
	e.Check(worst <= lease/6, "an extension came %v after a third of the lease was over", worst)
	e.Note("extensions", "%d, the latest by %v", len(by), max(worst, 0).Round(time.Millisecond))
}
