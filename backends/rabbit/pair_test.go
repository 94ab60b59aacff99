package rabbit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue"
)

const (
	pairMessages = 4000
	pairBytes    = 1024
	pairInFlight = 64
)

// BenchmarkPair publishes and works off the same messages with Holdfast and with loops by hand on amqp091-go, in turn, to
// the same kind of queue and with the same safety: 64 messages in flight, each confirmed and mandatory; 64 channels with
// prefetch 1, each ack followed by a call that is answered; a handler that does nothing. It reports the medians of the
// ratios; run it with -benchtime=10x. A hand loop at its best settings (everything published before the first
// confirmation is waited for, one channel with prefetch 1000 and an ack for every hundred, not confirmed) is beside it,
// as what the broker can do.
func BenchmarkPair(b *testing.B) {
	c, err := brokers.StartRabbit(b.Context(), brokers.RabbitOptions{})
	brokers.Need(b, err)
	defer func() { require.NoError(b, c.Close()) }()
	p := &pair{url: c.URL()}
	results := map[string][]float64{}
	note := func(what string, v float64) { results[what] = append(results[what], v) }
	for b.Loop() {
		ourOut, ourIn := p.ours(b)
		handOut, handIn := p.byHand(b, false)
		bestOut, bestIn := p.byHand(b, true)
		note("out-ours/hand", ourOut/handOut)
		note("in-ours/hand", ourIn/handIn)
		note("out-ours-msg/s", ourOut)
		note("in-ours-msg/s", ourIn)
		note("out-hand-msg/s", handOut)
		note("in-hand-msg/s", handIn)
		note("out-best-msg/s", bestOut)
		note("in-best-msg/s", bestIn)
	}
	for what, all := range results {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], what)
	}
	b.ReportMetric(0, "ns/op")
}

type pair struct {
	url string
	run int
}

func (p *pair) name(who string) string {
	p.run++
	return fmt.Sprintf("%s-%d", who, p.run)
}

// inFlight runs f for every message, 64 at a time.
func inFlight(b *testing.B, f func(i int) error) float64 {
	var (
		next atomic.Int64
		all  sync.WaitGroup
	)
	began := time.Now()
	for range pairInFlight {
		all.Go(func() {
			for i := next.Add(1); i <= pairMessages; i = next.Add(1) {
				if err := f(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return pairMessages / time.Since(began).Seconds()
}

func (p *pair) ours(b *testing.B) (out, in float64) {
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	backend, err := Open(ctx, Config{URL: p.url, Logger: silent})
	require.NoError(b, err)
	defer func() { require.NoError(b, backend.Close(b.Context())) }()
	name := p.name("ours")
	producer, err := queue.NewProducer(ctx, backend, name, queue.ProducerConfig{})
	require.NoError(b, err)
	out = inFlight(b, func(int) error { return producer.Publish(ctx, &queue.Message{Body: make([]byte, pairBytes)}) })

	var acked, ended atomic.Int64
	began := time.Now()
	w, err := queue.NewWorker(backend, name, queue.WorkerConfig{
		Limits: queue.Limits{Concurrency: pairInFlight}, Window: pairInFlight, Logger: silent,
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
	return out, pairMessages / time.Duration(ended.Load()).Seconds()
}

// byHand is the loop as one would write it on amqp091-go.
func (p *pair) byHand(b *testing.B, best bool) (out, in float64) {
	conn, err := amqp.Dial(p.url)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	ch, err := conn.Channel()
	require.NoError(b, err)
	require.NoError(b, ch.Confirm(false))
	name := p.name("hand")
	_, err = ch.QueueDeclare(name, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int64(-1)})
	require.NoError(b, err)
	defer func() {
		_, err := ch.QueueDelete(name, false, false, false)
		require.NoError(b, err)
	}()
	send := func(i int) (*amqp.DeferredConfirmation, error) {
		return ch.PublishWithDeferredConfirm("", name, true, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, MessageId: strconv.Itoa(i), Body: make([]byte, pairBytes),
		})
	}
	if best {
		out = bestPublish(b, send)
		return out, bestConsume(b, conn, name)
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, pairInFlight))
	out = inFlight(b, func(i int) error {
		sent, err := send(i)
		if err == nil && !sent.Wait() {
			err = amqp.ErrClosed
		}
		return err
	})
	require.Empty(b, returns)
	return out, handConsume(b, conn, name)
}

func handConsume(b *testing.B, conn *amqp.Connection, name string) float64 {
	var (
		all  sync.WaitGroup
		left atomic.Int64
	)
	left.Store(pairMessages)
	done := make(chan struct{})
	began := time.Now()
	for range pairInFlight {
		ch, err := conn.Channel()
		require.NoError(b, err)
		defer func() { _ = ch.Close() }()
		require.NoError(b, ch.Qos(1, 0, false))
		got, err := ch.Consume(name, "", false, false, false, false, nil)
		require.NoError(b, err)
		all.Go(func() {
			for {
				select {
				case m := <-got:
					if err := m.Ack(false); err != nil {
						b.Error(err)
						return
					}
					if err := ch.Qos(1, 0, false); err != nil {
						b.Error(err)
						return
					}
					if left.Add(-1) == 0 {
						close(done)
					}
				case <-done:
					return
				}
			}
		})
	}
	all.Wait()
	return pairMessages / time.Since(began).Seconds()
}

func bestPublish(b *testing.B, send func(int) (*amqp.DeferredConfirmation, error)) float64 {
	began := time.Now()
	all := make([]*amqp.DeferredConfirmation, pairMessages)
	for i := range all {
		var err error
		all[i], err = send(i)
		require.NoError(b, err)
	}
	for _, sent := range all {
		require.True(b, sent.Wait())
	}
	return pairMessages / time.Since(began).Seconds()
}

func bestConsume(b *testing.B, conn *amqp.Connection, name string) float64 {
	ch, err := conn.Channel()
	require.NoError(b, err)
	require.NoError(b, ch.Qos(1000, 0, false))
	began := time.Now()
	got, err := ch.Consume(name, "", false, false, false, false, nil)
	require.NoError(b, err)
	for i := 1; i <= pairMessages; i++ {
		m := <-got
		if i%100 == 0 {
			require.NoError(b, m.Ack(true))
		}
	}
	require.NoError(b, ch.Qos(1000, 0, false)) // the server has read the last ack
	return pairMessages / time.Since(began).Seconds()
}
