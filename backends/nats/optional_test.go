package nats

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestGauge(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	_, err := b.Gauge(testContext(t), queue)
	require.ErrorIs(t, err, driver.NotFound)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	for i := range 5 {
		publish(t, p, inLane(fmt.Sprint("lane-", i%2), "x"))
	}
	publish(t, p, &driver.Message{Delay: time.Hour})
	require.Len(t, receive(t, c, 2, time.Second), 2)
	g, err := b.Gauge(testContext(t), queue)
	require.NoError(t, err)
	require.Equal(t, 3, g.Ready)
	require.Equal(t, 3, g.InFlight, "two leased, one waits for its time")
	require.Equal(t, -1, g.Delayed)
	require.Positive(t, g.Oldest)
	require.Less(t, g.Oldest, patience)

	require.NoError(t, b.PurgeQueue(testContext(t), queue))
	g, err = b.Gauge(testContext(t), queue)
	require.NoError(t, err)
	require.Zero(t, g.Ready)
	require.Zero(t, g.Oldest)
	require.Empty(t, receive(t, c, 1, 300*time.Millisecond), "leased and delayed ones are gone too")
	publish(t, p, text("after"))
	require.Equal(t, "after", string(receiveOne(t, c).Body))
	require.ErrorIs(t, b.PurgeQueue(testContext(t), queue+"-no"), driver.NotFound)
}

// The server needs a while to remove what was deleted, and may not have done so when the name is used again.
func TestDeletedMessagesStayAway(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	for i := range 30 {
		var p driver.Producer
		eventually(t, func() error {
			var err error
			p, err = b.OpenProducer(testContext(t), queue)
			if err != nil {
				require.ErrorIs(t, err, driver.Unavailable)
			}
			return err
		})
		ms, err := b.Peek(testContext(t), queue, 10)
		require.NoError(t, err)
		require.Empty(t, ms, "round %d", i)
		publish(t, p, text("x"), text("y"))
		require.NoError(t, b.DeleteQueue(testContext(t), queue))
	}
}

func TestPeek(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	_, err := b.Peek(testContext(t), queue, 1)
	require.ErrorIs(t, err, driver.NotFound)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("acked"), &driver.Message{Lane: "l", Header: oddHeader, Body: allBytes()}, text("third"))
	ack(t, c, receiveOne(t, c, driver.LaneWant{}))
	ms, err := b.Peek(testContext(t), queue, 10)
	require.NoError(t, err)
	require.Len(t, ms, 2)
	require.Equal(t, oddHeader, ms[0].Header)
	require.Equal(t, allBytes(), ms[0].Body)
	require.Equal(t, "l", ms[0].Lane)
	require.Equal(t, c.names.stream+":2", ms[0].ID)
	ms, err = b.Peek(testContext(t), queue, 1)
	require.NoError(t, err)
	require.Len(t, ms, 1)
	require.Zero(t, pending(t, b, queue), "nothing is leased")
}

func TestPing(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial, Timeout: 200 * time.Millisecond})
	require.NoError(t, b.Ping(testContext(t)))
	wire.swallow()
	require.ErrorIs(t, b.Ping(testContext(t)), driver.Unavailable)
	wire.mend()
}

func TestCallsAreCounted(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	before := b.Calls()
	publish(t, p, text("a"), text("b"))
	ds := receive(t, c, 2, time.Second, driver.LaneWant{})
	_, err := c.Extend(testContext(t), ds, time.Minute)
	require.NoError(t, err)
	ack(t, c, ds[0])
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: ds[1], State: "s"}}))
	after := b.Calls()
	for kind, n := range map[string]int64{"publish": 2, "pull": 1, "extend": 2, "ack": 1, "nak": 1, "state": 1} {
		require.Equal(t, n, after[kind]-before[kind], kind)
	}
}

func TestWatch(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	_, err := b.Watch(testContext(t), queue)
	require.ErrorIs(t, err, driver.NotFound)
	p := openProducer(t, b, queue)
	publish(t, p, inLane("before", "x"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := b.Watch(ctx, queue)
	require.NoError(t, err)
	next := func() string {
		select {
		case e, ok := <-events:
			require.True(t, ok)
			return e.Lane
		case <-time.After(5 * time.Second):
			t.Fatal("no event")
			return ""
		}
	}
	require.Equal(t, "before", next())
	require.Equal(t, driver.LaneEvent{Listed: true}, <-events, "the list is complete")
	sent := time.Now()
	publish(t, p, inLane("new lane", "x"))
	require.Equal(t, "new lane", next())
	require.Less(t, time.Since(sent), time.Second, "by a hint")
	publish(t, p, text("default"))
	require.Equal(t, "", next())

	c := openConsumer(t, b, queue, time.Minute)
	ack(t, c, receive(t, c, 10, time.Second)...)
	require.Eventually(t, func() bool {
		publish(t, p, inLane("before", "again"))
		ack(t, c, receive(t, c, 10, 100*time.Millisecond)...)
		select {
		case e := <-events:
			return e.Lane == "before"
		default:
			return false
		}
	}, patience, 100*time.Millisecond, "a lane that was empty for a while is reported again")
	cancel()
	require.Eventually(t, func() bool {
		_, open := <-events
		return !open
	}, patience, time.Millisecond)
}

func TestWatchFindsWhatHintsMiss(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	config := b.mainStream(n)
	config.RePublish = nil
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.UPDATE."+n.stream, config, nil))
	events, err := b.Watch(testContext(t), queue)
	require.NoError(t, err)
	require.True(t, (<-events).Listed)
	sent := time.Now()
	publish(t, p, inLane("silent", "x"))
	require.Equal(t, "silent", (<-events).Lane)
	require.Less(t, time.Since(sent), 5*time.Second)
}

func TestWatchEndsWithTheBackend(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	openProducer(t, b, queue)
	events, err := b.Watch(context.Background(), queue)
	require.NoError(t, err)
	require.True(t, (<-events).Listed)
	require.NoError(t, b.Close(testContext(t)))
	_, open := <-events
	require.False(t, open)
}

func TestLaneWithAConsumerOfAnotherName(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p := openProducer(t, b, queue)
	n, err := b.config.names(queue)
	require.NoError(t, err)
	_, err = b.consumerRequest(testContext(t), "create", n.stream, jetstream.ConsumerConfig{
		Durable: "restored", FilterSubject: n.lanes + emptyLane, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Second, MaxDeliver: -1, MaxAckPending: -1,
	})
	require.NoError(t, err)
	c := openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	require.WithinDuration(t, time.Now().Add(time.Minute), d.Granted.Until, 5*time.Second)
	ack(t, c, d)

	_, err = b.consumerRequest(testContext(t), "create", n.stream, jetstream.ConsumerConfig{
		Durable: "broad", FilterSubject: n.lanes + "x.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	require.NoError(t, err)
}
