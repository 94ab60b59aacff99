package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// waiting is a driver whose Receive waits for its connection, as one does that restores it by itself.
type waiting struct {
	driver.Backend
	back <-chan struct{} // closed when the connection is there
}

func (b *waiting) OpenConsumer(ctx context.Context, name string, c driver.ConsumerConfig) (driver.Consumer, error) {
	in, err := b.Backend.OpenConsumer(ctx, name, c)
	return &waitingConsumer{in, b.back}, err
}

type waitingConsumer struct {
	driver.Consumer
	back <-chan struct{}
}

func (c *waitingConsumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-c.back:
		return c.Consumer.Receive(ctx, w, wait)
	case <-timer.C:
		return nil, kind(driver.Unavailable)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A worker that pauses between calls which wait themselves is away longer than its connection.
func TestWorkerIsThereAsSoonAsItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		back := make(chan struct{})
		backend := &waiting{b.broker.Open(), back}
		defer backend.Close(t.Context())
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		started, done := make(chan time.Time, 1), make(chan error, 1)
		go func() {
			done <- w.Run(ctx, func(context.Context, *queue.Delivery) error { started <- time.Now(); return nil })
		}()
		time.Sleep(10*time.Minute + 17*time.Millisecond)
		restored := time.Now()
		close(back)
		require.Less(t, (<-started).Sub(restored), 100*time.Millisecond)
		stop()
		require.NoError(t, <-done)
	})
}
