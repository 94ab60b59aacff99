package memory_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestCapabilities(t *testing.T) {
	b := memory.Open(memory.Config{})
	require.Equal(t, driver.Capabilities{
		Name: "memory", Version: "in process", Sharing: driver.PerMessage, Extend: true, Fencing: true, Carries: true,
		SettleConfirmed: true, Lanes: true, Delay: driver.Delaying{By: driver.Native},
		Redelay: driver.Delaying{By: driver.Native}, Counting: driver.Counted, MaxBytes: 16 << 20, Dedup: 2 * time.Minute,
	}, b.Capabilities())
	require.NoError(t, b.Close(t.Context()))

	b = memory.Open(memory.Config{
		KeyOrder: true, Session: true, NoExtend: true, NoCarry: true, NoLanes: true, NoDelay: true,
		Counting: memory.Flagged, MaxDelay: time.Second, MaxRedelay: time.Minute, MaxTerm: time.Hour,
		BrokerDropsAfter: 5, MaxReceive: 6, MaxBatch: 7, MaxBytes: 8, Dedup: -1,
	})
	require.Equal(t, driver.Capabilities{
		Name: "memory", Version: "in process", Session: true, KeyOrder: true, SettleConfirmed: true, MaxTerm: time.Hour,
		Redelay: driver.Delaying{By: driver.Native, Max: time.Minute}, Counting: driver.Flagged, BrokerDropsAfter: 5,
		MaxReceive: 6, MaxBatch: 7, MaxBytes: 8,
	}, b.Capabilities())
	require.NoError(t, b.Close(t.Context()))
}

func TestConfig_refuses_what_it_took_away(t *testing.T) {
	publish := func(m driver.Message) func(*fixture, *driver.Delivery) error {
		return func(f *fixture, _ *driver.Delivery) error { return f.p.Publish(f.ctx, []*driver.Message{&m}) }
	}
	nack := func(delay time.Duration) func(*fixture, *driver.Delivery) error {
		return func(f *fixture, d *driver.Delivery) error { return f.nack(d, delay) }
	}
	lanes := func(name string) func(*fixture, *driver.Delivery) error {
		return func(f *fixture, _ *driver.Delivery) error {
			_, err := f.c.Receive(f.ctx, driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: name}}}, 0)
			return err
		}
	}
	extend := func(f *fixture, d *driver.Delivery) error {
		_, err := f.extend(d, time.Second)
		return err
	}
	cases := map[string]struct {
		cfg  memory.Config
		call func(*fixture, *driver.Delivery) error
		want driver.Kind
	}{
		"extend":                  {memory.Config{NoExtend: true}, extend, driver.Invalid},
		"lane, publish":           {memory.Config{NoLanes: true}, publish(driver.Message{Lane: "a"}), driver.Invalid},
		"lane, receive":           {memory.Config{NoLanes: true}, lanes("a"), driver.Invalid},
		"the lane that is always": {memory.Config{NoLanes: true}, lanes(""), ""},
		"delay":                   {memory.Config{NoDelay: true}, publish(driver.Message{Delay: 1}), driver.Invalid},
		"no delay":                {memory.Config{NoDelay: true}, publish(driver.Message{}), ""},
		"long delay":              {memory.Config{MaxDelay: 9}, publish(driver.Message{Delay: 10}), driver.Invalid},
		"longest delay":           {memory.Config{MaxDelay: 9}, publish(driver.Message{Delay: 9}), ""},
		"redelay":                 {memory.Config{NoRedelay: true}, nack(1), driver.Invalid},
		"no redelay":              {memory.Config{NoRedelay: true}, nack(0), ""},
		"long redelay":            {memory.Config{MaxRedelay: 9}, nack(10), driver.Invalid},
		"longest redelay":         {memory.Config{MaxRedelay: 9}, nack(9), ""},
		"size":                    {memory.Config{MaxBytes: 5}, publish(sized(6)), driver.TooLarge},
		"largest size":            {memory.Config{MaxBytes: 5}, publish(sized(5)), ""},
		"default size":            {memory.Config{}, publish(sized(16<<20 + 1)), driver.TooLarge},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, c.cfg, func(f *fixture) {
				f.put("m")
				err := c.call(f, f.one())
				if c.want == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, c.want)
				require.Equal(t, driver.Gauge{InFlight: 1}, f.gauge(), "nothing happened")
			})
		})
	}
}

// sized is a message of n bytes in all, a header of two bytes among them.
func sized(n int) driver.Message {
	return driver.Message{Header: map[string]string{"n": "v"}, Body: []byte(strings.Repeat("x", n-2))}
}

func TestPublish_refuses_one_and_stores_its_neighbours(t *testing.T) {
	bubble(t, memory.Config{MaxBytes: 5}, func(f *fixture) {
		large := sized(6)
		large.DedupID = "d"
		err := f.p.Publish(f.ctx, []*driver.Message{{ID: "1"}, &large, nil, {ID: "2", DedupID: "d"}})
		require.NoError(t, driver.Outcome(err, 0))
		require.ErrorIs(t, driver.Outcome(err, 1), driver.TooLarge)
		require.ErrorIs(t, driver.Outcome(err, 2), driver.Invalid)
		require.NoError(t, driver.Outcome(err, 3), "what was refused is not remembered")
		require.Equal(t, []string{"1", "2"}, ids(f.get(5)))

		f.b.Broker().Outage(true)
		err = f.p.Publish(f.ctx, []*driver.Message{{ID: "1"}, &large})
		require.ErrorIs(t, driver.Outcome(err, 0), driver.Unavailable)
		require.ErrorIs(t, driver.Outcome(err, 1), driver.TooLarge)
		f.b.Broker().Outage(false)
	})
}

func TestDedup_drops_silently_within_the_window(t *testing.T) {
	bubble(t, memory.Config{Dedup: time.Minute}, func(f *fixture) {
		f.publish(&driver.Message{ID: "1", DedupID: "d"}, &driver.Message{ID: "2", DedupID: "d"})
		require.NoError(t, f.ack(f.one()))
		time.Sleep(time.Minute - 1)
		f.publish(&driver.Message{ID: "3", DedupID: "d"})
		require.Empty(t, f.get(5), "also after the first was acked")
		time.Sleep(1)
		f.publish(&driver.Message{ID: "4", DedupID: "d"})
		require.Equal(t, []string{"4"}, ids(f.get(5)), "a dropped one does not prolong the window")
	})
}

func TestDedup_can_be_off(t *testing.T) {
	bubble(t, memory.Config{Dedup: -1}, func(f *fixture) {
		f.publish(&driver.Message{ID: "1", DedupID: "d"}, &driver.Message{ID: "2", DedupID: "d"})
		require.Len(t, f.get(5), 2)
	})
}

func TestCounting(t *testing.T) {
	for _, c := range []struct {
		counting memory.Counting
		count    int
		again    bool
	}{{memory.Counted, 2, true}, {memory.Flagged, 0, true}, {memory.Uncounted, 0, false}} {
		t.Run(memory.Open(memory.Config{Counting: c.counting}).Capabilities().Counting.String(), func(t *testing.T) {
			bubble(t, memory.Config{Counting: c.counting}, func(f *fixture) {
				f.put("m")
				d := f.one()
				require.False(t, d.Redelivered)
				require.NoError(t, f.nack(d, 0))
				d = f.one()
				require.Equal(t, c.count, d.DeliveryCount)
				require.Equal(t, c.again, d.Redelivered)
			})
		})
	}
}

func TestNoCarry_loses_the_state(t *testing.T) {
	bubble(t, memory.Config{NoCarry: true}, func(f *fixture) {
		f.put("m")
		require.NoError(t, f.c.Nack(f.ctx, []driver.Return{{D: f.one(), State: strings.Repeat("x", 5000)}}))
		require.Empty(t, f.one().State)
	})
}

func TestBrokerDropsAfter_whatever_it_came_back_for(t *testing.T) {
	bubble(t, memory.Config{BrokerDropsAfter: 3}, func(f *fixture) {
		f.put("m")
		require.NoError(t, f.nack(f.one(), 0))
		f.one()
		time.Sleep(term)
		o := f.another()
		o.one()
		require.NoError(t, o.c.Close(f.ctx))
		require.Zero(t, f.gauge())
	})
}

func TestBatch_limits(t *testing.T) {
	bubble(t, memory.Config{MaxBatch: 2, MaxReceive: 2}, func(f *fixture) {
		require.ErrorIs(t, f.p.Publish(f.ctx, make([]*driver.Message, 3)), driver.Invalid)
		f.put("1", "2", "3")
		ds := f.get(10)
		require.Len(t, ds, 2)
		require.ErrorIs(t, f.ack(append(ds, f.one())...), driver.Invalid)
		require.NoError(t, f.ack(ds...))
	})
}

func TestCalls_that_make_no_sense_are_invalid(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		_, err := f.b.OpenProducer(f.ctx, "")
		require.ErrorIs(t, err, driver.Invalid)
		_, err = f.c.Receive(f.ctx, driver.Want{}, 0)
		require.ErrorIs(t, err, driver.Invalid)
		f.put("m")
		_, err = f.extend(f.one(), 0)
		require.ErrorIs(t, err, driver.Invalid)
		require.NoError(t, f.p.Publish(f.ctx, nil))
		require.NoError(t, f.ack())
	})
}

func TestCalls_with_an_ended_context_send_nothing(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d, before := f.one(), f.b.Calls()
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		f.ctx = ctx
		errs := f.calls(d)
		f.ctx = context.Background()
		require.Equal(t, context.Canceled, errs["receive"])
		delete(errs, "receive")
		requireAll(t, errs, driver.Unavailable)
		require.ErrorIs(t, errs["ack"], context.Canceled)
		require.Equal(t, before, f.b.Calls())
	})
}
