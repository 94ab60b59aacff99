package nats

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// leaseOver waits until the lease of d has ended.
func leaseOver(t testing.TB, d *driver.Delivery) {
	t.Helper()
	require.Eventually(t, func() bool { return time.Now().After(d.Current().Until) }, patience, time.Millisecond)
}

func TestAck(t *testing.T) {
	const term = 300 * time.Millisecond
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	publish(t, p, text("a"), text("b"))
	ds := receive(t, c, 2, time.Second)
	require.Len(t, ds, 2)
	ack(t, c, ds...)
	g, err := b.Gauge(testContext(t), queue)
	require.NoError(t, err)
	require.Equal(t, driver.Gauge{Delayed: -1}, g, "gone when Ack returns")
	calls := b.Calls()["ack"]
	ack(t, c, ds...) // harmless
	require.Equal(t, calls, b.Calls()["ack"])
	require.ErrorIs(t, c.Nack(testContext(t), []driver.Return{{D: ds[0]}}), driver.LeaseLost)
	_, err = c.Extend(testContext(t), ds, term)
	require.ErrorIs(t, err, driver.LeaseLost)
	require.Empty(t, receive(t, c, 1, 3*term), "never again")
}

func TestForeignDeliveries(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c, other := openProducer(t, b, queue), openConsumer(t, b, queue, 0), openConsumer(t, b, queue, 0)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	for _, foreign := range []*driver.Delivery{nil, {}, {Receipt: 7}} {
		require.ErrorIs(t, c.Ack(testContext(t), []*driver.Delivery{foreign}), driver.Invalid)
	}
	err := other.Ack(testContext(t), []*driver.Delivery{d})
	require.ErrorIs(t, err, driver.Invalid)
	err = c.Ack(testContext(t), []*driver.Delivery{{}, d})
	require.ErrorIs(t, driver.Outcome(err, 0), driver.Invalid)
	require.NoError(t, driver.Outcome(err, 1))
}

// The server takes a late acknowledgement for one of the new holder.
func TestZombieIsRefusedHere(t *testing.T) {
	const term = 300 * time.Millisecond
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, zombie, c := openProducer(t, b, queue), openConsumer(t, b, queue, term), openConsumer(t, b, queue, term)
	publish(t, p, text("x"))
	old := receiveOne(t, zombie)
	leaseOver(t, old)
	d := receiveOne(t, c)
	require.Equal(t, 2, d.DeliveryCount)
	before := b.Calls()
	require.ErrorIs(t, zombie.Ack(testContext(t), []*driver.Delivery{old}), driver.LeaseLost)
	require.ErrorIs(t, zombie.Nack(testContext(t), []driver.Return{{D: old, State: "z"}}), driver.LeaseLost)
	_, err := zombie.Extend(testContext(t), []*driver.Delivery{old}, term)
	require.ErrorIs(t, err, driver.LeaseLost)
	require.Equal(t, before, b.Calls(), "nothing is sent")
	require.Equal(t, 1, pending(t, b, queue))
	ack(t, c, d)
}

func TestExtend(t *testing.T) {
	const term = 400 * time.Millisecond
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	publish(t, p, text("a"), text("b"))
	ds := receive(t, c, 2, time.Second)
	require.Len(t, ds, 2)
	first := ds[0].Granted.Until
	for range 8 { // twice the term and more
		next := time.Now().Add(term / 3)
		require.Empty(t, receive(t, c, 1, time.Until(next)))
		sent := time.Now()
		leases, err := c.Extend(testContext(t), ds, time.Hour)
		require.NoError(t, err)
		require.Len(t, leases, 2)
		for i, l := range leases {
			require.False(t, l.Until.After(time.Now().Add(term)), "the server's term, whatever was asked for")
			require.False(t, l.Until.Before(sent.Add(term)))
			require.Equal(t, l, ds[i].Current())
		}
	}
	require.Equal(t, first, ds[0].Granted.Until, "a Delivery does not change")
	ack(t, c, ds[0])
	require.Equal(t, "b", string(receiveOne(t, c).Body), "the other comes back when nobody extends it")
}

func TestExtendInBlackHoleIsNoExtension(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial, Timeout: 200 * time.Millisecond})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	wire.swallow()
	leases, err := c.Extend(testContext(t), []*driver.Delivery{d}, time.Minute)
	require.ErrorIs(t, err, driver.Ambiguous)
	require.Equal(t, []driver.Lease{{}}, leases)
	require.Equal(t, d.Granted, d.Current())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Extend(ctx, []*driver.Delivery{d}, time.Minute)
	require.ErrorIs(t, err, driver.Ambiguous)
	err = c.Ack(testContext(t), []*driver.Delivery{d})
	require.ErrorIs(t, err, driver.Ambiguous)
}

// The answer to an extension that the server got too late looks like any other.
func TestLateExtensionIsNoExtension(t *testing.T) {
	began := time.Now()
	r := &receipt{term: time.Second, grants: []time.Time{began}}
	end := began.Add(time.Second)
	require.False(t, r.extend(began.Add(900*time.Millisecond), end.Add(time.Millisecond)))
	require.False(t, r.extend(began.Add(900*time.Millisecond), end))
	require.Equal(t, end, r.until())
	sent := began.Add(800 * time.Millisecond)
	require.True(t, r.extend(sent, end.Add(-time.Millisecond)))
	require.Equal(t, sent.Add(time.Second), r.until())
	require.True(t, r.extend(began.Add(400*time.Millisecond), end), "answered out of order")
	require.Equal(t, sent.Add(time.Second), r.until(), "a lease does not shrink")
}

func TestNack(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	sent := time.Now()
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d}}))
	d = receiveOne(t, c)
	require.Less(t, time.Since(sent), 2*time.Second)
	require.Equal(t, 2, d.DeliveryCount)
	require.Empty(t, d.State)
	for _, delay := range []time.Duration{700 * time.Millisecond, 1300 * time.Millisecond} {
		for _, lanes := range [][]driver.LaneWant{{{}}, {{}, {Lane: "other"}}} {
			sent = time.Now()
			require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, Delay: delay}}))
			d = receiveOne(t, c, lanes...)
			require.GreaterOrEqual(t, time.Since(sent), delay)
			require.Less(t, time.Since(sent), delay+600*time.Millisecond)
		}
	}
	require.ErrorIs(t, c.Nack(testContext(t), []driver.Return{{D: d, State: strings.Repeat("x", maxState+1)}}), driver.Invalid)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: strings.Repeat("x", maxState)}}))
}

func TestStateComesWithTheNextDelivery(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	other := openConsumer(t, openBackend(t, Config{}), queue, time.Minute)
	publish(t, p, text("x"), text("y"))
	ds := receive(t, c, 2, time.Second)
	require.Len(t, ds, 2)
	var rs []driver.Return
	for _, d := range ds {
		rs = append(rs, driver.Return{D: d, State: "one of " + string(d.Body) + " \x00\xff\n"})
	}
	require.NoError(t, c.Nack(testContext(t), rs))
	for i := range 2 {
		d := receiveOne(t, other)
		require.Equal(t, "one of "+string(d.Body)+" \x00\xff\n", d.State)
		state := ""
		if i == 0 {
			state = "two"
		}
		back := driver.Return{D: d, State: state, Delay: time.Duration(i) * 300 * time.Millisecond}
		require.NoError(t, other.Nack(testContext(t), []driver.Return{back}))
		if i == 0 {
			d = receiveOne(t, c)
			for d.State == "" || strings.HasPrefix(d.State, "one") {
				require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: d.State}}))
				d = receiveOne(t, c)
			}
			require.Equal(t, "two", d.State)
			ack(t, c, d)
		}
	}
	d := receiveOne(t, c)
	require.Empty(t, d.State, "an empty state replaces the last")
	ack(t, c, d)
	require.Eventually(t, func() bool {
		info, err := b.info(testContext(t), c.names.states, "")
		return err == nil && info.State.Msgs == 0
	}, patience, 10*time.Millisecond, "no entries of messages that are gone")
}

func TestCrashKeepsState(t *testing.T) {
	const term = 400 * time.Millisecond
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	publish(t, p, text("x"))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: receiveOne(t, c), State: "kept"}}))
	d := receiveOne(t, c)
	require.Equal(t, 2, d.DeliveryCount)
	leaseOver(t, d) // nobody settles it
	d = receiveOne(t, c)
	require.Equal(t, "kept", d.State)
	require.Equal(t, 3, d.DeliveryCount)
}

// A holder whose clock is wrong about its lease is refused by the entry that the new holder has written.
func TestLateStateIsRefusedByTheServer(t *testing.T) {
	const term = 300 * time.Millisecond
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, zombie, c := openProducer(t, b, queue), openConsumer(t, b, queue, term), openConsumer(t, b, queue, term)
	publish(t, p, text("x"))
	old := receiveOne(t, zombie)
	leaseOver(t, old)
	d := receiveOne(t, c)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "new"}}))
	d = receiveOne(t, c)

	r := old.Receipt.(*receipt)
	r.mu.Lock()
	r.term = time.Hour // a clock that stands still
	r.mu.Unlock()
	require.ErrorIs(t, zombie.Nack(testContext(t), []driver.Return{{D: old, State: "old"}}), driver.LeaseLost)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: d.State}}))
	require.Equal(t, "new", receiveOne(t, c).State)
}

// The confirmation of a state may be lost; the Nack is tried again with the entry already there.
func TestStateIsWrittenAgain(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	r := d.Receipt.(*receipt)
	next := r.memory
	next.state = "first try"
	for _, err := range c.writeStates(testContext(t), []stateWrite{{receipt: r, next: next}}) {
		require.NoError(t, err)
	}
	r.memory = memory{} // the confirmation did not arrive
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "second try"}}))
	require.Equal(t, "second try", receiveOne(t, c).State)
}

func TestUncertainNackIsNotRepeated(t *testing.T) {
	var wire cable
	queue := queueName(t)
	b := openBackend(t, Config{Dial: wire.dial, Timeout: 200 * time.Millisecond})
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	wire.swallow()
	require.ErrorIs(t, c.Nack(testContext(t), []driver.Return{{D: d}}), driver.Ambiguous)
	wire.mend()
	require.ErrorIs(t, c.Nack(testContext(t), []driver.Return{{D: d}}), driver.LeaseLost)
	require.ErrorIs(t, c.Ack(testContext(t), []*driver.Delivery{d}), driver.LeaseLost)
}

func TestAckAndNackRace(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	ms := make([]*driver.Message, 200)
	for i := range ms {
		ms[i] = text("x")
	}
	publish(t, p, ms...)
	returned := 0
	for left := len(ms); left > 0; {
		for _, d := range receive(t, c, 50, time.Second) {
			left--
			var acked, nacked error
			var wg sync.WaitGroup
			wg.Go(func() { acked = c.Ack(testContext(t), []*driver.Delivery{d}) })
			wg.Go(func() { nacked = c.Nack(testContext(t), []driver.Return{{D: d, Delay: time.Hour}}) })
			wg.Wait()
			require.NotEqual(t, acked == nil, nacked == nil, "exactly one wins: %v, %v", acked, nacked)
			if nacked == nil {
				returned++
			}
		}
	}
	require.Equal(t, returned, pending(t, b, queue))
}

func TestAckCutOff(t *testing.T) {
	var wire cable
	queue := queueName(t)
	b := openBackend(t, Config{})
	p := openProducer(t, b, queue)
	c := openConsumer(t, openBackend(t, Config{Dial: wire.dial}), queue, time.Second)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	wire.swallow()
	done := make(chan error, 1)
	go func() { done <- c.Ack(testContext(t), []*driver.Delivery{d}) }()
	require.Eventually(t, func() bool { return len(c.b.replies.waiting()) > 0 }, patience, time.Millisecond)
	wire.cut(false)
	require.Error(t, <-done)
	wire.mend()
	d = receiveOne(t, openConsumer(t, b, queue, time.Second))
	require.Equal(t, 2, d.DeliveryCount, "an Ack that was reported as failed, and had not arrived")
}
