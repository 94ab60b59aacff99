package conformance

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
)

// networkRules are family N: brokers that restart, die or forget, and networks that fail.
var networkRules = []Rule{
	{
		ID: "N01", Name: "broker_restart", Tier: Fast, Power: true,
		Claim: "over a restart of the broker nothing is lost, and who ran a job keeps its lease or is told that it is lost",
		Needs: needsRestart,
		Check: brokerRestart,
	},
	{
		ID: "N02", Name: "broker_killed", Tier: Fast,
		Claim: "what was confirmed survives the death of the broker's process",
		Needs: needsKill,
		Check: brokerKilled,
	},
	{
		ID: "N03", Name: "cut_while_publishing", Tier: Fast,
		Claim: "a publish whose connection breaks is ambiguous unless it is known what became of it",
		Needs: needsNetwork,
		Check: cutWhilePublishing,
	},
	{
		ID: "N04", Name: "confirmation_lost", Tier: Fast,
		Claim: "a message whose confirmation is lost is ambiguous, and sending it again with the same id stores it",
		Needs: needsNetwork,
		Check: confirmationLost,
	},
	{
		ID: "N05", Name: "black_hole", Tier: Fast,
		Claim: "a worker that nothing reaches stops its handlers before others start them, and comes back without settling them",
		Check: blackHole,
	},
	{
		ID: "N06", Name: "one_way_partition", Tier: Fast,
		Claim: "a worker that only hears or is only heard stops its handlers before others start them, and comes back",
		Needs: needsNetwork,
		Check: oneWayPartition,
	},
	{
		ID: "N07", Name: "slow_network", Tier: Fast,
		Claim: "on a slow and uneven network no lease of ten round trips is lost",
		Needs: needsNetwork,
		Check: slowNetwork,
	},
	{
		ID: "N08", Name: "reconnect_backoff", Tier: Fast,
		Claim: "a worker whose broker is away dials at most twelve times a minute, and is ready five seconds after it is back",
		Needs: needsNetwork,
		Check: reconnectBackoff,
	},
	{
		ID: "N10", Name: "queue_deleted", Tier: Fast,
		Claim: "a worker whose queue is deleted says that it is not found and is not healthy, and goes on when there is one again",
		Needs: needsAdmin,
		Check: queueDeleted,
	},
}

func needsKill(s Setting) string {
	if !s.Kills {
		return "the broker cannot be killed"
	}
	return ""
}

func needsAdmin(s Setting) string {
	if !s.Admin {
		return "queues cannot be deleted"
	}
	return ""
}

// fault journals what the rule does to the broker or the network.
func (e *Env) fault(cause string) { e.write(history.Event{Kind: history.Fault, Cause: cause}) }

// heal journals that a fault is over.
func (e *Env) heal(cause string) { e.write(history.Event{Kind: history.Heal, Cause: cause}) }

// on runs f with another queue as the rule's.
func (e *Env) on(name string, f func()) {
	own := e.Queue
	e.Queue = name
	defer func() { e.Queue = own }()
	f()
}

func brokerRestart(e *Env) {
	const n, long = 40, 2
	lease := 3 * e.Lease // some of it is left when the broker is back
	p := e.Producer(queue.ProducerConfig{Hooks: e.Published()})
	jobs := e.Jobs(n, e.Lease/8, func(i int, j *Job) {
		if i < long {
			j.Run = 2 * e.Lease // in work when the broker goes, and when it is back
		}
	})
	ws := e.Workers(3, Slots(2), With(func(s *crew.Spec) { s.Lease = lease }))
	e.awaitReady(ws...)
	e.Must(e.publishWith(p, jobs[:n/2]...), "publish")
	e.Await("some messages are done", e.Lease+late, finished(n/5))
	e.fault("the broker stops")
	e.Must(e.Restarter().Stop(), "stop the broker")
	stopped := e.now()
	// What is published now waits for the broker.
	published := make(chan error, 1)
	go func() { published <- e.publishWith(p, jobs[n/2:]...) }()
	e.Sleep(e.Lease / 4)
	e.Must(e.Restarter().Start(), "start the broker again")
	e.heal("the broker runs")
	if err := <-published; err != nil {
		e.Check(errors.Is(err, queue.ErrAmbiguous), "publish over the restart: %v", err)
	}
	e.Await("every message is done", 2*lease+2*e.Lease+2*late, storedDone)
	e.Drain(ws, 2*e.Lease+late)
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == v.Confirmed+v.Recovered, "%d of %d messages were completed", v.Completed, v.Confirmed+v.Recovered)
	e.checkTold(stopped)
}

// checkTold: every delivery that was in work at moment at was settled within its lease, or its holder was told that the
// lease is lost.
func (e *Env) checkTold(at int64) {
	inWork, lost := 0, 0
	for _, m := range e.Timeline().Messages {
		for _, d := range m.Deliveries {
			s := d.Settled()
			if d.At > at || s != nil && s.Outcome == history.Confirmed && s.Answered < at {
				continue
			}
			inWork++
			if s == nil || s.Outcome != history.Confirmed {
				lost++
				e.Check(d.Lost != history.Never || s != nil, "message %s in %s was neither settled nor lost", m.ID, d.Proc.Name)
			}
		}
	}
	e.Check(inWork > 0, "nothing was in work when the broker went")
	e.Note("in work", "%d, %d of them lost", inWork, lost)
}

// publishWith publishes jobs with a producer that journals the outcomes, and returns its error.
func (e *Env) publishWith(p *queue.Producer, jobs ...Job) error {
	ms := make([]*queue.Message, len(jobs))
	for i, j := range jobs {
		ms[i] = e.Message(j)
		e.Publishing(ms[i])
	}
	return p.Publish(e.Ctx, ms...)
}

// now is the present moment of the journals' clock.
func (e *Env) now() int64 {
	if e.memory != nil {
		return e.memory.now()
	}
	return history.Now()
}

// startApart gives the rule a broker in a process of its own.
func (e *Env) startApart() {
	b, err := e.h.Apart(e.Ctx, filepath.Join(e.dir, "apart"))
	e.Must(err, "start a broker in a process of its own")
	e.Cleanup(b.Close)
	e.broker = b
}

func brokerKilled(e *Env) {
	e.startApart()
	p := e.Producer(queue.ProducerConfig{Hooks: e.Published()})
	ws := e.Workers(2, Slots(4))
	e.awaitReady(ws...)
	for round := range 2 {
		stop, stopped := make(chan struct{}), make(chan int, 1)
		go func() {
			n := 0
			for ; !isClosed(stop); n += 5 {
				jobs := e.Jobs(5, e.Lease/40, func(i int, j *Job) { j.ID = fmt.Sprintf("%s-%d-%d", e.Queue, round, n+i) })
				_ = e.publishWith(p, jobs...) // the journal has what became of each
			}
			stopped <- n
		}()
		e.Await("messages are confirmed", late, func(t *history.Timeline) bool { return history.Judge(t, history.Options{}).Confirmed >= 100*(round+1) })
		e.fault("the broker is killed")
		e.Must(e.Restarter().Stop(), "kill the broker")
		close(stop)
		e.Must(e.Restarter().Start(), "start the broker again")
		e.heal("the broker runs")
		<-stopped
	}
	e.Await("every message is done", 6*e.Lease+4*late, storedDone)
	e.Drain(ws, 2*e.Lease+late)
	// The broker may have forgotten acks of its last moments: those messages come again.
	v := e.Judge(history.Options{Drained: true, SettleUnconfirmed: true})
	e.Check(v.Lost == 0 && v.Unexpected == 0 && v.Overlaps == 0 && v.FatalOverruns == 0 && v.DeadLettered == 0,
		"the history is not valid: %v", v.InvalidReasons)
	e.Note("confirmed", "%d, and %d more were stored; %d were delivered again after their ack", v.Confirmed, v.Recovered, v.AckedThenDelivered)
}

func slowNetwork(e *Env) {
	latency, jitter, slice := 100*time.Millisecond, 40*time.Millisecond, 2<<10
	if e.Tier == Full {
		latency, jitter, slice = 500*time.Millisecond, 200*time.Millisecond, 4<<10 // 8 KiB a second
	}
	lease := max(e.Lease, 2*10*(latency+jitter))
	p := e.Proxy()
	w := e.Worker(Slots(4), Through(p), With(func(s *crew.Spec) { s.Lease = lease }))
	e.awaitReady(w)
	const n = 12
	e.Publish(queue.Lanes{}, e.Jobs(n, lease/4, func(i int, j *Job) {
		if i < 2 {
			j.Run = 2 * lease
		}
		j.Bytes = 1 << 10
	})...)
	e.fault("latency")
	p.Set(proxy.Fault{Latency: latency, Jitter: jitter, Slice: slice})
	e.Await("every message is done", 4*lease+2*late, finished(n))
	p.Set(proxy.Fault{})
	e.Drain([]*Worker{w}, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n, "%d of %d messages were completed", v.Completed, n)
	lost := e.Events(history.LeaseLost, "")
	e.Check(len(lost) == 0, "%d leases were lost, the first because: %+v", len(lost), lost)
}
