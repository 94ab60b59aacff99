package crew

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Main turns the process into a worker, and does not return, if it was started as one; else it returns at once. Call it
// first in main or TestMain.
func Main(open Opener) {
	text, asked := os.LookupEnv(specVariable)
	if !asked {
		return
	}
	var spec Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Fprintf(os.Stderr, "worker: its specification does not decode: %v\n", err)
		os.Exit(ExitFailed)
	}
	code, err := work(open, spec)
	if err != nil {
		fmt.Fprintf(os.Stderr, "worker %s: %v\n", spec.Name, err)
	}
	os.Exit(code)
}

// work runs the worker of a process: SIGTERM drains, a second one or the end of the parent leaves at once.
func work(open Opener, spec Spec) (code int, err error) {
	// First, so that a worker that is asked to end while it starts ends well.
	drain, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	journal, err := history.Open(spec.Journal, spec.Name)
	if err != nil {
		return ExitFailed, err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	j := &diary{w: journal, fail: spec.Fail}
	j.kill = func() {
		// First: a broker may give its messages away before the parent knows that this process is dead.
		j.note(history.Event{Kind: history.Kill, Signal: "KILL"})
		killSelf()
	}
	j.note(history.Event{Kind: history.ProcStart, N: os.Getpid()})
	defer j.vitals()()
	backend, err := open(context.Background(), spec.URL)
	if err != nil {
		return ExitFailed, err
	}
	if spec.Publish != nil {
		go outlive()
		return ExitFailed, j.publish(backend, spec)
	}
	w, err := spec.worker(backend, j)
	if err != nil {
		return ExitFailed, err
	}
	go j.listen(w)
	noted := j.drains(drain)
	defer noted()
	code, err = j.serve(backend, func() error { return w.RunUntil(drain, j.handle, syscall.SIGTERM) })
	if code == ExitStuck {
		return code, err // closing would give back messages whose handlers still run
	}
	return code, errors.Join(err, closeWithin(backend, time.Second))
}

// Inside is what a worker in this process has in the place of signals.
type Inside struct {
	Journal *history.Writer // what a process would write to its journal
	Kill    func()          // cuts the worker off from broker and journal, as SIGKILL would; called by a job or a failpoint
	Abort   <-chan struct{} // closed: leave without waiting for handlers, as after a second SIGTERM
	Ended   func(code int)  // the worker has ended; handlers that ignore their contexts may still run
	// Commands are what a process would read on its standard input.
	Commands <-chan Command
}

// Serve runs a worker inside this process until ctx ends, for backends that live in one process. It returns when the
// last handler has returned. It closes nothing.
func Serve(ctx context.Context, b driver.Backend, spec Spec, in Inside) {
	j := &diary{w: in.Journal, fail: spec.Fail, kill: in.Kill}
	j.note(history.Event{Kind: history.ProcStart})
	code, _ := j.inside(ctx, b, spec, in)
	in.Ended(code)
	j.handlers.Wait()
}

func (j *diary) inside(ctx context.Context, b driver.Backend, spec Spec, in Inside) (code int, err error) {
	w, err := spec.worker(b, j)
	if err != nil {
		return ExitFailed, err
	}
	served := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(served)
	wg.Go(func() {
		for {
			select {
			case <-in.Abort:
				w.Abort()
				return
			case o := <-in.Commands:
				j.obey(w, o)
			case <-served:
				return
			}
		}
	})
	defer j.drains(ctx)()
	return j.serve(b, func() error { return w.Run(ctx, j.handle) })
}

// drains notes when ctx ends. What it returns waits for the note under way: the journal is closed after it.
func (j *diary) drains(ctx context.Context) (noted func()) {
	done := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(done)
		j.note(history.Event{Kind: history.ProcDrain})
	})
	return func() {
		if !unhook() {
			<-done
		}
	}
}

func (s Spec) worker(b driver.Backend, j *diary) (*queue.Worker, error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	w, err := queue.NewWorker(b, s.Queue, queue.WorkerConfig{
		Limits: s.Limits, Window: s.Window, Lease: s.Lease, Timeout: s.Timeout, Drain: s.Drain, Grace: s.Grace,
		StuckAfter: s.StuckAfter, Longest: s.Longest, Lanes: s.Lanes, Retry: s.Retry, Needs: s.Needs,
		Hooks: j.hooks(), Logger: logger,
	})
	if err == nil {
		j.slots = max(s.Limits.Concurrency, 1)
		j.note(history.Event{Kind: history.ProcReady, N: j.slots})
	}
	return w, err
}

// serve runs the worker, counts the backend's requests meanwhile, and turns the end into an exit code.
func (j *diary) serve(b driver.Backend, run func() error) (code int, err error) {
	measuring, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { j.measure(measuring, b) })
	err = run()
	stop()
	wg.Wait()
	switch {
	case errors.Is(err, queue.ErrStuck):
		return ExitStuck, err
	case errors.Is(err, queue.ErrReleased):
		return ExitReleased, nil
	case err != nil:
		return ExitFailed, err
	}
	return ExitDrained, nil
}

func closeWithin(b interface{ Close(context.Context) error }, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	return b.Close(ctx)
}

// outlive ends the process when its parent is gone, which ends standard input: it has no reason to be then.
func outlive() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	killSelf()
}
