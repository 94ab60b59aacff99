package conformance

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
)

// Worker is a worker of a rule: a process, or in virtual time a goroutine on a connection of its own.
type Worker struct {
	Name string
	e    *Env
	proc *crew.Proc // nil in virtual time

	kill func()
	term context.CancelFunc
	done chan struct{}
	code int
}

// WorkerOption changes what a worker is told.
type WorkerOption func(*crew.Spec)

// Slots gives a worker so many slots.
func Slots(n int) WorkerOption { return func(s *crew.Spec) { s.Limits.Concurrency = n } }

// With changes the worker's specification freely.
func With(f func(*crew.Spec)) WorkerOption { return f }

// Through makes a worker reach the broker through p.
func Through(p *proxy.Proxy) WorkerOption {
	return func(s *crew.Spec) { s.URL = proxied(s.URL, p.Addr()) }
}

// Worker starts a worker on the rule's queue: one slot, the rule's lease, three attempts, retries after 200 ms.
func (e *Env) Worker(options ...WorkerOption) *Worker {
	e.mu.Lock()
	e.names["w"]++
	name := fmt.Sprintf("w%d", e.names["w"])
	e.mu.Unlock()
	spec := crew.Spec{
		Name: name, Queue: e.Queue, Lease: e.Lease, Limits: queue.Limits{Concurrency: 1},
		Drain: 30 * time.Second, Grace: 2 * time.Second, Retry: queue.Retry{MaxAttempts: 3, Base: 200 * time.Millisecond, Jitter: -1},
	}
	if e.memory == nil {
		spec.URL = e.broker.URL()
	}
	for _, o := range options {
		o(&spec)
	}
	if e.memory != nil {
		return e.inside(spec)
	}
	p, err := e.crew.Start(spec)
	e.Must(err, "start a worker")
	return &Worker{Name: name, e: e, proc: p, done: make(chan struct{})}
}

// Workers starts n workers.
func (e *Env) Workers(n int, options ...WorkerOption) []*Worker {
	ws := make([]*Worker, n)
	for i := range ws {
		ws[i] = e.Worker(options...)
	}
	return ws
}

// inside starts a worker in this process.
func (e *Env) inside(spec crew.Spec) *Worker {
	b, kill, err := e.broker.(Connector).Connect(e.Ctx)
	e.Must(err, "connect a worker")
	ctx, term := context.WithCancel(e.Ctx)
	w := &Worker{Name: spec.Name, e: e, kill: kill, term: term, done: make(chan struct{})}
	journal := e.memory.writer(spec.Name)
	e.write(history.Event{Kind: history.Join, Proc: spec.Name})
	go func() {
		defer close(w.done)
		w.code, _ = crew.Serve(ctx, b, spec, journal)
		_ = b.Close(context.WithoutCancel(ctx))
		_ = journal.Write(history.Event{Kind: history.ProcExit})
	}()
	e.Cleanup(func() error { kill(); term(); <-w.done; return nil })
	return w
}

// Kill kills the worker: SIGKILL.
func (w *Worker) Kill() {
	if w.proc != nil {
		w.e.Must(w.proc.Kill(), "kill")
		return
	}
	w.e.write(history.Event{Kind: history.Kill, Proc: w.Name, Signal: "KILL"})
	w.e.memory.mute(w.Name)
	w.kill()
	w.term()
}

// Term asks the worker to drain: SIGTERM.
func (w *Worker) Term() {
	if w.proc != nil {
		w.e.Must(w.proc.Term(), "terminate")
		return
	}
	w.term()
}

// Stop freezes the worker: SIGSTOP. Only processes can be frozen.
func (w *Worker) Stop() { w.e.Must(w.proc.Stop(), "stop") }

// Cont thaws it: SIGCONT.
func (w *Worker) Cont() { w.e.Must(w.proc.Cont(), "continue") }

// Tell sends a command. Only processes take commands.
func (w *Worker) Tell(c crew.Command) { w.e.Must(w.proc.Tell(c), "command") }

// Exit waits for the worker to end and returns its exit code: -1 if it was killed.
func (w *Worker) Exit(within time.Duration) int {
	timer := time.NewTimer(within)
	defer timer.Stop()
	done := w.done
	if w.proc != nil {
		done = nil
	}
	select {
	case <-timer.C:
		w.e.Failf("worker %s has not ended within %v", w.Name, within)
	case <-done:
		return w.code
	case <-w.ended():
		return w.proc.ExitCode()
	}
	return 0
}

func (w *Worker) ended() <-chan struct{} {
	if w.proc == nil {
		return nil
	}
	return w.proc.Done()
}

// Drain asks all workers to drain and waits for them; killed ones aside, all must end well.
func (e *Env) Drain(ws []*Worker, within time.Duration) {
	for _, w := range ws {
		w.Term()
	}
	for _, w := range ws {
		code := w.Exit(within)
		e.Check(code == crew.ExitDrained, "worker %s ended with code %d", w.Name, code)
	}
}

// memoryJournal collects the events of rules in virtual time: no files, and the bubble's clock.
type memoryJournal struct {
	start time.Time

	mu    sync.Mutex
	buf   bytes.Buffer
	muted map[string]bool
}

func newMemoryJournal() *memoryJournal {
	return &memoryJournal{start: time.Now(), muted: map[string]bool{}}
}

func (j *memoryJournal) now() int64 { return int64(time.Since(j.start)) + 1 }

// writer is the journal of one process.
func (j *memoryJournal) writer(proc string) *history.Writer {
	return history.NewWriter(page{j, proc}, proc, j.now)
}

// page is a process's part of the journal. A killed process writes no more: what its goroutines still do is the
// shutdown that a real process would not have had.
type page struct {
	j    *memoryJournal
	proc string
}

func (p page) Write(line []byte) (int, error) {
	p.j.mu.Lock()
	defer p.j.mu.Unlock()
	if p.j.muted[p.proc] {
		return len(line), nil
	}
	return p.j.buf.Write(line)
}

func (j *memoryJournal) mute(proc string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.muted[proc] = true
}

func (j *memoryJournal) poll() ([]history.Event, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	events, err := history.Read(&j.buf)
	j.buf.Reset()
	return events, err
}
