package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
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

	// In virtual time. A killed worker is dead at once; any is done when its last handler has returned.
	drop  func()
	term  context.CancelFunc
	abort chan struct{}
	once  sync.Once // closes abort
	fatal sync.Once
	dead  chan struct{}
	ended chan struct{}
	done  chan struct{}
	code  int

	commands chan crew.Command // holds one
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
	return &Worker{Name: name, e: e, proc: p}
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
	b, drop, err := e.broker.(Connector).Connect(e.Ctx)
	e.Must(err, "connect a worker")
	ctx, term := context.WithCancel(e.Ctx)
	w := &Worker{
		Name: spec.Name, e: e, drop: drop, term: term,
		abort: make(chan struct{}), dead: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
		commands: make(chan crew.Command, 1),
	}
	journal := e.memory.writer(spec.Name)
	e.write(history.Event{Kind: history.Join, Proc: spec.Name})
	go func() {
		defer close(w.done)
		crew.Serve(ctx, b, spec, crew.Inside{Journal: journal, Kill: w.Kill, Abort: w.abort, Commands: w.commands, Ended: func(code int) {
			if code == crew.ExitStuck {
				drop() // closing would give back messages whose handlers still run
			}
			_ = b.Close(context.WithoutCancel(ctx))
			_ = journal.Write(history.Event{Kind: history.ProcExit, N: code})
			e.memory.mute(spec.Name)
			w.code = code
			close(w.ended)
		}})
	}()
	e.Cleanup(func() error { drop(); w.leave(); <-w.done; return nil })
	return w
}

// leave ends the goroutines of a worker in this process.
func (w *Worker) leave() {
	w.term()
	w.once.Do(func() { close(w.abort) })
}

// Kill kills the worker: SIGKILL.
func (w *Worker) Kill() {
	if w.proc != nil {
		w.e.Must(w.proc.Kill(), "kill")
		return
	}
	w.fatal.Do(func() {
		w.e.write(history.Event{Kind: history.Kill, Proc: w.Name, Signal: "KILL"})
		w.e.memory.mute(w.Name)
		w.drop()
		close(w.dead)
		w.leave()
	})
}

// Term asks the worker to drain: SIGTERM.
func (w *Worker) Term() {
	if w.proc != nil {
		w.e.Must(w.proc.Term(), "terminate")
		return
	}
	w.term()
}

// TermAgain is the second SIGTERM: the worker leaves at once.
func (w *Worker) TermAgain() {
	if w.proc != nil {
		w.Term()
		return
	}
	w.leave()
}

// Stop freezes the worker: SIGSTOP. Only processes can be frozen.
func (w *Worker) Stop() { w.e.Must(w.proc.Stop(), "stop") }

// Cont thaws it: SIGCONT.
func (w *Worker) Cont() { w.e.Must(w.proc.Cont(), "continue") }

// Tell sends a command and waits until the worker has done it.
func (w *Worker) Tell(c crew.Command) {
	changes := func(t *history.Timeline) int {
		if p := w.life(t); p != nil {
			return len(p.Slots)
		}
		return 0
	}
	w.e.awaitReady(w)
	before := changes(w.e.Timeline())
	if w.proc != nil {
		w.e.Must(w.proc.Tell(c), "command")
	} else {
		w.commands <- c
	}
	w.e.Await("worker "+w.Name+" does what it is told", late, func(t *history.Timeline) bool { return changes(t) > before })
}

// Exit waits for the worker to end and returns its exit code: -1 if it was killed.
func (w *Worker) Exit(within time.Duration) int {
	timer := time.NewTimer(within)
	defer timer.Stop()
	var done <-chan struct{} = w.ended
	if w.proc != nil {
		done = w.proc.Done()
	}
	select {
	case <-timer.C:
		w.e.Failf("worker %s has not ended within %v", w.Name, within)
	case <-w.dead:
		return -1
	case <-done:
	}
	switch {
	case w.proc != nil:
		return w.proc.ExitCode()
	case isClosed(w.dead):
		return -1
	default:
		return w.code
	}
}

// Gone reports whether the worker has ended, however that came.
func (w *Worker) Gone() bool {
	if w.proc != nil {
		return !w.proc.Alive()
	}
	return isClosed(w.dead) || isClosed(w.ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Drain asks all workers to drain and waits for them; killed ones aside, all must end well.
func (e *Env) Drain(ws []*Worker, within time.Duration) {
	e.Await("the workers have begun", late, func(t *history.Timeline) bool { // before, a signal is their death
		return !slices.ContainsFunc(ws, func(w *Worker) bool { return w.life(t) == nil || w.life(t).Began == history.Never })
	})
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
