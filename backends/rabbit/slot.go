package rabbit

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var (
	errCancelled = errors.New("the server has cancelled the consumer: its queue was deleted, or the consumer timeout has passed")
	errUnwanted  = errors.New("nobody wants it")
)

// slot is a channel that holds at most one delivery: prefetch 1, so that no message waits behind a job that runs, and so
// that the end of a channel ends that job's lease alone.
type slot struct {
	c  *Consumer
	s  *session
	ch *amqp.Channel // nil until it is opened

	rpc sync.Mutex // held for a call that is answered, and for what must stay together on the wire

	// Guarded by c.mu.
	use     use
	lane    string
	tag     string   // of its consumer; empty: it has none
	held    *receipt // delivered and not settled
	cur     *receipt // for which it is taken; nil: none yet, or it is not
	next    bool     // cur is being settled, and the consumer brings the next message after that
	verdict bool     // cur is being settled
	closed  bool
	pumped  chan struct{} // closed when the consumer started last can bring nothing more
}

// use is what a slot is doing.
type use int

const (
	idle     use = iota
	starting     // a consumer is on its way
	open         // its consumer waits for a message, or has one that nobody has taken yet
	taken        // its delivery is with the caller, or being settled
	leaving      // it gives back and becomes idle
)

var consumerTags atomic.Int64

func newTag() string { return "hf-" + strconv.FormatInt(consumerTags.Add(1), 36) }

// dial opens the channel.
func (k *slot) dial() error {
	if k.ch != nil {
		return nil
	}
	ch, err := k.s.open()
	if err != nil {
		return err
	}
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	cancels := ch.NotifyCancel(make(chan string, 4))
	k.ch = ch
	if !k.s.spawn(func() { k.watch(closes, cancels) }) {
		return amqp.ErrClosed
	}
	return ch.Qos(1, 0, false)
}

// watch ends the slot when its channel ends, or the server cancels its consumer. The client library does not tell the
// second from our own cancel, and the server may go on to hand messages to the dead consumer: the channel is closed.
func (k *slot) watch(closes <-chan *amqp.Error, cancels <-chan string) {
	for {
		select {
		case err, told := <-closes:
			if told && err != nil {
				k.fail(err)
			}
			k.fail(amqp.ErrClosed)
			return
		case _, told := <-cancels:
			if !told {
				cancels = nil
				continue
			}
			k.fail(errCancelled)
		}
	}
}

// fail ends the slot: its delivery is no longer ours.
func (k *slot) fail(cause error) {
	k.c.mu.Lock()
	if k.closed {
		k.c.mu.Unlock()
		return
	}
	k.closed = true
	held := k.held
	delete(k.c.slots, k)
	if held != nil {
		k.c.withdraw(held)
	}
	k.c.rouse()
	k.c.mu.Unlock()
	if held != nil {
		held.lose(cause)
	}
	if k.ch != nil && !k.ch.IsClosed() {
		k.s.spawn(func() {
			k.rpc.Lock() // the library mixes up the answers to two calls of a channel, and then ends the connection
			defer k.rpc.Unlock()
			_ = k.ch.Close()
		})
	}
}

// consume starts a consumer that stays: the next message comes when the one before is settled.
func (k *slot) consume(lane string) error {
	k.rpc.Lock()
	defer k.rpc.Unlock()
	if err := k.dial(); err != nil {
		return err
	}
	tag, pumped := newTag(), make(chan struct{})
	k.c.mu.Lock()
	k.tag = tag // before the first message can arrive
	k.c.mu.Unlock()
	k.c.b.meter.count(callConsume)
	began := time.Now()
	got, err := k.ch.Consume(k.c.names.lane(lane), tag, false, false, false, false, k.c.arguments())
	if err != nil {
		return err
	}
	k.s.answered(began)
	k.pumped = pumped
	if !k.s.spawn(func() { k.pump(got, lane, pumped) }) {
		return amqp.ErrClosed
	}
	return nil
}

// pump takes in what the broker pushes.
func (k *slot) pump(got <-chan amqp.Delivery, lane string, done chan<- struct{}) {
	defer close(done)
	for m := range got {
		r := newReceipt(k, &m, lane)
		k.c.mu.Lock()
		k.held = r
		if !k.closed {
			k.c.inbox = append(k.c.inbox, r)
			if k.use == taken { // the one before is settled, its confirmation is on the way
				k.use, k.cur, k.next, k.verdict = open, nil, false, false
			}
			k.c.rouse()
			k.c.reap()
		}
		k.c.mu.Unlock()
	}
}

// fetch takes one message of a lane that has some: a consumer that is cancelled when it has got one. It returns nil if
// somebody else was faster. basic.get would do with one call, but its deliveries are subject to the server's consumer
// timeout of 30 minutes, which only a consumer can lift (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
func (k *slot) fetch(lane string) (*receipt, error) {
	k.rpc.Lock()
	defer k.rpc.Unlock()
	if err := k.dial(); err != nil {
		return nil, err
	}
	tag := newTag()
	k.c.b.meter.count(callConsume)
	began := time.Now()
	got, err := k.ch.Consume(k.c.names.lane(lane), tag, false, false, false, false, k.c.arguments())
	if err != nil {
		return nil, err
	}
	k.s.answered(began)
	timer := time.NewTimer(fetchWait)
	defer timer.Stop()
	k.c.b.meter.count(callCancel)
	select {
	case m, is := <-got:
		if !is {
			return nil, amqp.ErrClosed
		}
		// No answer is needed: with one message not settled the server sends no other.
		err := k.ch.Cancel(tag, true)
		return k.keep(&m, lane), err
	case <-timer.C:
	}
	if err := k.ch.Cancel(tag, false); err != nil {
		return nil, err
	}
	for m := range got { // it came just before
		return k.keep(&m, lane), nil
	}
	return nil, nil
}

// fetchWait is how long a message may take that the server says is there.
const fetchWait = 20 * time.Millisecond

func (k *slot) keep(m *amqp.Delivery, lane string) *receipt {
	r := newReceipt(k, m, lane)
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	k.held, k.cur, k.lane = r, r, lane
	return r
}

// retire cancels the slot's consumer and gives back what it brought. It becomes idle.
func (k *slot) retire() error {
	k.rpc.Lock()
	defer k.rpc.Unlock()
	if err := k.cancel(); err != nil {
		return err
	}
	k.c.mu.Lock()
	held := k.held
	if held != nil {
		k.c.withdraw(held)
	}
	k.c.mu.Unlock()
	if held == nil {
		return nil
	}
	if _, err := held.begin(); err != nil {
		return err
	}
	err := k.giveBackHeld(held)
	held.finish(err, returned)
	held.end(errSettled) // for who holds it while the consumer is closed
	return err
}

// cancel ends the slot's consumer and waits until no more messages can come of it.
func (k *slot) cancel() error {
	k.c.mu.Lock()
	tag := k.tag
	k.tag = ""
	k.c.mu.Unlock()
	if tag == "" {
		return nil
	}
	k.c.b.meter.count(callCancel)
	began := time.Now()
	err := k.ch.Cancel(tag, false)
	if err == nil {
		k.s.answered(began)
		<-k.pumped
	}
	return err
}

// settle acks or gives back, and returns when the server has confirmed it. keep says whether the consumer may bring the
// next message at once.
func (k *slot) settle(r *receipt, ack, keep bool) error {
	k.rpc.Lock()
	defer k.rpc.Unlock()
	k.c.mu.Lock()
	tag := k.tag
	if !keep {
		k.tag = ""
	}
	k.c.mu.Unlock()
	if tag != "" && !keep {
		// As in fetch: no message can be on its way.
		k.c.b.meter.count(callCancel)
		if err := k.ch.Cancel(tag, true); err != nil {
			return lost(err)
		}
	}
	return k.send(r, ack)
}

// send puts a verdict on the wire and makes sure that the server has read it: it answers calls of a channel in order, and
// the cheapest of them that changes nothing is asking for the prefetch that is in force anyway.
func (k *slot) send(r *receipt, ack bool) error {
	k.c.mu.Lock()
	if k.held == r { // first: the next message may come before the call returns
		k.held = nil
	}
	closed := k.closed
	k.c.mu.Unlock()
	if closed {
		return lost(errCancelled)
	}
	began := time.Now()
	var err error
	if ack {
		k.c.b.meter.count(callAck)
		err = k.ch.Ack(r.tag, false)
	} else {
		k.c.b.meter.count(callNack)
		err = k.ch.Nack(r.tag, false, true)
	}
	switch {
	case errors.Is(err, amqp.ErrClosed): // nothing was sent
		return lost(err)
	case err != nil:
		return &driver.Error{Kind: driver.Ambiguous, Err: err}
	}
	k.c.b.meter.count(callSync)
	if err := k.ch.Qos(1, 0, false); err != nil {
		return &driver.Error{Kind: driver.Ambiguous, Err: err}
	}
	k.s.answered(began)
	return nil
}

func lost(err error) error { return &driver.Error{Kind: driver.LeaseLost, Err: err} }

// phase is how far a delivery has come.
type phase int

const (
	leased phase = iota
	settling
	acked
	returned
	gone // its channel, or its time, has ended
)

var (
	errSettled = errors.New("it was given back")
	errLapsed  = errors.New("it was not extended in time")
)

// receipt is the driver's handle of one delivery, and its lease: the shorter of what was asked for and of what the server
// is sure to grant a silent client. When it ends without having been settled, the channel is closed: so the message goes
// back at its time also while this process lives.
type receipt struct {
	k    *slot
	tag  uint64
	m    *amqp.Delivery
	lane string

	session context.Context
	end     context.CancelCauseFunc

	mu    sync.Mutex
	phase phase
	until time.Time // zero: not handed out
	last  time.Time // it cannot be extended beyond; zero: it can
	timer *time.Timer
	done  chan struct{} // closed when a settlement that was begun is over
	err   error         // its outcome
}

func newReceipt(k *slot, m *amqp.Delivery, lane string) *receipt {
	r := &receipt{k: k, tag: m.DeliveryTag, m: m, lane: lane}
	r.session, r.end = context.WithCancelCause(context.Background())
	most := k.c.b.caps.MaxTerm
	if most == 0 {
		most = k.c.timeout // the server ends the lease then, and accepts an ack after that in vain
	}
	if most > 0 {
		r.last = time.Now().Add(most)
	}
	return r
}

// grant is the lease from a request that the server has answered, or false if the old one ended before.
func (r *receipt) grant(sent time.Time, term time.Duration) (driver.Lease, bool) {
	until := sent.Add(min(term, r.k.s.patience()))
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() && until.After(r.last) {
		until = r.last
	}
	now := time.Now()
	if r.phase == gone || r.phase == acked || r.phase == returned || !r.until.IsZero() && !now.Before(r.until) {
		return driver.Lease{}, false
	}
	if until.After(r.until) {
		r.until = until
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(r.until.Sub(now), r.lapse)
	} else {
		r.timer.Reset(r.until.Sub(now))
	}
	return driver.Lease{Until: r.until, Session: r.session}, true
}

// lapse runs when the lease's time is over.
func (r *receipt) lapse() {
	r.mu.Lock()
	if r.phase != leased || time.Now().Before(r.until) {
		r.mu.Unlock()
		return
	}
	cause := errLapsed
	if !r.last.IsZero() && !r.until.Before(r.last) {
		cause = errCancelled
	}
	r.mu.Unlock()
	if time.Since(r.k.s.proven()) >= r.k.s.patience() {
		r.k.s.drop(errSilent)
	}
	r.k.fail(cause)
}

// lose ends the lease.
func (r *receipt) lose(cause error) {
	r.mu.Lock()
	if r.phase == leased || r.phase == settling {
		r.phase = gone
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.end(cause)
}

// begin enters settling, or says why not. A delivery that was acked before has nothing to do and no error. One whose
// settlement is under way is waited for.
func (r *receipt) begin() (wait <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.phase == acked:
		return nil, errDone
	case r.phase == settling:
		return r.done, nil
	case r.phase == returned:
		return nil, lost(errSettled)
	case r.phase == gone:
		return nil, lost(context.Cause(r.session))
	case !r.until.IsZero() && !time.Now().Before(r.until):
		return nil, lost(errLapsed)
	}
	r.phase, r.done = settling, make(chan struct{})
	return nil, nil
}

// errDone says that there is nothing to do.
var errDone = errors.New("it was acked before")

// finish leaves settling. After a failure the channel, and with it the lease, is gone or unusable.
func (r *receipt) finish(err error, as phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if r.timer != nil {
		r.timer.Stop()
	}
	switch {
	case err == nil:
		r.phase = as
	case r.phase == settling:
		r.phase = gone
	}
	close(r.done)
}
