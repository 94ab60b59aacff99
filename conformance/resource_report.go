package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/chaos"
	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// statsAreTrue has everything happen that Stats counts, and holds it against the journal.
func statsAreTrue(e *Env) {
	const n = 60
	b := chaos.New(e.Open())
	var lost atomic.Bool
	w := e.Handle(b, queue.WorkerConfig{
		Limits: queue.Limits{Concurrency: 8}, Hooks: e.Journaled("counted"), Longest: time.Second, StuckAfter: e.Lease,
		Retry: queue.Retry{MaxAttempts: 2, Base: 200 * time.Millisecond, Jitter: -1},
	}, func(ctx context.Context, d *queue.Delivery) error {
		switch kind, _, _ := strings.Cut(d.ID, "-"); {
		case kind == "fails", kind == "recovers" && d.Attempt == 1:
			return errTold
		case kind == "released" && d.Releases == 0 && d.Generation == 0:
			return queue.Release(errTold)
		case kind == "rejected":
			return queue.Reject(errTold)
		case kind == "long": // extended, and reported as too long
			return during(ctx, 2*e.Lease+time.Second)
		case kind == "lost" && lost.CompareAndSwap(false, true):
			<-ctx.Done()
		}
		return nil
	})
	kinds := []string{"fails", "recovers", "released", "rejected", "plain", "plain"}
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, func(i int, j *Job) { j.ID = fmt.Sprintf("%s-%d", kinds[i%len(kinds)], i) })...)
	e.Await("every message is done", 2*late, finished(n))
	total := n
	if e.Caps.Extend {
		total++
		e.Publish(queue.Lanes{}, Job{ID: "long-1"})
		e.Await("the long message is done", 2*e.Lease+late, finished(total))
		heal := b.Inject(chaos.Fault{Op: chaos.Extend, Err: driver.Unavailable})
		total++
		e.Publish(queue.Lanes{}, Job{ID: "lost-1"})
		e.Await("a lease is lost", e.back(), func(*history.Timeline) bool { return len(e.Events(history.LeaseLost, "")) > 0 })
		heal()
		e.Await("the message is done", e.back(), finished(total))
	}
	b.Inject(chaos.Fault{Op: chaos.Ack, Err: driver.Invalid, Times: 1})
	e.Publish(queue.Lanes{}, Job{ID: "unsettled-1"})
	e.Await("the message comes again and is done", e.back(), func(t *history.Timeline) bool { return slices.Contains(acked(t), "unsettled-1") })
	e.Await("Stats and journal agree", late, func(*history.Timeline) bool { return w.Stats() == e.counted(w.Stats()) })
	s := w.Stats()
	for name, count := range map[string]int64{
		"Acked": s.Acked, "Retried": s.Retried, "Released": s.Released, "DeadLettered": s.DeadLettered, "Unsettled": s.Unsettled,
	} {
		e.Check(count > 0, "nothing was counted as %s: %+v", name, s)
	}
	e.Check(!e.Caps.Extend || s.Extended > 0 && s.Stuck > 0 && s.LeasesLost == 1,
		"%d extensions, %d stuck handlers and %d lost leases", s.Extended, s.Stuck, s.LeasesLost)
}

// during takes d, or less if ctx ends.
func during(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// counted is what Stats must be by the journal, which does not say what is known of earlier deliveries where the broker
// does not count them.
func (e *Env) counted(said queue.Stats) queue.Stats {
	redelivered := said.Redelivered
	count := func(kind history.Kind, of func(ev history.Event) bool) int64 {
		n := int64(0)
		for _, ev := range e.Events(kind, "counted") {
			if of == nil || of(ev) {
				n++
			}
		}
		return n
	}
	confirmed := func(verdicts ...string) int64 {
		return count(history.SettleOK, func(ev history.Event) bool { return slices.Contains(verdicts, ev.Verdict) })
	}
	if e.Caps.Counting == driver.Counted {
		redelivered = count(history.Deliver, func(ev history.Event) bool { return ev.Deliveries > 1 })
	}
	return queue.Stats{
		Received:     count(history.Deliver, nil),
		Redelivered:  redelivered,
		Acked:        confirmed(history.VerdictAck),
		Retried:      confirmed(history.VerdictRetry),
		Released:     confirmed(history.VerdictRelease),
		DeadLettered: confirmed(history.VerdictReject, history.VerdictDead),
		LeasesLost:   count(history.LeaseLost, nil),
		Extended:     count(history.Extend, nil),
		Unsettled:    count(history.SettleErr, nil),
		Stuck:        count(crew.Stuck, nil),
	}
}

// healthIsTrue takes away what a healthy worker needs, one thing after the other, and gives it back.
func healthIsTrue(e *Env) {
	l := e.line()
	b := chaos.New(l)
	returns := make(chan struct{})
	back := sync.OnceFunc(func() { close(returns) })
	e.Cleanup(func() error { back(); return nil })
	w := e.Handle(b, queue.WorkerConfig{
		Limits: queue.Limits{Concurrency: 2}, Longest: 200 * time.Millisecond, StuckAfter: 300 * time.Millisecond,
	}, func(_ context.Context, d *queue.Delivery) error {
		if d.ID == "stuck" {
			<-returns
		}
		return nil
	})
	e.health(w, "the worker runs", nil)

	l.hole()
	e.health(w, "the broker is away", queue.ErrUnavailable)
	l.heal()
	e.health(w, "the broker is back", nil)

	e.Publish(queue.Lanes{}, Job{ID: "stuck"})
	e.health(w, "a handler does not return", queue.ErrStuck)
	back()
	e.health(w, "the handler has returned", nil)

	if e.Virtual { // it takes a minute to notice
		heal := b.Inject(chaos.Fault{Op: chaos.Receive})
		e.Cleanup(func() error { heal(); return nil })
		e.health(w, "the loop stands still", errAny)
		heal()
		e.health(w, "the loop goes on", nil)
	}
	e.Publish(queue.Lanes{}, Job{ID: "plain"})
	e.Await("the worker works", late, func(*history.Timeline) bool { return w.Stats().Acked == 2 })
}

var errAny = errors.New("any error")

// health waits until a worker's health is as wanted.
func (e *Env) health(w *queue.Worker, when string, want error) {
	over := time.Now().Add(e.Lease + 2*late + time.Minute)
	for began := time.Now(); ; e.Sleep(20 * time.Millisecond) {
		err := w.Health()
		switch {
		case err == nil && want == nil, err != nil && errors.Is(want, errAny), want != nil && errors.Is(err, want):
			e.Note("noticed: "+when, "%v", time.Since(began).Round(10*time.Millisecond))
			return
		}
		e.Check(time.Now().Before(over), "%s, and its health is: %v", when, err)
	}
}

// loggedOnce has each of the three happen once.
func loggedOnce(e *Env) {
	b := chaos.New(e.Open())
	log := &tally{count: map[string]int{}}
	logger := slog.New(log)
	var lost atomic.Bool
	e.Handle(b, queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4}, Hooks: e.Journaled("logging"), Logger: logger},
		func(ctx context.Context, d *queue.Delivery) error {
			switch {
			case d.ID == "dead":
				return queue.Reject(errTold)
			case d.ID == "lost" && lost.CompareAndSwap(false, true):
				<-ctx.Done()
			}
			return nil
		})
	p, err := queue.NewProducer(e.Ctx, b, e.Queue, queue.ProducerConfig{Logger: logger, Hooks: e.Published()})
	e.Must(err, "open a producer")
	b.Inject(chaos.Fault{Op: chaos.Publish, Queue: e.Queue, Err: driver.Ambiguous, Late: true, Times: 1})
	err = p.Publish(e.Ctx, &queue.Message{ID: "ambiguous"})
	e.Check(errors.Is(err, queue.ErrAmbiguous), "a publish without confirmation: %v", err)
	e.Must(p.Publish(e.Ctx, &queue.Message{ID: "dead"}, &queue.Message{ID: "plain"}), "publish")
	want := map[string]int{"ambiguous": 1, "dead": 1}
	if e.Caps.Extend {
		want["lost"] = 1
		heal := b.Inject(chaos.Fault{Op: chaos.Extend, Err: driver.Unavailable})
		e.Must(p.Publish(e.Ctx, &queue.Message{ID: "lost"}), "publish")
		e.Await("the lease is lost", e.back(), func(*history.Timeline) bool { return len(e.Events(history.LeaseLost, "")) == 1 })
		heal()
	}
	e.Await("every message is done", e.back(), finished(len(want)+1))
	e.Sleep(time.Second)
	got := log.counts()
	e.Check(maps.Equal(got, want), "lines logged by message: %v, not %v", got, want)
}

// tally is a log that counts its lines of warning by the message that they name.
type tally struct {
	mu    sync.Mutex
	count map[string]int
}

// WithAttrs and WithGroup are for loggers that package queue does not make.
func (t *tally) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t *tally) WithGroup(string) slog.Handler      { return t }

func (t *tally) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (t *tally) Handle(_ context.Context, r slog.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "id" {
			t.count[a.Value.String()]++
		}
		return true
	})
	return nil
}

func (t *tally) counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.count)
}
