package nats

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// pending is what the server counts as leased in a queue.
func pending(t testing.TB, b *Backend, queue string) int {
	t.Helper()
	n, err := b.config.names(queue)
	require.NoError(t, err)
	consumers, err := b.listConsumers(testContext(t), n.stream)
	require.NoError(t, err)
	leased := 0
	for _, c := range consumers {
		leased += c.NumAckPending
	}
	return leased
}

func TestReceiveNothing(t *testing.T) {
	b := openBackend(t, Config{})
	c := openConsumer(t, b, queueName(t), 0)
	began := time.Now()
	require.Empty(t, receive(t, c, 5, 0))
	require.Less(t, time.Since(began), time.Second)

	before := b.Calls()
	began = time.Now()
	require.Empty(t, receive(t, c, 5, 2*time.Second))
	require.InDelta(t, 2, time.Since(began).Seconds(), 0.5)
	after := b.Calls()
	require.LessOrEqual(t, after["pull"]-before["pull"]+after["info"]-before["info"], int64(8), "an idle consumer is cheap")
	_, err := c.Receive(testContext(t), driver.Want{}, 0)
	require.ErrorIs(t, err, driver.Invalid)
}

// awaitWaiting returns when a Receive of c waits, at the server or for a hint.
func awaitWaiting(t testing.TB, c *Consumer) {
	t.Helper()
	require.Eventually(t, func() bool {
		c.hints.mu.Lock()
		defer c.hints.mu.Unlock()
		return c.hints.users > 0 || len(c.b.slots.pulls()) > 0
	}, patience, time.Millisecond)
}

func TestWaitingReceiveWakesUp(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	lanes := map[string][]driver.LaneWant{
		"one lane":     {{Lane: "a"}},
		"two lanes":    {{Lane: "a"}, {Lane: "b"}},
		"any lane":     nil,
		"a dozen more": {{Lane: "a"}},
	}
	for i := range 12 {
		lanes["a dozen more"] = append(lanes["a dozen more"], driver.LaneWant{Lane: fmt.Sprint("more-", i)})
	}
	for _, name := range []string{"one lane", "two lanes", "any lane", "a dozen more"} {
		want := lanes[name]
		var slow int
		for range 20 {
			got := make(chan time.Time, 1)
			go func() {
				ds, err := c.Receive(context.Background(), driver.Want{Max: 3, Lanes: want}, patience)
				if err == nil && len(ds) == 1 {
					err = c.Ack(context.Background(), ds)
				}
				if err != nil || len(ds) != 1 {
					t.Errorf("%s: %d deliveries, %v", name, len(ds), err)
				}
				got <- time.Now()
			}()
			awaitWaiting(t, c)
			sent := time.Now()
			publish(t, p, inLane("a", "x"))
			if late := (<-got).Sub(sent); late > 100*time.Millisecond {
				slow++
			}
		}
		require.LessOrEqual(t, slow, 1, name)
	}
}

func TestLaneSigns(t *testing.T) {
	l := &lane{}
	_, ready := l.ready()
	require.False(t, ready)
	l.sweep(time.Now())
	l.sweep(time.Now()) // too soon for another sign
	signs, ready := l.ready()
	require.True(t, ready)
	require.Equal(t, uint64(1), signs)
	require.False(t, l.empty(signs))
	_, ready = l.ready()
	require.False(t, ready)

	l.hint()
	signs, _ = l.ready()
	require.True(t, l.empty(signs), "right after a hint the server may not count the message yet")
	_, ready = l.ready()
	require.True(t, ready)
	require.False(t, l.empty(signs), "once is enough")
	_, ready = l.ready()
	require.False(t, ready)

	l.sign()
	signs, _ = l.ready()
	l.sign() // while the pull is under way
	l.empty(signs)
	_, ready = l.ready()
	require.True(t, ready, "a sign from after the pull stays")
	l.expire()
	before, _ := l.ready()
	l.sweep(time.Now())
	after, _ := l.ready()
	require.Equal(t, before+1, after)
}

// A hint that comes after the lanes were asked and before the wait must not be lost.
func TestHintBeforeTheWait(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	want := driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: "a"}, {Lane: "b"}}}
	wake, _ := c.hints.listen() // the subscription is there before and stays
	defer c.hints.leave(wake)
	require.Empty(t, receive(t, c, 1, 0, want.Lanes...))
	slow := 0
	for i := range 300 {
		got := make(chan error, 1)
		began := time.Now()
		go func() {
			ds, err := c.Receive(context.Background(), want, patience)
			if err == nil {
				err = c.Ack(context.Background(), ds)
			}
			got <- err
		}()
		for time.Since(began) < time.Duration(i)*time.Microsecond { // a little later each time
			runtime.Gosched()
		}
		publish(t, p, inLane("a", "x"))
		require.NoError(t, <-got)
		if time.Since(began) > 150*time.Millisecond {
			slow++
		}
	}
	require.LessOrEqual(t, slow, 2)
}

func TestLanesInOrderOfPreference(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	for i := range 3 {
		publish(t, p, inLane("low", fmt.Sprint("low", i)), inLane("high", fmt.Sprint("high", i)), inLane("no", "no"))
	}
	want := []driver.LaneWant{{Lane: "high", Max: 2}, {Lane: "empty"}, {Lane: "low"}}
	require.Equal(t, []string{"high0", "high1", "low0"}, bodies(receive(t, c, 3, time.Second, want...)))
	require.Equal(t, []string{"high2"}, bodies(receive(t, c, 1, time.Second, want...)))
	require.Equal(t, []string{"low1", "low2"}, bodies(receive(t, c, 9, time.Second, want...)))
	require.Empty(t, receive(t, c, 9, 300*time.Millisecond, want...))
	require.Len(t, receive(t, c, 9, time.Second, driver.LaneWant{Lane: "no"}), 3)
	ds, err := c.Receive(testContext(t), driver.Want{Max: 1, Lanes: []driver.LaneWant{}}, 0)
	require.NoError(t, err)
	require.Empty(t, ds, "no lane wanted")
}

func TestAnyLaneTakesTurns(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	for i := range 20 {
		publish(t, p, inLane(fmt.Sprint("idle-", i), "x")) // before the others in the order of lanes
		began := time.Now()
		ack(t, c, receiveOne(t, c))
		require.Less(t, time.Since(began), 2*time.Second, "a new lane is found by who waits already")
	}
	for range 50 {
		publish(t, p, inLane("noisy", "n"), inLane("noisy", "n"), inLane("noisy", "n"), inLane("quiet", "q"))
	}
	require.NoError(t, c.discover(testContext(t)))
	quiet := 0
	for range 20 {
		quiet += strings.Count(strings.Join(bodies(receive(t, c, 1, time.Second)), ""), "q")
	}
	require.InDelta(t, 10, quiet, 1, "one slot serves the lanes in turn, whatever idle lanes are beside them")
	got := strings.Join(bodies(receive(t, c, 10, time.Second)), "")
	require.Equal(t, 5, strings.Count(got, "q"), "many slots take an even share: %s", got)
}

func TestManyLanesOneSlot(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	ms := make([]*driver.Message, 500)
	for i := range ms {
		ms[i] = inLane(fmt.Sprint("tenant-", i), "x")
	}
	publish(t, p, ms...)
	c := openConsumer(t, b, queue, time.Minute)
	require.Len(t, receive(t, c, 1, time.Second), 1)
	require.Equal(t, 1, pending(t, b, queue), "one free slot leases one message")
	require.Len(t, receive(t, c, 20, time.Second), 20)
	require.Equal(t, 21, pending(t, b, queue))
	for left := 479; left > 0; {
		ds := receive(t, c, 100, time.Second)
		require.NotEmpty(t, ds)
		left -= len(ds)
		ack(t, c, ds...)
	}
}

func TestNobodyHoards(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	one, two := openConsumer(t, b, queue, time.Minute), openConsumer(t, openBackend(t, Config{}), queue, time.Minute)
	for range 10 {
		publish(t, p, text("x"))
	}
	first := receive(t, one, 3, time.Second)
	require.Len(t, first, 3)
	require.Equal(t, 3, pending(t, b, queue))
	require.Len(t, receive(t, two, 100, time.Second), 7, "the other gets all the rest at once")
	require.Empty(t, receive(t, one, 5, 200*time.Millisecond))
	ack(t, one, first...)
}

func TestWorkIsSharedByWaitingConsumers(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	var wg sync.WaitGroup
	got := make(chan int, 4)
	for range 4 {
		c := openConsumer(t, b, queue, time.Minute)
		wg.Go(func() {
			ds, err := c.Receive(context.Background(), driver.Want{Max: 5}, patience)
			if err != nil {
				t.Error(err)
			}
			got <- len(ds)
		})
	}
	require.Eventually(t, func() bool {
		n, err := b.config.names(queue)
		require.NoError(t, err)
		consumers, err := b.listConsumers(testContext(t), n.stream)
		require.NoError(t, err)
		return len(consumers) == 1 && consumers[0].NumWaiting == 4
	}, patience, 5*time.Millisecond)
	publish(t, p, text("1"), text("2"), text("3"), text("4"))
	wg.Wait()
	close(got)
	for n := range got {
		require.Equal(t, 1, n, "each that waited has one")
	}
}

func TestCancelledReceiveGivesBack(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	other := openConsumer(t, b, queue, time.Minute)
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan []*driver.Delivery, 1)
		go func() {
			ds, err := c.Receive(ctx, driver.Want{Max: 1, Lanes: []driver.LaneWant{{}}}, patience)
			if err != nil && !driverCancelled(err) {
				t.Error(err)
			}
			done <- ds
		}()
		require.Eventually(t, func() bool { return len(b.slots.pulls()) > 0 }, patience, time.Millisecond)
		began := time.Now()
		cancel()
		early := <-done
		require.Less(t, time.Since(began), 200*time.Millisecond)
		publish(t, p, text("x")) // the abandoned pull still waits at the server, and gets it
		if len(early) > 0 {
			ack(t, c, early...)
		}
		d := receiveOne(t, other)
		require.Equal(t, 1, d.DeliveryCount, "nobody has seen it before")
		require.False(t, d.Redelivered)
		ack(t, other, d)
	}
	require.NoError(t, c.Close(testContext(t)))
	require.Equal(t, 0, pending(t, b, queue))
	require.Positive(t, b.Calls()["nak"], "the test has given something back")
}

func driverCancelled(err error) bool { return errors.Is(err, context.Canceled) }

func TestCancelledReceiveOfReturnedMessage(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	back := driver.Return{D: receiveOne(t, c), State: "kept", Delay: 300 * time.Millisecond}
	require.NoError(t, c.Nack(testContext(t), []driver.Return{back}))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Receive(ctx, driver.Want{Max: 1, Lanes: []driver.LaneWant{{}}}, patience)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	other := openConsumer(t, b, queue, time.Minute)
	d := receiveOne(t, other)
	require.Equal(t, "kept", d.State)
	require.Equal(t, 2, d.DeliveryCount)
	require.Greater(t, d.Receipt.(*receipt).delivered, uint64(2), "the abandoned pull had it first")
}

func TestCloseGivesBack(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("acked"), text("held"))
	ds := receive(t, c, 2, time.Second)
	require.Len(t, ds, 2)
	ack(t, c, ds[0])
	require.NoError(t, c.Close(testContext(t)))
	other := openConsumer(t, b, queue, time.Minute)
	d := receiveOne(t, other)
	require.Equal(t, "held", string(d.Body))
	require.Equal(t, 2, d.DeliveryCount, "it was handed over")
	require.Empty(t, receive(t, other, 1, 200*time.Millisecond))
}

func TestDeadConsumerLosesItsLease(t *testing.T) {
	const term = 600 * time.Millisecond
	var wire cable
	queue := queueName(t)
	b := openBackend(t, Config{})
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	dead := openConsumer(t, openBackend(t, Config{Dial: wire.dial}), queue, term)
	for i, lanes := range [][]driver.LaneWant{{{}}, {{}, {Lane: "b"}}} {
		publish(t, p, text("x"))
		d := receiveOne(t, dead, lanes...)
		wire.swallow()
		until := d.Current().Until
		d = receiveOne(t, c, lanes...)
		require.False(t, time.Now().Before(until), "not before the dead one's lease has ended")
		require.Less(t, time.Since(until), 700*time.Millisecond)
		require.Equal(t, 2, d.DeliveryCount)
		require.True(t, d.Redelivered)
		ack(t, c, d)
		if i == 0 {
			wire.mend()
		}
	}
	wire.mend()
}

func TestDeliveryCountRises(t *testing.T) {
	queue := queueName(t)
	b := openBackend(t, Config{})
	p := openProducer(t, b, queue)
	publish(t, p, text("x"))
	for i := range 10 {
		c := openConsumer(t, b, queue, time.Minute)
		d := receiveOne(t, c)
		require.Equal(t, i+1, d.DeliveryCount)
		if i%2 == 0 {
			require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d}}))
		}
		require.NoError(t, c.Close(testContext(t)))
	}
}

func TestTermsGrowAndNeverShrink(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	publish(t, p, text("1"), text("2"), text("3"))
	for _, step := range []struct{ asked, given time.Duration }{
		{time.Minute, time.Minute}, {time.Second, time.Minute}, {2 * time.Minute, 2 * time.Minute},
	} {
		c := openConsumer(t, b, queue, step.asked)
		sent := time.Now()
		d := receiveOne(t, c)
		require.WithinDuration(t, sent.Add(step.given), d.Granted.Until, time.Second)
		require.False(t, d.Granted.Until.After(time.Now().Add(step.given)))
	}
}

func TestNewLanesAreFound(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
	got := make(chan string, 1)
	go func() {
		ds, err := c.Receive(context.Background(), driver.Want{Max: 1}, patience)
		if err != nil || len(ds) != 1 {
			t.Errorf("%d deliveries, %v", len(ds), err)
			got <- ""
			return
		}
		got <- ds[0].Lane
	}()
	publish(t, p, inLane("new", "x"))
	sent := time.Now()
	require.Equal(t, "new", <-got)
	require.Less(t, time.Since(sent), 5*time.Second)
}

func TestFloodOfHintsPauses(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	heard := make(chan string, 2*hintFlood)
	h := newHints(b, n.hints, func(lane string) { heard <- lane })
	defer h.close()
	wake, fresh := h.listen()
	require.True(t, fresh)
	publish(t, p, inLane("x", "x"))
	<-wake
	require.Equal(t, "x", <-heard)

	subscribed := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.on
	}
	h.mu.Lock()
	h.window = time.Now().Add(time.Hour) // the second that hints are counted for does not end in this test
	h.mu.Unlock()
	for range hintFlood - 2 {
		h.receive(&natsgo.Msg{Subject: n.hints + "x"})
	}
	require.True(t, subscribed())
	for range 3 {
		h.receive(&natsgo.Msg{Subject: n.hints + "x"})
	}
	require.False(t, subscribed())
	h.leave(wake)
	wake, fresh = h.listen()
	require.False(t, fresh, "it pauses")
	h.leave(wake)
	require.Eventually(t, func() bool {
		wake, fresh := h.listen()
		h.leave(wake)
		return fresh
	}, patience, 50*time.Millisecond, "not for ever")
}

func TestBacklogStaysInTheServer(t *testing.T) {
	if testing.Short() {
		t.Skip("stores 100,000 messages")
	}
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	ms := make([]*driver.Message, 10000)
	for i := range ms {
		ms[i] = &driver.Message{Body: make([]byte, 1024)}
	}
	for range 10 {
		publish(t, p, ms...)
	}
	d := receiveOne(t, c) // the server has the backlog before it, and the client one message of it
	ack(t, c, d)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 200 {
		ack(t, c, receive(t, c, 4, time.Second)...)
	}
	require.Less(t, int64(heap())-int64(before), int64(32<<20))
	c.mu.Lock()
	held := len(c.held)
	c.mu.Unlock()
	require.Zero(t, held)
	require.NoError(t, b.DeleteQueue(testContext(t), queue))
}
