package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// ackNotArrived gives acks into a connection that is silent by then, and breaks it before it is mended.
func ackNotArrived(e *Env) {
	const n = 4
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	l := e.line()
	ds := e.Receive(e.Puller("holder", l.Backend, queue.ConsumerConfig{Retry: often}), n, late)
	l.silence()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, d := range ds {
		wg.Go(func() { errs[i] = d.Ack(e.Ctx) })
	}
	e.Sleep(100 * time.Millisecond)
	l.sever()
	taker := e.Puller("taker", e.Open(), queue.ConsumerConfig{Retry: often})
	again := e.Receive(taker, n, e.back())
	wg.Wait()
	for i, err := range errs {
		e.Check(err != nil, "the ack of message %s did not reach the broker and was reported as done", ds[i].ID)
		e.Check(errors.Is(err, queue.ErrLeaseLost) || errors.Is(err, queue.ErrAmbiguous), "the ack of message %s: %v", ds[i].ID, err)
	}
	for _, d := range again {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	// Where a redelivery is only flagged, it is counted through a copy: a cut between the copy and the ack of the original
	// leaves both, and what came back after an ack may be the other one.
	if e.Network && e.Caps.Counting != driver.Flagged {
		e.acksCutShort(taker)
	}
	e.Valid(history.Options{Drained: true, Fencing: e.Caps.Fencing})
}

// acksCutShort cuts the connection in the middle of the bytes of an ack. The client connects again and may send it
// again: whatever it reports has to be so.
func (e *Env) acksCutShort(taker *queue.Consumer) {
	l := e.line()
	c := e.Puller("unlucky", l.Backend, queue.ConsumerConfig{Retry: often})
	reported := map[string]bool{}
	const cuts = 4
	for i, bytes := range [cuts]int64{1, 20, 60, 150} {
		id := fmt.Sprintf("cut/%d", i)
		e.Publish(queue.Lanes{}, Job{ID: id, Order: workload.Order{Seq: i}})
		e.Ready(l.Backend, late)                  // again, after a cut
		for _, d := range e.Receive(c, 1, late) { // in time one that came back, with sessions
			l.proxy.Set(proxy.Fault{CutAfterUp: bytes})
			reported[d.ID] = d.Ack(e.Ctx) == nil
			l.proxy.Set(proxy.Fault{})
		}
	}
	e.Must(c.Close(e.Ctx), "close the consumer")
	done := 0
	for _, ok := range reported {
		if ok {
			done++
		}
	}
	quiet := e.Lease + e.Caps.DeathDetected + time.Second
	for ds := e.Collect(taker, quiet); len(ds) > 0; ds = e.Collect(taker, quiet) {
		for _, d := range ds {
			e.Check(!reported[d.ID], "the ack of message %s was reported as done, and it came back", d.ID)
			reported[d.ID] = d.Ack(e.Ctx) == nil // or it comes back once more
		}
	}
	e.Note("acks", "%d of %d settled in spite of a cut", done, cuts)
}

// Collect receives what comes next, or nothing if nothing comes within the time.
func (e *Env) Collect(c *queue.Consumer, within time.Duration) []*queue.Delivery {
	ctx, cancel := context.WithTimeout(e.Ctx, within)
	defer cancel()
	for ctx.Err() == nil {
		ds, err := c.Receive(ctx, 100)
		e.Check(err == nil || ctx.Err() != nil, "receive: %v", err)
		if len(ds) > 0 {
			return ds
		}
	}
	return nil
}

// resultAfterLease has a handler return nil long after its lease was lost, over a connection that works again, while
// somebody else holds the message.
func resultAfterLease(e *Env) {
	jobs := e.Jobs(2, 0, func(_ int, j *Job) { j.Do = workload.Deaf })
	lost, captive, free := make(chan error, 1), make(chan *queue.Delivery, 1), make(chan struct{})
	l := e.line()
	e.Handle(l.Backend, queue.WorkerConfig{Hooks: e.Journaled("holder"), Retry: often}, func(ctx context.Context, d *queue.Delivery) error {
		if d.ID == jobs[0].ID {
			captive <- d
			<-ctx.Done()
			lost <- context.Cause(ctx)
			<-free
		}
		return nil
	})
	release := sync.OnceFunc(func() { close(free) })
	e.Cleanup(func() error { release(); return nil })
	e.Publish(queue.Lanes{}, jobs[0])
	zombie := await(e, "the handler starts", late, captive)
	l.hole()
	cause := await(e, "the handler's context ends", e.Lease+late, lost)
	e.Check(errors.Is(cause, queue.ErrLeaseLost), "the handler's context ended with: %v", cause)
	e.Sleep(e.Lease) // the broker's view of the lease is over too
	l.heal()
	e.Ready(l.Backend, late)
	taker := e.Puller("taker", e.Open(), queue.ConsumerConfig{Retry: often})
	d := e.Receive(taker, 1, e.back())[0]
	release()
	e.Await("the handler has returned", late, func(*history.Timeline) bool { return len(e.Events(history.End, "holder")) > 0 })
	for _, v := range verdicts {
		err := v.give(e.Ctx, zombie)
		e.Check(errors.Is(err, queue.ErrLeaseLost), "%s after the lease was lost: %v", v.name, err)
	}
	e.Sleep(e.Lease / 2)
	e.Check(d.Context().Err() == nil, "the new holder lost its lease: %v", context.Cause(d.Context()))
	e.Must(d.Ack(e.Ctx), "ack of the new holder")
	e.Publish(queue.Lanes{}, jobs[1]) // for the worker, which lives on
	e.Await("both messages are done", late, finished(2))
	for _, s := range e.Events(history.SettleSent, "holder") {
		e.Check(s.Msg != zombie.ID, "a %s was sent after the lease was lost", s.Verdict)
	}
	e.Valid(history.Options{Drained: true, Fencing: e.Caps.Fencing})
}

// await receives from a channel within the time.
func await[T any](e *Env, what string, within time.Duration, from <-chan T) T {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		e.Failf("not within %v: %s", within, what)
	}
	panic("unreachable: Failf does not return")
}

// ackDurable has workers kill themselves as soon as the broker has confirmed an ack, one after the other.
func ackDurable(e *Env) {
	n := 6
	if e.Tier == Full {
		n = 30
	}
	for _, j := range e.Jobs(n, 10*time.Millisecond, nil) {
		e.Publish(queue.Lanes{}, j)
		w := e.Worker(With(func(s *crew.Spec) { s.Fail = crew.AfterAckSent }))
		code := w.Exit(late)
		e.Check(code == -1, "the worker that had to kill itself ended with code %d", code)
	}
	e.Quietly(e.Consumer(e.Queue, queue.ConsumerConfig{}), 2*e.Lease+e.Caps.DeathDetected, "its ack was confirmed")
	v := e.Valid(history.Options{Drained: true})
	e.Check(v.Completed == n, "%d of %d messages were completed", v.Completed, n)
	e.once("its ack was confirmed")
}
