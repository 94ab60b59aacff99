package memory_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestLease_lasts_its_term_and_not_longer(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		other, d := f.another(), f.one()
		require.Equal(t, time.Now().Add(term), d.Granted.Until)
		require.Nil(t, d.Granted.Session)
		time.Sleep(term - 1)
		require.Empty(t, other.get(1))
		time.Sleep(1)
		again := other.one()
		require.Equal(t, 2, again.DeliveryCount)
		require.True(t, again.Redelivered)
		require.ErrorIs(t, f.ack(d), driver.LeaseLost)
		require.ErrorIs(t, f.nack(d, 0), driver.LeaseLost)
		require.NoError(t, other.ack(again), "the late verdicts harmed nothing")
	})
}

// Outside a bubble: times there have no monotonic reading.
func TestLeases_are_counted_by_the_monotonic_clock(t *testing.T) {
	f := connect(t, memory.New(memory.Config{}))
	defer f.b.Close(f.ctx)
	f.put("m")
	d := f.one()
	l, err := f.extend(d, term)
	require.NoError(t, err)
	for _, until := range []time.Time{d.Granted.Until, d.Current().Until, l.Until} {
		require.Contains(t, until.String(), " m=+", "no monotonic reading")
	}
}

func TestLease_that_ran_out_is_lost_even_if_nobody_took_it(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d := f.one()
		time.Sleep(term)
		l, err := f.extend(d, term)
		require.ErrorIs(t, err, driver.LeaseLost)
		require.Zero(t, l)
		require.ErrorIs(t, f.ack(d), driver.LeaseLost)
		require.Equal(t, 1, f.gauge().Ready)
	})
}

func TestLease_default_term(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		c, err := f.b.OpenConsumer(f.ctx, "q", driver.ConsumerConfig{})
		require.NoError(t, err)
		f.put("m")
		ds, err := c.Receive(f.ctx, driver.Want{Max: 1}, 0)
		require.NoError(t, err)
		require.Equal(t, time.Now().Add(30*time.Second), ds[0].Granted.Until)
	})
}

func TestExtend_counts_from_now(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d := f.one()
		for range 5 {
			time.Sleep(term - 1)
			l, err := f.extend(d, term)
			require.NoError(t, err)
			require.Equal(t, time.Now().Add(term), l.Until)
			require.NotEqual(t, l, d.Granted, "a delivery does not change")
		}
		require.Empty(t, f.get(1))
		require.NoError(t, f.ack(d))
	})
}

func TestExtend_stops_at_the_longest_term(t *testing.T) {
	bubble(t, memory.Config{MaxTerm: 15 * time.Second}, func(f *fixture) {
		f.put("m")
		d := f.one()
		time.Sleep(5 * time.Second)
		_, err := f.extend(d, 10*time.Second)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = f.extend(d, 10*time.Second)
		require.ErrorIs(t, err, driver.LeaseLost)
		time.Sleep(8 * time.Second)
		require.Empty(t, f.get(1), "the lease stayed as it was")
		require.NoError(t, f.ack(d))
	})
}

func TestMaxTerm_cuts_the_first_term(t *testing.T) {
	bubble(t, memory.Config{MaxTerm: time.Second}, func(f *fixture) {
		f.put("m")
		require.Equal(t, time.Now().Add(time.Second), f.one().Granted.Until)
	})
}

func TestAck_twice_is_harmless(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d := f.one()
		require.NoError(t, f.ack(d, d))
		require.NoError(t, f.ack(d))
		require.ErrorIs(t, f.nack(d, 0), driver.LeaseLost)
		_, err := f.extend(d, term)
		require.ErrorIs(t, err, driver.LeaseLost)
		time.Sleep(time.Hour)
		require.Empty(t, f.get(1))
		require.Zero(t, f.gauge())
	})
}

func TestAck_after_nack_is_lost(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d := f.one()
		require.NoError(t, f.nack(d, time.Second))
		require.ErrorIs(t, f.ack(d), driver.LeaseLost)
		require.Equal(t, driver.Gauge{Delayed: 1}, f.gauge())
	})
}

func TestSettling_reports_each_item(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("1", "2", "3")
		other := f.another()
		theirs := other.one()
		ds := f.get(2)
		require.NoError(t, f.nack(ds[1], 0))
		err := f.c.Ack(f.ctx, []*driver.Delivery{ds[0], ds[1], theirs, nil, {Receipt: "a string"}})
		require.NoError(t, driver.Outcome(err, 0))
		for i, kind := range map[int]driver.Kind{
			1: driver.LeaseLost, 2: driver.LeaseLost, 3: driver.Invalid, 4: driver.Invalid,
		} {
			require.ErrorIs(t, driver.Outcome(err, i), kind, "item %d", i)
		}
		require.NoError(t, other.ack(theirs), "a receipt works through its own consumer alone, and still does")
		require.Equal(t, driver.Gauge{Ready: 1}, f.gauge())

		leases, err := f.c.Extend(f.ctx, []*driver.Delivery{ds[0], f.one()}, time.Minute)
		require.ErrorIs(t, driver.Outcome(err, 0), driver.LeaseLost)
		require.Zero(t, leases[0])
		require.NoError(t, driver.Outcome(err, 1))
		require.Equal(t, time.Now().Add(time.Minute), leases[1].Until)
	})
}

func TestNack_stores_the_state(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d := f.one()
		require.Empty(t, d.State)
		require.ErrorIs(t, f.c.Nack(f.ctx, []driver.Return{{D: d, State: strings.Repeat("x", 4097)}}), driver.Invalid)
		require.NoError(t, f.c.Nack(f.ctx, []driver.Return{{D: d, State: "first"}}))
		d = f.one()
		require.Equal(t, "first", d.State)
		time.Sleep(term)
		d = f.one()
		require.Equal(t, "first", d.State, "an expired lease changes nothing")
		require.NoError(t, f.nack(d, 0))
		require.Empty(t, f.one().State)
	})
}

func TestNack_delays(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("1", "2")
		require.NoError(t, f.nack(f.one(), 40*time.Second))
		require.Equal(t, []string{"2"}, ids(f.get(2)), "a delayed message holds nobody up")
		time.Sleep(40*time.Second - 1)
		require.Equal(t, []string{"2"}, ids(f.get(2)))
		time.Sleep(1)
		require.Equal(t, []string{"1"}, ids(f.get(2)))
	})
}
