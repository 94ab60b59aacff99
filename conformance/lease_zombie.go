package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// zombieVerdict: the process of a worker is frozen for longer than its leases, and thawed when others have done part of
// its messages and hold the rest. In virtual time, which cannot be kept from a goroutine, the zombie is cut off instead.
func zombieVerdict(e *Env) {
	if !e.Caps.Session { // else what keeps a lease is the session, which lives
		e.zombieOfDriver()
	}
	rounds := 1
	if e.Tier == Full {
		rounds = 20
	}
	for round := range rounds {
		if e.Virtual {
			e.zombieCutOff(round)
		} else {
			e.zombieFrozen(round)
		}
	}
	e.Quietly(e.Consumer(e.Queue, queue.ConsumerConfig{}), e.Lease, "everything is settled")
	e.Valid(history.Options{Drained: true, Fencing: e.Caps.Fencing})
}

// zombieOfDriver holds a lease that nobody extends, which is how the broker sees a frozen process, and settles when
// somebody else has the message.
func (e *Env) zombieOfDriver() {
	const n = 2
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, func(_ int, j *Job) { j.ID += "/driver" })...)
	b := e.Open()
	c, err := b.OpenConsumer(e.Ctx, e.Queue, driver.ConsumerConfig{Window: 10, Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	ds := e.raw(c, n)
	taker := e.Puller("driver-taker", e.Open(), queue.ConsumerConfig{Retry: often})
	taken := e.Receive(taker, n, e.back())
	_, err = c.Extend(e.Ctx, ds, e.Lease)
	for call, err := range map[string]error{"ack": c.Ack(e.Ctx, ds[:1]), "nack": c.Nack(e.Ctx, []driver.Return{{D: ds[1]}}), "extend": err} {
		refused := driver.KindOf(driver.Outcome(err, 0))
		e.Check(refused == driver.LeaseLost || call == "extend" && !e.Caps.Extend, "%s after the end of the lease: %v", call, err)
	}
	e.Sleep(e.Lease / 4)
	for _, d := range taken {
		e.Check(d.Context().Err() == nil, "the new holder lost its lease: %v", context.Cause(d.Context()))
		e.Must(d.Ack(e.Ctx), "ack of the new holder")
	}
	e.Must(taker.Close(e.Ctx), "close the consumer")
	e.Must(b.Close(e.Ctx), "close the zombie")
}

// raw receives n deliveries from a driver's consumer.
func (e *Env) raw(c driver.Consumer, n int) []*driver.Delivery {
	var all []*driver.Delivery
	for over := time.Now().Add(late); len(all) < n && time.Now().Before(over); {
		ds, err := c.Receive(e.Ctx, driver.Want{Max: n - len(all)}, time.Second)
		e.Must(err, "receive")
		all = append(all, ds...)
	}
	e.Check(len(all) == n, "%d of %d messages received", len(all), n)
	return all
}

// zombieFrozen: of eight messages, half take half a lease and are done by the taker when the zombie wakes, half take
// longer and are held by the taker then. The verdicts of the zombie's handlers, who have not noticed anything, are acks
// and retries.
func (e *Env) zombieFrozen(round int) {
	const n = 8
	jobs := e.Jobs(n, e.Lease/2, func(i int, j *Job) {
		j.ID = fmt.Sprintf("%s/%d", j.ID, round)
		j.Do = workload.Deaf
		if i%2 == 1 {
			j.Run = e.Lease * 5 / 4
		}
		if i >= n/2 {
			j.Fail = 1
		}
	})
	zombie := e.Worker(Slots(n))
	e.Await("the worker is ready", late, e.isReady(zombie))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the handlers run", late, e.hold(zombie, jobs))
	zombie.Stop()
	taker := e.Worker(Slots(n))
	e.Await("the short messages are settled elsewhere, the long ones are held", e.back()+late, func(t *history.Timeline) bool {
		for i, j := range jobs {
			if !takenBy(t.Message(j.ID), taker.Name, i%2 == 0) {
				return false
			}
		}
		return true
	})
	zombie.Cont()
	e.Await("every message is done", 3*e.Lease+2*late, func(t *history.Timeline) bool { return allDone(t, jobs) && returned(t, zombie, n) })
	e.Drain([]*Worker{zombie, taker}, late)
	for _, j := range jobs {
		e.zombieLedger(e.Timeline().Message(j.ID), zombie.Name)
	}
}

// zombieLedger: the first delivery of a message is the zombie's, who ran it and settled nothing; a later one is done.
func (e *Env) zombieLedger(m *history.Message, zombie string) {
	first := m.Deliveries[0]
	e.Check(first.Proc.Name == zombie, "message %s was first delivered to %s", m.ID, first.Proc.Name)
	for _, s := range first.Settles {
		e.Check(s.Outcome != history.Confirmed, "the zombie's %s of message %s was taken for good", s.Verdict, m.ID)
	}
	for _, ev := range e.Events(history.SettleSent, zombie) {
		e.Check(ev.Msg != m.ID || ev.Delivery != first.Number, "the zombie sent a %s for message %s", ev.Verdict, m.ID)
	}
	e.Check(first.Lost != history.Never || len(first.Settles) > 0, "the zombie does not know that it lost message %s", m.ID)
	again := slices.ContainsFunc(m.Deliveries[1:], func(d *history.Delivery) bool { return len(d.Effects) == 1 })
	e.Check(len(first.Effects) == 1 && again,
		"the ledger of message %s does not show both runs", m.ID)
}

// zombieCutOff: the zombie's verdicts come when it reaches the broker again.
func (e *Env) zombieCutOff(round int) {
	const n = 8
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, func(_ int, j *Job) { j.ID = fmt.Sprintf("%s/%d", j.ID, round) })...)
	l := e.line()
	zombie := e.Puller(fmt.Sprintf("zombie%d", round), l.Backend, queue.ConsumerConfig{Retry: often})
	ds := e.Receive(zombie, n, late)
	l.hole()
	e.Sleep(e.silence() + e.Caps.DeathDetected)
	l.heal()
	taker := e.Puller(fmt.Sprintf("taker%d", round), e.Open(), queue.ConsumerConfig{Retry: often})
	taken := e.Receive(taker, n, e.back())
	for _, d := range taken[:n/2] {
		e.Must(d.Ack(e.Ctx), "ack of the new holder")
	}
	before := settlements(l.Backend)
	for i, d := range ds {
		v := verdicts[i%len(verdicts)]
		err := v.give(e.Ctx, d)
		e.Check(errors.Is(err, queue.ErrLeaseLost), "the zombie's %s: %v", v.name, err)
	}
	e.Check(settlements(l.Backend) == before, "the zombie sent something")
	lost := zombie.Stats().LeasesLost
	e.Check(lost == n, "%d lost leases were counted, not %d", lost, n)
	if needsKept(e.Setting) == "" {
		e.Sleep(2 * e.Lease)
	}
	for _, d := range taken[n/2:] {
		e.Check(d.Context().Err() == nil, "the new holder lost its lease: %v", context.Cause(d.Context()))
		e.Must(d.Ack(e.Ctx), "ack of the new holder")
	}
	e.Must(zombie.Close(e.Ctx), "close the zombie")
	e.Must(taker.Close(e.Ctx), "close the taker")
}

// takenBy: the process has the message, or has settled it if that is asked for.
func takenBy(m *history.Message, proc string, settled bool) bool {
	for _, d := range m.Deliveries {
		s := d.Settled()
		if d.Proc.Name == proc && (!settled || s != nil && s.Outcome == history.Confirmed) {
			return true
		}
	}
	return false
}

// isReady: the worker receives.
func (e *Env) isReady(w *Worker) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		for _, p := range t.Processes {
			if p.Name == w.Name && p.Ready != history.Never {
				return true
			}
		}
		return false
	}
}

// hold: the worker runs a handler for each of the jobs.
func (e *Env) hold(w *Worker, jobs []Job) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		for _, j := range jobs {
			m := t.Message(j.ID)
			if m == nil || len(m.Deliveries) == 0 || m.Deliveries[0].Proc.Name != w.Name || len(m.Deliveries[0].Runs) == 0 {
				return false
			}
		}
		return true
	}
}

func allDone(t *history.Timeline, jobs []Job) bool {
	for _, j := range jobs {
		if m := t.Message(j.ID); m == nil || m.Finished() == history.Never {
			return false
		}
	}
	return true
}

// returned: at least n handlers of the worker have returned.
func returned(t *history.Timeline, w *Worker, n int) bool {
	for _, p := range t.Processes {
		if p.Name != w.Name {
			continue
		}
		for _, r := range p.Runs {
			if r.Returned {
				n--
			}
		}
	}
	return n <= 0
}
