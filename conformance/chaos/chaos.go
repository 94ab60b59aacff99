// Package chaos is a driver.Backend whose calls fail when a rule says so: before anything is done, or after it was done
// with the answer lost. It shows what package queue makes of a broker's bad day without a network to break.
package chaos

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Op is a call of the contract.
type Op string

// The calls that can fail.
const (
	OpenProducer Op = "open producer"
	OpenConsumer Op = "open consumer"
	Publish      Op = "publish"
	Receive      Op = "receive"
	Ack          Op = "ack"
	Nack         Op = "nack"
	Extend       Op = "extend"
	Ping         Op = "ping"
)

// Fault is what happens to some calls.
type Fault struct {
	Op    Op
	Queue string // of this queue alone; empty: of any
	// Err is returned. Nil: the call is not answered until the fault is healed, whatever its context says.
	Err error
	// Late: the call is made, and Err returned in the place of its success. It should be Ambiguous then.
	Late  bool
	Times int // how many calls; 0: until healed
}

// Backend passes calls on to another one unless a fault is in their way. It is safe for concurrent use. Of the optional
// interfaces it has LaneWatcher and Pinger.
type Backend struct {
	driver.Backend

	mu     sync.Mutex
	faults []*injected
	met    map[Op]int
}

type injected struct {
	Fault
	left   int
	healed chan struct{}
}

// New decorates b.
func New(b driver.Backend) *Backend { return &Backend{Backend: b, met: map[Op]int{}} }

// Inject makes calls fail until heal is called, which may be done twice. Of several faults that fit a call, the first
// injected counts.
func (b *Backend) Inject(f Fault) (heal func()) {
	in := &injected{Fault: f, left: f.Times, healed: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, in)
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.remove(in)
		close(in.healed)
	})
}

func (b *Backend) remove(in *injected) {
	for i, f := range b.faults {
		if f == in {
			b.faults = append(b.faults[:i:i], b.faults[i+1:]...)
			return
		}
	}
}

// Met is how many calls of an operation met a fault so far.
func (b *Backend) Met(op Op) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.met[op]
}

// fault finds what is in the way of a call.
func (b *Backend) fault(op Op, queue string) *injected {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		if f.Op != op || f.Queue != "" && f.Queue != queue {
			continue
		}
		b.met[op]++
		if f.Times > 0 {
			if f.left--; f.left == 0 {
				b.remove(f)
			}
		}
		return f
	}
	return nil
}

// do makes a call unless a fault is in its way.
func (b *Backend) do(op Op, queue string, call func() error) error {
	f := b.fault(op, queue)
	switch {
	case f == nil:
		return call()
	case f.Err == nil:
		<-f.healed
		return call()
	case f.Late:
		if err := call(); err != nil {
			return err
		}
	}
	return f.Err
}

// OpenProducer implements driver.Backend.
func (b *Backend) OpenProducer(ctx context.Context, queue string) (driver.Producer, error) {
	var p driver.Producer
	err := b.do(OpenProducer, queue, func() (err error) { p, err = b.Backend.OpenProducer(ctx, queue); return err })
	if err != nil {
		return nil, err
	}
	return &producer{p, b, queue}, nil
}

// OpenConsumer implements driver.Backend.
func (b *Backend) OpenConsumer(ctx context.Context, queue string, cfg driver.ConsumerConfig) (driver.Consumer, error) {
	var c driver.Consumer
	err := b.do(OpenConsumer, queue, func() (err error) { c, err = b.Backend.OpenConsumer(ctx, queue, cfg); return err })
	if err != nil {
		return nil, err
	}
	return &consumer{c, b, queue}, nil
}

// Watch implements driver.LaneWatcher. Without one below it reports nothing.
func (b *Backend) Watch(ctx context.Context, queue string) (<-chan driver.LaneEvent, error) {
	if w, can := b.Backend.(driver.LaneWatcher); can {
		return w.Watch(ctx, queue)
	}
	none := make(chan driver.LaneEvent)
	context.AfterFunc(ctx, func() { close(none) })
	return none, nil
}

// Ping implements driver.Pinger. Without one below the broker always answers.
func (b *Backend) Ping(ctx context.Context) error {
	return b.do(Ping, "", func() error {
		if p, can := b.Backend.(driver.Pinger); can {
			return p.Ping(ctx)
		}
		return nil
	})
}

type producer struct {
	driver.Producer
	b     *Backend
	queue string
}

func (p *producer) Publish(ctx context.Context, ms []*driver.Message) error {
	return p.b.do(Publish, p.queue, func() error { return p.Producer.Publish(ctx, ms) })
}

type consumer struct {
	driver.Consumer
	b     *Backend
	queue string
}

// Receive never loses what was leased: a late fault has no meaning here.
func (c *consumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) (ds []*driver.Delivery, err error) {
	err = c.b.do(Receive, c.queue, func() (err error) { ds, err = c.Consumer.Receive(ctx, w, wait); return err })
	return ds, err
}

func (c *consumer) Ack(ctx context.Context, ds []*driver.Delivery) error {
	return c.b.do(Ack, c.queue, func() error { return c.Consumer.Ack(ctx, ds) })
}

func (c *consumer) Nack(ctx context.Context, rs []driver.Return) error {
	return c.b.do(Nack, c.queue, func() error { return c.Consumer.Nack(ctx, rs) })
}

func (c *consumer) Extend(ctx context.Context, ds []*driver.Delivery, term time.Duration) ([]driver.Lease, error) {
	leases := make([]driver.Lease, len(ds))
	err := c.b.do(Extend, c.queue, func() (err error) { leases, err = c.Consumer.Extend(ctx, ds, term); return err })
	return leases, err
}
