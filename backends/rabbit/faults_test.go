package rabbit

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func requireKind(t *testing.T, want driver.Kind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, driver.KindOf(err), "%v", err)
}

func (f *field) out(b *Backend, queue string) driver.Producer {
	f.t.Helper()
	p, err := b.OpenProducer(f.t.Context(), queue)
	require.NoError(f.t, err)
	return p
}

func (f *field) in(b *Backend, queue string) driver.Consumer {
	f.t.Helper()
	c, err := b.OpenConsumer(f.t.Context(), queue, driver.ConsumerConfig{})
	require.NoError(f.t, err)
	return c
}

func message(body string) *driver.Message { return &driver.Message{Body: []byte(body)} }

// publish publishes one message and returns its outcome.
func publish(t *testing.T, p driver.Producer, body string) error {
	t.Helper()
	return driver.Outcome(p.Publish(t.Context(), []*driver.Message{message(body)}), 0)
}

// drain acks everything until nothing comes for a moment, and returns the bodies.
func drain(t *testing.T, c driver.Consumer) (bodies []string) {
	t.Helper()
	for {
		ds, err := c.Receive(t.Context(), driver.Want{Max: 100}, time.Second)
		require.NoError(t, err)
		if len(ds) == 0 {
			return bodies
		}
		require.NoError(t, c.Ack(t.Context(), ds))
		for _, d := range ds {
			bodies = append(bodies, string(d.Body))
		}
	}
}

// policy sets a policy for all quorum queues of the virtual host.
func (f *field) policy(definition map[string]any) {
	f.t.Helper()
	base, err := url.Parse(f.v.c.Management())
	require.NoError(f.t, err)
	text, err := json.Marshal(map[string]any{"pattern": ".*", "apply-to": "quorum_queues", "definition": definition})
	require.NoError(f.t, err)
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPut, base.JoinPath("api", "policies", f.v.name, "test").String(), bytes.NewReader(text))
	require.NoError(f.t, err)
	password, _ := base.User.Password()
	r.URL.User = nil
	r.SetBasicAuth(base.User.Username(), password)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	require.NoError(f.t, err)
	require.NoError(f.t, answer.Body.Close())
	require.Equal(f.t, 2, answer.StatusCode/100, answer.Status)
}

// A server that hangs up in the middle of the handshake is away: it has refused nobody.
func TestHandshakeThatBreaks(t *testing.T) {
	f := newField(t)
	for answers := range 3 { // of three: the greeting, tuning, and that the virtual host is open
		_, err := Open(t.Context(), Config{URL: f.v.URL(), Logger: silent, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &hangingUp{Conn: conn, left: answers}, err
		}})
		requireKind(t, driver.Unavailable, err)
	}
}

// hangingUp is a connection that ends after some answers.
type hangingUp struct {
	net.Conn
	left int
}

func (c *hangingUp) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	c.left--
	return c.Conn.Read(p)
}

// A server short of disk blocks the connections that publish: that is backpressure with the context honoured, and stops
// neither acks nor what is received.
func TestBlockedAndSecured(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a broker")
	}
	dir := t.TempDir()
	start := func(o brokers.RabbitOptions) *brokers.RabbitCluster {
		o.Dir = dir
		c, err := brokers.StartRabbit(t.Context(), o)
		brokers.Need(t, err)
		if c.How() != brokers.Native {
			require.NoError(t, c.Close())
			t.Skip("the settings are those of processes")
		}
		return c
	}
	c := start(brokers.RabbitOptions{TLS: true})
	secured(t, c, filepath.Join(dir, "tls", "ca.pem"))
	v, err := newVhost(t.Context(), c, string(Quorum))
	require.NoError(t, err)
	f := &field{t: t, v: v}
	b := f.backend(nil)
	require.NoError(t, publish(t, f.out(b, "q"), "of before"))
	require.NoError(t, c.Registered(t.Context(), v.name, "q"))
	require.NoError(t, b.Close(t.Context()))
	require.NoError(t, c.Close())

	c = start(brokers.RabbitOptions{Conf: "disk_free_limit.absolute = 1000TB"})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	v.c, v.url = c, with(c.VhostURLs(v.name)[0], string(Quorum), c.Management())
	blocked(t, f)
}

func blocked(t *testing.T, f *field) {
	b := f.backend(nil)
	p, in := f.out(b, "q"), f.in(b, "q")
	// The server tells a connection that it is blocked when that publishes first.
	first, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	requireKind(t, driver.Ambiguous, driver.Outcome(p.Publish(first, []*driver.Message{message("first")}), 0))
	s := b.out.now()
	require.Eventually(t, func() bool {
		select {
		case <-*s.clear.Load():
			return false
		default:
			return true
		}
	}, 10*time.Second, 5*time.Millisecond, "the server blocks nothing")
	before := b.Calls()["publish"]
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		err := p.Publish(ctx, []*driver.Message{message("one"), message("two")})
		cancel()
		require.Less(t, time.Since(began), 3*time.Second)
		for i := range 2 {
			requireKind(t, driver.Throttled, driver.Outcome(err, i))
			require.ErrorIs(t, driver.Outcome(err, i), errBlocked)
			require.ErrorIs(t, driver.Outcome(err, i), context.DeadlineExceeded)
		}
	}
	require.Equal(t, before, b.Calls()["publish"], "something was sent")
	require.Equal(t, []string{"of before"}, drain(t, in), "deliveries and acks go on")
	began := time.Now()
	require.NoError(t, b.Close(t.Context()))
	require.Less(t, time.Since(began), 5*time.Second, "a server that does not answer holds nobody up")
}

func secured(t *testing.T, c *brokers.RabbitCluster, authority string) {
	open := func(change func(*Config)) (*Backend, error) {
		config := Config{URL: c.TLSURL(), Logger: silent}
		change(&config)
		return Open(t.Context(), config)
	}
	for what, change := range map[string]func(*Config){
		"cacertfile": func(c *Config) { c.URL += "?" + url.Values{"cacertfile": {authority}}.Encode() },
		"Config.TLS": func(to *Config) { to.TLS = c.TLSConfig() },
		"a name": func(c *Config) {
			c.URL += "?" + url.Values{"cacertfile": {authority}, "server_name_indication": {"localhost"}}.Encode()
		},
	} {
		b, err := open(change)
		require.NoError(t, err, what)
		require.NoError(t, b.Ping(t.Context()), what)
		require.NoError(t, b.Close(t.Context()), what)
	}
	for what, change := range map[string]func(*Config){
		"an authority that nobody trusts": func(*Config) {},
		"another name": func(c *Config) {
			c.URL += "?" + url.Values{"cacertfile": {authority}, "server_name_indication": {"example.org"}}.Encode()
		},
	} {
		_, err := open(change)
		require.ErrorContains(t, err, "certificate", what)
		require.NotContains(t, err.Error(), "guest", what)
	}
}

// A queue that is full by policy refuses: the message is not there, and what was confirmed is.
func TestFullQueue(t *testing.T) {
	f := newField(t)
	f.policy(map[string]any{"max-length": 5, "overflow": "reject-publish"})
	b := f.backend(nil)
	p := f.out(b, "full")
	confirmed, refused := []string{}, 0
	for i := range 60 {
		body := strconv.Itoa(i)
		err := publish(t, p, body)
		if err == nil {
			confirmed = append(confirmed, body)
			continue
		}
		refused++
		requireKind(t, driver.Throttled, err)
	}
	require.Positive(t, refused)
	in := f.in(b, "full")
	require.ElementsMatch(t, confirmed, drain(t, in), "what was confirmed and what is there")
	require.Eventually(t, func() bool { return publish(t, p, "later") == nil }, 10*time.Second, 50*time.Millisecond, "room again")
	require.Equal(t, []string{"later"}, drain(t, in))
}

// A queue that was deleted takes nothing. The server would confirm the message.
func TestUnroutable(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p := f.out(b, "gone")
	require.NoError(t, publish(t, p, "there"))
	ch := f.dial()
	_, err := ch.QueueDelete("gone", false, false, false)
	require.NoError(t, err)
	for range 5 {
		requireKind(t, driver.NotFound, publish(t, p, "nowhere"))
	}
	// A lane that somebody deleted is made again by the next try.
	lane := []*driver.Message{{Lane: "lane", Body: []byte("x")}}
	require.NoError(t, p.Publish(t.Context(), lane))
	_, err = ch.QueueDelete(names{queue: "gone"}.lane("lane"), false, false, false)
	require.NoError(t, err)
	requireKind(t, driver.Unavailable, driver.Outcome(p.Publish(t.Context(), lane), 0))
	require.NoError(t, p.Publish(t.Context(), lane))
}

func TestRefusedAtTheDoor(t *testing.T) {
	f := newField(t)
	at, err := url.Parse(f.v.URL())
	require.NoError(t, err)
	open := func(change func(*url.URL)) (time.Duration, error) {
		u := *at
		change(&u)
		began := time.Now()
		_, err := Open(t.Context(), Config{URL: u.String(), Logger: silent})
		return time.Since(began), err
	}
	took, err := open(func(u *url.URL) { u.User = url.UserPassword("guest", "s3cr3t-and-wrong") })
	requireKind(t, driver.Denied, err)
	require.NotContains(t, err.Error(), "s3cr3t")
	require.Less(t, took, 2*time.Second, "at once: a server that does not know that the client listens waits for three seconds")

	_, err = open(func(u *url.URL) { u.User = url.UserPassword("nobody-of-that-name", "s3cr3t") })
	requireKind(t, driver.Denied, err)
	require.NotContains(t, err.Error(), "s3cr3t")

	took, err = open(func(u *url.URL) { u.Path, u.RawPath = "/no such place", "/no%20such%20place" })
	requireKind(t, driver.NotFound, err)
	require.NotContains(t, err.Error(), "guest:")
	require.Less(t, took, 5*time.Second, "at once")

	dead := deadAddress(t)
	took, err = open(func(u *url.URL) { u.Host = dead })
	requireKind(t, driver.Unavailable, err)
	require.Contains(t, err.Error(), dead)
	require.Less(t, took, 5*time.Second, "at once")
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func TestFirstHostIsDead(t *testing.T) {
	f := newField(t)
	u, err := url.Parse(f.v.URL())
	require.NoError(t, err)
	u.Host = deadAddress(t) + "," + u.Host
	b := f.backend(func(c *Config) { c.URL = u.String() })
	p, in := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "one"))
	require.Equal(t, []string{"one"}, drain(t, in))

	// And when a connection breaks, the host that lives is found again.
	old := b.out.now()
	require.NoError(t, old.wire.Close())
	require.Eventually(t, func() bool {
		s := b.out.now()
		return s != nil && s != old && publish(t, p, "two") == nil
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, []string{"two"}, drain(t, in))
}

// A queue that exists with other arguments is refused in words that say which, and what to do.
func TestOtherArguments(t *testing.T) {
	f := newField(t)
	ch := f.dial()
	_, err := ch.QueueDeclare("classic", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic})
	require.NoError(t, err)
	_, err = ch.QueueDeclare("limited", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int64(7)})
	require.NoError(t, err)
	b := f.backend(nil)
	for queue, says := range map[string][]string{
		"classic": {"x-queue-type", "classic", "quorum", "exists with other arguments", "type=classic", "existing=true"},
		"limited": {"x-delivery-limit", "7", "-1", "exists with other arguments", "existing=true"},
	} {
		_, err := b.OpenProducer(t.Context(), queue)
		requireKind(t, driver.Invalid, err)
		_, again := b.OpenConsumer(t.Context(), queue, driver.ConsumerConfig{})
		requireKind(t, driver.Invalid, again)
		for _, part := range says {
			require.ErrorContains(t, err, part)
			require.ErrorContains(t, again, part)
		}
	}
	// What the advice says works, and the refusal has harmed nothing.
	as := f.backend(func(c *Config) { c.Existing = true })
	p, in := f.out(as, "limited"), f.in(as, "limited")
	require.NoError(t, publish(t, p, "as it is"))
	require.Equal(t, []string{"as it is"}, drain(t, in))
	require.NoError(t, publish(t, f.out(b, "other"), "unharmed"))
}

func TestTooLargeHarmsNobody(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p := f.out(b, "large")
	before := b.Calls()["publish"]
	err := p.Publish(t.Context(), []*driver.Message{message("before"), {Body: make([]byte, 17<<20)}, message("after")})
	require.NoError(t, driver.Outcome(err, 0))
	requireKind(t, driver.TooLarge, driver.Outcome(err, 1))
	require.NoError(t, driver.Outcome(err, 2))
	require.Equal(t, before+2, b.Calls()["publish"], "it must not be sent")
	require.ElementsMatch(t, []string{"before", "after"}, drain(t, f.in(b, "large")))
}

// A client of another kind may put anything into headers. The message is handed over, can fail, and comes back.
func TestForeignMessage(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	_ = f.out(b, "foreign")
	put(t, f.dial(), "foreign", amqp.Publishing{
		Headers: amqp.Table{
			"table": amqp.Table{"inner": int32(1), "deeper": amqp.Table{"at": time.Now()}}, "at": time.Now(), "nothing": nil,
			"list": []any{"a", int64(2), nil, amqp.Table{}}, "bytes": []byte{0, 255}, "half": 0.5, "yes": true, "text": "plain",
			"price": amqp.Decimal{Scale: 2, Value: 1999}, "": "no name", "x-odd": "reserved", "hf-id": int32(7), "hf-attempts": "many",
		},
		ContentType: "application/x-odd", Timestamp: time.Now(), Priority: 200, Body: []byte("odd"),
	})
	put(t, f.dial(), "foreign", amqp.Publishing{Body: []byte("bare")})
	seen := map[string]int{}
	got := make(chan string, 10)
	f.work(b, "foreign", queue.WorkerConfig{Retry: queue.Retry{Base: 200 * time.Millisecond}}, func(_ context.Context, d *queue.Delivery) error {
		body := string(d.Body)
		seen[body]++
		if seen[body] == 1 {
			return queue.RetryAfter(context.Canceled, 200*time.Millisecond)
		}
		if body == "odd" && d.Header["text"] != "plain" {
			body = "header lost"
		}
		got <- body
		return nil
	})
	require.ElementsMatch(t, []string{"odd", "bare"}, []string{wait(t, got, "foreign message"), wait(t, got, "foreign message")})
}

// The server takes a message back that is held for too long, and would accept an ack after that from who no longer has it.
func TestConsumerTimeout(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, slow, other := f.out(b, "slow"), f.in(b, "slow"), f.in(f.backend(nil), "slow")
	require.NoError(t, publish(t, p, "job"))
	require.True(t, b.timeouts, "of 4.3")
	slow.(*Consumer).timeout = 2 * time.Second // by configuration it is fifteen minutes at least
	ds, err := slow.Receive(t.Context(), driver.Want{Max: 1}, 10*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	extended := func() error {
		_, err := slow.Extend(t.Context(), ds, 30*time.Second)
		return driver.Outcome(err, 0)
	}
	began := time.Now()
	session := ds[0].Current().Session
	for session.Err() == nil && time.Since(began) < 20*time.Second {
		if err := extended(); err != nil {
			requireKind(t, driver.LeaseLost, err)
			break
		}
		pause(t, 200*time.Millisecond)
	}
	wait(t, session.Done(), "end of the session")
	require.ErrorIs(t, context.Cause(session), errCancelled)
	require.ErrorContains(t, context.Cause(session), "consumer timeout")
	t.Logf("the lease ended after %v", time.Since(began).Round(10*time.Millisecond))

	acks := b.Calls()["ack"]
	requireKind(t, driver.LeaseLost, driver.Outcome(slow.Ack(t.Context(), ds), 0))
	requireKind(t, driver.LeaseLost, extended())
	require.Equal(t, acks, b.Calls()["ack"], "the late ack was sent")
	require.Equal(t, []string{"job"}, drain(t, other))
}

// When a connection breaks, the leases that it carried end then and there. Their tags mean other deliveries after that, so
// a late verdict must not reach the wire.
func TestBreakEndsLeases(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, c := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "job"))
	receive := func() []*driver.Delivery {
		var ds []*driver.Delivery
		require.Eventually(t, func() bool {
			got, err := c.Receive(t.Context(), driver.Want{Max: 1}, 10*time.Second)
			ds = got
			return err == nil && len(got) == 1
		}, 20*time.Second, time.Millisecond)
		return ds
	}
	first := receive()
	session, old := first[0].Current().Session, b.in.now()
	broke := time.Now()
	require.NoError(t, old.wire.Close())
	wait(t, session.Done(), "end of the session")
	require.Less(t, time.Since(broke), old.patience()/2, "as late as a lease that runs out")

	second := receive()
	require.Equal(t, "job", string(second[0].Body))
	acks := b.Calls()["ack"]
	requireKind(t, driver.LeaseLost, driver.Outcome(c.Ack(t.Context(), first), 0))
	requireKind(t, driver.LeaseLost, driver.Outcome(c.Nack(t.Context(), []driver.Return{{D: first[0]}}), 0))
	require.Equal(t, acks, b.Calls()["ack"], "the stale tag was sent")
	require.NoError(t, second[0].Current().Session.Err(), "the new lease is unharmed")
	require.NoError(t, c.Ack(t.Context(), second))
	require.Empty(t, drain(t, c))
}

// A channel that the server has ended is not opened again behind our back, with a consumer that takes messages for nobody.
func TestClosedChannelStaysClosed(t *testing.T) {
	f := newField(t)
	b := f.backend(nil)
	p, c := f.out(b, "q"), f.in(b, "q")
	require.NoError(t, publish(t, p, "job"))
	ds, err := c.Receive(t.Context(), driver.Want{Max: 1, Lanes: []driver.LaneWant{{}}}, 10*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	ended := ds[0].Receipt.(*receipt).k.ch
	require.NoError(t, ended.Ack(999, false)) // there is no such delivery: the server closes the channel
	wait(t, ds[0].Current().Session.Done(), "end of the session")

	ch := f.dial()
	consumers := func() int {
		q, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
		require.NoError(t, err)
		return q.Consumers
	}
	require.Eventually(t, func() bool { return consumers() == 0 }, 10*time.Second, 20*time.Millisecond)
	for watched := time.Now(); time.Since(watched) < 2*time.Second; pause(t, 50*time.Millisecond) {
		require.Zero(t, consumers(), "a consumer that nobody has asked for")
	}
	require.True(t, ended.IsClosed())
	require.Equal(t, []string{"job"}, drain(t, c))
}
