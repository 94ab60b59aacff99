package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Backend is one connection to a Broker. It implements driver.Backend and all optional interfaces of the contract.
type Backend struct {
	broker *Broker

	// Broker.mu guards what follows.
	closed, killed bool
	consumers      map[*consumer]struct{}
	opened         int // consumers so far
	calls          map[string]int64

	done    chan struct{} // closed by Close
	watches sync.WaitGroup
}

var _ interface {
	driver.Backend
	driver.LaneWatcher
	driver.Admin
	driver.Gauger
	driver.Inspector
	driver.Meter
	driver.Pinger
} = (*Backend)(nil)

// Open makes a broker and a connection to it: the short form for a test that needs only one.
func Open(c Config) *Backend { return New(c).Open() }

// Broker is what the connection leads to.
func (b *Backend) Broker() *Broker { return b.broker }

// Capabilities says what the broker can do, as its Config left it.
func (b *Backend) Capabilities() driver.Capabilities { return b.broker.caps }

// Kill drops the connection as a SIGKILL of its process would: nothing is given back, leases run out by the clock, and
// every later call returns driver.Unavailable, those of its producers and consumers included (but a delivery whose
// Lease.Session ended is refused with driver.LeaseLost). The lane watches of the connection fall silent. Only Close
// still works, to free what is local.
func (b *Backend) Kill() {
	b.broker.mu.Lock()
	var over []*session
	if !b.closed && !b.killed {
		b.killed = true
		delete(b.broker.backends, b)
		for _, q := range b.broker.queues {
			q.fail(fail("receive", driver.Unavailable, errKilled), func(w *waiter) bool { return w.c.b == b })
		}
		b.broker.unwatch(b)
		over = b.endSessions()
	}
	b.broker.mu.Unlock()
	for _, s := range over {
		s.cancel(fail("session", driver.Unavailable, errKilled))
	}
}

// endSessions ends the session of every consumer. The caller holds Broker.mu and cancels them after releasing it.
func (b *Backend) endSessions() []*session {
	var over []*session
	for c := range b.consumers {
		over = append(over, c.endSession()...)
	}
	return over
}

// Close closes producers, consumers and watches: what consumers held is available at once. After Kill it gives nothing
// back. A second Close returns nil.
func (b *Backend) Close(ctx context.Context) error {
	b.broker.mu.Lock()
	if b.closed {
		b.broker.mu.Unlock()
		return nil
	}
	b.closed = true
	close(b.done)
	delete(b.broker.backends, b)
	b.broker.unwatch(b)
	consumers := slices.SortedFunc(maps.Keys(b.consumers), func(c, d *consumer) int { return cmp.Compare(c.id, d.id) })
	b.broker.mu.Unlock()

	b.watches.Wait() // they only wait for done, so this takes no time
	var errs []error
	for _, c := range consumers {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// OpenProducer opens a queue for publishing and makes it if there is none of that name.
func (b *Backend) OpenProducer(ctx context.Context, queue string) (driver.Producer, error) {
	if err := b.open(ctx, "open producer", queue); err != nil {
		return nil, err
	}
	defer b.broker.mu.Unlock()
	return &producer{b: b, queue: queue}, nil
}

// OpenConsumer opens a queue for receiving and makes it if there is none of that name. Of the configuration it takes
// Term; Window is the caller's to keep, since nothing is leased that Receive did not ask for.
func (b *Backend) OpenConsumer(ctx context.Context, queue string, cc driver.ConsumerConfig) (driver.Consumer, error) {
	if err := b.open(ctx, "open consumer", queue); err != nil {
		return nil, err
	}
	defer b.broker.mu.Unlock()
	b.opened++
	c := &consumer{b: b, id: b.opened, queue: queue, term: cc.Term, held: map[*message]struct{}{}}
	if c.term <= 0 {
		c.term = DefaultTerm
	}
	if longest := b.broker.cfg.MaxTerm; longest > 0 {
		c.term = min(c.term, longest)
	}
	b.consumers[c] = struct{}{}
	return c, nil
}

func (b *Backend) open(ctx context.Context, op, queue string) error {
	if queue == "" {
		return fail(op, driver.Invalid, errors.New("a queue needs a name"))
	}
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	b.broker.queue(queue)
	return nil
}

// enter begins a request: it returns with Broker.mu held, or with an error and without it. An ended ctx is
// driver.Unavailable, because nothing was sent.
func (b *Backend) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fail(op, driver.Unavailable, err)
	}
	b.broker.mu.Lock()
	if err := b.reach(op); err != nil {
		b.broker.mu.Unlock()
		return err
	}
	return nil
}

// reach sends a request, which is to say that it counts it, if it would arrive. The caller holds Broker.mu.
func (b *Backend) reach(op string) error {
	switch {
	case b.closed:
		return fail(op, driver.Closed, nil)
	case b.killed:
		return fail(op, driver.Unavailable, errKilled)
	case b.broker.down:
		return unavailable(op)
	}
	b.calls[op]++
	return nil
}

// batch checks the number of items of one call.
func (b *Backend) batch(op string, n int) error {
	if most := b.broker.cfg.MaxBatch; most > 0 && n > most {
		return fail(op, driver.Invalid, fmt.Errorf("%d items, the broker takes %d", n, most))
	}
	return nil
}
