package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Handler does the work of one message. Nil acks it; an error is a failed attempt; RetryAfter, Release and Reject say
// more. A panic is a failed attempt. When ctx ends the handler should return soon: context.Cause says whether the lease
// was lost (ErrLeaseLost: stop at once, the message may run elsewhere), the worker drains (ErrDraining) or the time is
// over (ErrTimeout).
type Handler func(ctx context.Context, d *Delivery) error

// Middleware wraps a Handler.
type Middleware func(Handler) Handler

// Chain wraps h so that the first middleware is the outermost.
func Chain(h Handler, ms ...Middleware) Handler {
	for i := len(ms) - 1; i >= 0; i-- {
		h = ms[i](h)
	}
	return h
}

// WorkerConfig configures a Worker. The zero value works: one slot, leases of 30 s, ten attempts.
type WorkerConfig struct {
	// Limits bound what runs at once; SetLimits changes them while the worker runs.
	Limits Limits
	// Window bounds what is received and not settled, and so what SetLimits may ask for. Zero: four times
	// Limits.Concurrency, at least 64.
	Window int
	// Timeout ends a handler's context with ErrTimeout. Zero: none.
	Timeout time.Duration
	// Drain is how long running handlers may go on after Run's context ended. Zero: 20 s. Negative: not at all.
	Drain time.Duration
	// Grace is how long handlers may take to return after the drain ended their contexts. Zero: 5 s.
	Grace time.Duration
	// StuckAfter is how long a handler may ignore the end of its context, or overrun Longest, before it is reported
	// (Hooks.Stuck, Health). After a Timeout it is then also abandoned: its lease runs out and its slot is free. Zero: 1 min.
	StuckAfter time.Duration

	// As in ConsumerConfig.
	Lease       time.Duration
	Longest     time.Duration
	Lanes       Lanes
	Retry       Retry
	DeadLetters string
	Needs       Needs
	Hooks       Hooks
	Logger      *slog.Logger
}

func (c WorkerConfig) withDefaults() WorkerConfig {
	c.Limits = c.Limits.withDefaults()
	setDefault(&c.Window, max(4*c.Limits.Concurrency, 64))
	setDefault(&c.Drain, 20*time.Second)
	setDefault(&c.Grace, 5*time.Second)
	setDefault(&c.StuckAfter, time.Minute)
	setDefault(&c.Logger, slog.Default())
	return c
}

func (c WorkerConfig) consumer() ConsumerConfig {
	return ConsumerConfig{
		Window: c.Window, Lease: c.Lease, Longest: c.Longest, Lanes: c.Lanes, Retry: c.Retry, DeadLetters: c.DeadLetters,
		Needs: c.Needs, Hooks: c.Hooks, Logger: c.Logger,
	}
}

// Worker runs a handler for the messages of one queue. Its methods are safe for concurrent use.
type Worker struct {
	backend driver.Backend
	queue   string
	cfg     WorkerConfig
	slots   *slots
	lanes   *laneTable // nil: the worker takes from any lane

	abort     atomic.Pointer[context.CancelFunc] // of the present or last Run
	busy      atomic.Bool
	consumer  atomic.Pointer[Consumer]
	asked     atomic.Int64 // when the loop last came round, nanoseconds since made: the wall clock may be set
	made      time.Time
	interrupt atomic.Pointer[context.CancelFunc]
}

// NewWorker makes a worker. It returns an UnsupportedError if the broker cannot do what cfg asks for, and opens nothing.
func NewWorker(b driver.Backend, queue string, cfg WorkerConfig) (*Worker, error) {
	cfg = cfg.withDefaults()
	cc := cfg.consumer().withDefaults(queue)
	err := cc.check(b.Capabilities())
	if err == nil {
		err = cfg.Limits.check(cfg.Window, cfg.Lanes)
	}
	if err != nil {
		return nil, &Error{Op: "new worker", Queue: queue, Err: err}
	}
	w := &Worker{backend: b, queue: queue, cfg: cfg, slots: newSlots(cfg.Limits), made: time.Now()}
	if cfg.Lanes.used(b.Capabilities()) {
		w.lanes = newLaneTable(cfg.Lanes)
	}
	return w, nil
}

// Run receives messages and runs h for each until ctx ends, then drains: it receives no more, keeps the leases, waits
// for running handlers (WorkerConfig.Drain), ends the contexts of those left with ErrDraining, waits for them to return
// (Grace), and settles: nil acks, an error gives the message back at no cost.
//
// It returns nil when every handler was done, an error matching ErrReleased when some were cut short and their messages
// given back, one matching ErrStuck when some did not return (their leases run out), and the broker's error when it
// could not begin. Values of ctx reach the handlers. A worker runs once at a time.
func (w *Worker) Run(ctx context.Context, h Handler) error {
	if !w.busy.CompareAndSwap(false, true) {
		return &Error{Op: "run", Queue: w.queue, Err: invalid("this worker is running already: make another one")}
	}
	defer w.busy.Store(false)
	c, err := w.open(ctx)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil // told to end before it had begun: drained
	case err != nil:
		return err
	}
	c.onPoke = w.slots.poke
	w.consumer.Store(c)
	aborted, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	w.abort.Store(&abort)
	r := &run{Worker: w, c: c, handler: h, listed: make(chan struct{}), aborted: aborted.Done()}
	helpers, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { r.watchHandlers(helpers) })
	wg.Go(func() { r.watchLanes(helpers) })
	r.lanesListed(ctx)
	r.receive(ctx)
	err = r.drain(ctx)
	stop()
	wg.Wait()
	return err
}

// open opens the consumer. While the broker is unavailable it goes on trying, as it would while running.
func (w *Worker) open(ctx context.Context) (*Consumer, error) {
	pause := backoff{first: 100 * time.Millisecond, top: 5 * time.Second}
	for {
		c, err := NewConsumer(ctx, w.backend, w.queue, w.cfg.consumer())
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return c, err
		}
		call2(w.cfg.Hooks.Failed, "open consumer", err)
		if !sleep(ctx, pause.pause()) {
			return nil, err
		}
	}
}

// SetLimits changes the limits of a running worker, or of the next Run. What runs already goes on.
func (w *Worker) SetLimits(l Limits) error {
	l = l.withDefaults()
	if err := l.check(w.cfg.Window, w.cfg.Lanes); err != nil {
		return &Error{Op: "set limits", Queue: w.queue, Err: err}
	}
	w.change(func(s *slots) { s.limits = l })
	return nil
}

// Pause starts no more messages; running ones go on and their leases are kept.
func (w *Worker) Pause() { w.change(func(s *slots) { s.paused = true }) }

// Resume ends a Pause.
func (w *Worker) Resume() { w.change(func(s *slots) { s.paused = false }) }

// change alters the slots and calls a receive back that was made for the old ones.
func (w *Worker) change(f func(*slots)) {
	w.slots.mu.Lock()
	f(w.slots)
	w.slots.mu.Unlock()
	w.slots.poke()
	w.recall()
}

func (w *Worker) recall() {
	if stop := w.interrupt.Load(); stop != nil {
		(*stop)()
	}
}

// Abort makes a draining Run return at once, without waiting for handlers: for a second signal. The leases of what runs
// are left to run out.
func (w *Worker) Abort() {
	if abort := w.abort.Load(); abort != nil {
		(*abort)()
	}
}

// Stats returns the counts of the present or last Run.
func (w *Worker) Stats() Stats {
	if c := w.consumer.Load(); c != nil {
		return c.Stats()
	}
	return Stats{}
}

// Running is the number of handlers that run now.
func (w *Worker) Running() int { return w.slots.count() }

// Health returns nil while the worker is fit for work: it runs, the broker answers, its loop comes round, no handler is
// stuck. Use it for a readiness probe.
func (w *Worker) Health() error {
	c := w.consumer.Load()
	switch {
	case !w.busy.Load() || c == nil:
		return fmt.Errorf("worker of %s is not running", w.queue)
	case c.lastErr.Load() != nil:
		return c.lastErr.Load()
	case c.stats.stuck.Load() > 0 && w.stuckNow() > 0:
		return fmt.Errorf("worker of %s: %w: %d", w.queue, ErrStuck, w.stuckNow())
	}
	if age := time.Since(w.made) - time.Duration(w.asked.Load()); age > 3*longPoll && w.slots.free() > 0 {
		return fmt.Errorf("worker of %s has not asked for a message for %v although a slot is free", w.queue, age.Round(time.Second))
	}
	return nil
}

func (w *Worker) stuckNow() int {
	n := 0
	w.slots.each(func(j *job) {
		if j.stuck {
			n++
		}
	})
	return n
}
