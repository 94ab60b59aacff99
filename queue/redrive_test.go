package queue_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// die publishes messages and lets each of them become a dead letter.
func (b *bench) die(ms ...*queue.Message) {
	b.t.Helper()
	b.publish(ms...)
	w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 10}, Retry: queue.Retry{MaxAttempts: 3}}, func(context.Context, *queue.Delivery) error {
		return errBroken
	})
	time.Sleep(20 * time.Second)
	require.NoError(b.t, w.end())
	require.Zero(b.t, b.depth("jobs"))
}

func (b *bench) redrive(cfg queue.RedriveConfig) (int, error) {
	backend := b.broker.Open()
	defer backend.Close(b.t.Context())
	cfg.Logger = quiet
	return queue.Redrive(b.t.Context(), backend, "jobs.dead", cfg)
}

func TestRedriveKeepsTheMessageAndForgetsItsPast(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				born := time.Now()
				b.die(full("a"))
				for range 3 { // within the broker's deduplication window: no copy may be taken for another
					n, err := b.redrive(queue.RedriveConfig{})
					require.NoError(t, err)
					require.Equal(t, 1, n)
					var attempts []int
					w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 2}}, func(_ context.Context, d *queue.Delivery) error {
						requireFull(t, full("a"), d)
						require.Nil(t, d.Dead)
						require.Zero(t, d.Crashes)
						require.Equal(t, born.UTC(), d.PublishedAt)
						attempts = append(attempts, d.Attempt)
						return errBroken
					})
					time.Sleep(5 * time.Second)
					require.NoError(t, w.end())
					require.Equal(t, []int{1, 2}, attempts)
					require.Equal(t, 1, b.depth("jobs.dead"))
				}
				require.Less(t, time.Since(born), memory.DefaultDedup)
			})
		})
	}
}

// Killed between storing the message again and acking its dead letter: it is stored once.
func TestRedriveAgainAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.die(full("a"))
		backend := b.broker.Open()
		killing := &killer{Backend: backend, kill: backend.Kill}
		_, err := queue.Redrive(t.Context(), killing, "jobs.dead", queue.RedriveConfig{Logger: quiet})
		require.ErrorIs(t, err, queue.ErrLeaseLost)
		require.Equal(t, 1, b.depth("jobs"))
		require.Equal(t, 1, b.depth("jobs.dead"))
		time.Sleep(31 * time.Second) // its lease
		n, err := b.redrive(queue.RedriveConfig{})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, 1, b.depth("jobs"), "the broker knows the copy")
		require.Zero(t, b.depth("jobs.dead"))
	})
}

// However often a Redrive dies in the middle, dead letters are not dead-lettered for it.
func TestRedriveThatDiesOftenHarmsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.die(full("a"))
		for range 7 {
			backend := b.broker.Open()
			c, err := backend.OpenConsumer(t.Context(), "jobs.dead", driver.ConsumerConfig{})
			require.NoError(t, err)
			ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, time.Minute)
			require.NoError(t, err)
			require.Len(t, ds, 1)
			backend.Kill()
			_ = backend.Close(t.Context())
		}
		time.Sleep(31 * time.Second)
		n, err := b.redrive(queue.RedriveConfig{})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Zero(t, b.depth("jobs.dead.dead"))
	})
}

func TestRedriveLimitAndTarget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 150 {
			b.publish(msg(fmt.Sprint(i)))
		}
		b.die()
		require.Equal(t, 150, b.depth("jobs.dead"))
		n, err := b.redrive(queue.RedriveConfig{Limit: 7, To: "elsewhere"})
		require.NoError(t, err)
		require.Equal(t, 7, n)
		require.Equal(t, 7, b.depth("elsewhere"))
		require.Equal(t, 143, b.depth("jobs.dead"), "what was received beyond the limit is given back")
		n, err = b.redrive(queue.RedriveConfig{})
		require.NoError(t, err)
		require.Equal(t, 143, n)
		require.Equal(t, 143, b.depth("jobs"))
		n, err = b.redrive(queue.RedriveConfig{})
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestRedriveIntoLanes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.die(full("a"))
		lanes := queue.Lanes{Tenants: true, Priorities: true}
		_, err := b.redrive(queue.RedriveConfig{Lanes: lanes})
		require.NoError(t, err)
		backend := b.broker.Open()
		seen, err := backend.Peek(t.Context(), "jobs", 1)
		require.NoError(t, err)
		b.publishTo(lanes, full("b"))
		both, err := backend.Peek(t.Context(), "jobs", 2)
		require.NoError(t, err)
		require.Equal(t, both[1].Lane, seen[0].Lane, "where a producer of these lanes puts it")
		require.NotEmpty(t, seen[0].Lane)
		require.NoError(t, backend.Close(t.Context()))
	})
}

// A worker that still fails the messages sends them back as fast as Redrive moves them: that must end.
func TestRedriveAgainstAFailingWorkerEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 20 {
			b.publish(msg(fmt.Sprint(i)))
		}
		b.die()
		w := b.work(queue.WorkerConfig{}, func(context.Context, *queue.Delivery) error { return queue.Reject(errBroken) })
		began := time.Now()
		n, err := b.redrive(queue.RedriveConfig{})
		require.NoError(t, err)
		require.Equal(t, 20, n)
		require.Less(t, time.Since(began), 10*time.Second)
		time.Sleep(time.Minute)
		require.NoError(t, w.end())
		require.Equal(t, 20, b.depth("jobs.dead"))
	})
}

func TestRedriveNeedsAPlaceToGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		backend := b.broker.Open()
		p, err := queue.NewProducer(t.Context(), backend, "jobs.dead", queue.ProducerConfig{})
		require.NoError(t, err)
		require.NoError(t, p.Publish(t.Context(), msg("put there by hand")))
		_, err = b.redrive(queue.RedriveConfig{})
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.ErrorContains(t, err, "put there by hand")
		_, err = b.redrive(queue.RedriveConfig{To: "jobs.dead"})
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.Equal(t, 1, b.depth("jobs.dead"))
		n, err := b.redrive(queue.RedriveConfig{To: "jobs"})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, backend.Close(t.Context()))
	})
}

// killer drops its connection as soon as something is stored in the queue.
type killer struct {
	driver.Backend
	kill func()
}

func (k *killer) OpenProducer(ctx context.Context, name string) (driver.Producer, error) {
	p, err := k.Backend.OpenProducer(ctx, name)
	if err != nil {
		return nil, err
	}
	return &killingProducer{p, k}, nil
}

type killingProducer struct {
	driver.Producer
	k *killer
}

func (p *killingProducer) Publish(ctx context.Context, ms []*driver.Message) error {
	err := p.Producer.Publish(ctx, ms)
	p.k.kill()
	return err
}
