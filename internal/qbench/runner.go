package qbench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
)

const (
	pollEvery = 20 * time.Millisecond // how often the journals are looked at
	readyTime = 30 * time.Second      // for the first workers to be ready
	drainTime = 10 * time.Second      // for workers to end
)

// run is one run of a workload on a broker.
type run struct {
	plan     *plan
	broker   *broker
	queue    string
	journal  *history.Writer // the supervisor's
	crew     *crew.Crew
	tail     *history.Tailer
	track    *tracker
	nemesis  *nemesis
	progress *progress

	t0           int64 // the first intended publish
	end          int64 // when it was clear how the run ends
	cpu          cpuMeter
	late         []time.Duration // how late each message was published
	publishFault error
	complaints   []string // why the run is invalid, beside what its history says
}

// run does what the plan says, prints the result and returns why the exit code is not zero.
func (p *Program) run(ctx context.Context, plan *plan) (err error) {
	defer func() { err = errors.Join(err, plan.out.close()) }()
	b, err := openBroker(ctx, plan.broker)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	r := &run{
		plan: plan, broker: b, queue: "qbench-" + plan.load.Name + "-" + strings.ToLower(rand.Text()[:8]),
		tail: history.NewTailer(plan.out.path), track: newTracker(plan.load), progress: newProgress(p, plan.quiet),
	}
	doc, err := r.execute(ctx, p)
	if closing := b.close(r.queue, r.queue+".dead"); err == nil && closing != nil {
		r.progress.say("qbench: the broker could not be tidied up: %v", closing)
	}
	if err != nil {
		return interruptedOr(ctx, err)
	}
	return p.deliver(plan, doc)
}

// interruptedOr is err, unless what it reports is that ctx has ended.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return &exitError{code: ExitInterrupted, err: errors.New("interrupted before there was anything to report")}
}

// execute runs the workload. An error means that there is nothing to report.
func (r *run) execute(ctx context.Context, p *Program) (*Document, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var err error
	if r.journal, err = history.Open(r.plan.out.file("supervisor.jsonl"), "supervisor"); err != nil {
		return nil, err
	}
	r.crew = crew.New(r.plan.out.path, r.journal, p.Stderr)
	r.nemesis = newNemesis(r)
	how, err := r.work(ctx)
	if err == nil {
		r.wind(how)
	}
	if err := errors.Join(err, r.crew.Close(), r.journal.Close()); err != nil {
		return nil, err
	}
	return r.judge(how)
}

// work publishes and works off, and returns how that ended. Workers are left as they are.
func (r *run) work(ctx context.Context) (ending, error) {
	pub, err := r.publisher(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = pub.journal.Close() }() // every event was written when it was noted
	r.announce()
	if err := r.assemble(ctx); err != nil {
		return 0, err
	}
	publishing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	r.begin()
	wg.Go(func() { pub.run(publishing, r.t0) })
	how, err := r.watch(ctx, pub)
	r.end = history.Now()
	r.cpu.stop()
	stop()
	wg.Wait()
	late, fault, unwritten := pub.result()
	r.late, r.publishFault = late, fault
	return how, errors.Join(err, unwritten)
}

func (r *run) publisher(ctx context.Context) (*publisher, error) {
	out, err := queue.NewProducer(ctx, r.broker.Backend, r.queue, queue.ProducerConfig{
		Lanes: lanes(r.plan.load), Needs: needs(r.plan.load),
	})
	if err != nil {
		return nil, brokerFailed(err)
	}
	journal, err := history.Open(r.plan.out.file(producerName+".jsonl"), producerName)
	if err != nil {
		return nil, err
	}
	return newPublisher(r, out, journal), nil
}

// begin sets the moment from which everything is counted.
func (r *run) begin() {
	r.t0 = history.Now()
	r.progress.t0 = r.t0
	r.cpu.start()
}

// assemble starts the first workers and waits until all are ready.
func (r *run) assemble(ctx context.Context) error {
	for range r.plan.workers {
		if _, err := r.nemesis.start(); err != nil {
			return err
		}
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	deadline := time.Now().Add(readyTime)
	for {
		if err := r.poll(); err != nil {
			return err
		}
		if len(r.track.ready) == r.plan.workers {
			return nil
		}
		for _, p := range r.crew.Procs() {
			if !p.Alive() {
				return brokerFailed(fmt.Errorf("worker %s could not begin: it ended with code %d", p.Spec.Name, p.ExitCode()))
			}
		}
		if time.Now().After(deadline) {
			return brokerFailed(fmt.Errorf("workers are not ready after %v", readyTime))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// poll takes in what was written to the journals since the last call.
func (r *run) poll() error {
	events, err := r.tail.Poll()
	for _, again := range r.track.add(events) {
		if r.t0 != 0 {
			r.progress.event(history.Now(), "%s runs again on %s, %s after the kill", again.msg, again.proc, span(again.after))
		}
	}
	return err
}

// complain adds a reason why the run is invalid.
func (r *run) complain(format string, args ...any) {
	r.complaints = append(r.complaints, fmt.Sprintf(format, args...))
}

// since is when a moment of the journals' clock was, from the start of the run.
func (r *run) since(at int64) time.Duration { return time.Duration(at - r.t0) }
