package queue_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// slowToOpen opens consumers only when it is told to stop.
type slowToOpen struct{ driver.Backend }

func (s slowToOpen) OpenConsumer(ctx context.Context, _ string, _ driver.ConsumerConfig) (driver.Consumer, error) {
	<-ctx.Done()
	return nil, &driver.Error{Op: "open consumer", Kind: driver.Unavailable, Err: context.Cause(ctx)}
}

func TestRunThatEndsWhileItOpensHasDrained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, err := queue.NewWorker(slowToOpen{memory.Open(memory.Config{})}, "jobs", queue.WorkerConfig{Logger: quiet})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx, func(context.Context, *queue.Delivery) error { return nil }) }()
		stop()
		require.NoError(t, <-done)
	})
}
