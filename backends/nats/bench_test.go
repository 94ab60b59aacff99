package nats

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// benchBatches are the numbers of messages that one receive asks for: of a worker with one slot, and with many.
var benchBatches = []int{1, 10, 100}

const benchFill = 20000 // messages stored at a time, outside the measured time

func fill(b *testing.B, p driver.Producer) {
	ms := make([]*driver.Message, benchFill)
	for i := range ms {
		ms[i] = &driver.Message{Body: make([]byte, 1024)}
	}
	require.NoError(b, p.Publish(context.Background(), ms))
}

// BenchmarkReceiveAck is the driver's way of a message through a worker. One operation is one message.
func BenchmarkReceiveAck(b *testing.B) {
	for _, n := range benchBatches {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			backend := openBackend(b, Config{})
			queue := queueName(b)
			p := openProducer(b, backend, queue)
			c := openConsumer(b, backend, queue, time.Minute)
			ctx := context.Background()
			var ds []*driver.Delivery
			stored := 0
			for b.Loop() {
				if len(ds) == 0 {
					if stored == 0 {
						b.StopTimer()
						fill(b, p)
						stored = benchFill
						b.StartTimer()
					}
					var err error
					ds, err = c.Receive(ctx, driver.Want{Max: n}, time.Second)
					require.NoError(b, err)
					require.NotEmpty(b, ds)
					require.NoError(b, c.Ack(ctx, ds))
					stored -= len(ds)
				}
				ds = ds[1:]
			}
		})
	}
}

// BenchmarkReceiveAckByHand is the same with package jetstream alone: a fetch, then a confirmed acknowledgement for
// each message, one after the other or side by side.
func BenchmarkReceiveAckByHand(b *testing.B) {
	for _, n := range benchBatches {
		b.Run(fmt.Sprintf("batch=%d/acks=serial", n), func(b *testing.B) { byHand(b, n, doubleAckSerial) })
		b.Run(fmt.Sprintf("batch=%d/acks=parallel", n), func(b *testing.B) { byHand(b, n, doubleAckParallel) })
	}
}

func doubleAckSerial(ctx context.Context, ms []jetstream.Msg) error {
	for _, m := range ms {
		if err := m.DoubleAck(ctx); err != nil {
			return err
		}
	}
	return nil
}

func doubleAckParallel(ctx context.Context, ms []jetstream.Msg) error {
	errs := make([]error, len(ms))
	var wg sync.WaitGroup
	for i, m := range ms {
		wg.Go(func() { errs[i] = m.DoubleAck(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func byHand(b *testing.B, n int, ack func(context.Context, []jetstream.Msg) error) {
	backend := openBackend(b, Config{})
	queue := queueName(b)
	p := openProducer(b, backend, queue)
	nc, err := natsgo.Connect(shared.URL())
	require.NoError(b, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	ctx := context.Background()
	names, err := backend.config.names(queue)
	require.NoError(b, err)
	cons, err := js.CreateConsumer(ctx, names.stream, jetstream.ConsumerConfig{
		Durable: "hand", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxAckPending: -1,
		FilterSubject: names.lanes + emptyLane,
	})
	require.NoError(b, err)
	var ms []jetstream.Msg
	stored := 0
	for b.Loop() {
		if len(ms) == 0 {
			if stored == 0 {
				b.StopTimer()
				fill(b, p)
				stored = benchFill
				b.StartTimer()
			}
			fetched, err := cons.Fetch(min(n, stored), jetstream.FetchMaxWait(time.Second))
			require.NoError(b, err)
			for m := range fetched.Messages() {
				ms = append(ms, m)
			}
			require.NoError(b, fetched.Error())
			require.NoError(b, ack(ctx, ms))
			stored -= len(ms)
		}
		ms = ms[1:]
	}
}

// BenchmarkPublish stores messages of 1 KiB. One operation is one message.
func BenchmarkPublish(b *testing.B) {
	for _, n := range benchBatches {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			backend := openBackend(b, Config{})
			p := openProducer(b, backend, queueName(b))
			ms := make([]*driver.Message, n)
			for i := range ms {
				ms[i] = &driver.Message{Body: make([]byte, 1024), Header: map[string]string{"hf-id": "0123456789"}}
			}
			left := 0
			for b.Loop() {
				if left == 0 {
					require.NoError(b, p.Publish(context.Background(), ms))
					left = n
				}
				left--
			}
		})
	}
}
