package memory_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	term    = 10 * time.Second
	clients = 3
)

// step is one thing that happens; A to D are read as the kind needs them. The whole run is drawn before it starts, so
// that it can be replayed, and shrunk, inside a bubble of its own.
type step struct {
	Kind       string
	A, B, C, D int
}

var steps = rapid.Custom(func(t *rapid.T) step {
	kinds := []string{ // the first, with zeros, is nothing at all: what shrinking ends at
		"advance", "publish", "publish", "publish", "receive", "receive", "receive", "wait", "ack", "ack", "nack", "nack",
		"extend", "advance", "kill", "close", "outage", "gauge", "peek", "purge",
	}
	n := rapid.IntRange(0, 11)
	return step{rapid.SampledFrom(kinds).Draw(t, "kind"), n.Draw(t, "a"), n.Draw(t, "b"), n.Draw(t, "c"), n.Draw(t, "d")}
})

var configs = rapid.Custom(func(t *rapid.T) memory.Config {
	flip := rapid.Bool()
	return memory.Config{
		KeyOrder:         flip.Draw(t, "key order"),
		Session:          flip.Draw(t, "session"),
		NoCarry:          flip.Draw(t, "no carry"),
		Counting:         rapid.SampledFrom([]memory.Counting{memory.Counted, memory.Flagged, memory.Uncounted}).Draw(t, "counting"),
		BrokerDropsAfter: rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "drops after"),
		MaxTerm:          rapid.SampledFrom([]time.Duration{0, 0, 15 * time.Second}).Draw(t, "longest term"),
		MaxReceive:       rapid.SampledFrom([]int{0, 2}).Draw(t, "most"),
		Dedup:            rapid.SampledFrom([]time.Duration{0, -1, 7 * time.Second}).Draw(t, "window"),
	}
})

// TestQ01_model_agrees runs what rapid draws on the broker and on the model, in virtual time, and compares each answer
// and the moment of it.
func TestQ01_model_agrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := configs.Draw(rt, "config")
		run := rapid.SliceOfN(steps, 40, 120).Draw(rt, "steps")
		var err error
		synctest.Test(t, func(*testing.T) { err = replay(cfg, run) })
		if err != nil {
			rt.Fatalf("%v", err)
		}
	})
}

// client is one connection with a producer and a consumer.
type client struct {
	b              *memory.Backend
	p              driver.Producer
	c              driver.Consumer
	session        int
	killed, closed bool
}

type run struct {
	m         *model
	broker    *memory.Broker
	clients   []*client
	held      []*holding // every delivery ever made, so that stale receipts are tried too
	published int
	down      bool
}

func replay(cfg memory.Config, steps []step) error {
	r := &run{
		m:      &model{cfg: cfg, now: time.Now(), seen: map[string]time.Time{}},
		broker: memory.New(cfg),
	}
	for i := range clients {
		r.clients = append(r.clients, nil)
		if err := r.connect(i); err != nil {
			return err
		}
	}
	for i, s := range steps {
		if err := r.do(s); err != nil {
			return fmt.Errorf("step %d %+v: %w", i, s, err)
		}
	}
	return r.drain()
}

func (r *run) connect(i int) error {
	b := r.broker.Open()
	p, err := b.OpenProducer(context.Background(), "q")
	if err != nil {
		return err
	}
	c, err := b.OpenConsumer(context.Background(), "q", driver.ConsumerConfig{Term: term})
	r.clients[i] = &client{b: b, p: p, c: c}
	return err
}

func (r *run) do(s step) error {
	at := s.A % clients
	cl := r.clients[at]
	switch s.Kind {
	case "publish":
		return r.publish(cl, s)
	case "receive":
		return r.receive(cl, s, 0)
	case "wait":
		return r.receive(cl, s, time.Duration(s.D)*time.Second)
	case "ack", "nack", "extend":
		return r.settle(s)
	case "advance":
		time.Sleep(time.Duration(s.A*s.B) * 250 * time.Millisecond)
		r.m.now = time.Now()
	case "outage":
		return r.outage(cl, s)
	case "kill", "close":
		return r.drop(at, s.Kind == "kill")
	case "gauge":
		got, err := cl.b.Gauge(context.Background(), "q")
		if want := r.m.gauge(); err != nil || got != want {
			return fmt.Errorf("gauge %+v, %v, want %+v", got, err, want)
		}
	case "peek":
		return r.peek(cl, s.B)
	case "purge":
		if s.B > 1 {
			return nil // rarely
		}
		r.m.all = nil
		for _, h := range r.held {
			h.e.holder = nil
		}
		return cl.b.PurgeQueue(context.Background(), "q")
	}
	return nil
}

func (r *run) publish(cl *client, s step) error {
	r.published++
	e := &entry{id: strconv.Itoa(r.published), lane: []string{"", "a", "b"}[s.B%3], key: []string{"", "k", "l"}[s.C%3]}
	delay := max(0, time.Duration(s.D-8)*time.Second)
	dedup := ""
	if s.B > 7 {
		dedup = strconv.Itoa(s.C % 2)
	}
	r.m.publish(e, dedup, delay)
	return cl.p.Publish(context.Background(), []*driver.Message{
		{ID: e.id, Lane: e.lane, Key: e.key, Delay: delay, DedupID: dedup, Body: []byte(e.id)},
	})
}

func (r *run) receive(cl *client, s step, wait time.Duration) error {
	w := driver.Want{Max: 1 + s.B%4}
	switch s.C % 4 {
	case 1:
		w.Lanes = []driver.LaneWant{{Lane: "b"}, {Lane: "", Max: 1}}
	case 2:
		w.Lanes = []driver.LaneWant{{Lane: "a", Max: 2}, {Lane: "unheard of"}, {Lane: "b"}}
	}
	want := r.m.receive(cl, w, wait, term)
	got, err := cl.c.Receive(context.Background(), w, wait)
	if err != nil {
		return err
	}
	return r.match(want, got)
}

func (r *run) match(want []*holding, got []*driver.Delivery) error {
	if now := time.Now(); !now.Equal(r.m.now) {
		return fmt.Errorf("returned %v after the model", now.Sub(r.m.now))
	}
	if len(got) != len(want) {
		return fmt.Errorf("got %d, want %d", len(got), len(want))
	}
	for i, d := range got {
		e, is := want[i].e, fact{ID: d.ID, Lane: d.Lane, Body: string(d.Body), State: d.State}
		is.Count, is.Again, is.Until, is.SentAt = d.DeliveryCount, d.Redelivered, d.Granted.Until, d.SentAt
		must := fact{ID: e.id, Lane: e.lane, Body: e.id, State: e.state, Until: e.until, SentAt: e.sentAt}
		if r.m.cfg.Counting == memory.Counted {
			must.Count = e.handed
		}
		must.Again = e.handed > 1 && r.m.cfg.Counting != memory.Uncounted
		if is != must {
			return fmt.Errorf("got %+v, want %+v", is, must)
		}
		if (d.Granted.Session != nil) != r.m.cfg.Session {
			return fmt.Errorf("session is %v", d.Granted.Session)
		}
		want[i].d = d
	}
	r.held = append(r.held, want...)
	return nil
}

// fact is what a delivery says.
type fact struct {
	ID, Lane, Body, State string
	Count                 int
	Again                 bool
	Until, SentAt         time.Time
}

func (r *run) settle(s step) error {
	if len(r.held) == 0 {
		return nil
	}
	h := r.held[len(r.held)-1-s.A%len(r.held)] // the latest first
	want := r.m.refusal(h, r.down)
	ctx, e := context.Background(), h.e
	var err error
	switch s.Kind {
	case "ack":
		err = h.by.c.Ack(ctx, []*driver.Delivery{h.d})
		if want == driver.LeaseLost && h.acked && !(r.m.cfg.Session && h.session != h.by.session) {
			want = ""
		} else if want == "" {
			h.acked = true
			r.m.remove(e)
		}
	case "nack":
		delay, state := time.Duration(s.B)*time.Second, strconv.Itoa(s.C)
		err = h.by.c.Nack(ctx, []driver.Return{{D: h.d, Delay: delay, State: state}})
		if want == "" {
			if !r.m.cfg.NoCarry {
				e.state = state
			}
			r.m.back(e, r.m.now.Add(delay))
		}
	case "extend":
		more := time.Duration(1+s.B) * time.Second
		if most := r.m.cfg.MaxTerm; want == "" && most > 0 && r.m.now.Add(more).Sub(h.since) > most {
			want = driver.LeaseLost
		} else if want == "" {
			e.until = r.m.now.Add(more)
		}
		var ls []driver.Lease
		ls, err = h.by.c.Extend(ctx, []*driver.Delivery{h.d}, more)
		if want == "" && err == nil && !ls[0].Until.Equal(e.until) {
			return fmt.Errorf("extended until %v, want %v", ls[0].Until, e.until)
		}
	}
	return expect(err, want)
}

func expect(err error, want driver.Kind) error {
	if err == nil && want == "" || err != nil && driver.KindOf(driver.Outcome(err, 0)) == want {
		return nil
	}
	return fmt.Errorf("got error %v, want kind %q", err, want)
}

// outage tries every call while the broker is down; then it is back.
func (r *run) outage(cl *client, s step) error {
	r.broker.Outage(true)
	r.down = true
	for _, c := range r.clients {
		c.session++
	}
	ctx := context.Background()
	_, received := cl.c.Receive(ctx, driver.Want{Max: 1}, time.Second)
	for i, err := range []error{cl.p.Publish(ctx, []*driver.Message{{ID: "lost"}}), received, cl.b.Ping(ctx)} {
		if err := expect(err, driver.Unavailable); err != nil {
			return fmt.Errorf("call %d while down: %w", i, err)
		}
	}
	for i, kind := range []string{"ack", "nack", "extend"} {
		if err := r.settle(step{Kind: kind, A: s.B + i, B: s.C, C: s.D}); err != nil {
			return fmt.Errorf("%s while down: %w", kind, err)
		}
	}
	time.Sleep(time.Duration(s.D) * time.Second)
	r.m.now = time.Now()
	r.broker.Outage(false)
	r.down = false
	return nil
}

// drop ends a connection and opens the next in its place.
func (r *run) drop(at int, kill bool) error {
	cl := r.clients[at]
	cl.session++
	if kill {
		cl.b.Kill()
		cl.killed = true
		return r.connect(at)
	}
	r.m.step()
	for _, e := range slices.Clone(r.m.all) {
		if e.holder != nil && e.holder.by == cl {
			r.m.back(e, r.m.now)
		}
	}
	cl.closed = true
	if err := cl.b.Close(context.Background()); err != nil {
		return err
	}
	return r.connect(at)
}

func (r *run) peek(cl *client, n int) error {
	r.m.step()
	got, err := cl.b.Peek(context.Background(), "q", n)
	if err != nil || len(got) != min(n, len(r.m.all)) {
		return fmt.Errorf("peek found %d, %v, want %d", len(got), err, min(n, len(r.m.all)))
	}
	for i, m := range got {
		if m.ID != r.m.all[i].id {
			return fmt.Errorf("peek found %s at %d, want %s", m.ID, i, r.m.all[i].id)
		}
	}
	return nil
}

// drain receives until the model is empty: what it still has, the broker must still have.
func (r *run) drain() error {
	for range 10 * (1 + r.published) {
		if len(r.m.all) == 0 {
			break
		}
		if err := r.receive(r.clients[0], step{B: 1}, time.Hour); err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		if err := r.settle(step{Kind: "ack"}); err != nil {
			return fmt.Errorf("drain: %w", err)
		}
	}
	g, err := r.clients[0].b.Gauge(context.Background(), "q")
	if err != nil || g != (driver.Gauge{}) || len(r.m.all) > 0 {
		return fmt.Errorf("after the drain: %+v, %v; the model has %d", g, err, len(r.m.all))
	}
	return nil
}
