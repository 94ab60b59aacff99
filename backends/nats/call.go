package nats

import (
	"context"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// outcome is what became of one request: the answer, or the error.
type outcome struct {
	msg *natsgo.Msg
	err error
	at  time.Time // of the answer
}

// call is a number of requests that are sent together, each with one answer.
type call struct {
	msgs []*natsgo.Msg
	done chan struct{} // closed when no outcome is open

	mu   sync.Mutex
	out  []outcome
	left int
}

func newCall(msgs []*natsgo.Msg) *call {
	return &call{msgs: msgs, out: make([]outcome, len(msgs)), left: len(msgs), done: make(chan struct{})}
}

// settle decides the outcome of request i unless it was decided before.
func (c *call) settle(i int, o outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleLocked(i, o)
}

func (c *call) settleLocked(i int, o outcome) {
	if i >= len(c.out) || c.out[i].msg != nil || c.out[i].err != nil {
		return
	}
	c.out[i] = o
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// settleRest decides all that is open.
func (c *call) settleRest(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.out {
		c.settleLocked(i, outcome{err: err})
	}
}

func (c *call) reply(i int, m *natsgo.Msg) {
	o := outcome{msg: m, at: time.Now()}
	if code, _ := statusOf(m); code == "503" && len(m.Data) == 0 {
		o = outcome{err: errNoResponder}
	}
	c.settle(i, o)
}

func (c *call) deny(subject string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, m := range c.msgs {
		if m.Subject == subject {
			c.settleLocked(i, outcome{err: err})
		}
	}
}

func (c *call) unsent(i int, err error) { c.settle(i, outcome{err: err}) }

// request sends msgs together and waits for their answers: until all are there, ctx ends, the connection breaks or
// Config.Timeout has passed. Outcomes are aligned with msgs. It sets the reply subjects; a body must not change until
// it was written, which may be after request has returned.
func (b *Backend) request(ctx context.Context, kind callKind, msgs ...*natsgo.Msg) []outcome {
	if len(msgs) == 0 {
		return nil
	}
	c := newCall(msgs)
	id := b.replies.add(c)
	defer b.replies.remove(id)
	for i, m := range msgs {
		m.Reply = b.replies.address(id, i)
	}
	p := &parcel{msgs: msgs, unsent: c.unsent}
	if err := b.outbox.put(ctx, p); err != nil {
		c.settleRest(err)
		return c.out
	}
	b.meter.add(kind, len(msgs))
	timer := time.NewTimer(b.config.Timeout)
	defer timer.Stop()
	var cause error
	select {
	case <-c.done:
		return c.out
	case <-ctx.Done():
		cause = causeOf(ctx)
	case <-timer.C:
		cause = errNoAnswer
	}
	if p.withdraw() {
		c.settleRest(&unsentError{cause})
	} else {
		c.settleRest(&lostError{cause})
	}
	return c.out
}

// post sends a request that nobody waits for.
func (b *Backend) post(kind callKind, m *natsgo.Msg) {
	if b.outbox.post(&parcel{msgs: []*natsgo.Msg{m}}) {
		b.meter.add(kind, 1)
	}
}
