package memory

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// What a Receive was served between the end of its context and its return goes back as if it had never been handed
// over. The lock makes the race come out that way each time: the waiter has seen its context end, and waits for the
// lock to leave.
func TestReceive_gives_back_uncounted_what_came_after_its_context_ended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := New(Config{BrokerDropsAfter: 1})
		b := broker.Open()
		first, err := b.OpenConsumer(t.Context(), "q", driver.ConsumerConfig{})
		require.NoError(t, err)
		second, err := b.OpenConsumer(t.Context(), "q", driver.ConsumerConfig{})
		require.NoError(t, err)

		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := first.Receive(ctx, driver.Want{Max: 1}, time.Minute)
			failed <- err
		}()
		synctest.Wait()
		passedOn := make(chan []*driver.Delivery)
		go func() {
			ds, _ := second.Receive(t.Context(), driver.Want{Max: 1}, time.Minute)
			passedOn <- ds
		}()
		synctest.Wait()

		broker.mu.Lock()
		cancel()
		q := broker.queues["q"]
		q.add(&driver.Message{ID: "m"}, time.Now())
		q.serve(time.Now())
		require.Equal(t, 1, q.count[leased])
		require.Contains(t, first.(*consumer).held, q.first)
		broker.mu.Unlock()

		require.Equal(t, context.Canceled, <-failed)
		ds := <-passedOn
		require.Len(t, ds, 1)
		require.Equal(t, 1, ds[0].DeliveryCount)
		require.False(t, ds[0].Redelivered)
		require.NoError(t, b.Close(t.Context()))
	})
}

// A backlog that was worked off leaves nothing behind, whatever receipts are still held.
func TestSettled_messages_free_their_memory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages, lanes = 20_000, 300
		b := Open(Config{KeyOrder: true, Dedup: time.Second})
		p, err := b.OpenProducer(t.Context(), "q")
		require.NoError(t, err)
		c, err := b.OpenConsumer(t.Context(), "q", driver.ConsumerConfig{})
		require.NoError(t, err)
		for i := range messages {
			require.NoError(t, p.Publish(t.Context(), []*driver.Message{{
				Lane: fmt.Sprint(i % lanes), Key: fmt.Sprint(i % 1000), DedupID: fmt.Sprint(i), Body: make([]byte, 10),
			}}))
		}
		q := b.broker.queues["q"]
		require.Len(t, q.lanes, lanes+1)
		var last *driver.Delivery
		for range messages {
			ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, 0)
			require.NoError(t, err)
			require.NoError(t, c.Ack(t.Context(), ds))
			last = ds[0]
		}
		time.Sleep(time.Second)
		_, err = b.Gauge(t.Context(), "q")
		require.NoError(t, err)
		require.Nil(t, q.first)
		require.Nil(t, q.last)
		require.Len(t, q.lanes, 1)
		require.Empty(t, q.lines)
		require.Empty(t, q.dedup.ids)
		require.Zero(t, q.count)
		require.Less(t, cap(q.order.items)+cap(q.clock.items), 600)
		require.Empty(t, c.(*consumer).held)
		m := last.Receipt.(*receipt).m
		require.Equal(t, message{seq: m.seq, sentAt: m.sentAt, state: gone, pos: -1, due: m.due, handed: 1, acked: true,
			grant: 1, grantedAt: m.grantedAt}, *m, "a receipt holds no message, and so no chain of them")
		require.NoError(t, b.Close(t.Context()))
	})
}

// The cost of one message must not grow with the backlog, nor with the lanes that are not asked for.
func BenchmarkReceive(b *testing.B) {
	for _, backlog := range []int{1000, 1_000_000} {
		for _, lanes := range []int{1, 500} {
			b.Run(fmt.Sprintf("backlog=%d/lanes=%d", backlog, lanes), func(b *testing.B) { receiveFrom(b, backlog, lanes) })
		}
	}
}

func receiveFrom(b *testing.B, backlog, lanes int) {
	ctx, backend := context.Background(), Open(Config{})
	p, _ := backend.OpenProducer(ctx, "q")
	c, _ := backend.OpenConsumer(ctx, "q", driver.ConsumerConfig{})
	publish := func(i int) {
		if err := p.Publish(ctx, []*driver.Message{{ID: "m", Lane: fmt.Sprint(i % lanes)}}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range backlog {
		publish(i)
	}
	for i := 0; b.Loop(); i++ {
		ds, err := c.Receive(ctx, driver.Want{Max: 1}, 0)
		if err != nil || len(ds) != 1 {
			b.Fatal(len(ds), err)
		}
		if err := c.Ack(ctx, ds); err != nil {
			b.Fatal(err)
		}
		publish(i)
	}
}
