package rabbit

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// The wall-clock bounds here leave room for a busy machine; what was measured is logged.

const tenantsInAll = 500

var (
	silent    = slog.New(slog.DiscardHandler)
	byTenant  = queue.Lanes{Tenants: true}
	testLimit = 90 * time.Second // of one test's waiting
)

// field is a virtual host of a broker, and what a test opens there.
type field struct {
	t *testing.T
	v *vhost
}

func newField(t *testing.T) *field {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a broker")
	}
	return fieldAt(t, shared(t, "4.3"))
}

func fieldAt(t *testing.T, c *brokers.RabbitCluster) *field {
	t.Helper()
	v, err := newVhost(t.Context(), c, string(Quorum))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return &field{t: t, v: v}
}

// backend opens a backend at the field, as a process of its own would.
func (f *field) backend(change func(*Config)) *Backend {
	f.t.Helper()
	c := Config{URL: f.v.URL(), Heartbeat: testBeat, Logger: silent}
	if change != nil {
		change(&c)
	}
	b, err := Open(f.t.Context(), c)
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = b.Close(ctx) // what the tests need to know of the end they ask themselves
	})
	return b
}

func (f *field) producer(b *Backend, name string, lanes queue.Lanes) *queue.Producer {
	f.t.Helper()
	p, err := queue.NewProducer(f.t.Context(), b, name, queue.ProducerConfig{Lanes: lanes})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// work runs a worker until the returned function is called, which waits for its end. It is called at the test's end, too.
func (f *field) work(b *Backend, name string, c queue.WorkerConfig, h queue.Handler) (stop func() error) {
	f.t.Helper()
	c.Logger = silent
	w, err := queue.NewWorker(b, name, c)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, h) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	f.t.Cleanup(func() { _ = stop() })
	return stop
}

// dial opens a connection that is not Holdfast's.
func (f *field) dial() *amqp.Channel {
	f.t.Helper()
	c := Config{URL: f.v.URL()}
	require.NoError(f.t, c.setDefaults())
	conn, err := amqp.DialConfig("amqp://"+c.endpoints[0].addr+"/", amqp.Config{
		Vhost: c.vhost, SASL: []amqp.Authentication{&amqp.PlainAuth{Username: c.user, Password: c.password}},
	})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(f.t, err)
	require.NoError(f.t, ch.Confirm(false))
	return ch
}

// put publishes as a client that knows nothing of hints.
func put(t *testing.T, ch *amqp.Channel, queue string, m amqp.Publishing) {
	t.Helper()
	done, err := ch.PublishWithDeferredConfirm("", queue, true, false, m)
	require.NoError(t, err)
	require.True(t, done.Wait(), "the broker refuses the message")
}

// pause waits where a test needs time to pass at the broker.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func stamp() []byte { return []byte(strconv.FormatInt(time.Now().UnixNano(), 10)) }

func age(body []byte) time.Duration {
	at, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		return time.Hour
	}
	return time.Since(time.Unix(0, at))
}

func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	timer := time.NewTimer(testLimit)
	defer timer.Stop()
	select {
	case v = <-c:
	case <-timer.C:
		require.FailNow(t, "no "+what)
	}
	return v
}

func percentile(all []time.Duration, p float64) time.Duration {
	slices.Sort(all)
	return all[min(int(p*float64(len(all))), len(all)-1)]
}

func logTimes(t *testing.T, what string, all []time.Duration) {
	t.Helper()
	t.Logf("%s: p50 %v, p99 %v, most %v (%d)", what, percentile(all, 0.5).Round(100*time.Microsecond),
		percentile(all, 0.99).Round(100*time.Microsecond), percentile(all, 1).Round(100*time.Microsecond), len(all))
}

func tenantName(i int) string { return fmt.Sprintf("tenant %d", i) }

// An idle worker of a queue with very many lanes starts what is published within moments, and also what no hint tells of
// within the time of a sweep.
func TestManyTenants(t *testing.T) {
	f := newField(t)
	out := f.backend(nil)
	p := f.producer(out, "many", byTenant)
	ms := make([]*queue.Message, tenantsInAll)
	for i := range ms {
		ms[i] = &queue.Message{Tenant: tenantName(i), Body: stamp()}
	}
	began := time.Now()
	require.NoError(t, p.Publish(t.Context(), ms...))
	t.Logf("%d lanes made in %v", tenantsInAll, time.Since(began).Round(time.Millisecond))

	started := make(chan time.Duration, tenantsInAll)
	in := f.backend(nil)
	f.work(in, "many", queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4}, Lanes: byTenant}, func(_ context.Context, d *queue.Delivery) error {
		started <- age(d.Body)
		return nil
	})
	began = time.Now()
	for range tenantsInAll {
		wait(t, started, "start of what was there before")
	}
	t.Logf("%d lanes emptied in %v", tenantsInAll, time.Since(began).Round(time.Millisecond))

	dwell := func(tenant string) time.Duration {
		require.NoError(t, p.Publish(t.Context(), &queue.Message{Tenant: tenant, Body: stamp()}))
		return wait(t, started, "start of a message of "+tenant)
	}
	t.Run("active", func(t *testing.T) {
		var times []time.Duration
		for i := range 150 {
			times = append(times, dwell(tenantName(i%3)))
		}
		logTimes(t, "start of an active tenant's message", times)
		require.Less(t, percentile(times, 0.5), time.Second)
		require.Less(t, percentile(times, 0.99), 2*time.Second)
	})
	t.Run("idle", func(t *testing.T) {
		var times []time.Duration
		for i := range 60 {
			times = append(times, dwell(tenantName(20+8*i)))
		}
		logTimes(t, "start of an idle tenant's message", times)
		require.Less(t, percentile(times, 0.5), time.Second)
		require.Less(t, percentile(times, 0.99), 2*time.Second)
	})
	t.Run("without a hint", func(t *testing.T) {
		ch, n := f.dial(), names{queue: "many"}
		var times []time.Duration
		for round := range 3 { // at different moments of the sweep
			for i := range 5 {
				put(t, ch, n.lane("t"+tenantName(101*i+7*round)), amqp.Publishing{Body: stamp()})
			}
			for range 5 {
				times = append(times, wait(t, started, "start without a hint"))
			}
		}
		logTimes(t, "start without a hint", times)
		require.Less(t, percentile(times, 1), 8*time.Second)
	})
}

// A worker that dies leaves its message in a lane where nothing else happens. The others hear of it at once.
func TestDeathIsHeardInAQuietLane(t *testing.T) {
	f := newField(t)
	p := f.producer(f.backend(nil), "quiet", byTenant)
	var ms []*queue.Message
	for i := range 20 {
		ms = append(ms, &queue.Message{Tenant: tenantName(i), Body: stamp()})
	}
	require.NoError(t, p.Publish(t.Context(), ms...))
	got := make(chan string, len(ms))
	free := func(_ context.Context, d *queue.Delivery) error {
		got <- d.Tenant
		return nil
	}
	one := queue.WorkerConfig{Limits: queue.Limits{Concurrency: 1}, Lanes: byTenant}
	stop := f.work(f.backend(nil), "quiet", one, free)
	for range ms {
		wait(t, got, "start of what was there before")
	}
	require.NoError(t, stop())

	survivor := f.backend(nil)
	var times []time.Duration
	for round := range 5 {
		lane := tenantName(3 * round)
		require.NoError(t, p.Publish(t.Context(), &queue.Message{Tenant: lane, Body: stamp()}))
		v := f.victim("quiet", one)
		require.Equal(t, lane, wait(t, v.holds, "start at the victim"))

		stop := f.work(survivor, "quiet", one, free)
		require.NoError(t, p.Publish(t.Context(), &queue.Message{Tenant: tenantName(19), Body: stamp()}))
		require.Equal(t, tenantName(19), wait(t, got, "start at the survivor")) // which is idle from now on
		pause(t, 500*time.Millisecond)                                          // and knows the lane as empty
		died := time.Now()
		v.die()
		require.Equal(t, lane, wait(t, got, "start after the death"))
		times = append(times, time.Since(died))
		require.NoError(t, stop())
		v.bury()
	}
	logTimes(t, "start elsewhere after a death", times)
	require.Less(t, percentile(times, 0.5), time.Second, "as slow as a sweep")
}

// victim is a worker in a process that dies: its connections end at the broker, and it gets no others.
type victim struct {
	holds chan string // tenants of what it began
	stop  func() error

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func (f *field) victim(name string, c queue.WorkerConfig) *victim {
	f.t.Helper()
	v := &victim{holds: make(chan string, 8)}
	b := f.backend(func(c *Config) { c.Dial = v.dial })
	c.Drain, c.Grace = -1, time.Second
	v.stop = f.work(b, name, c, func(ctx context.Context, d *queue.Delivery) error {
		v.holds <- d.Tenant
		<-ctx.Done()
		return context.Cause(ctx)
	})
	return v
}

func (v *victim) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case v.dead:
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	v.conns = append(v.conns, conn)
	return conn, nil
}

// die closes the sockets as the end of a process does.
func (v *victim) die() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dead = true
	for _, c := range v.conns {
		_ = c.Close()
	}
}

func (v *victim) bury() { _ = v.stop() }

// However many lanes have something, the broker has handed a worker what it runs, and at most one more: by the broker's
// count while jobs run, and by the client's at every moment between.
func TestManyLanesAreNotHoarded(t *testing.T) {
	const lanes, each, slots, rounds = 100, 4, 2, 8
	f := newField(t)
	out := f.backend(nil)
	p := f.producer(out, "hoard", byTenant)
	var ms []*queue.Message
	for i := range lanes * each {
		ms = append(ms, &queue.Message{Tenant: tenantName(i % lanes)})
	}
	require.NoError(t, p.Publish(t.Context(), ms...))
	started, ended := make(chan struct{}, len(ms)), make(chan struct{}, len(ms))
	goOn := make(chan struct{})
	in := f.backend(nil)
	f.work(in, "hoard", queue.WorkerConfig{Limits: queue.Limits{Concurrency: slots}, Lanes: byTenant},
		func(ctx context.Context, _ *queue.Delivery) error {
			started <- struct{}{}
			select {
			case <-goOn:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			ended <- struct{}{}
			return nil
		})
	n, ours := names{queue: "hoard"}, map[string]bool{"": true}
	for i := range lanes {
		ours["t"+tenantName(i)] = true
	}
	most := 0
	for range rounds {
		for range slots {
			wait(t, started, "start of a job")
		}
		pause(t, 600*time.Millisecond) // the queues write their counts every 200 ms
		g, err := out.managed(t.Context(), n, ours)
		require.NoError(t, err)
		require.GreaterOrEqual(t, g.InFlight, slots, "the broker does not count what runs")
		require.LessOrEqual(t, g.InFlight, slots+1, "leased at the broker for %d running jobs", slots)
		most = max(most, g.InFlight)
		for range slots {
			goOn <- struct{}{}
		}
	}
	close(goOn)
	held := 0
	for len(ended) < len(ms) {
		held = max(held, holding(in))
		pause(t, time.Millisecond)
	}
	t.Logf("leased for %d slots: at most %d by the broker's count, %d by the client's", slots, most, held)
	require.Positive(t, held, "nothing was measured")
	require.LessOrEqual(t, held, slots+1)
}

// holding is how many deliveries of a backend are not settled.
func holding(b *Backend) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for o := range b.open {
		c, is := o.(*Consumer)
		if !is {
			continue
		}
		c.mu.Lock()
		for k := range c.slots {
			if k.held != nil {
				n++
			}
		}
		c.mu.Unlock()
	}
	return n
}

// What was pushed in excess of what anybody wants goes to the others within moments.
func TestExcessGoesBack(t *testing.T) {
	const all = 8
	f := newField(t)
	out := f.backend(nil)
	p, err := out.OpenProducer(t.Context(), "excess")
	require.NoError(t, err)
	busy, err := f.backend(nil).OpenConsumer(t.Context(), "excess", driver.ConsumerConfig{})
	require.NoError(t, err)
	idle, err := f.backend(nil).OpenConsumer(t.Context(), "excess", driver.ConsumerConfig{})
	require.NoError(t, err)
	lane := []driver.LaneWant{{Lane: ""}}
	var times []time.Duration
	for range 5 {
		type answer struct {
			ds  []*driver.Delivery
			err error
		}
		answers := make(chan answer, 1)
		go func() {
			ds, err := busy.Receive(t.Context(), driver.Want{Max: all, Lanes: lane}, testLimit)
			answers <- answer{ds, err}
		}()
		waiting := busy.(*Consumer)
		require.Eventually(t, func() bool {
			waiting.mu.Lock()
			defer waiting.mu.Unlock()
			n := 0
			for k := range waiting.slots {
				if k.use == open {
					n++
				}
			}
			return n == all
		}, 10*time.Second, time.Millisecond, "consumers wait")
		ms := make([]*driver.Message, all)
		for i := range ms {
			ms[i] = &driver.Message{Body: []byte(strconv.Itoa(i))}
		}
		require.NoError(t, p.Publish(t.Context(), ms))
		a := wait(t, answers, "answer")
		require.NoError(t, a.err)
		began := time.Now()
		rest := []*driver.Delivery{}
		for len(a.ds)+len(rest) < all {
			ds, err := idle.Receive(t.Context(), driver.Want{Max: all, Lanes: lane}, testLimit)
			require.NoError(t, err)
			rest = append(rest, ds...)
		}
		if len(rest) > 0 {
			times = append(times, time.Since(began))
		}
		require.NoError(t, busy.Ack(t.Context(), a.ds))
		require.NoError(t, idle.Ack(t.Context(), rest))
	}
	require.NotEmpty(t, times, "there never was an excess")
	logTimes(t, "return of an excess", times)
	require.Less(t, percentile(times, 0.5), time.Second)
}

// The consumers of a busy worker stay: to cancel one and start another for each message would cost more than the rest.
// That is where what is not settled counts as running (Window).
func TestConsumersStay(t *testing.T) {
	const all = 2000
	f := newField(t)
	b := f.backend(nil)
	p := f.producer(b, "stay", queue.Lanes{})
	ms := make([]*queue.Message, all)
	for i := range ms {
		ms[i] = &queue.Message{}
	}
	require.NoError(t, p.Publish(t.Context(), ms...))
	ended := make(chan struct{}, all)
	hooks := queue.Hooks{Settled: func(*queue.Delivery, queue.Settlement, error) { ended <- struct{}{} }}
	stop := f.work(b, "stay", queue.WorkerConfig{Limits: queue.Limits{Concurrency: 16}, Window: 16, Hooks: hooks},
		func(context.Context, *queue.Delivery) error { return nil })
	for range all {
		wait(t, ended, "end of a job")
	}
	require.NoError(t, stop())
	calls := b.Calls()
	t.Logf("%d messages: %d consumers started, %d channels opened", all, calls["consume"], calls["channel"])
	require.Less(t, calls["consume"], int64(all/4))
}
