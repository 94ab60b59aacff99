package rabbit

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// moody is a connection that can be made to stop reading, or to fail in the middle of a write.
type moody struct {
	net.Conn
	deaf   *atomic.Bool
	torn   *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (m *moody) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if err == nil && m.deaf.Load() {
		<-m.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (m *moody) Write(p []byte) (int, error) {
	if m.torn.Load() {
		n, _ := m.Conn.Write(p[:len(p)/2])
		return n, errors.New("torn")
	}
	return m.Conn.Write(p)
}

func (m *moody) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.Conn.Close()
}

// mood makes every connection of a backend moody.
func mood(deaf, torn *atomic.Bool) func(*Config) {
	return func(c *Config) {
		c.Heartbeat, c.Timeout = 10*time.Second, 5*time.Second
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &moody{Conn: conn, deaf: deaf, torn: torn, closed: make(chan struct{})}, err
		}
	}
}

// within fails the test if f takes longer than d.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s takes more than %v", what, d)
	}
}

// A backend that is closed while a connection is being made again must not keep the new one, nor wait for it.
func TestRegressionCloseDuringRedial(t *testing.T) {
	f := newField(t)
	var dials atomic.Int64
	began, release := make(chan struct{}), make(chan struct{})
	b := f.backend(func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if dials.Add(1) == 3 {
				close(began)
				return &late{Conn: conn, until: release}, err
			}
			return conn, err
		}
	})
	b.in.now().drop(errSilent)
	<-began
	closed := make(chan error, 1)
	go func() { closed <- b.Close(context.Background()) }()
	<-b.in.life.Done()
	close(release) // now the server's greeting arrives
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		s := b.in.now()
		require.NotNil(t, s)
		s.end(driver.Closed) // for the tests that follow
		t.Fatal("Close waits for a connection that nobody ends")
	}
}

// late is a connection that reads nothing before a time.
type late struct {
	net.Conn
	until <-chan struct{}
}

func (l *late) Read(p []byte) (int, error) {
	<-l.until
	return l.Conn.Read(p)
}

// Opening ends with its context, also while a server that accepts says nothing.
func TestRegressionOpenEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	within(t, 2*time.Second, "Open", func() {
		_, err = Open(ctx, Config{URL: "amqp://" + l.Addr().String(), Logger: silent, Timeout: 4 * time.Second})
	})
	require.ErrorIs(t, err, context.Canceled)
}

// What a server says of blocking may repeat itself.
func TestRegressionUnblockedTwice(t *testing.T) {
	s := &session{b: &Backend{config: Config{Logger: silent}}}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	open := make(chan struct{})
	close(open)
	s.clear.Store(&open)
	blocks := make(chan amqp.Blocking, 8)
	blocks <- amqp.Blocking{}
	blocks <- amqp.Blocking{Active: true}
	closes := make(chan *amqp.Error)
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.watch(closes, blocks)
	}()
	blocked := func() bool {
		select {
		case <-*s.clear.Load():
			return false
		default:
			return true
		}
	}
	require.Eventually(t, blocked, time.Second, time.Millisecond)
	waits := *s.clear.Load()
	blocks <- amqp.Blocking{Active: true}
	blocks <- amqp.Blocking{}
	blocks <- amqp.Blocking{}
	select {
	case <-waits:
	case <-time.After(time.Second):
		t.Fatal("who waits since the first message is forgotten")
	}
	close(closes)
	<-over
	require.False(t, blocked())
}

// A server that hangs up as soon as it has let us in is away, and no reason to panic.
func TestRegressionInspectWithoutConnection(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	b.in.close()
	requireKind(t, driver.Unavailable, fail("open", b.inspect()))
}

// The connection that receives never publishes: a server that is short of memory or disk would read nothing more from it,
// no ack and no extension.
func TestRegressionListeningWhileBlocked(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a broker")
	}
	c, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Fast: true, Conf: "disk_free_limit.absolute = 1000TB"})
	brokers.Need(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	if c.How() != brokers.Native {
		t.Skip("the settings are those of processes")
	}
	f := fieldAt(t, c)
	b := f.backend(nil)
	in := f.in(b, "q")
	_, err = in.Receive(t.Context(), driver.Want{Max: 1, Lanes: []driver.LaneWant{{}, {Lane: "x"}}}, 500*time.Millisecond)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s, err := b.in.session(ctx, time.Second)
	require.NoError(t, err)
	_, err = s.ping(ctx)
	require.NoError(t, err, "the server reads nothing from the connection that receives")
}

// What holds delayed messages can be deleted by somebody else; a producer finds out and makes it again.
func TestRegressionDelayAfterPurge(t *testing.T) {
	f := newField(t)
	b, other := f.backend(nil), f.backend(nil)
	p, in := f.out(b, "q"), f.in(b, "q")
	delayed := []*driver.Message{{Delay: 100 * time.Millisecond, Body: []byte("later")}}
	require.NoError(t, p.Publish(t.Context(), delayed))
	require.Len(t, drain(t, in), 1)
	require.NoError(t, other.PurgeQueue(t.Context(), "q"))
	err := p.Publish(t.Context(), delayed)
	for range 3 {
		if err == nil {
			break
		}
		err = p.Publish(t.Context(), delayed)
	}
	require.NoError(t, err)
	require.NotEmpty(t, drain(t, in))
}

// Config.Existing: what somebody else has made is not made anew, and what is not the queue's stays.
func TestRegressionExistingIsNotRemade(t *testing.T) {
	f := newField(t)
	ch := f.dial()
	args := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic, "x-max-length": int64(1000)}
	_, err := ch.QueueDeclare("own", true, false, false, false, args)
	require.NoError(t, err)
	require.NoError(t, ch.ExchangeDeclare("own", amqp.ExchangeTopic, true, false, false, false, nil))
	put(t, ch, "own", amqp.Publishing{Body: []byte("kept")})
	b := f.backend(func(c *Config) { c.Existing, c.Type = true, Classic })

	requireKind(t, driver.Invalid, b.PurgeQueue(t.Context(), "own"))
	q, err := ch.QueueDeclare("own", true, false, false, false, args)
	require.NoError(t, err, "the queue is another one")
	require.Equal(t, 1, q.Messages)

	require.NoError(t, b.DeleteQueue(t.Context(), "own"))
	requireKind(t, driver.NotFound, b.DeleteQueue(t.Context(), "own"))
	require.NoError(t, ch.ExchangeDeclarePassive("own", amqp.ExchangeTopic, true, false, false, false, nil))
}

// Who hints closes its channel when it is done: a connection has 2047.
func TestRegressionHintsLeaveNoChannel(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p := f.out(b, "q").(*Producer)
	require.NoError(t, p.Publish(t.Context(), []*driver.Message{{Lane: "x"}}))
	require.Eventually(t, func() bool { return b.Calls()["hint"] > 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, p.Close(t.Context()))
	require.True(t, p.hints.ch.IsClosed())
}

// A Close that runs out of time leaves nothing behind when the backend has closed.
func TestRegressionCloseOutOfTime(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, c := f.out(b, "q").(*Producer), f.in(b, "q").(*Consumer)
	require.True(t, p.calls.enter())
	require.True(t, c.calls.enter())
	p.hints.add("x", 0)
	c.hints.add("x", 0)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Close(over), context.Canceled)
	require.ErrorIs(t, c.Close(over), context.Canceled)
	p.calls.leave()
	c.calls.leave()
	require.NoError(t, b.Close(t.Context()))
	for _, h := range []*hinter{p.hints, c.hints} {
		select {
		case <-h.done:
		case <-time.After(time.Second):
			h.end()
			t.Fatal("its goroutine goes on for ever")
		}
	}
}

// Close ends with its context, though the server does not answer who sends hints.
func TestRegressionCloseWhileHintsHang(t *testing.T) {
	f := newField(t)
	var deaf, torn atomic.Bool
	b := f.backend(mood(&deaf, &torn))
	p := f.out(b, "q").(*Producer)
	deaf.Store(true)
	opened := b.Calls()["channel"] // before the hint: its channel may be opened at once
	p.hints.add("x", 0)
	require.Eventually(t, func() bool { return b.Calls()["channel"] > opened }, 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	within(t, 2*time.Second, "Close", func() { _ = p.Close(ctx) })
}

// Calls that run out of time share nothing with what goes on in the background (for the race detector).
func TestRegressionOutOfTime(t *testing.T) {
	f := newField(t)
	var deaf, torn atomic.Bool
	b := f.backend(mood(&deaf, &torn))
	p, in := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "one"))
	ds, err := in.Receive(t.Context(), driver.Want{Max: 1}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	deaf.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = in.Extend(ctx, ds, time.Second)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = b.depth(ctx, b.in.now(), "q")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	within(t, 2*time.Second, "Gauge", func() {
		_, err = b.Gauge(ctx, "q")
		require.Error(t, err)
	})
	deaf.Store(false)
	for _, l := range []*link{b.in, b.out} {
		l.now().drop(errSilent)
	}
}

// A call waits for another call of the same producer no longer than its own context lets it.
func TestRegressionPublishBehindAnother(t *testing.T) {
	f := newField(t)
	var deaf, torn atomic.Bool
	b := f.backend(mood(&deaf, &torn))
	p := f.out(b, "q")
	deaf.Store(true)
	asked := b.Calls()["channel"]
	long, stop := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() {
		defer close(first)
		_ = p.Publish(long, []*driver.Message{{Lane: "x"}})
	}()
	require.Eventually(t, func() bool { return b.Calls()["channel"] > asked }, 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	within(t, 2*time.Second, "Publish", func() { require.Error(t, p.Publish(ctx, []*driver.Message{{Lane: "y"}})) })
	stop()
	<-first
}

// A slot that is closed for being one too many is not claimed on its way.
func TestRegressionSpareSlotIsNotClaimed(t *testing.T) {
	for range 2000 {
		c := &Consumer{slots: map[*slot]struct{}{}, wake: make(chan struct{})}
		s := &session{}
		for range spare {
			c.slots[&slot{c: c, s: &session{}, use: idle}] = struct{}{} // of another session
		}
		k := &slot{c: c, s: s, use: taken}
		c.slots[k] = struct{}{}
		var rests sync.WaitGroup
		rests.Go(func() { c.rest(k) })
		claimed := false
		for range 100 {
			c.mu.Lock()
			if k.use == idle && !k.closed {
				claimed = c.idleSlot(s, starting) == k
			}
			c.mu.Unlock()
			if claimed {
				break
			}
		}
		rests.Wait()
		require.False(t, claimed && k.closed, "a slot that starts was closed")
	}
}

// Priorities beyond the range are the nearest in it.
func TestRegressionHugePriority(t *testing.T) {
	b := &Backend{config: Config{Type: Quorum}, caps: driver.Capabilities{Priorities: levels}}
	require.EqualValues(t, quorumHighest, b.wirePriority(math.MaxInt))
	require.EqualValues(t, 1, b.wirePriority(math.MinInt))
}

// A lease is not longer than the consumer timeout that was asked for: a late ack is accepted by the server, in vain.
func TestRegressionLeaseWithinConsumerTimeout(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, in := f.out(b, "q"), f.in(b, "q").(*Consumer)
	in.timeout = 2 * time.Second
	require.NoError(t, publish(t, p, "one"))
	ds, err := in.Receive(t.Context(), driver.Want{Max: 1}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.LessOrEqual(t, time.Until(ds[0].Granted.Until), in.timeout)
	leases, err := in.Extend(t.Context(), ds, time.Minute)
	require.NoError(t, err)
	require.LessOrEqual(t, time.Until(leases[0].Until), in.timeout)
}

// An ack that was sent in part may have arrived.
func TestRegressionTornAck(t *testing.T) {
	f := newField(t)
	var deaf, torn atomic.Bool
	b := f.backend(mood(&deaf, &torn))
	p, in := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "one"))
	lanes := []driver.LaneWant{{}, {Lane: "x"}} // so that no consumer has to be cancelled before the ack
	ds, err := in.Receive(t.Context(), driver.Want{Max: 1, Lanes: lanes}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.Eventually(t, in.(*Consumer).lanes.listening, 5*time.Second, time.Millisecond)
	torn.Store(true)
	requireKind(t, driver.Ambiguous, driver.Outcome(in.Ack(t.Context(), ds), 0))
	requireKind(t, driver.LeaseLost, driver.Outcome(in.Ack(t.Context(), ds), 0))
}

// Close tells the holders of what it gives back.
func TestRegressionCloseEndsSessions(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, in := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "one"))
	ds, err := in.Receive(t.Context(), driver.Want{Max: 1}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.NoError(t, in.Close(t.Context()))
	require.Error(t, ds[0].Current().Session.Err())
}

// A lane that is entered and not made yet holds nothing, also for who wants that lane alone.
func TestRegressionLaneWithoutQueue(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	in := f.in(b, "q")
	for range 2 {
		began := time.Now()
		ds, err := in.Receive(t.Context(), driver.Want{Max: 2, Lanes: []driver.LaneWant{{Lane: "soon"}}}, 300*time.Millisecond)
		require.NoError(t, err)
		require.Empty(t, ds)
		require.GreaterOrEqual(t, time.Since(began), 290*time.Millisecond)
	}
	require.Less(t, b.Calls()["channel"], int64(20))
	require.NoError(t, f.out(b, "q").Publish(t.Context(), []*driver.Message{{Lane: "soon"}}))
	ds, err := in.Receive(t.Context(), driver.Want{Max: 2, Lanes: []driver.LaneWant{{Lane: "soon"}}}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
}

// What is given back unseen has not been lost, whatever the server counts. It once waited ten seconds for a lock that was
// not there, and was counted.
func TestRegressionGivenBackIsNotLost(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts brokers")
	}
	for _, mode := range []struct{ version, kind string }{{"4.3", "quorum"}, {"4.3", "classic"}, {"4.0", "quorum"}, {"4.0", "classic"}} {
		t.Run(mode.version+" "+mode.kind, func(t *testing.T) {
			v, err := newVhost(t.Context(), shared(t, mode.version), mode.kind)
			require.NoError(t, err)
			defer func() { require.NoError(t, v.Close()) }()
			b, err := Open(t.Context(), Config{URL: v.URL()})
			require.NoError(t, err)
			defer func() { require.NoError(t, b.Close(context.Background())) }()
			p, err := b.OpenProducer(t.Context(), "q")
			require.NoError(t, err)
			require.NoError(t, p.Publish(t.Context(), []*driver.Message{{ID: "m", Header: map[string]string{"a": "b"}, Body: []byte("body")}}))
			for round := range 4 {
				c, err := b.OpenConsumer(t.Context(), "q", driver.ConsumerConfig{})
				require.NoError(t, err)
				ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, 10*time.Second)
				require.NoError(t, err)
				require.Len(t, ds, 1)
				if mode.kind == "quorum" && mode.version == "4.0" {
					require.Equal(t, 1, ds[0].DeliveryCount, "round %d", round)
				}
				require.Zero(t, ds[0].Unended)
				if mode.version == "4.0" || mode.kind == "classic" {
					require.False(t, ds[0].Redelivered, "round %d", round)
				}
				require.Equal(t, map[string]string{"a": "b"}, ds[0].Header)
				require.Equal(t, "m", ds[0].ID)
				within(t, 5*time.Second, "close", func() { require.NoError(t, c.Close(t.Context())) })
			}
		})
	}
}
