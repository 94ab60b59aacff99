package conformance

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/chaos"
	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func rejects(context.Context, *queue.Delivery) error { return queue.Reject(errTold) }

// originalStays: the dead-letter queue is out of reach, refuses, cannot hold the message, or is gone.
func originalStays(e *Env) {
	e.outOfReach()
	e.refusing()
	e.outsized()
	e.deletedDeadLetters()
}

// outOfReach: the worker tries until it dies itself, and whoever comes next gets the originals.
func (e *Env) outOfReach() {
	const n = 4
	jobs := e.Jobs(n, 0, filled)
	l := e.line()
	b := chaos.New(l)
	b.Inject(chaos.Fault{Op: chaos.Publish, Queue: e.Queue + ".dead", Err: driver.Unavailable})
	e.Handle(b, queue.WorkerConfig{Limits: queue.Limits{Concurrency: n}, Hooks: e.Journaled("unlucky")}, rejects)
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("dead letters were tried", late, func(*history.Timeline) bool {
		return b.Met(chaos.Publish) >= 3 && len(e.Events(history.End, "unlucky")) == n
	})
	l.sever()
	c := e.Puller("next", e.Open(), queue.ConsumerConfig{})
	for _, d := range e.Receive(c, n, e.back()) {
		e.Must(d.Reject(e.Ctx, errTold), "reject")
	}
	e.Must(c.Close(e.Ctx), "close")
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.DeadLettered == n, "%d dead letters, not %d", v.DeadLettered, n)
	dead := e.deadLetters(n)
	for _, j := range jobs {
		e.Check(dead[j.ID] != nil, "message %s has no dead letter", j.ID)
		e.same(j, dead[j.ID])
	}
}

// refusing: the broker says no. The message comes again, and dies when it can.
func (e *Env) refusing() {
	const times = 3
	b := chaos.New(e.Open())
	b.Inject(chaos.Fault{Op: chaos.Publish, Queue: e.Queue + ".dead", Err: driver.Denied, Times: 2 * times})
	c := e.Puller("refused", b, queue.ConsumerConfig{Retry: queue.Retry{MaxAttempts: 1, Base: 200 * time.Millisecond, Jitter: -1}})
	e.Publish(queue.Lanes{}, Job{ID: "rejected"}, Job{ID: "failed"})
	give := func(d *queue.Delivery) error {
		if d.ID == "failed" {
			return d.Retry(e.Ctx, errTold)
		}
		return d.Reject(e.Ctx, errTold)
	}
	for range 2 * times {
		d := e.Receive(c, 1, e.back())[0]
		err := give(d)
		e.Check(driver.KindOf(err) == driver.Denied, "dead-letter message %s where that is denied: %v", d.ID, err)
	}
	for _, d := range e.Receive(c, 2, e.back()) {
		e.Must(give(d), "settle "+d.ID)
	}
	e.Quietly(c, time.Second, "it was dead-lettered")
	dead := e.deadLetters(2)
	e.died(dead["rejected"], queue.Death{Reason: queue.ReasonRejected, Attempts: 1})
	e.died(dead["failed"], queue.Death{Reason: queue.ReasonAttempts, Attempts: 1})
	e.Valid(history.Options{Drained: true})
}

// outsized: a foreign message that fills the broker's limit has no room to say how it died.
func (e *Env) outsized() {
	if e.Caps.MaxBytes == 0 || e.Caps.MaxBytes > 64<<20 {
		return
	}
	name := e.Queue + "-outsized"
	b := e.Open()
	p, err := b.OpenProducer(e.Ctx, name)
	e.Must(err, "open a producer of the driver")
	e.Must(p.Publish(e.Ctx, []*driver.Message{{Body: make([]byte, e.Caps.MaxBytes)}}), "publish a message of the greatest size")
	c := e.ConsumerOn(b, name, queue.ConsumerConfig{Retry: often})
	d := e.Receive(c, 1, late)[0]
	err = d.Reject(e.Ctx, errTold)
	e.Check(driver.KindOf(err) == driver.TooLarge, "reject a message that is too large for a dead letter: %v", err)
	d = e.Receive(c, 1, e.back())[0]
	e.Check(len(d.Body) == e.Caps.MaxBytes, "it came back with %d bytes", len(d.Body))
	e.Must(d.Ack(e.Ctx), "ack")
}

// deletedDeadLetters: the queue of dead letters goes away after it was used. It is made anew, or the original waits.
func (e *Env) deletedDeadLetters() {
	b := e.Open()
	admin, can := b.(driver.Admin)
	if !can {
		return
	}
	name := e.Queue + "-deleted"
	c := e.ConsumerOn(b, name, queue.ConsumerConfig{})
	p := e.producerOf(name)
	for i := range 2 {
		id := fmt.Sprint(i)
		e.Must(p.Publish(e.Ctx, &queue.Message{ID: id}), "publish")
		d := e.Receive(c, 1, late)[0]
		ctx, cancel := context.WithTimeout(e.Ctx, late)
		e.Must(d.Reject(ctx, errTold), "reject")
		cancel()
		dead := e.ConsumerOn(e.Open(), name+".dead", queue.ConsumerConfig{})
		got := e.Receive(dead, 1, late)[0]
		e.Check(got.ID == id, "dead letter %s, not %s", got.ID, id)
		e.Must(got.Ack(e.Ctx), "ack")
		e.Must(dead.Close(e.Ctx), "close")
		e.Must(admin.DeleteQueue(e.Ctx, name+".dead"), "delete the dead-letter queue")
	}
}

// producerOf opens a producer on another queue than the rule's.
func (e *Env) producerOf(name string) *queue.Producer {
	p, err := queue.NewProducer(e.Ctx, e.Open(), name, queue.ProducerConfig{Logger: e.log})
	e.Must(err, "open a producer")
	return p
}

// redriven: a message dies, is moved back, dies again within the time in which a broker remembers ids, is moved back
// again and succeeds.
func redriven(e *Env) {
	const n = 5
	jobs := e.Jobs(n, 0, func(i int, j *Job) { filled(i, j); j.Fail = 2 })
	e.Publish(queue.Lanes{}, jobs...)
	for life := range 2 {
		w := e.Worker(Slots(n), steady(2))
		e.Await(fmt.Sprintf("every message died, life %d", life+1), late, deaths(n*(life+1)))
		e.Drain([]*Worker{w}, late)
		e.redrive(jobs)
	}
	w := e.Worker(Slots(n), steady(3))
	e.Await("every message is done", late, func(t *history.Timeline) bool { return len(acked(t)) == n })
	e.Drain([]*Worker{w}, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n, "%d messages are completed", v.Completed)
	for _, j := range jobs {
		runs := e.runsOf(j.ID)
		for i, want := range []int{1, 2, 1, 2, 1, 2, 3} {
			e.Check(i < len(runs) && runs[i].Delivery.Attempt == want, "message %s: run %d of %d is not attempt %d", j.ID, i+1, len(runs), want)
		}
	}
	e.deadLetters(0)
}

// redrive moves all dead letters back, after a look at them.
func (e *Env) redrive(jobs []Job) {
	c := e.Consumer(e.Queue+".dead", queue.ConsumerConfig{})
	for _, d := range e.Receive(c, len(jobs), late) {
		for _, j := range jobs {
			if j.ID == d.ID {
				e.same(j, d)
			}
		}
		e.died(d, queue.Death{Reason: queue.ReasonAttempts, Attempts: 2})
		e.write(history.Event{Kind: history.Redrive, Msg: d.ID})
	}
	e.Must(c.Close(e.Ctx), "give the dead letters back")
	moved, err := queue.Redrive(e.Ctx, e.Open(), e.Queue+".dead", queue.RedriveConfig{Logger: e.log})
	e.Must(err, "redrive")
	e.Check(moved == len(jobs), "%d dead letters were moved, not %d", moved, len(jobs))
}

// deaths: so many dead letters were stored.
func deaths(n int) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		died := 0
		for _, m := range t.Messages {
			died += len(m.Deaths)
		}
		return died >= n
	}
}

// acked are the messages with a confirmed ack.
func acked(t *history.Timeline) []string {
	var ids []string
	for _, m := range t.Messages {
		for _, d := range m.Deliveries {
			if s := d.Settled(); s != nil && s.Verdict == history.VerdictAck && s.Outcome == history.Confirmed {
				ids = append(ids, m.ID)
				break
			}
		}
	}
	return ids
}
