package rabbit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Receive implements driver.Consumer. The demand for a single lane is served by consumers that wait there, one for each
// message wanted; they stay for a moment for the next call. The demand for several is served by a look at those that may
// hold something, in the order of preference. While there is no connection it waits for one.
func (c *Consumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	const op = "receive"
	if w.Max < 1 {
		return nil, invalid(op, fmt.Errorf("want of %d messages", w.Max))
	}
	if !c.calls.enter() {
		return nil, &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.life, func() { cancel(driver.Closed) })()

	deadline := time.Now().Add(wait)
	s, err := c.b.in.session(ctx, wait)
	var got []*receipt
	if err == nil {
		got, err = c.receive(ctx, s, w, deadline)
	}
	ds, err := c.deliver(ctx, got, err)
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), ctx.Err()) {
		return ds, ctx.Err()
	}
	return ds, fail(op, err)
}

// receive waits for messages.
func (c *Consumer) receive(ctx context.Context, s *session, w driver.Want, deadline time.Time) ([]*receipt, error) {
	d := &demand{max: w.Max}
	c.enter()
	defer c.leave(d)
	for {
		wants, many, err := c.resolve(w)
		if err != nil {
			return nil, err
		}
		got, wake, err := c.take(d, w.Max, wants, many)
		raced := false
		if len(got) == 0 && err == nil && many {
			got, raced, err = c.pick(ctx, s, w.Max, wants)
		}
		if len(got) > 0 || err != nil {
			return got, err
		}
		next := time.Until(deadline)
		if next <= 0 {
			return nil, nil
		}
		switch {
		case raced:
			next = min(next, rand.N(raceRest))
		case many:
			next = min(next, sweepEvery)
		default:
			next = min(next, c.prepare(s, d))
		}
		if err := c.await(ctx, s, wake, next); err != nil {
			return nil, err
		}
		if many {
			c.sweep(ctx, s, wants)
		}
	}
}

// await waits for a change, at most for d.
func (c *Consumer) await(ctx context.Context, s *session, wake <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return &driver.Error{Kind: driver.Unavailable, Err: context.Cause(s.ctx)}
	}
	return nil
}

// resolve lists the lanes that are wanted. Any lane means the default one where there are no others.
func (c *Consumer) resolve(w driver.Want) (wants []driver.LaneWant, many bool, err error) {
	if w.Lanes == nil {
		c.lanes.once.Do(func() { c.background(c.learn) })
		wants = c.lanes.all()
	} else {
		wants = w.Lanes
		for _, l := range wants {
			if _, err := token(l.Lane); err != nil {
				return nil, false, err
			}
		}
	}
	many = len(wants) > 1 || len(wants) == 1 && wants[0].Lane != "" && c.lanes.listening()
	if len(wants) > 1 {
		c.lanes.ears.Do(func() { c.background(c.hear) })
	}
	return wants, many, nil
}

// take takes what was pushed and is wanted. The channel is closed when something changes after that.
func (c *Consumer) take(d *demand, most int, wants []driver.LaneWant, many bool) (got []*receipt, wake <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !many && len(wants) == 1 {
		d.lane = wants[0].Lane
		if m := wants[0].Max; m > 0 {
			d.max = min(most, m)
		}
		if _, known := c.demands[d]; !known {
			c.demands[d] = struct{}{}
			c.estimate()
		}
	} else {
		delete(c.demands, d)
	}
	for _, l := range wants {
		limit := most
		if l.Max > 0 {
			limit = min(most, l.Max)
		}
		for i := 0; i < len(c.inbox) && limit > 0 && len(got) < most; {
			r := c.inbox[i]
			if r.lane != l.Lane || r.k.use != open {
				i++
				continue
			}
			c.inbox = append(c.inbox[:i], c.inbox[i+1:]...)
			r.k.use, r.k.cur = taken, r
			got = append(got, r)
			limit--
		}
	}
	if len(got) == 0 {
		err, c.fault = c.fault, nil
	}
	c.reap()
	return got, c.wake, err
}

// enter begins a call: what went wrong for an earlier one is not its business.
func (c *Consumer) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.demands) == 0 {
		c.fault = nil
	}
}

// leave ends a call's demand.
func (c *Consumer) leave(d *demand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.demands, d)
	c.ended = time.Now()
	c.reap()
}

// settleSoon is how long an ack may take to follow the end of its job.
const settleSoon = 2 * time.Millisecond

// prepare makes sure that as many consumers wait as messages are wanted. It returns when it must be called again, at the
// latest.
func (c *Consumer) prepare(s *session, d *demand) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if again := c.lanes.again(d.lane); again > 0 {
		return again
	}
	need := min(d.max, mostOpen) - c.waiting(s, d.lane)
	if need > 0 && !d.patient && c.settling(s, d.lane) {
		// A free slot means a job that has ended: its own consumer is about to be free, and costs nothing.
		d.patient = true
		return settleSoon
	}
	for range need {
		k := c.idleSlot(s, starting)
		k.lane = d.lane
		if !c.backgroundLocked(func() { c.start(k) }) {
			break
		}
	}
	return time.Hour
}

// start starts a consumer in the background.
func (c *Consumer) start(k *slot) {
	err := k.consume(k.lane)
	c.mu.Lock()
	if err == nil {
		if k.use == starting {
			k.use = open
			c.rouse() // it may have brought something already
		}
		c.reap()
		c.mu.Unlock()
		return
	}
	switch {
	case k.lane != "" && isMissing(err): // it holds nothing
		c.lanes.missing(k.lane)
	case k.s.ctx.Err() == nil:
		c.fault = err
	}
	c.rouse()
	c.mu.Unlock()
	k.fail(err)
}

// raceRest is how long who found nothing but lanes that others were emptying waits at most before the next look.
const raceRest = 10 * time.Millisecond

// pick asks the lanes that may hold something, in order, until there is enough. It reports whether somebody else took a
// message that the server had told of: there may be more.
func (c *Consumer) pick(ctx context.Context, s *session, most int, wants []driver.LaneWant) (got []*receipt, raced bool, err error) {
	guesses := 0
	for _, w := range wants {
		left := most - len(got)
		if left == 0 {
			break
		}
		if w.Max > 0 {
			left = min(left, w.Max)
		}
		told, stale, signs := c.lanes.ready(w.Lane)
		switch {
		case told:
		case stale && guesses < sweepLanes: // hundreds of them would hold up the lane that a hint told of
			guesses++
		default:
			continue
		}
		n, err := c.look(ctx, s, w.Lane, signs)
		for range min(n, left) {
			if err != nil {
				break
			}
			var r *receipt
			if r, err = c.fetch(ctx, s, w.Lane); r == nil {
				raced = err == nil
				break
			}
			got = append(got, r)
		}
		if err != nil && len(got) == 0 {
			return nil, false, err
		} else if err != nil {
			break
		}
		if n > 0 {
			c.lanes.served(w.Lane)
		}
	}
	return got, raced, nil
}

// look asks how much a lane holds. One whose queue is not there yet, or was deleted, holds nothing.
func (c *Consumer) look(ctx context.Context, s *session, lane string, signs uint64) (int, error) {
	n, err := c.b.depth(ctx, s, c.names.lane(lane))
	if err != nil && (lane == "" || !isMissing(err)) {
		return 0, err
	}
	if n == 0 {
		c.lanes.empty(lane, signs)
	}
	return n, nil
}

// fetch leases one message of a lane. If ctx ends first, what still comes is given back.
func (c *Consumer) fetch(ctx context.Context, s *session, lane string) (*receipt, error) {
	c.mu.Lock()
	k := c.idleSlot(s, taken)
	c.mu.Unlock()
	type answer struct {
		r   *receipt
		err error
	}
	answers := make(chan answer)
	left := make(chan struct{})
	defer close(left)
	began := c.background(func() {
		r, err := k.fetch(lane)
		select {
		case answers <- answer{r, err}:
		case <-left:
			if r != nil && err == nil {
				c.giveBack(k)
				return
			}
		}
		switch {
		case err != nil:
			k.fail(err)
		case r == nil:
			c.rest(k)
		}
	})
	if !began {
		return nil, driver.Closed
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, a.err
		}
		return a.r, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sweep looks at the next few lanes that nothing is known of.
func (c *Consumer) sweep(ctx context.Context, s *session, wants []driver.LaneWant) {
	for _, lane := range c.lanes.due(wants) {
		n, err := c.b.depth(ctx, s, c.names.lane(lane))
		if err == nil && n > 0 {
			c.lanes.sign(lane)
		}
	}
}

// deliver hands over what was leased. The leases count from a request that the server has answered.
func (c *Consumer) deliver(ctx context.Context, got []*receipt, err error) ([]*driver.Delivery, error) {
	if len(got) == 0 {
		return nil, err
	}
	s := got[0].k.s
	sent := s.proven()
	if time.Since(sent) > min(c.term, s.patience())/8 {
		if sent, err = s.ping(ctx); err != nil {
			for _, r := range got {
				c.background(func() { c.giveBack(r.k) })
			}
			return nil, err
		}
	}
	ds := make([]*driver.Delivery, 0, len(got))
	for _, r := range got {
		lease, ok := r.grant(sent, c.term)
		if !ok {
			continue // its channel has ended meanwhile
		}
		ds = append(ds, c.delivery(r, lease))
	}
	return ds, nil
}

func (c *Consumer) delivery(r *receipt, lease driver.Lease) *driver.Delivery {
	d := &driver.Delivery{
		Message: decode(r.m), Redelivered: c.b.losses(r.m) > 0, SentAt: sentAt(r.m), Granted: lease, Receipt: r, Raw: r.m,
	}
	d.Lane, d.Priority = r.lane, c.b.fromWire(r.m.Priority)
	if d.ID == "" {
		d.ID = contentID(r.m)
	}
	switch c.b.caps.Counting {
	case driver.CountedApart:
		d.DeliveryCount = 1 + count(r.m.Headers, "x-acquired-count")
		d.Unended = count(r.m.Headers, "x-delivery-count")
	case driver.Counted:
		d.DeliveryCount = 1 + c.b.losses(r.m)
	}
	return d
}

func count(h amqp.Table, name string) int {
	switch n := h[name].(type) {
	case int64:
		return int(n)
	case int32:
		return int(n)
	case int:
		return n
	default:
		return 0
	}
}

// contentID stands for the id of a foreign message that has none: AMQP gives messages no identity. It is the same for
// every delivery, and the same for equal messages.
func contentID(m *amqp.Delivery) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%d\x00", m.RoutingKey, m.CorrelationId, m.Type, m.Timestamp.Unix())
	h.Write(m.Body)
	return "amqp-" + hex.EncodeToString(h.Sum(nil)[:12])
}

// receiptOf is the handle of a delivery of this driver.
func (c *Consumer) receiptOf(d *driver.Delivery) (*receipt, error) {
	r, is := d.Receipt.(*receipt)
	if !is || r.k.c != c {
		return nil, invalid("", errors.New("a delivery of another consumer"))
	}
	return r, nil
}
