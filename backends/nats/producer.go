package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Headers that the server acts on.
const (
	dedupHeader    = "Nats-Msg-Id"
	scheduleHeader = "Nats-Schedule"
	targetHeader   = "Nats-Schedule-Target"
)

// publishWindow is how many messages of one Publish are on their way at once: the server refuses more than 100,000
// that it has not stored yet, from all clients together.
const publishWindow = 1000

// Producer stores messages in one queue.
type Producer struct {
	b     *Backend
	names names
	calls gate
}

// OpenProducer implements driver.Backend.
func (b *Backend) OpenProducer(ctx context.Context, queue string) (driver.Producer, error) {
	const op = "open producer"
	n, err := b.config.names(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	if _, err := b.ensureQueue(ctx, n); err != nil {
		return nil, fail(op, harmless(err))
	}
	p := &Producer{b: b, names: n}
	if err := b.register(op, func() { b.producers[p] = struct{}{} }); err != nil {
		return nil, err
	}
	return p, nil
}

// Publish implements driver.Producer. The messages go out together, in order, and each is confirmed by itself.
func (p *Producer) Publish(ctx context.Context, ms []*driver.Message) error {
	const op = "publish"
	if !p.calls.enter() {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	defer p.calls.leave()
	errs := make(driver.BatchError, len(ms))
	out := make([]*natsgo.Msg, 0, len(ms))
	index := make([]int, 0, len(ms)) // of out's messages in ms
	for i, m := range ms {
		msg, err := p.encode(ctx, m)
		if err != nil {
			errs[i] = fail(op, err)
			continue
		}
		out, index = append(out, msg), append(index, i)
	}
	for len(out) > 0 {
		n := min(len(out), publishWindow)
		for j, err := range p.send(ctx, out[:n]) {
			errs[index[j]] = fail(op, err)
		}
		out, index = out[n:], index[n:]
	}
	return errs.OrNil()
}

// send publishes one window and returns an error for each message.
func (p *Producer) send(ctx context.Context, msgs []*natsgo.Msg) []error {
	errs := make([]error, len(msgs))
	if ctx.Err() != nil {
		for i := range errs {
			errs[i] = &unsentError{causeOf(ctx)}
		}
		return errs
	}
	var unanswered error // what the lack of a stream means, found out once
	for i, o := range p.b.request(ctx, callPublish, msgs...) {
		err := o.err
		if err == nil {
			err = decodePubAck(o.msg.Data)
		}
		if errors.Is(err, errNoResponder) {
			if unanswered == nil {
				unanswered = err
				if _, gone := p.b.missing(ctx, p.names.stream); isKind(gone, driver.NotFound) {
					unanswered = gone
				}
			}
			err = unanswered
		}
		errs[i] = err
	}
	return errs
}

// decodePubAck reads a confirmation. That a message was a duplicate is success: its twin is stored.
func decodePubAck(data []byte) error {
	var ack struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
		Seq    uint64              `json:"seq"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return &lostError{fmt.Errorf("confirmation: %w", err)}
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.Stream == "" || ack.Seq == 0 {
		return &lostError{fmt.Errorf("confirmation without a sequence: %.100q", data)}
	}
	return nil
}

func (p *Producer) encode(ctx context.Context, m *driver.Message) (*natsgo.Msg, error) {
	if m == nil {
		return nil, invalid("", errors.New("message is nil"))
	}
	token, err := laneToken(m.Lane)
	if err != nil {
		return nil, invalid("", err)
	}
	if m.DedupID != "" && !plainHeaderValue(m.DedupID) {
		return nil, invalid("", fmt.Errorf("deduplication id %.40q: only printable ASCII", m.DedupID))
	}
	msg := &natsgo.Msg{Subject: p.names.lanes + token, Header: encodeHeaders(m.Header)}
	if msg.Header == nil && (m.DedupID != "" || m.Delay > 0) {
		msg.Header = make(natsgo.Header, 3)
	}
	if m.DedupID != "" {
		msg.Header[dedupHeader] = []string{m.DedupID}
	}
	if m.Delay > 0 {
		if err := p.schedule(ctx, msg, m.Delay); err != nil {
			return nil, err
		}
	}
	if err := p.fits(m, msg); err != nil {
		return nil, err
	}
	msg.Data = bytes.Clone(m.Body) // the outbox may still write when Publish has returned
	return msg, nil
}

// fits holds a message against the promised limit and, for headers that take far more than their text, the server's.
func (p *Producer) fits(m *driver.Message, msg *natsgo.Msg) error {
	size := len(m.Body)
	for name, value := range m.Header {
		size += len(name) + len(value)
	}
	if limit := p.b.caps.MaxBytes; size > limit {
		return &driver.Error{Kind: driver.TooLarge, Err: fmt.Errorf("%d bytes with headers, of at most %d", size, limit)}
	}
	block := blockSize(msg.Header)
	if block > maxBlock {
		return &driver.Error{Kind: driver.TooLarge, Err: fmt.Errorf("headers of %d bytes, of at most %d", block, maxBlock)}
	}
	if limit := p.b.payload; int64(block+len(m.Body)) > limit {
		return &driver.Error{Kind: driver.TooLarge,
			Err: fmt.Errorf("%d bytes on the wire, of at most %d", block+len(m.Body), limit)}
	}
	return nil
}

// schedule makes msg wait in the server. It is stored under a subject of its own, where no consumer looks, and the
// server moves it to its lane when the time has come.
func (p *Producer) schedule(ctx context.Context, msg *natsgo.Msg, delay time.Duration) error {
	if !p.b.schedules {
		return invalid("", fmt.Errorf("delayed messages need nats-server 2.12, this is %s", p.b.caps.Version))
	}
	now, fresh := p.b.clock.now()
	if !fresh {
		if _, err := p.b.info(ctx, p.names.stream, ""); err != nil {
			return err
		}
		now, _ = p.b.clock.now()
	}
	msg.Header[targetHeader] = []string{msg.Subject}
	msg.Header[scheduleHeader] = []string{"@at " + now.Add(delay).UTC().Format(time.RFC3339Nano)}
	msg.Subject = p.names.delayed + nuid.Next()
	return nil
}

// Close implements driver.Producer.
func (p *Producer) Close(ctx context.Context) error {
	idle := p.calls.shut()
	p.b.forget(p, nil)
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return causeOf(ctx)
	}
}
