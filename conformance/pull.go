package conformance

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Journaled are hooks that write what a consumer of the rule's own does to a journal of that name, as a worker process
// writes its own.
func (e *Env) Journaled(name string) queue.Hooks {
	if e.memory != nil {
		return crew.Hooks(e.memory.writer(name))
	}
	w, err := history.Open(filepath.Join(e.dir, "journals", name+".jsonl"), name)
	e.Must(err, "open a journal")
	e.Cleanup(w.Close)
	return crew.Hooks(w)
}

// Puller is a consumer on the rule's queue, over connection b, that journals what it does under a name of its own.
func (e *Env) Puller(name string, b driver.Backend, cfg queue.ConsumerConfig) *queue.Consumer {
	cfg.Hooks = e.Journaled(name)
	return e.ConsumerOn(b, e.Queue, cfg)
}

// Handle runs a worker of the rule's own, in this process, on the rule's queue until the rule ends.
func (e *Env) Handle(b driver.Backend, cfg queue.WorkerConfig, h queue.Handler) *queue.Worker {
	if cfg.Lease == 0 {
		cfg.Lease = e.Lease
	}
	if cfg.Logger == nil {
		cfg.Logger = e.log
	}
	w, err := queue.NewWorker(b, e.Queue, cfg)
	e.Must(err, "make a worker")
	ctx, stop := context.WithCancel(e.Ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Run(ctx, h) }) // a rule may have taken the broker away
	e.Cleanup(func() error {
		stop()
		w.Abort()
		wg.Wait()
		return nil
	})
	return w
}

// Ready waits until the broker answers over b, for what can tell.
func (e *Env) Ready(b driver.Backend, within time.Duration) {
	p, can := b.(driver.Pinger)
	if !can {
		return
	}
	over := time.Now().Add(within)
	for p.Ping(e.Ctx) != nil {
		e.Check(time.Now().Before(over), "the broker does not answer within %v", within)
		e.Sleep(20 * time.Millisecond)
	}
}

// Events are the events so far of one kind, and of one process unless that is empty.
func (e *Env) Events(kind history.Kind, proc string) []history.Event {
	e.Timeline()
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []history.Event
	for _, ev := range e.events {
		if ev.Kind == kind && (proc == "" || ev.Proc == proc) {
			found = append(found, ev)
		}
	}
	slices.SortStableFunc(found, func(a, b history.Event) int { return int(a.T - b.T) })
	return found
}

// late is how long to wait for what a rule expects soon: ample for a busy machine, and nothing in virtual time.
const late = 15 * time.Second

// back is within what time a message comes again whose holder is gone or silent.
func (e *Env) back() time.Duration { return e.silence() + late }

// silence is how long the broker holds what a consumer has that fell silent, at the most.
func (e *Env) silence() time.Duration {
	if known := e.Caps.SilenceDetected; known > 0 {
		return known
	}
	return e.Lease
}
