package rabbit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var (
	errNacked   = errors.New("the server refuses the message (basic.nack): its queue is full or not available")
	errUnrouted = errors.New("no queue takes the message: it was deleted, or its binding was")
)

// Producer stores messages in one queue.
type Producer struct {
	b     *Backend
	names names
	calls gate
	hints *hinter

	turn  turn    // guards the two below, also while the server is asked
	ch    *outlet // nil: none yet, or it has ended
	known *known

	forget atomic.Bool // known is no longer true
}

// turn is a lock that is waited for no longer than a context lasts.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) leave() { <-t }

// known is what is known to exist at the server, in one session.
type known struct {
	session *session
	lanes   map[string]bool // nil: not read yet
	made    map[string]bool // lanes that were declared
	delays  map[time.Duration]time.Time
}

// newProducer makes a producer without hints.
func newProducer(b *Backend, n names) *Producer {
	return &Producer{b: b, names: n, turn: make(turn, 1)}
}

// OpenProducer implements driver.Backend.
func (b *Backend) OpenProducer(ctx context.Context, queue string) (driver.Producer, error) {
	const op = "open producer"
	n, err := newNames(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	s, err := b.out.session(ctx, b.config.Timeout)
	if err == nil {
		err = b.declareQueue(ctx, s, n)
	}
	if err != nil {
		return nil, fail(op, err)
	}
	p := newProducer(b, n)
	p.hints = newHinter(b, n)
	if _, err := p.outlet(ctx); err != nil { // now, so that the first message is sent at once
		return nil, fail(op, err)
	}
	if err := b.register(op, p); err != nil {
		return nil, err
	}
	return p, nil
}

// Publish implements driver.Producer. Everything is sent before the first confirmation is waited for.
func (p *Producer) Publish(ctx context.Context, ms []*driver.Message) error {
	const op = "publish"
	if !p.calls.enter() {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer p.calls.leave()
	errs := make(driver.BatchError, len(ms))
	parcels := p.pack(ms, errs)
	if len(parcels) == 0 {
		return errs.OrNil()
	}
	out, err := p.outlet(ctx)
	if err == nil {
		err = out.s.unblocked(ctx)
	}
	if err != nil {
		return p.spread(errs, parcels, fail(op, err))
	}
	parcels = p.prepare(ctx, out, parcels, errs)
	for _, c := range parcels {
		c.sent, c.err = out.send(c)
	}
	for _, c := range parcels {
		c.await(ctx)
	}
	out.settle()
	for _, c := range parcels {
		errs[c.index] = fail(op, p.outcome(out, c))
	}
	p.hint(parcels, errs)
	return errs.OrNil()
}

// parcel is a message on its way.
type parcel struct {
	index    int
	m        *driver.Message
	pub      amqp.Publishing
	exchange string
	key      string
	class    time.Duration // of its delay; 0: none
	sent     *amqp.DeferredConfirmation
	err      error
	tag      string

	tagHeader string // the header that the tag is in
}

// pack makes parcels of what can be sent, and notes why the rest cannot.
func (p *Producer) pack(ms []*driver.Message, errs driver.BatchError) []*parcel {
	all := make([]*parcel, 0, len(ms))
	for i, m := range ms {
		// Through the default exchange, which leads to every queue by its name: a queue that was deleted then sends the
		// message back, while an exchange that was deleted ends the channel, and what became of its messages is not known.
		c := &parcel{index: i, m: m, key: p.names.lane(m.Lane), tagHeader: tagHeader}
		var err error
		switch {
		case size(m) > p.b.caps.MaxBytes:
			err = &driver.Error{Kind: driver.TooLarge, Err: fmt.Errorf("%d bytes; this server takes %d", size(m), p.b.caps.MaxBytes)}
		case m.Delay < 0 || m.Delay > maxDelay:
			err = invalid("", fmt.Errorf("delay of %v; at most %v", m.Delay, maxDelay))
		case p.b.config.Existing && (m.Lane != "" || m.Delay > 0):
			err = invalid("", errors.New("lanes and delays need queues that Holdfast declares: Config.Existing is set"))
		default:
			c.pub, err = encode(m, p.b.wirePriority(m.Priority))
		}
		if err == nil && m.Lane != "" {
			_, err = token(m.Lane)
		}
		if err != nil {
			errs[i] = fail("publish", err)
			continue
		}
		if m.Delay > 0 {
			c.class = delayClass(m.Delay)
			c.exchange, c.key = p.names.delay(c.class), p.names.key(m.Lane)
		}
		all = append(all, c)
	}
	return all
}

func (p *Producer) spread(errs driver.BatchError, parcels []*parcel, err error) error {
	for _, c := range parcels {
		errs[c.index] = err
	}
	return errs
}

// prepare makes what the parcels need at the server, and takes out those for which that fails.
func (p *Producer) prepare(ctx context.Context, out *outlet, parcels []*parcel, errs driver.BatchError) []*parcel {
	lanes := map[string]bool{}
	for _, c := range parcels {
		if c.m.Lane != "" {
			lanes[c.m.Lane] = true
		}
	}
	failed := p.ensureLanes(ctx, out.s, lanes)
	kept := parcels[:0]
	for _, c := range parcels {
		err := failed
		if c.m.Lane == "" {
			err = nil
		}
		if err == nil && c.class > 0 {
			err = p.ensureDelay(ctx, out.s, c.class)
		}
		if err != nil { // nothing was sent for the message itself
			errs[c.index] = fail("publish", err)
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

func (p *Producer) inSession(s *session) *known {
	if p.forget.Swap(false) || p.known == nil || p.known.session != s {
		p.known = &known{session: s, made: map[string]bool{}, delays: map[time.Duration]time.Time{}}
	}
	return p.known
}

// ensureLanes enters lanes in the registry, unless they are there, and makes their queues.
func (p *Producer) ensureLanes(ctx context.Context, s *session, lanes map[string]bool) error {
	if len(lanes) == 0 {
		return nil
	}
	if err := p.turn.take(ctx); err != nil {
		return err
	}
	defer p.turn.leave()
	k := p.inSession(s)
	var missing, unknown []string
	for lane := range lanes {
		if !k.made[lane] {
			missing = append(missing, lane)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if k.lanes == nil {
		known, err := p.b.lanesOf(ctx, s, p.names)
		if err != nil {
			return err
		}
		k.lanes = known
	}
	for _, lane := range missing {
		if !k.lanes[lane] {
			unknown = append(unknown, lane)
		}
	}
	if len(unknown) > 0 {
		if err := p.b.enter(ctx, s, p.names, unknown); err != nil {
			return err
		}
	}
	for _, lane := range unknown {
		k.lanes[lane] = true
	}
	if err := p.b.declareLanes(ctx, s, p.names, missing); err != nil {
		return err
	}
	for _, lane := range missing {
		k.made[lane] = true
	}
	return nil
}

func (p *Producer) ensureDelay(ctx context.Context, s *session, class time.Duration) error {
	if err := p.turn.take(ctx); err != nil {
		return err
	}
	defer p.turn.leave()
	k := p.inSession(s)
	if at, made := k.delays[class]; made && time.Since(at) < delayFresh {
		return nil
	}
	began := time.Now()
	err := s.call(ctx, func(ch *amqp.Channel) error { return p.b.declareDelay(ch, p.names, class) })
	if err == nil {
		k.delays[class] = began
	}
	return err
}

// await waits for the server's word about a parcel.
func (c *parcel) await(ctx context.Context) {
	if c.err != nil {
		return
	}
	select {
	case <-c.sent.Done():
	case <-ctx.Done():
		select {
		case <-c.sent.Done():
		default:
			c.err = &driver.Error{Kind: driver.Ambiguous, Err: context.Cause(ctx)}
		}
	}
}

// outcome is what the server said of a parcel.
func (p *Producer) outcome(out *outlet, c *parcel) error {
	if c.err != nil {
		return c.err
	}
	switch returned := out.returned(c.tag); {
	case !c.sent.Acked() && out.ch.IsClosed():
		why := out.why()
		if isMissing(why) { // the exchange of a delay, deleted with its queue
			p.forget.Store(true)
		}
		return &driver.Error{Kind: driver.Ambiguous, Err: why}
	case !c.sent.Acked():
		return &driver.Error{Kind: driver.Throttled, Err: errNacked}
	case returned:
		return p.unrouted(c)
	}
	return nil
}

// unrouted: what was known to exist does not. A lane or a delay is made again by the next try; the queue itself was
// deleted by somebody who meant it.
func (p *Producer) unrouted(c *parcel) error {
	kind := driver.NotFound
	if c.class > 0 || c.m.Lane != "" {
		p.forget.Store(true)
		kind = driver.Unavailable
	}
	return &driver.Error{Kind: kind, Err: errUnrouted}
}

// hint tells waiting workers what has come.
func (p *Producer) hint(parcels []*parcel, errs driver.BatchError) {
	for _, c := range parcels {
		if errs[c.index] == nil && c.m.Lane != "" {
			p.hints.add(c.m.Lane, c.class)
		}
	}
}

// Close implements driver.Producer.
func (p *Producer) Close(ctx context.Context) error {
	defer p.b.forget(p)
	calls := p.calls.shut()
	err := p.b.outlast(ctx, func() {
		<-calls
		p.hints.close()
	})
	if err == nil {
		err = p.turn.take(ctx)
	}
	if err != nil {
		return err
	}
	out := p.ch
	p.ch = nil
	p.turn.leave()
	if out == nil || out.s.ctx.Err() != nil {
		return nil
	}
	// A server that blocks publishing reads nothing and does not answer: then the channel ends with the connection.
	closing, cancel := context.WithTimeoutCause(ctx, closeWait, errSilent)
	defer cancel()
	if err := out.s.do(closing, out.ch.Close); !errors.Is(err, errSilent) {
		return fail("close", ignoreClosed(err))
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

// outlet is a channel in confirm mode. Messages that no queue takes come back before they are confirmed; they are told
// apart by a tag in their headers.
type outlet struct {
	s  *session
	ch *amqp.Channel

	asked chan chan struct{} // for the goroutine that reads what came back: has it read everything?
	gone  chan struct{}      // that goroutine has ended
	fault atomic.Pointer[amqp.Error]

	mu   sync.Mutex
	back map[string]bool
}

var tags atomic.Int64

// outlet returns the producer's channel, a new one if the old one has ended.
func (p *Producer) outlet(ctx context.Context) (*outlet, error) {
	s, err := p.b.out.session(ctx, p.b.config.Timeout)
	if err != nil {
		return nil, err
	}
	if err := p.turn.take(ctx); err != nil {
		return nil, err
	}
	defer p.turn.leave()
	if p.ch != nil && p.ch.s == s && !p.ch.ch.IsClosed() {
		return p.ch, nil
	}
	var out *outlet
	err = s.do(ctx, func() error {
		ch, err := s.open()
		if err != nil {
			return err
		}
		out = &outlet{s: s, ch: ch, asked: make(chan chan struct{}), gone: make(chan struct{}), back: map[string]bool{}}
		closes := ch.NotifyClose(make(chan *amqp.Error, 1))
		returns := ch.NotifyReturn(make(chan amqp.Return)) // without a buffer: see returned
		if !s.spawn(func() { out.read(returns, closes) }) {
			return amqp.ErrClosed
		}
		return ch.Confirm(false)
	})
	if err != nil {
		return nil, err
	}
	p.ch = out
	return out, nil
}

func (o *outlet) read(returns <-chan amqp.Return, closes <-chan *amqp.Error) {
	defer close(o.gone)
	for {
		select {
		case r, open := <-returns:
			if !open {
				if err := <-closes; err != nil {
					o.fault.Store(err)
				}
				return
			}
			tag, copied := r.Headers[backHeader].(string)
			if !copied {
				tag, _ = r.Headers[tagHeader].(string)
			}
			o.mu.Lock()
			o.back[tag] = true
			o.mu.Unlock()
		case done := <-o.asked:
			close(done)
		}
	}
}

// settle returns when it is noted what came back of the parcels that are confirmed. The server sends a message back before
// it confirms it, and the client library hands over what comes in order, to a channel without a buffer: so it has been read
// by now, and an answer to a question that is asked now comes after it was noted.
func (o *outlet) settle() {
	done := make(chan struct{})
	select {
	case o.asked <- done:
		<-done
	case <-o.gone:
	}
}

// returned reports whether the parcel of that tag came back; settle must have been called after its confirmation.
func (o *outlet) returned(tag string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.back[tag]
	delete(o.back, tag)
	return was
}

// why is the reason for which the channel ended.
func (o *outlet) why() error {
	<-o.gone
	if err := o.fault.Load(); err != nil {
		return err
	}
	if err := context.Cause(o.s.ctx); err != nil {
		return err
	}
	return amqp.ErrClosed
}

// send puts a parcel on the wire. A channel that is closed takes nothing; a write that failed may have been half done.
func (o *outlet) send(c *parcel) (*amqp.DeferredConfirmation, error) {
	if o.ch.IsClosed() {
		return nil, &driver.Error{Kind: driver.Unavailable, Err: errDisconnected}
	}
	c.tag = strconv.FormatInt(tags.Add(1), 36)
	if c.pub.Headers == nil {
		c.pub.Headers = amqp.Table{}
	}
	c.pub.Headers[c.tagHeader] = c.tag
	o.s.b.meter.count(callPublish)
	sent, err := o.ch.PublishWithDeferredConfirm(c.exchange, c.key, true, false, c.pub)
	switch {
	case errors.Is(err, amqp.ErrClosed):
		return nil, &driver.Error{Kind: driver.Unavailable, Err: errDisconnected}
	case err != nil:
		return nil, &driver.Error{Kind: driver.Ambiguous, Err: err}
	}
	return sent, nil
}
