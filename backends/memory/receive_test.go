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

func TestReceive_takes_any_lane_in_the_order_of_publishing(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{ID: "1", Lane: "b"}, &driver.Message{ID: "2"}, &driver.Message{ID: "3", Lane: "a"},
			&driver.Message{ID: "4", Lane: "b"})
		require.Equal(t, []string{"1", "2", "3"}, ids(f.get(3)))
		require.Equal(t, []string{"4"}, ids(f.get(3)))
		require.Empty(t, f.get(3))
	})
}

func TestReceive_takes_lanes_in_the_order_of_preference(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{ID: "a1", Lane: "a"}, &driver.Message{ID: "b1", Lane: "b"},
			&driver.Message{ID: "b2", Lane: "b"}, &driver.Message{ID: "c1", Lane: "c"})
		got := f.get(5, driver.LaneWant{Lane: "b", Max: 1}, driver.LaneWant{Lane: "none"}, driver.LaneWant{Lane: "a"})
		require.Equal(t, []string{"b1", "a1"}, ids(got))
		require.Equal(t, driver.Gauge{Ready: 2, InFlight: 2}, f.gauge(), "a lane that is not listed is not touched")
		require.Empty(t, f.await(driver.Want{Max: 1, Lanes: []driver.LaneWant{}}, 0), "no lanes is not any lane")
	})
}

func TestReceive_puts_what_came_back_in_its_old_place(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("1", "2", "3")
		ds := f.get(2)
		require.NoError(t, f.nack(ds[1], 0))
		require.NoError(t, f.nack(ds[0], 0))
		require.Equal(t, []string{"1", "2", "3"}, ids(f.get(3)))
	})
}

func TestReceive_wakes_at_the_moment_something_is_there(t *testing.T) {
	cases := map[string]struct {
		prepare func(f *fixture)
		during  func(f *fixture) // three seconds later
		after   time.Duration
	}{
		"delayed message due": {
			prepare: func(f *fixture) { f.publish(&driver.Message{ID: "m", Delay: 4 * time.Second}) },
			after:   4 * time.Second,
		},
		"lease expired": {
			prepare: func(f *fixture) { f.put("m"); f.one() },
			after:   term,
		},
		"published": {
			during: func(f *fixture) { f.put("m") },
			after:  3 * time.Second,
		},
		"published with a delay shorter than what was waited for": {
			prepare: func(f *fixture) { f.publish(&driver.Message{ID: "late", Delay: 30 * time.Second}) },
			during:  func(f *fixture) { f.publish(&driver.Message{ID: "m", Delay: time.Second}) },
			after:   4 * time.Second,
		},
		"due at the end of the wait": {
			prepare: func(f *fixture) { f.publish(&driver.Message{ID: "m", Delay: time.Minute}) },
			after:   time.Minute,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, memory.Config{}, func(f *fixture) {
				if c.prepare != nil {
					c.prepare(f)
				}
				began, helper := time.Now(), f.another()
				if c.during != nil {
					time.AfterFunc(3*time.Second, func() { c.during(helper) })
				}
				require.Equal(t, []string{"m"}, ids(f.await(driver.Want{Max: 1}, time.Minute)))
				require.Equal(t, c.after, time.Since(began))
			})
		})
	}
}

func TestReceive_wakes_when_a_delivery_is_given_back(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		d, began, other := f.one(), time.Now(), f.another()
		time.AfterFunc(time.Second, func() { _ = f.nack(d, 2*time.Second) })
		require.Equal(t, []string{"m"}, ids(other.await(driver.Want{Max: 1}, time.Minute)))
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

func TestReceive_returns_nothing_after_its_wait(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{ID: "elsewhere", Lane: "a"})
		began := time.Now()
		require.Empty(t, f.await(driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: "b"}}}, 5*time.Second))
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

func TestReceive_serves_the_longest_waiting_first(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		served := make(chan string, 3)
		for i, lane := range []string{"a", "b", ""} {
			time.Sleep(time.Second)
			c := f.consumer()
			go func() {
				w := driver.Want{Max: 1}
				if lane != "" {
					w.Lanes = []driver.LaneWant{{Lane: lane}}
				}
				ds, _ := c.Receive(f.ctx, w, time.Minute)
				served <- string(rune('0'+i)) + ":" + ds[0].ID
			}()
		}
		synctest.Wait()
		for _, m := range []*driver.Message{{ID: "x", Lane: "b"}, {ID: "y", Lane: "b"}, {ID: "z", Lane: "a"}} {
			f.publish(m)
			synctest.Wait()
		}
		require.Equal(t, []string{"1:x", "2:y", "0:z"}, []string{<-served, <-served, <-served})
	})
}

func TestReceive_hands_the_watch_over_the_clock_on(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{ID: "m", Delay: 10 * time.Second})
		began := time.Now()
		first := f.consumer()
		go func() { _, _ = first.Receive(f.ctx, driver.Want{Max: 1}, 2*time.Second) }()
		synctest.Wait()
		require.Len(t, f.await(driver.Want{Max: 1}, time.Minute), 1)
		require.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestReceive_with_an_ended_context_leases_nothing(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.put("m")
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		_, err := f.c.Receive(ctx, driver.Want{Max: 1}, time.Minute)
		require.Equal(t, context.Canceled, err)
		require.Equal(t, driver.Gauge{Ready: 1}, f.gauge())
	})
}

func TestReceive_hands_out_copies(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		m := &driver.Message{ID: "m", Header: map[string]string{"h": "published"}, Body: []byte("published")}
		f.publish(m)
		m.Header["h"], m.Body[0] = "changed", 'X'
		d := f.one()
		require.Equal(t, "published", d.Header["h"])
		require.Equal(t, "published", string(d.Body))
		d.Header["h"], d.Body[0] = "changed", 'X'
		require.NoError(t, f.nack(d, 0))
		again := f.one()
		require.Equal(t, "published", again.Header["h"])
		require.Equal(t, "published", string(again.Body))
		require.Equal(t, 2, again.DeliveryCount)
	})
}

func TestKeyOrder_holds_the_next_of_a_key_back(t *testing.T) {
	bubble(t, memory.Config{KeyOrder: true}, func(f *fixture) {
		f.publish(&driver.Message{ID: "k1", Key: "k", Delay: time.Second}, &driver.Message{ID: "k2", Key: "k", Lane: "a"},
			&driver.Message{ID: "l1", Key: "l"}, &driver.Message{ID: "free"}, &driver.Message{ID: "k3", Key: "k"})
		require.Equal(t, []string{"l1", "free"}, ids(f.get(9)), "k1 is delayed and holds its key")
		time.Sleep(time.Second)
		k1 := f.get(9)
		require.Equal(t, []string{"k1"}, ids(k1))
		require.NoError(t, f.nack(k1[0], 3*time.Second))
		require.Empty(t, f.get(9), "a failed message keeps its place")
		time.Sleep(3 * time.Second)
		k1 = f.get(9)
		require.Equal(t, []string{"k1"}, ids(k1))
		other, got := f.another(), make(chan []*driver.Delivery)
		go func() { got <- other.await(driver.Want{Max: 9}, time.Second) }()
		synctest.Wait()
		require.NoError(t, f.ack(k1...))
		require.Equal(t, []string{"k2"}, ids(<-got))
		require.Empty(t, f.get(9))
	})
}

func TestDelivery_of_a_foreign_message_has_the_brokers_id(t *testing.T) {
	bubble(t, memory.Config{}, func(f *fixture) {
		f.publish(&driver.Message{Body: []byte("a")}, &driver.Message{Body: []byte("b")})
		ds := f.get(2)
		require.NotEmpty(t, ds[0].ID)
		require.NotEqual(t, ds[0].ID, ds[1].ID)
	})
}
