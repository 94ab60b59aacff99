package conformance

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func hungHandler(e *Env) {
	e.hangOverLongest()
	e.hangOverTimeout()
}

// hangOverLongest: without a timeout a handler that takes far too long is reported, and nothing is taken from it.
func (e *Env) hangOverLongest() {
	h := e.hang(e.Open(), queue.WorkerConfig{Longest: e.Lease / 4})
	e.Publish(queue.Lanes{}, e.Jobs(1, 0, nil)...)
	h.reported(1)
	e.Check(errors.Is(h.Health(), queue.ErrStuck), "with a handler that hangs, the worker's health is %v", h.Health())
	e.Sleep(e.Lease * 3 / 2)
	e.Check(h.started.Load() == 1, "the message ran again although its handler had all the time it wanted")
	h.letGo()
	e.Await("the message is acked", late, finished(1))
	e.Check(h.Health() == nil, "when the handler has returned, the worker's health is %v", h.Health())
	h.stop()
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

// hangOverTimeout: a handler that outlasts its timeout loses its message, and its slot is free.
func (e *Env) hangOverTimeout() {
	const n = 3
	h := e.hang(e.Open(), queue.WorkerConfig{Limits: queue.Limits{Concurrency: n}, Timeout: e.Lease / 4})
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, func(i int, j *Job) { j.ID += "-timeout" })...)
	h.reported(n)
	e.Await("the messages run again, in the slots of the handlers that hang", e.comeback(), func(*history.Timeline) bool {
		return h.started.Load() >= 2*n
	})
	e.Await("they are acked", late, finished(1+n))
	e.Check(h.reports.Load() == n && h.Stats().Stuck == n, "%d handlers hung, %d were reported, Stats has %d", n, h.reports.Load(), h.Stats().Stuck)
	h.letGo()
	h.stop()
	v := e.Valid(history.Options{Drained: true, IgnoresContext: true})
	e.Check(v.Completed == 1+n, "%d of %d messages were completed", v.Completed, 1+n)
}

// hanging is a worker of this process whose first handlers, one a slot, hang whatever their context says.
type hanging struct {
	*queue.Worker
	e                *Env
	started, reports atomic.Int64
	gate             chan struct{}
	once             sync.Once
	handlers         sync.WaitGroup
	stop             func()
}

func (e *Env) hang(b driver.Backend, cfg queue.WorkerConfig) *hanging {
	slots := int64(max(cfg.Limits.Concurrency, 1))
	h := &hanging{e: e, gate: make(chan struct{})}
	e.mu.Lock()
	e.names["hung"]++
	name := "hung" + string(rune('0'+e.names["hung"]))
	e.mu.Unlock()
	hooks := e.Journaled(name)
	ended := hooks.Ended
	hooks.Ended = func(d *queue.Delivery, err error) {
		ended(d, err)
		h.handlers.Done()
	}
	hooks.Stuck = func(*queue.Delivery, time.Duration) { h.reports.Add(1) }
	cfg.Hooks, cfg.Logger, cfg.Lease, cfg.StuckAfter = hooks, e.log, e.Lease, e.Lease/4
	w, err := queue.NewWorker(b, e.Queue, cfg)
	e.Must(err, "make a worker")
	h.Worker = w
	ctx, cancel := context.WithCancel(e.Ctx)
	var run sync.WaitGroup
	run.Go(func() {
		_ = w.Run(ctx, func(context.Context, *queue.Delivery) error {
			h.handlers.Add(1)
			if h.started.Add(1) <= slots {
				<-h.gate
			}
			return nil
		})
	})
	h.stop = func() {
		cancel()
		run.Wait()
	}
	e.Cleanup(func() error {
		h.letGo()
		h.stop()
		h.handlers.Wait()
		return nil
	})
	return h
}

func (h *hanging) letGo() { h.once.Do(func() { close(h.gate) }) }

// reported waits for n reports of the watchdog. The time at which they are due is past when the handlers have hung for
// twice a quarter of the lease.
func (h *hanging) reported(n int64) {
	h.e.Await("the watchdog reports the handlers that hang", h.e.Lease/2+h.e.slack()+late, func(*history.Timeline) bool {
		return h.reports.Load() == n
	})
}
