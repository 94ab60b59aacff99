package nats

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// oddHeader holds what NATS headers cannot.
var oddHeader = map[string]string{
	"hf-id": "7", "Plain": "text", "": "no name", "none": "", "Nats-TTL": "1s", "Nats-Schedule": "x", "ü": "ö",
	"a:b": " c ", "outer": " x ", "crlf": "x\r\ny", "Status": "404", "lower": "1", "LOWER": "2",
}

func allBytes() []byte {
	body := make([]byte, 256)
	for i := range body {
		body[i] = byte(i)
	}
	return body
}

func TestMessagesRoundTrip(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	for _, m := range []*driver.Message{
		{Header: oddHeader, Body: allBytes()}, {}, {Body: []byte{}}, {Header: map[string]string{}, Body: []byte("\xff\x00")},
		{Header: map[string]string{"Status": "503"}},
	} {
		header := maps.Clone(m.Header)
		publish(t, p, m)
		require.Equal(t, header, m.Header, "Publish does not change the message")
		d := receiveOne(t, c)
		if len(m.Header) > 0 {
			require.Equal(t, m.Header, d.Header)
		} else {
			require.Empty(t, d.Header)
		}
		require.Equal(t, string(m.Body), string(d.Body))
		require.WithinDuration(t, time.Now(), d.SentAt, patience)
		require.Equal(t, 1, d.DeliveryCount)
		require.False(t, d.Redelivered)
		require.IsType(t, &natsgo.Msg{}, d.Raw)
		ack(t, c, d)
	}
}

func TestPlainClients(t *testing.T) {
	b := openBackend(t, Config{})
	queue := "plain"
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	nc := b.Conn()
	m := &natsgo.Msg{
		Subject: "hf.plain.l._", Data: []byte("from outside"), Header: natsgo.Header{"Own": {"1"}, "Nats-Msg-Id": {"x"}},
	}
	_, err := nc.RequestMsg(m, patience)
	require.NoError(t, err)
	d := receiveOne(t, c)
	require.Equal(t, "HF_plain:1", d.ID)
	require.Equal(t, map[string]string{"Own": "1"}, d.Header)
	ack(t, c, d)

	sub, err := nc.SubscribeSync("hf.plain.l.>")
	require.NoError(t, err)
	publish(t, p, &driver.Message{Header: map[string]string{"hf-id": "7"}, Body: []byte("body is body")})
	seen, err := sub.NextMsg(patience)
	require.NoError(t, err)
	require.Equal(t, "7", seen.Header.Get("hf-id"))
	require.Equal(t, "body is body", string(seen.Data))
}

func TestDuplicatesAreDropped(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	for range 3 {
		publish(t, p, &driver.Message{DedupID: "same", Body: []byte("once")}, &driver.Message{Body: []byte("always")})
	}
	ds := receive(t, c, 10, time.Second)
	require.Equal(t, []string{"once", "always", "always", "always"}, bodies(ds))
	err := p.Publish(testContext(t), []*driver.Message{{DedupID: "line\nbreak"}})
	require.ErrorIs(t, err, driver.Invalid)
}

func TestSizeLimit(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	limit := b.Capabilities().MaxBytes
	header := map[string]string{"hf-id": strings.Repeat("i", 1000), "ünïcode": strings.Repeat("ö", 500)}
	in := 0
	for name, value := range header {
		in += len(name) + len(value)
	}
	for _, size := range []int{limit - 1, limit, limit + 1, 20 << 20} {
		before := b.Calls()["publish"]
		began := time.Now()
		err := p.Publish(testContext(t), []*driver.Message{
			text("before"), {Header: header, Body: make([]byte, size-in), DedupID: fmt.Sprint(size)}, text("after"),
		})
		require.NoError(t, driver.Outcome(err, 0))
		require.NoError(t, driver.Outcome(err, 2))
		if size <= limit {
			require.NoError(t, err, "%d bytes", size)
			ack(t, c, receive(t, c, 3, time.Second)...)
			continue
		}
		require.ErrorIs(t, driver.Outcome(err, 1), driver.TooLarge)
		require.Equal(t, before+2, b.Calls()["publish"], "nothing of the message is sent")
		require.Less(t, time.Since(began), time.Second)
		ack(t, c, receive(t, c, 3, time.Second)...)
	}
	err := p.Publish(testContext(t), []*driver.Message{{Header: map[string]string{"h": strings.Repeat("x", 1<<16)}}, text("x")})
	require.ErrorIs(t, driver.Outcome(err, 0), driver.TooLarge, "a stream refuses more than 64 KiB of headers")
	require.NoError(t, driver.Outcome(err, 1))
}

func TestPublishLargeBatchInOrder(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	ms := make([]*driver.Message, 2*publishWindow+500)
	want := make([]string, len(ms))
	for i := range ms {
		want[i] = fmt.Sprint(i)
		ms[i] = text(want[i])
	}
	publish(t, p, ms...)
	var got []string
	for len(got) < len(want) {
		ds := receive(t, c, 1000, time.Second)
		require.NotEmpty(t, ds)
		got = append(got, bodies(ds)...)
		ack(t, c, ds...)
	}
	require.Equal(t, want, got)
}

func TestDelay(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	sent := time.Now()
	publish(t, p,
		&driver.Message{Delay: 1500 * time.Millisecond, Body: []byte("late"), Lane: "other"},
		&driver.Message{Delay: 700 * time.Millisecond, Header: oddHeader, Body: allBytes(), DedupID: "d"},
		&driver.Message{Delay: 700 * time.Millisecond, Body: []byte("duplicate"), DedupID: "d"},
		text("now"))
	require.Equal(t, "now", string(receiveOne(t, c).Body), "delayed messages do not block others")
	g, err := b.Gauge(testContext(t), queue)
	require.NoError(t, err)
	require.Equal(t, 0, g.Ready)
	require.Equal(t, 3, g.InFlight, "one leased, two waiting for their time")

	d := receiveOne(t, c)
	waited := time.Since(sent)
	require.GreaterOrEqual(t, waited, 700*time.Millisecond)
	require.Less(t, waited, 1300*time.Millisecond)
	require.Equal(t, oddHeader, d.Header)
	require.Equal(t, allBytes(), d.Body)
	require.Equal(t, 1, d.DeliveryCount)
	d = receiveOne(t, c)
	require.Equal(t, "late", string(d.Body))
	require.Equal(t, "other", d.Lane)
	require.GreaterOrEqual(t, time.Since(sent), 1500*time.Millisecond)
	require.Less(t, time.Since(sent), 3500*time.Millisecond) // a new lane is noticed within a second
	require.Empty(t, receive(t, c, 1, 300*time.Millisecond))
}

func TestServerClockIsNeverEarly(t *testing.T) {
	var clock serverClock
	_, fresh := clock.now()
	require.False(t, fresh)
	skewed := func() time.Time { return time.Now().Add(-10 * time.Minute) } // the server's clock
	sent := time.Now()
	stamp := skewed()
	clock.set(sent, stamp)
	got, fresh := clock.now()
	require.True(t, fresh)
	require.False(t, got.Before(stamp))
	require.Less(t, got.Sub(skewed()), time.Second)

	clock.set(sent.Add(-30*time.Second), stamp) // asked half a minute ago
	got, fresh = clock.now()
	require.True(t, fresh)
	require.False(t, got.Before(stamp.Add(30*time.Second)))
	clock.set(sent.Add(-2*clockAge), stamp)
	_, fresh = clock.now()
	require.False(t, fresh)
}

func TestPublishToDeletedQueue(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	require.NoError(t, b.DeleteQueue(testContext(t), queue))
	began := time.Now()
	err := p.Publish(testContext(t), []*driver.Message{text("a"), text("b")})
	require.ErrorIs(t, driver.Outcome(err, 0), driver.NotFound)
	require.ErrorIs(t, driver.Outcome(err, 1), driver.NotFound)
	require.Less(t, time.Since(began), time.Second)
	require.NoError(t, b.CreateQueue(testContext(t), queue))
	publish(t, p, text("c"))
}

func TestPublishWithoutConnection(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial})
	p := openProducer(t, b, queueName(t))
	wire.cut(true)
	require.Eventually(t, func() bool {
		err := p.Publish(testContext(t), []*driver.Message{text("x")})
		return driver.KindOf(err) == driver.Unavailable
	}, patience, 10*time.Millisecond, "nothing is sent or kept for later")
	require.ErrorIs(t, b.Ping(testContext(t)), driver.Unavailable)
	wire.mend()
	require.Eventually(t, func() bool {
		return p.Publish(testContext(t), []*driver.Message{text("again")}) == nil
	}, patience, 50*time.Millisecond)
}

func TestPublishIntoBlackHole(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial, Timeout: 300 * time.Millisecond})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	wire.swallow()
	err := p.Publish(testContext(t), []*driver.Message{text("x")})
	require.ErrorIs(t, err, driver.Ambiguous)
	require.ErrorIs(t, err, errNoAnswer)

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = p.Publish(ctx, []*driver.Message{text("y")})
	require.ErrorIs(t, err, driver.Ambiguous)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	ended, end := context.WithCancel(context.Background())
	end()
	err = p.Publish(ended, []*driver.Message{text("z")})
	require.ErrorIs(t, err, driver.Unavailable, "not sent at all")
}

func TestPublishCutOff(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial})
	p := openProducer(t, b, queueName(t))
	wire.swallow()
	done := make(chan error, 1)
	go func() { done <- p.Publish(testContext(t), []*driver.Message{text("x"), text("y")}) }()
	require.Eventually(t, func() bool { return len(b.replies.waiting()) > 0 }, patience, time.Millisecond)
	require.Eventually(t, func() bool { return b.Calls()["publish"] == 2 }, patience, time.Millisecond)
	wire.cut(false)
	select {
	case err := <-done:
		for i := range 2 {
			require.Contains(t, []driver.Kind{driver.Ambiguous, driver.Unavailable}, driver.KindOf(driver.Outcome(err, i)))
		}
	case <-time.After(patience):
		t.Fatal("Publish waits for answers that cannot come")
	}
}

func TestStuckSocketKeepsNobody(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	release := wire.clog()
	defer release()

	big := make([]byte, 1<<20)
	began := time.Now()
	brief := func(call func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		return call(ctx)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // long enough for the write to have begun
	defer cancel()
	err := p.Publish(ctx, []*driver.Message{{Body: big}, {Body: big}})
	require.ErrorIs(t, err, driver.Ambiguous)
	for range 20 {
		err = brief(func(ctx context.Context) error { return c.Ack(ctx, []*driver.Delivery{d}) })
		require.ErrorIs(t, err, driver.Unavailable, "it has not left this process")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	err = brief(func(ctx context.Context) error {
		_, err := c.Extend(ctx, []*driver.Delivery{d}, time.Second)
		return err
	})
	require.ErrorIs(t, err, driver.Unavailable)
	err = brief(func(ctx context.Context) error {
		_, err := c.Receive(ctx, driver.Want{Max: 1}, time.Minute)
		return err
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestPublishRefusals(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	config := b.mainStream(n)
	config.MaxMsgSize = 100
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.UPDATE."+n.stream, config, nil))
	err = p.Publish(testContext(t), []*driver.Message{{Body: make([]byte, 200)}, text("x"), nil})
	require.ErrorIs(t, driver.Outcome(err, 0), driver.TooLarge, "a limit of the operator")
	require.NoError(t, driver.Outcome(err, 1))
	require.ErrorIs(t, driver.Outcome(err, 2), driver.Invalid)

	again := openProducer(t, openBackend(t, Config{}), queue) // the operator's setting stays
	err = again.Publish(testContext(t), []*driver.Message{{Body: make([]byte, 200)}})
	require.ErrorIs(t, err, driver.TooLarge)
}

func TestForeignStreamIsInvalid(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	config := b.stateStream(n)
	config.Name, config.Subjects = n.stream, []string{"elsewhere-" + queue}
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.CREATE."+n.stream, config, nil))
	_, err = b.OpenProducer(testContext(t), queue)
	require.ErrorIs(t, err, driver.Invalid)
	require.ErrorContains(t, err, n.stream)
}

func TestOldStreamIsAdapted(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	config := b.mainStream(n)
	config.RePublish, config.AllowMsgSchedules, config.MaxAge = nil, false, time.Hour
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.CREATE."+n.stream, config, nil))
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	publish(t, p, &driver.Message{Delay: 300 * time.Millisecond, Body: []byte("x")})
	require.NotNil(t, receiveOne(t, c))
	info, err := b.info(testContext(t), n.stream, "")
	require.NoError(t, err)
	require.NotNil(t, info.Config.RePublish)
	require.Equal(t, time.Hour, info.Config.MaxAge)
	require.True(t, slices.Equal(info.Config.Subjects, config.Subjects))
}
