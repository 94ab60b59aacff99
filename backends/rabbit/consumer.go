package rabbit

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	defaultTerm   = 30 * time.Second
	defaultWindow = 1000
	// longUnknown is the consumer timeout where the application does not say how long its jobs take.
	longUnknown = 24 * time.Hour
	// longMargin is what is added to the longest job, at least; half of it is, at most.
	longMargin = 15 * time.Minute
	// mostOpen bounds how many consumers wait at a queue for one process.
	mostOpen = 64
	// spare is how many idle channels are kept.
	spare = 8
	// grace is how long a consumer or a message may wait for the next Receive before it is given back.
	grace = 40 * time.Millisecond
)

// Consumer leases messages of one queue.
type Consumer struct {
	b       *Backend
	names   names
	term    time.Duration
	timeout time.Duration // the consumer timeout to ask for; 0: none
	calls   gate
	lanes   *lanes
	hints   *hinter
	back    *Producer // of copies that go back; nobody else's

	life context.Context // ends with Close
	end  context.CancelCauseFunc

	mu      sync.Mutex
	over    bool // no goroutine may be added to work
	work    sync.WaitGroup
	slots   map[*slot]struct{}
	inbox   []*receipt // arrived and not taken
	demands map[*demand]struct{}
	ended   time.Time // when the last Receive did
	room    int       // how many deliveries the caller can take in all: an estimate
	roomed  time.Time // when that was made
	tight   time.Time // since when there is more than is wanted; zero: there is not
	reaper  *time.Timer
	fault   error // of a consumer that could not be started
	wake    chan struct{}
}

// demand is a Receive that waits for what is pushed.
type demand struct {
	lane    string
	max     int
	patient bool // it has waited for a consumer that is about to be free
}

// OpenConsumer implements driver.Backend. A Longest that the server would not let a job have is Invalid.
func (b *Backend) OpenConsumer(ctx context.Context, queue string, config driver.ConsumerConfig) (driver.Consumer, error) {
	const op = "open consumer"
	n, err := newNames(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	if config.Term < 0 || config.Longest < 0 {
		return nil, invalid(op, fmt.Errorf("term %v, longest %v", config.Term, config.Longest))
	}
	if most := b.caps.MaxTerm; most > 0 && config.Longest > most {
		return nil, invalid(op, fmt.Errorf("jobs of %v: RabbitMQ %s takes a message back after its consumer timeout, here %v; raise it there "+
			"(consumer_timeout in rabbitmq.conf, or a policy with consumer-timeout) and say so in Config.ConsumerTimeout",
			config.Longest, b.caps.Version, b.config.ConsumerTimeout))
	}
	s, err := b.in.session(ctx, b.config.Timeout)
	if err == nil {
		err = b.declareQueue(ctx, s, n)
	}
	if err != nil {
		return nil, fail(op, err)
	}
	c := &Consumer{
		b: b, names: n, term: config.Term, lanes: newLanes(), hints: newHinter(b, n), slots: map[*slot]struct{}{},
		demands: map[*demand]struct{}{}, wake: make(chan struct{}), back: newProducer(b, n),
	}
	if c.term == 0 {
		c.term = defaultTerm
	}
	if b.timeouts {
		c.timeout = longUnknown
		if config.Longest > 0 {
			c.timeout = config.Longest + max(config.Longest/2, longMargin)
		}
	}
	c.life, c.end = context.WithCancelCause(context.Background())
	c.reaper = time.AfterFunc(time.Hour, c.reapNow)
	if err := b.register(op, c); err != nil {
		c.shut()
		return nil, err
	}
	return c, nil
}

// arguments are those of a basic.consume.
func (c *Consumer) arguments() amqp.Table {
	if c.timeout == 0 {
		return nil
	}
	return amqp.Table{"x-consumer-timeout": c.timeout.Milliseconds()}
}

// background runs f until Close has waited for it. It returns false if the consumer was closed.
func (c *Consumer) background(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backgroundLocked(f)
}

func (c *Consumer) backgroundLocked(f func()) bool {
	if c.over {
		return false
	}
	c.work.Go(f)
	return true
}

// rouse wakes every Receive. c.mu is held.
func (c *Consumer) rouse() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// withdraw takes a delivery out of the inbox. c.mu is held.
func (c *Consumer) withdraw(r *receipt) {
	c.inbox = slices.DeleteFunc(c.inbox, func(other *receipt) bool { return other == r })
}

// idleSlot claims an idle slot of the session, or makes one. c.mu is held.
func (c *Consumer) idleSlot(s *session, as use) *slot {
	for k := range c.slots {
		if k.use == idle && k.s == s && !k.closed {
			k.use, k.cur, k.next, k.verdict = as, nil, false, false
			return k
		}
	}
	k := &slot{c: c, s: s, use: as}
	c.slots[k] = struct{}{}
	return k
}

// rest makes a slot idle, or closes it if there are enough of them.
func (c *Consumer) rest(k *slot) {
	c.mu.Lock()
	n := 0
	for other := range c.slots {
		if other.use == idle {
			n++
		}
	}
	enough := n >= spare
	if k.use = idle; enough {
		k.use = leaving // nobody claims it on its way
	}
	c.rouse()
	c.mu.Unlock()
	if enough {
		k.fail(errUnwanted)
	}
}

// reap looks for consumers and messages that nobody wants, and looks again while there are some. c.mu is held.
func (c *Consumer) reap() {
	surplus := c.surplus()
	if surplus == nil {
		c.tight = time.Time{}
		return
	}
	now := time.Now()
	if c.tight.IsZero() {
		c.tight = now
	}
	if left := grace - now.Sub(c.tight); left > 0 {
		c.reaper.Reset(left)
		return
	}
	c.tight = time.Time{}
	for _, k := range surplus {
		k.use = leaving
		if !c.backgroundLocked(func() { c.giveBack(k) }) {
			return
		}
	}
}

func (c *Consumer) reapNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reap()
}

func (c *Consumer) giveBack(k *slot) {
	if err := k.retire(); err != nil {
		k.fail(err)
		return
	}
	c.rest(k)
}

// surplus are the open slots beyond what is asked for, those without a message first. c.mu is held.
func (c *Consumer) surplus() []*slot {
	wanted := map[string]int{}
	for d := range c.demands {
		wanted[d.lane] += d.max
	}
	for k := range c.slots {
		if k.use == starting || k.next {
			wanted[k.lane]--
		}
	}
	var extra []*slot
	for _, loaded := range []bool{true, false} {
		for k := range c.slots {
			if k.use != open || (k.held != nil) != loaded {
				continue
			}
			if wanted[k.lane] > 0 {
				wanted[k.lane]--
				continue
			}
			extra = append(extra, k)
		}
	}
	slices.Reverse(extra)
	return extra
}

// wants reports whether the consumer of a slot that is being settled may bring the next message at once. c.mu is held.
func (c *Consumer) wants(k *slot) bool {
	if c.over || k.tag == "" {
		return false
	}
	free := 0
	for d := range c.demands {
		if d.lane == k.lane {
			free += min(d.max, mostOpen)
		}
	}
	// The demand may be older than the end of this delivery's job, and between two calls of Receive there is none for a
	// moment: then the slot that it leaves is known by the caller's room.
	waiting, since := c.waiting(k.s, k.lane), time.Since(c.ended)
	if free == 0 && since >= settleSoon {
		return since < grace && waiting == 0
	}
	return free > waiting || waiting+c.running(k) < c.room
}

// roomFresh is how long an estimate of the caller's room stands against smaller ones.
const roomFresh = time.Second

// estimate notes how much the caller wants. That is without what it works on, so the highest of several comes nearest to
// how much it can take in all, and is never above that. c.mu is held.
func (c *Consumer) estimate() {
	n := 0
	for d := range c.demands {
		n += min(d.max, mostOpen)
	}
	if now := time.Now(); n >= c.room || now.Sub(c.roomed) > roomFresh {
		c.room, c.roomed = n, now
	}
}

// running is how many deliveries the caller works on, without that of a slot. c.mu is held.
func (c *Consumer) running(but *slot) (n int) {
	for k := range c.slots {
		if k != but && k.use == taken && k.cur != nil && !k.next && !k.verdict {
			n++
		}
	}
	return n
}

// waiting is how many slots wait for a message of a lane, or are about to. c.mu is held.
func (c *Consumer) waiting(s *session, lane string) (n int) {
	for k := range c.slots {
		if k.lane == lane && k.s == s && !k.closed && (k.use == starting || k.use == open || k.next) {
			n++
		}
	}
	return n
}

// settling is whether one of the slots at a lane may soon wait for the next message. c.mu is held.
func (c *Consumer) settling(s *session, lane string) bool {
	for k := range c.slots {
		if k.lane == lane && k.s == s && k.use == taken && k.tag != "" && !k.next {
			return true
		}
	}
	return false
}

// Close implements driver.Consumer. It gives back what is not settled, at most until ctx ends; then the connection's end
// does.
func (c *Consumer) Close(ctx context.Context) error {
	defer c.b.forget(c)
	c.end(driver.Closed)
	calls := c.calls.shut()
	return c.b.outlast(ctx, func() {
		<-calls
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.shut()
	})
}

// shut gives back everything and waits for what goes on.
func (c *Consumer) shut() {
	c.end(driver.Closed)
	c.reaper.Stop()
	c.work.Wait()
	c.mu.Lock()
	all := make([]*slot, 0, len(c.slots))
	for k := range c.slots {
		all = append(all, k)
	}
	c.mu.Unlock()
	var leaving sync.WaitGroup
	for _, k := range all {
		leaving.Go(func() {
			if k.ch != nil && !k.ch.IsClosed() {
				_ = k.retire() // or the end of its channel gives it back
			}
			k.fail(driver.Closed)
		})
	}
	leaving.Wait()
	c.hints.close()
}
