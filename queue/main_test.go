package queue_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// bench is one broker in memory with a queue "jobs", inside a synctest bubble.
type bench struct {
	t      *testing.T
	broker *memory.Broker
}

func newBench(t *testing.T, c memory.Config) *bench {
	return &bench{t: t, broker: memory.New(c)}
}

func (b *bench) publish(ms ...*queue.Message) {
	b.t.Helper()
	b.publishTo(queue.Lanes{}, ms...)
}

func (b *bench) publishTo(lanes queue.Lanes, ms ...*queue.Message) {
	b.t.Helper()
	backend := b.broker.Open()
	p, err := queue.NewProducer(b.t.Context(), backend, "jobs", queue.ProducerConfig{Lanes: lanes, Logger: quiet})
	require.NoError(b.t, err)
	require.NoError(b.t, p.Publish(b.t.Context(), ms...))
	require.NoError(b.t, backend.Close(b.t.Context()))
}

// running is a worker on a connection of its own.
type running struct {
	*queue.Worker
	backend *memory.Backend
	stop    context.CancelFunc
	done    chan error
}

func (b *bench) work(cfg queue.WorkerConfig, h queue.Handler) *running {
	b.t.Helper()
	cfg.Logger = quiet
	backend := b.broker.Open()
	w, err := queue.NewWorker(backend, "jobs", cfg)
	require.NoError(b.t, err)
	ctx, stop := context.WithCancel(b.t.Context())
	r := &running{Worker: w, backend: backend, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- w.Run(ctx, h) }()
	return r
}

// end drains the worker and closes its connection.
func (r *running) end() error {
	r.stop()
	err := <-r.done
	_ = r.backend.Close(context.Background())
	return err
}

// depth is what is left in a queue.
func (b *bench) depth(name string) int {
	b.t.Helper()
	backend := b.broker.Open()
	g, err := backend.Gauge(b.t.Context(), name)
	if driver.KindOf(err) == driver.NotFound {
		return 0
	}
	require.NoError(b.t, err)
	require.NoError(b.t, backend.Close(b.t.Context()))
	return g.Ready + g.InFlight + max(g.Delayed, 0)
}

// deadLetters receives and acks what is in the queue's dead letters.
func (b *bench) deadLetters() []*queue.Delivery {
	b.t.Helper()
	backend := b.broker.Open()
	defer backend.Close(b.t.Context())
	c, err := queue.NewConsumer(b.t.Context(), backend, "jobs.dead", queue.ConsumerConfig{Logger: quiet})
	require.NoError(b.t, err)
	defer c.Close(b.t.Context())
	var all []*queue.Delivery
	for b.depth("jobs.dead") > 0 {
		ds, err := c.Receive(b.t.Context(), 100)
		require.NoError(b.t, err)
		for _, d := range ds {
			require.NoError(b.t, d.Ack(b.t.Context()))
			all = append(all, d)
		}
	}
	return all
}

// log collects what happened in order.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func msg(id string) *queue.Message { return &queue.Message{ID: id, Body: []byte(id)} }

// work takes d of virtual time, or less if ctx ends.
func work(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
