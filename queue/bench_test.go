package queue_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
)

// BenchmarkWorker is what a worker adds to a message, from receive to the confirmed ack: a handler that does nothing, on
// the model in memory.
func BenchmarkWorker(b *testing.B) {
	for _, slots := range []int{1, 64} {
		b.Run("slots="+strconv.Itoa(slots), func(b *testing.B) { benchmarkWorker(b, slots) })
	}
}

func benchmarkWorker(b *testing.B, slots int) {
	const batch = 10_000
	backend := memory.Open(memory.Config{Dedup: -1})
	defer backend.Close(b.Context())
	p, err := queue.NewProducer(b.Context(), backend, "jobs", queue.ProducerConfig{})
	require.NoError(b, err)
	ms := make([]*queue.Message, batch)
	for i := range ms {
		ms[i] = &queue.Message{ID: strconv.Itoa(i), Body: make([]byte, 1024)}
	}
	b.ReportAllocs()
	messages := 0
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, p.Publish(b.Context(), ms...))
		b.StartTimer()
		workOff(b, backend, slots, batch)
		messages += batch
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
}

func workOff(b *testing.B, backend *memory.Backend, slots, n int) {
	ctx, stop := context.WithCancel(b.Context())
	var acked atomic.Int64
	w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{
		Limits: queue.Limits{Concurrency: slots}, Logger: quiet,
		Hooks: queue.Hooks{Settled: func(*queue.Delivery, queue.Settlement, error) {
			if acked.Add(1) == int64(n) {
				stop()
			}
		}},
	})
	require.NoError(b, err)
	require.NoError(b, w.Run(ctx, func(context.Context, *queue.Delivery) error { return nil }))
}
