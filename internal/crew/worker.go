package crew

import (
	"bufio"
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

// work runs the worker until it is told to stop: SIGTERM drains, a second one or the end of the parent leaves at once.
func work(open Opener, spec Spec) (code int, err error) {
	journal, err := history.Open(spec.Journal, spec.Name)
	if err != nil {
		return ExitFailed, err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	j := &diary{w: journal, fail: spec.Fail}
	j.note(history.Event{Kind: history.ProcStart, N: os.Getpid()})
	ctx := context.Background()
	backend, err := open(ctx, spec.URL)
	if err != nil {
		return ExitFailed, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	w, err := queue.NewWorker(backend, spec.Queue, queue.WorkerConfig{
		Limits: spec.Limits, Window: spec.Window, Lease: spec.Lease, Timeout: spec.Timeout, Drain: spec.Drain,
		Grace: spec.Grace, StuckAfter: spec.StuckAfter, Longest: spec.Longest, Lanes: spec.Lanes, Retry: spec.Retry,
		Hooks: j.hooks(), Logger: logger,
	})
	if err != nil {
		return ExitFailed, err
	}
	j.note(history.Event{Kind: history.ProcReady, N: max(spec.Limits.Concurrency, 1)})
	go obey(w)
	draining := make(chan os.Signal, 1)
	signal.Notify(draining, syscall.SIGTERM)
	go func() { // lives as long as the process
		<-draining
		j.note(history.Event{Kind: history.ProcDrain})
	}()
	counting, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { j.count(counting, backend) })
	err = w.RunUntil(ctx, j.handle, syscall.SIGTERM)
	stop()
	wg.Wait()
	switch {
	case errors.Is(err, queue.ErrStuck):
		return ExitStuck, err
	case errors.Is(err, queue.ErrReleased):
		return ExitReleased, closeWithin(backend, time.Second)
	case err != nil:
		return ExitFailed, err
	}
	return ExitDrained, closeWithin(backend, time.Second)
}

func closeWithin(b interface{ Close(context.Context) error }, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	return b.Close(ctx)
}

// obey reads what the parent says on standard input, a line a command. When it ends the parent is gone, and a worker
// without a parent has no reason to be.
func obey(w *queue.Worker) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o Command
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			fmt.Fprintf(os.Stderr, "worker: command does not decode: %v\n", err)
			continue
		}
		o.apply(w)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// Command is what a parent tells a running worker.
type Command struct {
	Limits *queue.Limits `json:",omitempty"`
	Pause  bool          `json:",omitempty"`
	Resume bool          `json:",omitempty"`
}

func (o Command) apply(w *queue.Worker) {
	if o.Limits != nil {
		if err := w.SetLimits(*o.Limits); err != nil {
			fmt.Fprintf(os.Stderr, "worker: %v\n", err)
		}
	}
	if o.Pause {
		w.Pause()
	}
	if o.Resume {
		w.Resume()
	}
}
