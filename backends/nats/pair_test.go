package nats_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/nats"
	"github.com/holdfast-queue/holdfast/backends/nats/embedded"
	"github.com/holdfast-queue/holdfast/queue"
)

const (
	pairMessages = 5000
	pairBytes    = 1024
	pairInFlight = 64
)

// BenchmarkPair works off the same messages with a Worker and with a loop by hand on nats.go, in turn: the same limit in
// flight, one consumer each, confirmed acks, a handler that does nothing. It reports the median of the ratios; run it
// with -benchtime=10x. A hand loop at its best settings (whole batches, acks that are not confirmed one by one) is beside
// it, as what the broker can do.
func BenchmarkPair(b *testing.B) {
	server, err := embedded.Start(embedded.Config{})
	require.NoError(b, err)
	defer server.Shutdown()
	var ratios, ours, hand, best []float64
	for b.Loop() {
		o, h, t := oursRate(b, server.URL()), handRate(b, server.URL(), false), handRate(b, server.URL(), true)
		ours, hand, best, ratios = append(ours, o), append(hand, h), append(best, t), append(ratios, o/h)
	}
	b.ReportMetric(median(ratios), "ours/hand")
	b.ReportMetric(median(ours), "ours-msg/s")
	b.ReportMetric(median(hand), "hand-msg/s")
	b.ReportMetric(median(best), "best-hand-msg/s")
	b.ReportMetric(0, "ns/op")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

var pairRun atomic.Int64

func oursRate(b *testing.B, url string) float64 {
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	backend, err := nats.Open(ctx, nats.Config{URL: url})
	require.NoError(b, err)
	defer backend.Close(b.Context())
	name := fmt.Sprintf("ours-%d", pairRun.Add(1))
	p, err := queue.NewProducer(ctx, backend, name, queue.ProducerConfig{})
	require.NoError(b, err)
	ms := make([]*queue.Message, pairMessages)
	for i := range ms {
		ms[i] = &queue.Message{Body: make([]byte, pairBytes)}
	}
	require.NoError(b, p.Publish(ctx, ms...))
	var acked, ended atomic.Int64
	began := time.Now()
	w, err := queue.NewWorker(backend, name, queue.WorkerConfig{
		Limits: queue.Limits{Concurrency: pairInFlight}, Window: pairInFlight,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Hooks: queue.Hooks{Settled: func(_ *queue.Delivery, _ queue.Settlement, err error) {
			if err == nil && acked.Add(1) == pairMessages {
				ended.Store(int64(time.Since(began)))
				stop()
			}
		}},
	})
	require.NoError(b, err)
	require.NoError(b, w.Run(ctx, func(context.Context, *queue.Delivery) error { return nil }))
	require.NoError(b, backend.DeleteQueue(b.Context(), name))
	return pairMessages / time.Duration(ended.Load()).Seconds()
}

// handRate is the loop as one would write it on nats.go. With best, whole batches are fetched and acks are sent without
// waiting for each.
func handRate(b *testing.B, url string, best bool) float64 {
	ctx := b.Context()
	nc, err := natsgo.Connect(url)
	require.NoError(b, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	name := fmt.Sprintf("hand-%d", pairRun.Add(1))
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Retention: jetstream.WorkQueuePolicy})
	require.NoError(b, err)
	defer func() { _ = js.DeleteStream(ctx, name) }()
	for range pairMessages {
		_, err := js.PublishAsync(name, make([]byte, pairBytes))
		require.NoError(b, err)
	}
	<-js.PublishAsyncComplete()
	c, err := js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(b, err)
	began := time.Now()
	if best {
		bestLoop(b, c)
		require.NoError(b, nc.FlushTimeout(10*time.Second))
	} else {
		handLoop(b, c)
	}
	return pairMessages / time.Since(began).Seconds()
}

func handLoop(b *testing.B, c jetstream.Consumer) {
	slots := make(chan struct{}, pairInFlight)
	var wg sync.WaitGroup
	for done := 0; done < pairMessages; {
		slots <- struct{}{}
		free := 1
	more:
		for free < pairInFlight {
			select {
			case slots <- struct{}{}:
				free++
			default:
				break more
			}
		}
		batch, err := c.FetchNoWait(free)
		require.NoError(b, err)
		for m := range batch.Messages() {
			done++
			free--
			wg.Go(func() {
				if err := m.DoubleAck(b.Context()); err != nil {
					b.Error(err)
				}
				<-slots
			})
		}
		for range free {
			<-slots
		}
	}
	wg.Wait()
}

func bestLoop(b *testing.B, c jetstream.Consumer) {
	for done := 0; done < pairMessages; {
		batch, err := c.FetchNoWait(500)
		require.NoError(b, err)
		for m := range batch.Messages() {
			done++
			require.NoError(b, m.Ack())
		}
	}
}
