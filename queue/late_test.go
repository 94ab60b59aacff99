package queue_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
)

// A process that was frozen gives its verdict before its keeper has looked at the clock, and a broker can refuse a
// verdict for reasons of its own. That is a lease lost like any other: counted, reported once, and the context's cause.
func TestLeaseLostIsReportedWhenAVerdictFindsItFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		backend := b.broker.Open()
		defer backend.Close(t.Context())
		var causes []error
		c, err := queue.NewConsumer(t.Context(), backend, "jobs", queue.ConsumerConfig{Logger: quiet, Hooks: queue.Hooks{
			LeaseLost: func(_ *queue.Delivery, cause error) { causes = append(causes, cause) },
		}})
		require.NoError(t, err)
		defer c.Close(t.Context())
		ds, err := c.Receive(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, backend.PurgeQueue(t.Context(), "jobs"))

		require.ErrorIs(t, ds[0].Ack(t.Context()), queue.ErrLeaseLost)
		require.Len(t, causes, 1)
		require.ErrorIs(t, causes[0], queue.ErrLeaseLost)
		require.ErrorIs(t, context.Cause(ds[0].Context()), queue.ErrLeaseLost)
		require.Equal(t, int64(1), c.Stats().LeasesLost)
		require.Equal(t, int64(1), c.Stats().Unsettled)
	})
}
