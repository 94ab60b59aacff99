package conformance

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// monotonic does not set a clock: no process can have one of its own to set. It checks what makes setting it harmless.
// Every end of a lease, from the driver and from the queue, has a monotonic reading, so that Go compares it with
// time.Now by that alone; and the broker gives a message away when the lease is over by CLOCK_MONOTONIC, which nobody
// can set. It says nothing about a clock that is set on the broker's machine.
func monotonic(e *Env) {
	e.Publish(queue.Lanes{}, e.Jobs(1, 0, nil)...)
	isMonotonic := func(what string, t time.Time) {
		e.Check(t != t.Round(0), "%s is %v, without a monotonic reading", what, t)
	}
	hooks := e.Journaled("holder")
	journal := hooks.Extended
	ends := make(chan time.Time, 100)
	hooks.Extended = func(d *queue.Delivery, until time.Time) {
		journal(d, until)
		select {
		case ends <- until:
		default:
		}
	}
	l := e.line()
	c := e.ConsumerOn(l.Backend, e.Queue, queue.ConsumerConfig{Hooks: hooks, Retry: often})
	d := e.Receive(c, 1, late)[0]
	isMonotonic("Delivery.LeaseUntil", d.LeaseUntil())
	if e.Caps.Extend {
		isMonotonic("the end in Hooks.Extended", await(e, "an extension", e.Lease+late, ends))
		isMonotonic("Delivery.LeaseUntil after an extension", d.LeaseUntil())
	}
	l.silence()
	<-d.Context().Done()
	until := e.self.At(d.LeaseUntil())
	taken := e.Receive(e.Puller("taker", e.Open(), queue.ConsumerConfig{Retry: often}), 1, e.back())[0]
	e.Check(e.self.Now() >= until, "the message was given away %v before the end of its lease", time.Duration(until-e.self.Now()))
	e.Must(taken.Ack(e.Ctx), "ack")
	l.sever()
	e.Valid(history.Options{Drained: true, Fencing: e.Caps.Fencing})

	e.Publish(queue.Lanes{}, Job{ID: "driver"})
	raw, err := e.Open().OpenConsumer(e.Ctx, e.Queue, driver.ConsumerConfig{Window: 10, Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	rd := e.raw(raw, 1)
	isMonotonic("driver.Delivery.Granted.Until", rd[0].Granted.Until)
	isMonotonic("driver.Delivery.Current().Until", rd[0].Current().Until)
	if e.Caps.Extend {
		leases, err := raw.Extend(e.Ctx, rd, e.Lease)
		e.Must(err, "extend")
		isMonotonic("the end that Extend returns", leases[0].Until)
	}
	e.Must(raw.Ack(e.Ctx, rd), "ack")
}

// far is a connection whose answers take a while: through a proxy, or in virtual time for extensions alone.
type far struct {
	*line
	lag atomic.Int64 // of an answer, counted from the request
}

func (e *Env) far() *far { return &far{line: e.line()} }

// away sets how far away the broker is: the time of a round trip.
func (f *far) away(roundTrip time.Duration) {
	f.lag.Store(int64(roundTrip))
	if f.proxy != nil {
		f.proxy.Set(proxy.Fault{Latency: roundTrip / 2})
	}
}

func (f *far) OpenConsumer(ctx context.Context, queue string, cfg driver.ConsumerConfig) (driver.Consumer, error) {
	c, err := f.Backend.OpenConsumer(ctx, queue, cfg)
	if err != nil || f.proxy != nil {
		return c, err
	}
	return &farConsumer{Consumer: c, far: f}, nil
}

type farConsumer struct {
	driver.Consumer
	far *far
}

func (c *farConsumer) Extend(ctx context.Context, ds []*driver.Delivery, term time.Duration) ([]driver.Lease, error) {
	leases, err := c.Consumer.Extend(ctx, ds, term)
	timer := time.NewTimer(time.Duration(c.far.lag.Load()))
	defer timer.Stop()
	<-timer.C
	return leases, err
}

// countedFromTheSend compares the end of a lease with the moment of the answer: the request was sent at least a round
// trip before that, so a lease counted from its send ends at least a round trip earlier than one counted from the answer.
func countedFromTheSend(e *Env) {
	if e.Caps.Extend {
		e.extendedFromAfar()
		e.keptFromAfar()
	}
	e.receivedFromAfar()
}

// extendedFromAfar: of the driver, with answers that take half a lease.
func (e *Env) extendedFromAfar() {
	lag := e.Lease / 2
	e.Publish(queue.Lanes{}, Job{ID: "extended"})
	f := e.far()
	c, err := f.OpenConsumer(e.Ctx, e.Queue, driver.ConsumerConfig{Window: 10, Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	ds := e.raw(c, 1)
	f.away(lag)
	asked := time.Now()
	leases, err := c.Extend(e.Ctx, ds, e.Lease)
	answered := time.Now()
	f.away(0)
	e.Must(err, "extend")
	until := leases[0].Until
	e.Check(!until.After(answered.Add(e.Lease-lag)), "extended by %v, counted from the answer: %v after the request", e.Lease, until.Sub(asked))
	e.Check(until.After(asked.Add(e.Lease/2)), "an extension by %v ends %v after the request", e.Lease, until.Sub(asked))
	taker := e.Puller("taker", e.Open(), queue.ConsumerConfig{Retry: often})
	d := e.Receive(taker, 1, e.back())[0]
	early := time.Until(until)
	e.Check(early <= 0, "the message was given away %v before the end of its lease", early)
	e.Must(d.Ack(e.Ctx), "ack")
	e.Must(taker.Close(e.Ctx), "close the taker")
	e.Must(c.Close(e.Ctx), "close the holder")
}

// receivedFromAfar: of the driver, the first lease.
func (e *Env) receivedFromAfar() {
	lag := e.Lease / 4
	f := e.far()
	if f.proxy == nil {
		return // only extensions are slow
	}
	c, err := f.OpenConsumer(e.Ctx, e.Queue, driver.ConsumerConfig{Window: 10, Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	e.Publish(queue.Lanes{}, Job{ID: "warm"})
	e.Must(c.Ack(e.Ctx, e.raw(c, 1)), "ack") // whatever the first receive has to set up is set up
	e.Publish(queue.Lanes{}, Job{ID: "received"})
	f.away(lag)
	asked := time.Now()
	ds := e.raw(c, 1)
	answered := time.Now()
	f.away(0)
	lag = min(lag, answered.Sub(asked)) // a broker that pushes may have sent the message before
	until := ds[0].Granted.Until
	e.Check(!until.After(answered.Add(e.Lease-lag)), "a lease of %v ends %v after the answer, which took %v", e.Lease, until.Sub(answered), lag)
	e.Must(c.Ack(e.Ctx, ds), "ack")
}

// keptFromAfar: of the queue, which has to take the driver's word for the end. It tries again what is not answered in a
// third of the lease, so the broker is nearer here.
func (e *Env) keptFromAfar() {
	lag := e.Lease / 20
	e.Publish(queue.Lanes{}, Job{ID: "kept"})
	f := e.far()
	hooks := e.Journaled("holder")
	journal := hooks.Extended
	var mu sync.Mutex
	var generous []time.Duration
	checked := 0
	var slow atomic.Bool
	hooks.Extended = func(d *queue.Delivery, until time.Time) {
		journal(d, until)
		mu.Lock()
		defer mu.Unlock()
		if slow.Load() {
			checked++
			if more := time.Until(until) - (e.Lease - lag); more > 0 {
				generous = append(generous, more)
			}
		}
	}
	c := e.ConsumerOn(f, e.Queue, queue.ConsumerConfig{Hooks: hooks, Retry: often})
	d := e.Receive(c, 1, late)[0]
	f.away(lag)
	e.Sleep(e.Lease / 3) // what was answered before is reported by now
	slow.Store(true)
	e.Sleep(2 * e.Lease)
	slow.Store(false)
	f.away(0)
	if err := d.Ack(e.Ctx); !errors.Is(err, queue.ErrLeaseLost) { // as may be on a machine that stalls
		e.Must(err, "ack")
	}
	mu.Lock()
	defer mu.Unlock()
	e.Check(len(generous) == 0, "the queue counts %d leases from the answer, by up to %v", len(generous), generous)
	e.Check(checked > 0, "no extension was confirmed in two leases")
	e.Valid(history.Options{})
}
