package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Consumer leases messages of one queue.
type Consumer struct {
	b     *Backend
	names names
	term  time.Duration
	lanes *lanes
	hints *hints
	calls gate // Receive, Ack, Nack and Extend
	tasks gate // what goes on in the background

	life context.Context // ends with Close
	end  context.CancelCauseFunc

	mu     sync.Mutex
	epoch  string
	held   map[*receipt]struct{} // delivered and, as far as known, not settled
	tidy   int                   // size of held at which expired leases are dropped from it
	broken time.Time             // when the connection last broke; zero once the same server has answered again
}

// OpenConsumer implements driver.Backend.
func (b *Backend) OpenConsumer(ctx context.Context, queue string, config driver.ConsumerConfig) (
	driver.Consumer, error) {
	const op = "open consumer"
	n, err := b.config.names(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	if config.Term < 0 {
		return nil, invalid(op, fmt.Errorf("term: %v", config.Term))
	}
	if config.Term == 0 {
		config.Term = defaultTerm
	}
	info, err := b.ensureQueue(ctx, n)
	if err != nil {
		return nil, fail(op, harmless(err))
	}
	c := &Consumer{
		b: b, names: n, term: config.Term, lanes: newLanes(n), epoch: epochOf(info),
		held: make(map[*receipt]struct{}), tidy: 64,
	}
	c.life, c.end = context.WithCancelCause(context.Background())
	c.hints = newHints(b, n.hints, c.hint)
	if err := c.discover(ctx); err != nil {
		return nil, fail(op, err)
	}
	if err := c.forgetOrphans(ctx, info.State.FirstSeq); err != nil {
		return nil, fail(op, err)
	}
	if err := b.register(op, func() { b.consumers[c] = struct{}{} }); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Consumer) hint(name string) {
	if l, err := c.lanes.get(name); err == nil {
		l.hint()
	}
}

func (c *Consumer) currentEpoch() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *Consumer) setEpoch(epoch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = epoch
}

// background runs f until Close has waited for it.
func (c *Consumer) background(f func()) {
	if !c.tasks.enter() {
		return // closed: what is leased runs out
	}
	go func() {
		defer c.tasks.leave()
		f()
	}()
}

// hold keeps track of what was delivered, for Close and for a broken connection.
func (c *Consumer) hold(r *receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= c.tidy {
		now := time.Now()
		for r := range c.held {
			if r.over(now) {
				delete(c.held, r)
			}
		}
		c.tidy = 2*len(c.held) + 64
	}
	c.held[r] = struct{}{}
	r.doubt(c.broken)
}

func (c *Consumer) release(r *receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, r)
}

func (c *Consumer) holding() []*receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*receipt, 0, len(c.held))
	for r := range c.held {
		all = append(all, r)
	}
	return all
}

// doubt says that the connection broke. A message that came just before and is still on its way to the caller is
// doubted in hold.
func (c *Consumer) doubt(at time.Time) {
	c.mu.Lock()
	c.broken = at
	c.mu.Unlock()
	for _, r := range c.holding() {
		r.doubt(at)
	}
}

// trust says that the server of before has answered again.
func (c *Consumer) trust() {
	c.mu.Lock()
	c.broken = time.Time{}
	c.mu.Unlock()
	for _, r := range c.holding() {
		r.trust()
	}
}

// Close implements driver.Consumer. It gives back what is not settled, and waits for that and for what cancelled calls
// still give back, at most until ctx ends.
func (c *Consumer) Close(ctx context.Context) error {
	c.end(driver.Closed)
	c.hints.close()
	defer c.b.forget(nil, c)
	select {
	case <-c.calls.shut():
	case <-ctx.Done():
		return causeOf(ctx)
	}
	c.returnHeld(ctx)
	select {
	case <-c.tasks.shut():
		return nil
	case <-ctx.Done():
		return causeOf(ctx)
	}
}
