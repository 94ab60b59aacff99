package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// calls is every call of a connection, with what it returned.
func (f *fixture) calls(d *driver.Delivery) map[string]error {
	errs := map[string]error{}
	_, errs["open producer"] = f.b.OpenProducer(f.ctx, "q")
	_, errs["open consumer"] = f.b.OpenConsumer(f.ctx, "q", driver.ConsumerConfig{})
	errs["publish"] = f.p.Publish(f.ctx, []*driver.Message{{ID: "must not arrive"}})
	_, errs["receive"] = f.c.Receive(f.ctx, driver.Want{Max: 1}, time.Hour)
	errs["ack"] = f.ack(d)
	errs["nack"] = f.nack(d, 0)
	_, errs["extend"] = f.extend(d, time.Hour)
	_, errs["watch"] = f.b.Watch(f.ctx, "q")
	errs["create"] = f.b.CreateQueue(f.ctx, "other")
	errs["delete"] = f.b.DeleteQueue(f.ctx, "q")
	errs["purge"] = f.b.PurgeQueue(f.ctx, "q")
	_, errs["gauge"] = f.b.Gauge(f.ctx, "q")
	_, errs["peek"] = f.b.Peek(f.ctx, "q", 1)
	errs["ping"] = f.b.Ping(f.ctx)
	return errs
}

func requireAll(t *testing.T, errs map[string]error, kind driver.Kind) {
	t.Helper()
	for call, err := range errs {
		require.Equal(t, kind, driver.KindOf(err), "%s: %v", call, err)
	}
}

func TestKill_gives_nothing_back(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("held", "waiting")
		victim, began := f.another(), time.Now()
		d := victim.one()
		parked := make(chan error)
		go func() {
			_, err := victim.c.Receive(f.ctx, driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: "x"}}}, time.Hour)
			parked <- err
		}()
		synctest.Wait()
		victim.b.Kill()
		require.ErrorIs(t, <-parked, driver.Unavailable)
		requireAll(t, victim.calls(d), driver.Unavailable)
		require.Zero(t, time.Since(began), "no call waits")
		require.Equal(t, driver.Gauge{Ready: 1, InFlight: 1}, f.gauge())

		require.NoError(t, f.ack(f.one()))
		require.Equal(t, []string{"held"}, ids(f.await(driver.Want{Max: 1}, time.Hour)))
		require.Equal(t, term, time.Since(began))

		victim.b.Kill()
		require.NoError(t, victim.c.Close(f.ctx))
		require.NoError(t, victim.b.Close(f.ctx))
		requireAll(t, victim.calls(d), driver.Closed)
	})
}

func TestOutage_changes_nothing_but_time_goes_on(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("settled", "lost")
		ds := f.get(2)
		parked := make(chan error)
		go func() {
			_, err := f.c.Receive(f.ctx, driver.Want{Max: 1}, time.Hour)
			parked <- err
		}()
		synctest.Wait()
		broker := f.b.Broker()
		broker.Outage(true)
		require.ErrorIs(t, <-parked, driver.Unavailable)
		requireAll(t, f.calls(ds[0]), driver.Unavailable)
		time.Sleep(term / 2)
		broker.Outage(false)
		require.NoError(t, f.ack(ds[0]), "the lease has outlived the outage")
		require.Equal(t, driver.Gauge{InFlight: 1, Oldest: term / 2}, f.gauge())

		broker.Outage(true)
		time.Sleep(term / 2)
		broker.Outage(false)
		require.ErrorIs(t, f.ack(ds[1]), driver.LeaseLost)
		require.Equal(t, []string{"lost"}, ids(f.get(2)))
	})
}

func TestClose_during_an_outage_says_what_it_could_not_give_back(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		holder, idle := f.another(), f.another()
		holder.one()
		f.b.Broker().Outage(true)
		require.NoError(t, idle.b.Close(f.ctx))
		require.ErrorIs(t, holder.b.Close(f.ctx), driver.Unavailable)
		require.NoError(t, holder.b.Close(f.ctx), "it is closed nevertheless")
		f.b.Broker().Outage(false)
		require.Equal(t, driver.Gauge{InFlight: 1}, f.gauge())
	})
}

func TestClose_of_a_consumer_gives_back_at_once(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("1", "2", "3")
		c := f.consumer()
		ds, err := c.Receive(f.ctx, driver.Want{Max: 2}, 0)
		require.NoError(t, err)
		require.NoError(t, c.Ack(f.ctx, ds[:1]))
		parked := make(chan error)
		go func() {
			_, err := c.Receive(f.ctx, driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: "x"}}}, time.Hour)
			parked <- err
		}()
		synctest.Wait()
		require.NoError(t, c.Close(f.ctx))
		require.NoError(t, c.Close(f.ctx))
		require.ErrorIs(t, <-parked, driver.Closed)
		require.ErrorIs(t, c.Ack(f.ctx, ds), driver.Closed)
		_, err = c.Receive(f.ctx, driver.Want{Max: 1}, 0)
		require.ErrorIs(t, err, driver.Closed)
		require.Equal(t, []string{"2", "3"}, ids(f.get(3)))
	})
}

func TestClose_of_a_backend_closes_all(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("1")
		o := f.another()
		d := o.one()
		require.NoError(t, o.b.Close(f.ctx))
		requireAll(t, o.calls(d), driver.Closed)
		require.Equal(t, []string{"1"}, ids(f.get(3)))
	})
}

func TestClose_of_a_producer(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		require.NoError(t, f.p.Close(f.ctx))
		require.ErrorIs(t, f.p.Publish(f.ctx, []*driver.Message{{}}), driver.Closed)
		f.b.Broker().Outage(true)
		require.ErrorIs(t, f.p.Publish(f.ctx, []*driver.Message{{}}), driver.Closed)
	})
}

func TestSession_ends_with_its_cause(t *testing.T) {
	ends := map[string]struct {
		end   func(*fixture)
		cause driver.Kind
		later driver.Kind // of a verdict that comes too late
	}{
		"kill":           {func(f *fixture) { f.b.Kill() }, driver.Unavailable, driver.LeaseLost},
		"outage":         {func(f *fixture) { f.b.Broker().Outage(true) }, driver.Unavailable, driver.LeaseLost},
		"consumer close": {func(f *fixture) { _ = f.c.Close(f.ctx) }, driver.Closed, driver.Closed},
		"backend close":  {func(f *fixture) { _ = f.b.Close(f.ctx) }, driver.Closed, driver.Closed},
	}
	for name, c := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, memory.Config{Session: true}, func(f *fixture) {
				f.put("m", "n")
				o := f.another()
				d, bystander := o.one(), f.one()
				l, err := o.extend(d, time.Minute)
				require.NoError(t, err)
				require.Same(t, d.Granted.Session, l.Session)
				require.NoError(t, d.Granted.Session.Err())
				c.end(o)
				require.ErrorIs(t, context.Cause(d.Granted.Session), c.cause)
				requireAll(t, map[string]error{"ack": o.ack(d), "nack": o.nack(d, 0)}, c.later)
				if name != "outage" {
					require.NoError(t, bystander.Granted.Session.Err())
				}
				f.b.Broker().Outage(false)
			})
		})
	}
}

func TestSession_is_a_new_one_after_an_outage(t *testing.T) {
	bubble(t, memory.Config{Session: true}, func(f *fixture) {
		f.put("m", "n")
		before := f.one()
		f.b.Broker().Outage(true)
		f.b.Broker().Outage(false)
		require.ErrorIs(t, f.ack(before), driver.LeaseLost, "though its clock still runs")
		after := f.one()
		require.NoError(t, after.Granted.Session.Err())
		require.NoError(t, f.ack(after))
		time.Sleep(term)
		require.Equal(t, []string{"m"}, ids(f.get(2)))
	})
}

func TestSession_ends_before_anybody_else_has_the_message(t *testing.T) {
	bubble(t, memory.Config{Session: true}, func(f *fixture) {
		f.put("m")
		o := f.another()
		d, fenced := o.one(), make(chan error)
		go func() {
			f.await(driver.Want{Max: 1}, time.Minute)
			fenced <- d.Granted.Session.Err()
		}()
		synctest.Wait()
		require.NoError(t, o.c.Close(f.ctx))
		require.Error(t, <-fenced)
	})
}
