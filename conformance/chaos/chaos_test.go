package chaos_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/conformance/chaos"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func stored(t *testing.T, b *memory.Backend, queue string) int {
	t.Helper()
	seen, err := b.Peek(t.Context(), queue, 99)
	if driver.KindOf(err) == driver.NotFound {
		return 0
	}
	require.NoError(t, err)
	return len(seen)
}

func publish(t *testing.T, b driver.Backend, queue string) error {
	t.Helper()
	p, err := b.OpenProducer(t.Context(), queue)
	require.NoError(t, err)
	return p.Publish(t.Context(), []*driver.Message{{Body: []byte("x")}})
}

func TestFaultBeforeTheCall(t *testing.T) {
	m := memory.Open(memory.Config{})
	b := chaos.New(m)
	heal := b.Inject(chaos.Fault{Op: chaos.Publish, Queue: "a", Err: driver.Throttled})
	require.ErrorIs(t, publish(t, b, "a"), driver.Throttled)
	require.Zero(t, stored(t, m, "a"), "nothing was done")
	require.NoError(t, publish(t, b, "other"), "another queue")
	heal()
	heal()
	require.NoError(t, publish(t, b, "a"))
	require.Equal(t, 1, stored(t, m, "a"))
	require.Equal(t, 1, b.Met(chaos.Publish))
}

func TestFaultAfterTheCall(t *testing.T) {
	m := memory.Open(memory.Config{})
	b := chaos.New(m)
	b.Inject(chaos.Fault{Op: chaos.Publish, Err: driver.Ambiguous, Late: true, Times: 2})
	for range 2 {
		require.ErrorIs(t, publish(t, b, "a"), driver.Ambiguous)
	}
	require.NoError(t, publish(t, b, "a"))
	require.Equal(t, 3, stored(t, m, "a"), "all were done")
}

func TestEveryCallOfAConsumerCanFail(t *testing.T) {
	b := chaos.New(memory.Open(memory.Config{}))
	require.NoError(t, publish(t, b, "a"))
	c, err := b.OpenConsumer(t.Context(), "a", driver.ConsumerConfig{})
	require.NoError(t, err)
	for _, op := range []chaos.Op{chaos.Receive, chaos.Ack, chaos.Nack, chaos.Extend, chaos.OpenProducer, chaos.OpenConsumer, chaos.Ping} {
		b.Inject(chaos.Fault{Op: op, Err: driver.Unavailable, Times: 1})
	}
	_, err = c.Receive(t.Context(), driver.Want{Max: 1}, 0)
	require.ErrorIs(t, err, driver.Unavailable)
	ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, 0)
	require.NoError(t, err)
	leases, err := c.Extend(t.Context(), ds, time.Minute)
	require.ErrorIs(t, err, driver.Unavailable)
	require.Len(t, leases, 1, "the contract: aligned with what was asked for")
	require.ErrorIs(t, c.Nack(t.Context(), []driver.Return{{D: ds[0]}}), driver.Unavailable)
	require.ErrorIs(t, c.Ack(t.Context(), ds), driver.Unavailable)
	_, err = b.OpenProducer(t.Context(), "a")
	require.ErrorIs(t, err, driver.Unavailable)
	_, err = b.OpenConsumer(t.Context(), "a", driver.ConsumerConfig{})
	require.ErrorIs(t, err, driver.Unavailable)
	require.ErrorIs(t, b.Ping(t.Context()), driver.Unavailable)
	require.NoError(t, b.Ping(t.Context()))
	require.NoError(t, c.Ack(t.Context(), ds), "it is still leased")
}

func TestACallWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := chaos.New(memory.Open(memory.Config{}))
		heal := b.Inject(chaos.Fault{Op: chaos.Publish})
		done := make(chan error, 1)
		go func() { done <- publish(t, b, "a") }()
		time.Sleep(time.Hour)
		require.Empty(t, done)
		heal()
		require.NoError(t, <-done)
	})
}

func TestWatchPassesThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := chaos.New(memory.Open(memory.Config{})).Watch(ctx, "a")
		require.NoError(t, err)
		cancel()
		for range events { // ends
		}
		type plain struct{ driver.Backend }
		ctx, cancel = context.WithCancel(t.Context())
		none, err := chaos.New(plain{memory.Open(memory.Config{})}).Watch(ctx, "a")
		require.NoError(t, err)
		cancel()
		for range none {
			t.Error("nobody reports anything")
		}
	})
}
