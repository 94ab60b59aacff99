package conformance

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
)

// remote is a worker whose way to the broker can be disturbed.
type remote struct {
	*Worker
	proxy *proxy.Proxy // nil in virtual time, where there is no way but only a connection
}

func (e *Env) remote(options ...WorkerOption) *remote {
	if e.Virtual {
		return &remote{Worker: e.Worker(options...)}
	}
	p := e.Proxy()
	return &remote{Worker: e.Worker(append(options, Through(p))...), proxy: p}
}

// disturb puts a fault on the way. In virtual time every fault is the loss of the connection.
func (r *remote) disturb(f proxy.Fault) {
	if r.proxy == nil {
		r.drop()
		return
	}
	r.proxy.Set(f)
}

func blackHole(e *Env) {
	e.partition(proxy.Fault{HoldUp: true, HoldDown: true, Refuse: true})
	if e.Virtual { // where a connection that is lost does not come back
		e.outage()
	}
}

func oneWayPartition(e *Env) {
	e.partition(proxy.Fault{HoldUp: true}, proxy.Fault{HoldDown: true})
}

// partition disturbs a busy worker by each of the faults, for longer than a lease, with as many idle workers beside them.
func (e *Env) partition(faults ...proxy.Fault) {
	const slots = 2
	length := 3 * e.Lease / 2
	if e.Tier == Full && !e.Virtual {
		length = 20 * time.Second // until keep-alives notice
	}
	n := slots * len(faults)
	remotes := make([]*remote, len(faults))
	for i := range faults {
		remotes[i] = e.remote(Slots(slots))
		e.awaitReady(remotes[i].Worker)
	}
	// Long enough to be in work until the lease is lost.
	e.Publish(queue.Lanes{}, e.Jobs(n, 6*e.Lease, nil)...)
	for _, r := range remotes {
		e.Await("the worker is busy", late, runningOn(r.Worker, slots))
	}
	heirs := e.Workers(len(faults), Slots(slots))
	e.awaitReady(heirs...)
	for i, f := range faults {
		e.fault(fmt.Sprintf("%+v", f))
		remotes[i].disturb(f)
	}
	began := time.Now()
	e.Await("the messages run elsewhere", 2*e.Lease+e.slack(), func(t *history.Timeline) bool {
		for _, m := range t.Messages {
			if len(runsOf(m)) < 2 {
				return false
			}
		}
		return true
	})
	e.checkHandOver()
	if !e.Virtual {
		e.Sleep(time.Until(began.Add(length)))
		e.comesBack(remotes, heirs)
	}
	e.Await("every message is done", 6*e.Lease+late, func(t *history.Timeline) bool { return e.undone(t) == 0 })
	if e.Virtual {
		e.Drain(heirs, late)
	}
	e.Valid(history.Options{Drained: true})
	for _, m := range e.Timeline().Messages[:n] {
		e.Check(len(m.Deliveries[0].Settles) == 0, "the worker that had lost message %s sent a verdict for it", m.ID)
	}
}

// checkHandOver: every message ended in its first worker before it started in its second.
func (e *Env) checkHandOver() {
	var least time.Duration
	for i, m := range e.Timeline().Messages {
		rs := runsOf(m)
		first, second := rs[0], rs[1]
		e.Check(first.Delivery.Proc != second.Delivery.Proc, "message %s ran again in the worker that was cut off", m.ID)
		e.Check(first.Delivery.Lost <= second.From, "message %s started elsewhere before its first worker gave it up", m.ID)
		e.Check(first.Returned && first.To <= second.From, "message %s started elsewhere while its first handler ran", m.ID)
		if ahead := time.Duration(second.From - first.To); i == 0 || ahead < least {
			least = ahead
		}
	}
	e.Note("handlers ended", "%v ahead of the next start", least.Round(time.Millisecond))
}

// comesBack ends the faults: when nobody else receives, the workers that were cut off do the work.
func (e *Env) comesBack(remotes []*remote, heirs []*Worker) {
	for _, r := range remotes {
		r.proxy.Set(proxy.Fault{})
	}
	e.heal("the network")
	for _, h := range heirs {
		h.Term()
	}
	more := e.Jobs(2*len(remotes), e.Lease/2, func(_ int, j *Job) { j.ID += "-later" })
	e.Publish(queue.Lanes{}, more...)
	for _, j := range more {
		r := e.awaitRun(j.ID, 1, e.Lease+late)
		back := slices.ContainsFunc(remotes, func(w *remote) bool { return w.Name == r.Delivery.Proc.Name })
		e.Check(back, "message %s ran in a worker that was draining", j.ID)
	}
	for _, h := range heirs {
		code := h.Exit(6*e.Lease + late)
		e.Check(code == crew.ExitDrained, "worker %s ended with code %d", h.Name, code)
	}
	for _, r := range remotes {
		e.Drain([]*Worker{r.Worker}, late)
	}
}

// outage takes the whole broker away for longer than a lease: the handlers end although nobody else can have their
// messages, and the same worker does them when it is back.
func (e *Env) outage() {
	const n = 2
	w := e.Worker(Slots(n))
	jobs := e.Jobs(n, 2*e.Lease, func(_ int, j *Job) { j.ID += "-outage" })
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the worker is busy", late+e.Lease, runningOn(w, n))
	e.Must(e.Restarter().Stop(), "begin the outage")
	e.Await("the handlers have ended", e.Lease, runningOn(w, 0))
	e.Sleep(e.Lease)
	e.Must(e.Restarter().Start(), "end the outage")
	for _, j := range jobs {
		e.awaitRun(j.ID, 2, e.slack()+late)
	}
	e.Await("every message is done", 2*e.Lease+late, func(t *history.Timeline) bool { return e.undone(t) == 0 })
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true})
}

// reconnectBackoff counts the dials of workers whose broker refuses connections.
func reconnectBackoff(e *Env) {
	const each, soon = 5 * time.Second, 5 * time.Second // between dials on average, and to be ready
	n, outage := 4, 12*time.Second
	if e.Tier == Full {
		n, outage = 8, time.Minute
	}
	remotes := make([]*remote, n)
	for i := range remotes { // a queue each, so that each has to be there for its own message
		remotes[i] = e.remote(With(func(s *crew.Spec) { s.Queue = fmt.Sprintf("%s-%d", e.Queue, i) }))
	}
	e.publishEach(remotes, "before", late)
	dials := make([][]time.Time, n)
	began := time.Now()
	for i, r := range remotes {
		dials[i] = r.proxy.Dialed()
		r.proxy.Set(proxy.Fault{Refuse: true})
		r.proxy.Cut()
	}
	e.fault("connections are refused")
	e.Sleep(time.Until(began.Add(outage)))
	allowed := int((outage + each - 1) / each)
	for i, r := range remotes {
		dials[i] = r.proxy.Dialed()[len(dials[i]):]
		e.Check(len(dials[i]) <= allowed, "worker %s dialed %d times in %v, %d are allowed", r.Name, len(dials[i]), outage, allowed)
		e.Check(len(dials[i]) > 0, "worker %s did not try to come back in %v", r.Name, outage)
	}
	e.Note("dials", "%d in %v", len(dials[0]), outage)
	if e.Tier == Full {
		e.checkSpread(dials)
	}
	e.heal("connections are accepted")
	back := e.now()
	for _, r := range remotes {
		r.proxy.Set(proxy.Fault{})
	}
	e.publishEach(remotes, "after", soon+e.slack())
	var most time.Duration
	for _, p := range e.Timeline().Processes {
		for _, r := range p.Runs {
			if r.From > back {
				most = max(most, time.Duration(r.From-back))
			}
		}
	}
	e.Check(most < soon+e.slack(), "a worker was ready %v after its broker was back", most)
	e.Note("ready", "after %v", most.Round(time.Millisecond))
	for _, r := range remotes {
		e.Drain([]*Worker{r.Worker}, late)
	}
	e.Valid(history.Options{Drained: true}) // the cut may have met an ack
}

// publishEach publishes a message to the queue of each worker, and waits until all are done.
func (e *Env) publishEach(remotes []*remote, name string, within time.Duration) {
	for i := range remotes {
		e.on(fmt.Sprintf("%s-%d", e.Queue, i), func() {
			e.Publish(queue.Lanes{}, e.Jobs(1, 0, func(_ int, j *Job) { j.ID += "-" + name })...)
		})
	}
	want := len(e.Timeline().Messages)
	e.Await("every worker does its message", within, finished(want))
}

// checkSpread: the workers, which lost their connections together, do not dial together.
func (e *Env) checkSpread(dials [][]time.Time) {
	for k := range dials[0] {
		first, last := dials[0][k], dials[0][k]
		for _, ds := range dials {
			if k >= len(ds) {
				return
			}
			if ds[k].Before(first) {
				first = ds[k]
			}
			if ds[k].After(last) {
				last = ds[k]
			}
		}
		e.Check(last.Sub(first) > 100*time.Millisecond, "all workers dialed for the %d. time within %v", k+1, last.Sub(first))
	}
}
