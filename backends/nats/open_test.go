package nats

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// plainServer is a server with options of the test's own.
func plainServer(t *testing.T, o *server.Options) *server.Server {
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patience))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func TestOpenDeadPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())

	began := time.Now()
	_, err = Open(testContext(t), Config{URL: "nats://root:hunter2@" + addr})
	require.ErrorIs(t, err, driver.Unavailable)
	require.Less(t, time.Since(began), 2*time.Second)
	require.ErrorContains(t, err, addr)
	require.NotContains(t, err.Error(), "hunter2")
	require.NotContains(t, err.Error(), "root")
}

func TestOpenEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = Open(ctx, Config{URL: "nats://" + l.Addr().String()})
	require.Error(t, err)
	require.Less(t, time.Since(began), 2*time.Second)
}

func TestOpenWithoutJetStream(t *testing.T) {
	s := plainServer(t, &server.Options{})
	_, err := Open(testContext(t), Config{URL: s.ClientURL()})
	require.ErrorIs(t, err, driver.Invalid)
	require.ErrorContains(t, err, "JetStream")
}

func TestCredentialsAndPermissions(t *testing.T) {
	queue := "guarded"
	s := plainServer(t, &server.Options{
		JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "all", Password: "secret"},
			{Username: "reader", Password: "secret", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"hf.guarded.l._"}},
			}},
		},
	})
	_, err := Open(testContext(t), Config{URL: s.ClientURL(), User: "all", Password: "wrong"})
	require.ErrorIs(t, err, driver.Denied)
	require.ErrorIs(t, err, natsgo.ErrAuthorization)
	require.NotContains(t, err.Error(), "wrong")

	publish(t, openProducer(t, openBackend(t, Config{URL: s.ClientURL(), User: "all", Password: "secret"}), queue), text("x"))
	b := openBackend(t, Config{URL: s.ClientURL(), User: "reader", Password: "secret"})
	p := openProducer(t, b, queue)
	began := time.Now()
	err = p.Publish(testContext(t), []*driver.Message{text("no"), inLane("open", "yes")})
	require.Less(t, time.Since(began), 2*time.Second)
	require.ErrorIs(t, driver.Outcome(err, 0), driver.Denied)
	require.NoError(t, driver.Outcome(err, 1))
	c := openConsumer(t, b, queue, 0)
	require.Len(t, receive(t, c, 2, time.Second), 2)
}

func TestCapabilities(t *testing.T) {
	caps := openBackend(t, Config{}).Capabilities()
	require.Equal(t, driver.Capabilities{
		Name: "NATS JetStream", Version: shared.Version(), Sharing: driver.PerMessage,
		Extend: true, Fencing: true, Carries: true, SettleConfirmed: true, Lanes: true,
		Delay: driver.Delaying{By: driver.Native}, Redelay: driver.Delaying{By: driver.Native},
		Counting: driver.Counted, MaxBytes: 8<<20 - 8<<10, Dedup: 2 * time.Minute,
	}, caps)
	require.True(t, atLeast2(12, "2.12.0-beta"))
	require.True(t, atLeast2(12, "v3.0"))
	require.False(t, atLeast2(10, "2.9.25"))
	require.False(t, atLeast2(10, ""))
}

func TestDelayIsRefusedByOldServers(t *testing.T) {
	b := openBackend(t, Config{})
	b.schedules = false // what inspect finds on a server before 2.12
	p := openProducer(t, b, queueName(t))
	err := p.Publish(testContext(t), []*driver.Message{{Delay: time.Second, Body: []byte("x")}})
	require.ErrorIs(t, err, driver.Invalid)
}

func TestNoCreate(t *testing.T) {
	b := openBackend(t, Config{NoCreate: true})
	queue := queueName(t)
	_, err := b.OpenProducer(testContext(t), queue)
	require.ErrorIs(t, err, driver.NotFound)
	_, err = b.OpenConsumer(testContext(t), queue, driver.ConsumerConfig{})
	require.ErrorIs(t, err, driver.NotFound)
	require.NoError(t, openBackend(t, Config{}).CreateQueue(testContext(t), queue))
	publish(t, openProducer(t, b, queue), text("x"))
	require.Len(t, receive(t, openConsumer(t, b, queue, 0), 1, time.Second), 1)
}

func TestCloseEndsEverything(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	require.NoError(t, b.Close(testContext(t)))
	require.NoError(t, b.Close(testContext(t)))

	require.ErrorIs(t, p.Publish(testContext(t), []*driver.Message{text("y")}), driver.Closed)
	_, err := c.Receive(testContext(t), driver.Want{Max: 1}, time.Second)
	require.ErrorIs(t, err, driver.Closed)
	require.ErrorIs(t, c.Ack(testContext(t), []*driver.Delivery{d}), driver.Closed)
	_, err = b.OpenProducer(testContext(t), queue)
	require.Error(t, err)
	_, err = b.OpenConsumer(testContext(t), queue, driver.ConsumerConfig{})
	require.Error(t, err)
}

func TestErrorsKeepTheClientsOwn(t *testing.T) {
	err := fail("publish", &unsentError{natsgo.ErrReconnectBufExceeded})
	require.ErrorIs(t, err, driver.Unavailable)
	require.ErrorIs(t, err, natsgo.ErrReconnectBufExceeded)
	require.ErrorIs(t, fail("ack", &lostError{errNoAnswer}), driver.Ambiguous)
	require.ErrorIs(t, fail("ack", &lostError{syscall.EPIPE}), syscall.EPIPE)
	require.ErrorIs(t, fail("x", driver.Closed), driver.Closed)
	require.ErrorIs(t, fail("x", sendError(syscall.EPIPE)), driver.Ambiguous, "a part may have been written")
	require.ErrorIs(t, fail("x", sendError(natsgo.ErrMaxPayload)), driver.TooLarge)
}
