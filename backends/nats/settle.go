package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// What a settlement says to the server. Each is sent as a request: the plain ones of nats.go return nil when nothing
// has arrived.
var (
	ackNow     = []byte("+ACK")
	nakNow     = []byte("-NAK")
	inProgress = []byte("+WPI")
)

const (
	maxState   = 4 << 10     // bytes of Return.State
	unreadable = time.Second // until a message whose state could not be read is tried again
)

func nakAfter(delay time.Duration) []byte {
	if delay <= 0 {
		return nakNow
	}
	return []byte(`-NAK {"delay": ` + strconv.FormatInt(int64(delay), 10) + `}`)
}

// receiptOf is the receipt of a delivery of this consumer.
func (c *Consumer) receiptOf(d *driver.Delivery) (*receipt, error) {
	if d == nil {
		return nil, errForeign
	}
	r, ok := d.Receipt.(*receipt)
	if !ok || r.c != c {
		return nil, errForeign
	}
	return r, nil
}

// batch is the deliveries of one call that something is sent for.
type batch struct {
	receipts []*receipt
	msgs     []*natsgo.Msg
	index    []int // of each in the caller's slice
	errs     driver.BatchError
}

func (b *batch) add(i int, r *receipt, body []byte) {
	b.receipts = append(b.receipts, r)
	b.msgs = append(b.msgs, &natsgo.Msg{Subject: r.reply, Data: body})
	b.index = append(b.index, i)
}

// Ack implements driver.Consumer. After the end of a lease nothing is sent: the server would take the
// acknowledgement for one of whoever has the message by now.
func (c *Consumer) Ack(ctx context.Context, ds []*driver.Delivery) error {
	const op = "ack"
	if !c.calls.enter() {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	b := batch{errs: make(driver.BatchError, len(ds))}
	for i, d := range ds {
		r, err := c.receiptOf(d)
		var nothing bool
		if err == nil {
			nothing, err = r.begin()
		}
		if err != nil {
			b.errs[i] = fail(op, err)
		} else if !nothing {
			b.add(i, r, ackNow)
		}
	}
	for j, o := range c.b.request(ctx, callAck, b.msgs...) {
		r := b.receipts[j]
		if o.err != nil {
			// Not answered or not sent: a second Ack does no harm while the lease lasts.
			r.finish(leased)
			b.errs[b.index[j]] = fail(op, c.explain(ctx, r, o.err))
			continue
		}
		r.finish(acked)
		c.release(r)
		c.forgetState(r)
	}
	return b.errs.OrNil()
}

// explain finds out why nobody answers for the consumer of a delivery.
func (c *Consumer) explain(ctx context.Context, r *receipt, err error) error {
	if !errors.Is(err, errNoResponder) {
		return err
	}
	info, gone := c.b.missing(ctx, c.names.stream)
	if gone != nil {
		return gone
	}
	if epochOf(info) != r.epoch {
		return errOldQueue
	}
	r.lane.lost()
	return err
}

// Nack implements driver.Consumer. What the next delivery shall know is stored first: a crash in between leaves the
// lease to run out, and the message comes back later, but with its state.
//
// One danger is left. A Nack that is held up on the way until the lease has ended, such as in a network that stores
// what it cannot deliver, ends the lease of whoever has the message by then: the server looks it up by sequence
// alone. With a State the window is small, because the stored state is confirmed just before.
func (c *Consumer) Nack(ctx context.Context, rs []driver.Return) error {
	const op = "nack"
	if !c.calls.enter() {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	errs := make(driver.BatchError, len(rs))
	begun := make([]*receipt, len(rs))
	var writes []stateWrite
	for i, ret := range rs {
		r, err := c.beginReturn(ret)
		if err != nil {
			errs[i] = fail(op, err)
			continue
		}
		begun[i] = r
		if ret.State != "" || r.memory.sequence != 0 {
			next := r.memory
			next.state = ret.State
			writes = append(writes, stateWrite{item: i, receipt: r, next: next})
		}
	}
	for j, err := range c.writeStates(ctx, writes) {
		if err != nil {
			i := writes[j].item
			begun[i].finish(leased)
			begun[i] = nil
			errs[i] = fail(op, err)
		}
	}
	c.sendReturns(ctx, rs, begun, errs)
	return errs.OrNil()
}

func (c *Consumer) beginReturn(ret driver.Return) (*receipt, error) {
	r, err := c.receiptOf(ret.D)
	if err != nil {
		return nil, err
	}
	if len(ret.State) > maxState {
		return nil, invalid("", fmt.Errorf("state of %d bytes, of at most %d", len(ret.State), maxState))
	}
	nothing, err := r.begin()
	if nothing {
		err = errSettled
	}
	return r, err
}

// sendReturns gives back what is not nil in begun.
func (c *Consumer) sendReturns(ctx context.Context, rs []driver.Return, begun []*receipt, errs driver.BatchError) {
	const op = "nack"
	b := batch{errs: errs}
	for i, r := range begun {
		if r == nil {
			continue
		}
		if !time.Now().Before(r.until()) { // storing the state has taken too long
			r.finish(leased)
			errs[i] = fail(op, errLeaseOver)
			continue
		}
		b.add(i, r, nakAfter(rs[i].Delay))
	}
	for j, o := range c.b.request(ctx, callNak, b.msgs...) {
		r := b.receipts[j]
		var unsent *unsentError
		if errors.As(o.err, &unsent) || errors.Is(o.err, errNoResponder) {
			r.finish(leased) // certainly not given back
			b.errs[b.index[j]] = fail(op, c.explain(ctx, r, o.err))
			continue
		}
		r.finish(returned)
		c.release(r)
		b.errs[b.index[j]] = fail(op, o.err)
	}
}

// Extend implements driver.Consumer. The server has one term for all leases of a lane, so that the new lease lasts as
// long as the first, from the send of this request.
//
// The server answers in the same way whether the message is still ours or not. An answer therefore counts only if it
// is here before the old lease ends: then the extension was in force before the server could have given the message
// away.
func (c *Consumer) Extend(ctx context.Context, ds []*driver.Delivery, _ time.Duration) ([]driver.Lease, error) {
	const op = "extend"
	if !c.calls.enter() {
		return nil, &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer c.calls.leave()
	leases := make([]driver.Lease, len(ds))
	b := batch{errs: make(driver.BatchError, len(ds))}
	for i, d := range ds {
		r, err := c.receiptOf(d)
		var busy bool
		if err == nil {
			busy, err = r.extendable()
		}
		switch {
		case err != nil:
			b.errs[i] = fail(op, err)
		case busy: // an extension would overwrite the delay of a Nack under way
			leases[i] = r.lease()
		default:
			b.add(i, r, inProgress)
		}
	}
	sent := time.Now()
	for j, o := range c.b.request(ctx, callExtend, b.msgs...) {
		r, i := b.receipts[j], b.index[j]
		err := o.err
		if err != nil {
			err = c.explain(ctx, r, err)
		} else if !r.extend(sent, o.at) {
			err = errLeaseOver
		}
		if err != nil {
			b.errs[i] = fail(op, err)
		} else {
			leases[i] = r.lease()
		}
	}
	return leases, b.errs.OrNil()
}

// giveBack returns messages that no caller has seen, and keeps them from counting as delivered. Whatever fails leaves
// the lease to run out.
func (c *Consumer) giveBack(ms []*receiptMsg) {
	ctx, cancel := context.WithTimeout(c.b.life, 2*c.b.config.Timeout)
	defer cancel()
	var known []*receiptMsg
	for i, err := range c.recall(ctx, ms) {
		if err == nil {
			known = append(known, ms[i])
		}
	}
	writes := make([]stateWrite, 0, len(known))
	for i, m := range known {
		next := m.memory
		next.unseen++
		writes = append(writes, stateWrite{item: i, receipt: m.receipt, next: next})
	}
	_ = c.writeStates(ctx, writes) // an unwritten one counts as a delivery
	c.returnLeases(ctx, receiptsOf(ms), nakNow)
}

func receiptsOf(ms []*receiptMsg) []*receipt {
	rs := make([]*receipt, len(ms))
	for i, m := range ms {
		rs[i] = m.receipt
	}
	return rs
}

// returnLeases gives leases back that nobody settles.
func (c *Consumer) returnLeases(ctx context.Context, rs []*receipt, body []byte) {
	var b batch
	for i, r := range rs {
		if nothing, err := r.begin(); err == nil && !nothing {
			b.add(i, r, body)
		}
	}
	for j := range c.b.request(ctx, callNak, b.msgs...) {
		b.receipts[j].finish(returned)
		c.release(b.receipts[j])
	}
}

func (c *Consumer) returnHeld(ctx context.Context) {
	c.returnLeases(ctx, c.holding(), nakNow)
}
