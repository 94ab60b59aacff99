package queue

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// longPoll is how long one call to the broker waits for a message.
const longPoll = 20 * time.Second

// ConsumerConfig configures a Consumer. The zero value works.
type ConsumerConfig struct {
	// Window bounds the deliveries that are received and not settled. Zero: 256.
	Window int
	// Lease is the term to ask for where the broker's leases have one; it is extended for as long as needed, so it bounds
	// how long the messages of a dead process wait, not how long a job may take. Zero: 30 s.
	Lease time.Duration
	// Longest is the longest job that is expected; brokers that end long deliveries are told. Zero: unknown.
	Longest time.Duration
	// Lanes says which lanes the producers use.
	Lanes Lanes
	// Retry says what happens to failed messages.
	Retry Retry
	// DeadLetters is the queue that dead letters go to. Empty: the queue's name with ".dead" added.
	DeadLetters string
	// Needs is what the application cannot do without.
	Needs Needs
	// Hooks are called as things happen.
	Hooks Hooks
	// Logger gets a line for each lost lease, dead letter and verdict that failed. Nil: slog.Default.
	Logger *slog.Logger
}

func (c ConsumerConfig) withDefaults(queue string) ConsumerConfig {
	setDefault(&c.Window, 256)
	setDefault(&c.Lease, 30*time.Second)
	setDefault(&c.DeadLetters, queue+".dead")
	setDefault(&c.Logger, slog.Default())
	c.Retry = c.Retry.withDefaults()
	return c
}

func (c *ConsumerConfig) check(caps driver.Capabilities) error {
	if c.Window < 0 || c.Lease < 0 || c.Longest < 0 || c.Retry.MaxAttempts < 0 || c.Retry.MaxCrashes < 0 {
		return invalid("a negative Window, Lease, Longest, MaxAttempts or MaxCrashes: use zero for the default")
	}
	if noRedelay(caps) {
		return &UnsupportedError{Broker: brokerName(caps), Wanted: "retries after a delay", Has: "no delay that keeps a message's counts"}
	}
	if err := c.Lanes.unmet(caps); err != nil {
		return err
	}
	return c.Needs.unmet(caps)
}

// Consumer receives messages one call at a time and keeps their leases until they are settled. It is safe for
// concurrent use. A Worker is the better choice unless something else already runs the loop.
type Consumer struct {
	name    string
	backend driver.Backend
	caps    driver.Capabilities
	cfg     ConsumerConfig
	in      driver.Consumer
	log     *slog.Logger
	keeper  *keeper
	settler *settler
	stats   counters
	onPoke  func() // called when a delivery is settled or lost; set before the first receive

	life context.Context // the lifetime of the loops
	end  context.CancelFunc
	done sync.WaitGroup

	turn     chan struct{}   // capacity 1: held by the Receive under way, which alone may fill the window
	shut     context.Context // ends calls of Receive when the consumer is closed
	shutNow  context.CancelFunc
	receives sync.WaitGroup // calls of Receive under way; added to under mu, while closed is false

	mu      sync.Mutex
	outlets map[string]driver.Producer
	closed  bool

	lastErr atomic.Pointer[Error] // of the last call to the broker; nil after a success
}

// NewConsumer opens a queue for receiving. It returns an UnsupportedError if the broker cannot do what cfg asks for.
func NewConsumer(ctx context.Context, b driver.Backend, queue string, cfg ConsumerConfig) (*Consumer, error) {
	cfg = cfg.withDefaults(queue)
	c := &Consumer{name: queue, backend: b, caps: b.Capabilities(), cfg: cfg, log: cfg.Logger, outlets: map[string]driver.Producer{}}
	if err := cfg.check(c.caps); err != nil {
		return nil, &Error{Op: "open consumer", Queue: queue, Err: err}
	}
	in, err := b.OpenConsumer(ctx, queue, driver.ConsumerConfig{Window: cfg.Window, Term: cfg.Lease, Longest: cfg.Longest})
	if err != nil {
		return nil, &Error{Op: "open consumer", Queue: queue, Err: err}
	}
	c.in = in
	c.turn = make(chan struct{}, 1)
	c.shut, c.shutNow = context.WithCancel(context.WithoutCancel(ctx))
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.keeper, c.settler = newKeeper(c, cfg.Lease), newSettler(c)
	c.onPoke = func() {}
	c.done.Go(func() { c.keeper.run(c.life) })
	c.done.Go(func() { c.settler.run(c.life) })
	return c, nil
}

// Receive leases at most limit messages, and waits until there is at least one or ctx ends. It returns none without an
// error only if what came was settled unseen (dead-lettered, not due yet).
func (c *Consumer) Receive(ctx context.Context, limit int) ([]*Delivery, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, c.wrap("receive", "", ErrClosed)
	}
	c.receives.Add(1)
	c.mu.Unlock()
	defer c.receives.Done()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(c.shut, func() { stop(c.wrap("receive", "", ErrClosed)) })()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		room := c.room()
		if room <= 0 {
			return nil, c.wrap("receive", "", invalid("Window is full: settle deliveries before receiving more"))
		}
		ds, in, err := c.receive(ctx, driver.Want{Max: min(limit, room)}, longPoll)
		if err != nil && c.shut.Err() != nil {
			err = c.wrap("receive", "", ErrClosed)
		}
		if err != nil || len(in) > 0 {
			return ds, err
		}
	}
}

// receive is one call to the broker. in is what came, ds what is left of it after some was settled unseen.
func (c *Consumer) receive(ctx context.Context, want driver.Want, wait time.Duration) (ds []*Delivery, in []*driver.Delivery, err error) {
	if c.lastErr.Load() != nil {
		wait = min(wait, topPause) // to know soon that the broker is back
	}
	in, err = c.in.Receive(ctx, want, wait)
	base := context.WithoutCancel(ctx)
	ds = make([]*Delivery, 0, len(in))
	for _, one := range in {
		if d := c.admit(base, one); d != nil {
			ds = append(ds, d)
		}
	}
	switch {
	case err == nil:
		c.fine()
	case ctx.Err() == nil:
		c.trouble("receive", err)
		err = c.wrap("receive", "", err)
	}
	return ds, in, err
}

// room is how many more deliveries fit into the window.
func (c *Consumer) room() int { return c.cfg.Window - c.keeper.count() }

// Close gives back what was received and not settled, waits for verdicts under way until ctx ends, and closes.
func (c *Consumer) Close(ctx context.Context) error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return nil
	}
	c.shutNow()
	c.receives.Wait() // what they still bring is given back below
	for _, d := range c.keeper.all() {
		d.revoke(ErrClosed)
	}
	err := c.flush(ctx)
	c.end()
	c.done.Wait()
	for _, out := range c.takeOutlets() {
		err = errors.Join(err, out.Close(ctx))
	}
	return c.wrap("close", "", errors.Join(err, c.in.Close(ctx)))
}

// flush waits until every verdict under way has its outcome.
func (c *Consumer) flush(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.settler.pending() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// outlet is the producer that copies go to. It is opened when first needed.
func (c *Consumer) outlet(ctx context.Context, queue string) (driver.Producer, error) {
	c.mu.Lock()
	out := c.outlets[queue]
	c.mu.Unlock()
	if out != nil {
		return out, nil
	}
	out, err := c.backend.OpenProducer(ctx, queue)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outlets[queue] = out // only the copies loop calls this, one call at a time
	return out, nil
}

// dropOutlet forgets a producer whose queue is gone.
func (c *Consumer) dropOutlet(ctx context.Context, queue string) {
	c.mu.Lock()
	out := c.outlets[queue]
	delete(c.outlets, queue)
	c.mu.Unlock()
	if out != nil {
		_ = out.Close(ctx) // nothing was stored by it
	}
}

func (c *Consumer) takeOutlets() map[string]driver.Producer {
	c.mu.Lock()
	defer c.mu.Unlock()
	outlets := c.outlets
	c.outlets = map[string]driver.Producer{}
	return outlets
}

// callTimeout bounds one call that settles: short enough to be tried again within a lease.
func (c *Consumer) callTimeout() time.Duration {
	return min(max(c.cfg.Lease/3, time.Second), 10*time.Second)
}

// copyTimeout bounds the publishing of a copy. Without deduplication a copy that is sent again because its confirmation was
// slow is there twice, so the confirmation is waited for; the lease is kept meanwhile.
func (c *Consumer) copyTimeout() time.Duration {
	if c.caps.Dedup == 0 {
		return 10 * time.Second
	}
	return c.callTimeout()
}

func (c *Consumer) poke() { c.onPoke() }

// trouble notes a call that failed and will be tried again.
func (c *Consumer) trouble(op string, err error) {
	c.lastErr.Store(&Error{Op: op, Queue: c.name, Err: err})
	c.log.Debug("call to the broker failed", "op", op, "queue", c.name, "err", err)
	call2(c.cfg.Hooks.Failed, op, err)
}

func (c *Consumer) fine() {
	if c.lastErr.Load() != nil {
		c.lastErr.Store(nil)
	}
}

func (c *Consumer) wrap(op, id string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Queue: c.name, ID: id, Err: err}
}
