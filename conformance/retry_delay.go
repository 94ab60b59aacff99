package conformance

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// How late a delayed message may be, and how much too early because brokers round: NATS keeps the times of returned
// messages to the second over a restart (encodeConsumerState in its store.go).
const (
	soon        = 5 * time.Second
	blur        = 20 * time.Millisecond
	restartBlur = time.Second
)

// heldBack is one delay of a message: from when it was sent to when it was delivered.
type heldBack struct {
	msg           string
	delay, waited time.Duration
}

// waits are the delays that the journals show: of publishes up to the first run, of returns up to the next. Deliveries
// in between, where the queue holds a message in parts, have no run.
func (e *Env) waits() []heldBack {
	var ws []heldBack
	for _, m := range e.Timeline().Messages {
		sent, delay := m.Publishes[0].Invoked, m.Publishes[0].Delay
		for _, d := range m.Deliveries {
			if len(d.Runs) == 0 {
				continue
			}
			if delay > 0 {
				ws = append(ws, heldBack{m.ID, time.Duration(delay), time.Duration(d.At - sent)})
			}
			delay = 0
			if s := d.Settled(); s != nil {
				sent, delay = s.Sent, s.Delay
			}
		}
	}
	return ws
}

// punctual checks that n waits were as long as they should be, but for early and most.
func (e *Env) punctual(n int, early, most time.Duration) {
	ws := e.waits()
	e.Check(len(ws) == n, "%d delays were seen, not %d", len(ws), n)
	var latest time.Duration
	for _, w := range ws {
		e.Check(w.waited >= w.delay-early, "message %s came after %v, with a delay of %v", w.msg, w.waited, w.delay)
		e.Check(w.waited <= w.delay+most, "message %s came after %v, with a delay of %v", w.msg, w.waited, w.delay)
		latest = max(latest, w.waited-w.delay)
	}
	e.Note("late", "%v", latest.Round(time.Millisecond))
}

// mayDelay: a message can be published with a delay. If not, asking for one must be refused.
func (e *Env) mayDelay() bool {
	if e.Caps.Delay.By != driver.Nobody {
		return true
	}
	p := e.Producer(queue.ProducerConfig{})
	err := p.Publish(e.Ctx, &queue.Message{ID: "refused", Delay: time.Second})
	var unsupported *queue.UnsupportedError
	e.Check(errors.As(err, &unsupported), "a delay that nobody can keep: %v", err)
	e.publishRefused(time.Second)
	return false
}

// publishRefused checks that the driver refuses to publish with a delay.
func (e *Env) publishRefused(delay time.Duration) {
	p, err := e.Open().OpenProducer(e.Ctx, e.Queue)
	e.Must(err, "open a producer of the driver")
	err = p.Publish(e.Ctx, []*driver.Message{{ID: "refused", Delay: delay}})
	e.Check(driver.KindOf(err) == driver.Invalid, "a delay of %v that the broker cannot keep, published: %v", delay, err)
}

func delaysKept(e *Env) {
	var jobs []Job
	for _, d := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second} {
		returned := Job{ID: fmt.Sprintf("returned-%v", d)}
		returned.Fail, returned.After = 1, d
		jobs = append(jobs, returned)
		if e.mayDelay() {
			jobs = append(jobs, Job{ID: fmt.Sprintf("published-%v", d), Delay: d})
		}
	}
	w := e.Worker(Slots(len(jobs)))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", 10*time.Second+2*late, finished(len(jobs)))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	e.punctual(len(jobs), blur, soon)
}

// longDelays: 16 minutes are more than SQS can hold. Where time is real, only that nothing comes too early can be seen.
func longDelays(e *Env) {
	delay := 16 * time.Minute
	if most := e.Caps.Delay.Max; most > 0 && e.Caps.Delay.By != driver.Nobody {
		e.publishRefused(most + time.Second)
		delay = max(delay, most+most/2)
	}
	again := delay
	if most := e.Caps.Redelay.Max; most > 0 && e.Caps.Redelay.By != driver.Nobody {
		e.returnRefused(most + time.Second)
		again = max(again, most+most/2)
	}
	returned := Job{ID: "returned"}
	returned.Fail, returned.After = 1, again
	jobs := []Job{returned}
	if e.mayDelay() {
		jobs = append(jobs, Job{ID: "published", Delay: delay})
	}
	w := e.Worker(Slots(2))
	e.Publish(queue.Lanes{}, jobs...)
	if e.Virtual {
		e.Sleep(max(delay, again))
		e.Await("every message is done", 2*late, finished(len(jobs)))
		e.Drain([]*Worker{w}, late)
		e.Valid(history.Options{Drained: true, FaultFree: true})
		e.Check(len(e.runsOf("returned")) == 2, "the returned message ran %d times", len(e.runsOf("returned")))
		for _, j := range jobs {
			runs := e.runsOf(j.ID)
			last, from := runs[len(runs)-1], e.Timeline().Message(j.ID).Publishes[0].Invoked
			waited := time.Duration(last.From - from)
			asked := max(j.Delay, j.After)
			e.Check(waited >= asked-blur && waited <= asked+soon, "message %s ran after %v, with a delay of %v", j.ID, waited, asked)
		}
		return
	}
	e.Await("the first message is returned", late, func(*history.Timeline) bool { return len(e.Events(history.SettleOK, "")) == 1 })
	e.Sleep(2*e.Lease + 2*time.Second)
	e.Drain([]*Worker{w}, late)
	got := len(e.Events(history.Deliver, ""))
	e.Check(got == 1, "%d deliveries, with a delay of %v", got, delay)
	e.stored(len(jobs))
}

// returnRefused checks that the driver refuses to return with a delay.
func (e *Env) returnRefused(delay time.Duration) {
	b, name := e.Open(), e.Queue+"-refused"
	p, err := b.OpenProducer(e.Ctx, name)
	e.Must(err, "open a producer of the driver")
	e.Must(p.Publish(e.Ctx, []*driver.Message{{ID: "refused"}}), "publish")
	c, err := b.OpenConsumer(e.Ctx, name, driver.ConsumerConfig{Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	ds := e.raw(c, 1)
	err = c.Nack(e.Ctx, []driver.Return{{D: ds[0], Delay: delay}})
	e.Check(driver.KindOf(err) == driver.Invalid, "a return with a delay of %v that the broker cannot keep: %v", delay, err)
	e.Must(c.Ack(e.Ctx, ds), "ack what could not be returned")
	e.Must(c.Close(e.Ctx), "close")
}

// stored checks that the queue holds n messages, where the broker says how many it holds.
func (e *Env) stored(n int) {
	g, can := e.Open().(driver.Gauger)
	if !can {
		return
	}
	gauge, err := g.Gauge(e.Ctx, e.Queue)
	e.Must(err, "gauge")
	got := gauge.Ready + gauge.InFlight + max(gauge.Delayed, 0)
	e.Check(got == n, "the queue holds %d messages, not %d", got, n)
}

func delaysSurvive(e *Env) {
	delay := 6 * time.Second
	if e.Virtual {
		delay = 10 * time.Minute
	}
	jobs := e.Jobs(6, 0, func(i int, j *Job) {
		if i%2 == 0 && e.Caps.Delay.By != driver.Nobody {
			j.Delay = delay
		} else {
			j.Fail, j.After = 1, delay
		}
	})
	w := e.Worker(Slots(len(jobs)), With(func(s *crew.Spec) { s.Retry.MaxAttempts = 3 }))
	e.Publish(queue.Lanes{}, jobs...)
	returned := 0
	for _, j := range jobs {
		returned += j.Fail
	}
	e.Await("messages are returned", late, func(*history.Timeline) bool { return len(e.Events(history.SettleOK, "")) == returned })
	w.Kill()
	w.Exit(late)
	early := blur
	if e.Setting.Restarts && !e.Setting.Forgetful {
		e.restart()
		early += restartBlur
	}
	e.Worker(Slots(len(jobs)))
	e.Await("every message is done", delay+2*late, finished(len(jobs)))
	e.Valid(history.Options{Drained: true})
	e.punctual(len(jobs), early, late) // the broker may have been away when it was time
	for _, j := range jobs {
		runs := e.runsOf(j.ID)
		e.Check(len(runs) == j.Fail+1, "message %s ran %d times", j.ID, len(runs))
		e.Check(runs[j.Fail].Delivery.Attempt == j.Fail+1, "message %s has attempt %d", j.ID, runs[j.Fail].Delivery.Attempt)
	}
}

// restart stops the broker and starts it again.
func (e *Env) restart() {
	e.write(history.Event{Kind: history.Fault, Cause: "restart"})
	e.Must(e.Restarter().Stop(), "stop the broker")
	e.Must(e.Restarter().Start(), "start the broker")
	e.write(history.Event{Kind: history.Heal})
}

func delaysBlockNobody(e *Env) {
	const n = 10
	delay := 6 * time.Second
	slow := e.Jobs(2*n, 0, func(i int, j *Job) {
		j.ID = fmt.Sprintf("delayed-%d", i)
		if i%2 == 0 && e.Caps.Delay.By != driver.Nobody {
			j.Delay = delay
		} else {
			j.Fail, j.After = 1, delay
		}
	})
	w := e.Worker() // one slot
	e.Publish(queue.Lanes{}, slow...)
	e.Publish(queue.Lanes{}, e.Jobs(n, 10*time.Millisecond, func(i int, j *Job) { j.ID = fmt.Sprintf("ready-%d", i) })...)
	e.Await("every message is done", delay+2*late, finished(3*n))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	due := history.Never // of the first message that had to wait
	for _, j := range slow {
		runs := e.runsOf(j.ID)
		due = min(due, runs[len(runs)-1].From)
	}
	for i := range n {
		id := fmt.Sprintf("ready-%d", i)
		e.Check(e.runsOf(id)[0].From < due, "message %s ran after one that had to wait for %v", id, delay)
	}
}
