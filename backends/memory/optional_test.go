package memory_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// seen reads what the watch has to say now.
func seen(events <-chan driver.LaneEvent) []string {
	var lanes []string
	for {
		synctest.Wait()
		select {
		case e, open := <-events:
			if !open {
				return append(lanes, "closed")
			}
			lanes = append(lanes, e.Lane)
		default:
			return lanes
		}
	}
}

func TestWatch_reports_lanes_there_and_lanes_to_come(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{Lane: "b"}, &driver.Message{Lane: "a"}, &driver.Message{Lane: "b"})
		ctx, cancel := context.WithCancel(f.ctx)
		events, err := f.b.Watch(ctx, "q")
		require.NoError(t, err)
		require.Equal(t, []string{"", "a", "b"}, seen(events))
		require.Empty(t, seen(events))

		var want []string
		for i := range 1000 { // nobody reads, nobody is held up
			want = append(want, fmt.Sprint(i))
			f.another().publish(&driver.Message{Lane: want[i]}, &driver.Message{Lane: want[i]})
		}
		require.Equal(t, want, seen(events), "none is lost")

		require.NoError(t, f.ack(f.get(1, driver.LaneWant{Lane: "a"})...))
		f.publish(&driver.Message{Lane: "a"})
		require.Equal(t, []string{"a"}, seen(events), "an emptied lane appears anew")
		cancel()
		require.Equal(t, []string{"closed"}, seen(events))
	})
}

func TestWatch_of_a_queue_that_does_not_exist_yet(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		events, err := f.b.Watch(f.ctx, "later")
		require.NoError(t, err)
		require.Empty(t, seen(events))
		require.NoError(t, f.b.CreateQueue(f.ctx, "later"))
		require.Equal(t, []string{""}, seen(events))
		require.NoError(t, f.b.Close(f.ctx))
		require.Equal(t, []string{"closed"}, seen(events))
	})
}

func TestWatch_ends_though_nobody_reads_it(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{Lane: "a"})
		ctx, cancel := context.WithCancel(f.ctx)
		cancelled, err := f.b.Watch(ctx, "q")
		require.NoError(t, err)
		closed, err := f.b.Watch(f.ctx, "q")
		require.NoError(t, err)
		synctest.Wait()
		cancel()
		synctest.Wait()
		require.Equal(t, []string{"closed"}, seen(cancelled))
		require.NoError(t, f.b.Close(f.ctx))
		require.Equal(t, []string{"closed"}, seen(closed))
	})
}

func TestWatch_falls_silent_after_a_kill(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		o := f.another()
		ctx, cancel := context.WithCancel(f.ctx)
		events, err := o.b.Watch(ctx, "q")
		require.NoError(t, err)
		require.Equal(t, []string{""}, seen(events))
		o.b.Kill()
		f.publish(&driver.Message{Lane: "a"})
		require.Empty(t, seen(events))
		cancel()
		require.Equal(t, []string{"closed"}, seen(events))
	})
}

func TestDeleteQueue_and_what_comes_after(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("old")
		d, o := f.one(), f.another()
		parked := make(chan error)
		go func() {
			_, err := o.c.Receive(f.ctx, driver.Want{Max: 1}, time.Hour)
			parked <- err
		}()
		synctest.Wait()
		require.NoError(t, f.b.DeleteQueue(f.ctx, "q"))
		require.ErrorIs(t, <-parked, driver.NotFound)
		require.ErrorIs(t, f.b.DeleteQueue(f.ctx, "q"), driver.NotFound)
		_, received := f.c.Receive(f.ctx, driver.Want{Max: 1}, time.Hour)
		_, gauged := f.b.Gauge(f.ctx, "q")
		requireAll(t, map[string]error{
			"publish": f.p.Publish(f.ctx, []*driver.Message{{}}), "receive": received, "ack": f.ack(d), "gauge": gauged,
			"purge": f.b.PurgeQueue(f.ctx, "q"),
		}, driver.NotFound)

		require.NoError(t, f.b.CreateQueue(f.ctx, "q"))
		require.NoError(t, f.b.CreateQueue(f.ctx, "q"))
		require.ErrorIs(t, f.ack(d), driver.LeaseLost)
		f.put("new")
		require.Equal(t, []string{"new"}, ids(f.get(5)))
	})
}

func TestPurgeQueue_removes_leased_messages_too(t *testing.T) {
	bubble(t, memory.Config{KeyOrder: true}, func(f *fixture) {
		f.publish(&driver.Message{ID: "1", Key: "k"}, &driver.Message{ID: "2", Key: "k"},
			&driver.Message{ID: "3", Delay: time.Second, Lane: "a"})
		d := f.one()
		require.NoError(t, f.b.PurgeQueue(f.ctx, "q"))
		require.Zero(t, f.gauge())
		require.ErrorIs(t, f.ack(d), driver.LeaseLost)
		f.publish(&driver.Message{ID: "4", Key: "k"})
		require.Equal(t, []string{"4"}, ids(f.get(5)), "the key is free")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"4"}, ids(f.get(5)))
	})
}

func TestGauge(t *testing.T) {
	bubble(t, memory.Config{KeyOrder: true}, func(f *fixture) {
		require.Zero(t, f.gauge())
		f.publish(&driver.Message{Key: "k"})
		time.Sleep(time.Second)
		f.publish(&driver.Message{Key: "k"}, &driver.Message{Delay: time.Minute}, &driver.Message{})
		d := f.one()
		require.Equal(t, driver.Gauge{Ready: 2, Delayed: 1, InFlight: 1, Oldest: time.Second}, f.gauge())
		require.NoError(t, f.ack(d))
		time.Sleep(time.Minute)
		require.Equal(t, driver.Gauge{Ready: 3, Oldest: time.Minute}, f.gauge())
	})
}

func TestPeek_leases_nothing_and_copies(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{ID: "1", Lane: "b", Body: []byte("x")}, &driver.Message{ID: "2", Lane: "a"}, &driver.Message{ID: "3"})
		f.get(1, driver.LaneWant{Lane: "a"})
		got, err := f.b.Peek(f.ctx, "q", 2)
		require.NoError(t, err)
		require.Equal(t, []string{"1", "2"}, []string{got[0].ID, got[1].ID}, "oldest first, leased or not")
		got[0].Body[0] = 'y'
		require.Equal(t, "x", string(f.one().Body))
		none, err := f.b.Peek(f.ctx, "q", 0)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestCalls_counts_requests_of_this_connection(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		o := f.another()
		f.put("1", "2")
		require.NoError(t, f.ack(f.get(2)...))
		f.await(driver.Want{Max: 1}, time.Hour)
		require.NoError(t, f.b.Ping(f.ctx))
		require.Equal(t, map[string]int64{
			"open producer": 1, "open consumer": 1, "publish": 2, "receive": 2, "ack": 1, "ping": 1,
		}, f.b.Calls())
		require.Equal(t, map[string]int64{"open producer": 1, "open consumer": 1}, o.b.Calls())
	})
}
