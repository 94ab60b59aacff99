package nats

import (
	"context"
	"encoding/json"
	"fmt"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// CreateQueue implements driver.Admin.
func (b *Backend) CreateQueue(ctx context.Context, queue string) error {
	const op = "create queue"
	n, err := b.config.names(queue)
	if err == nil {
		_, err = b.ensureQueue(ctx, n)
	}
	return fail(op, err)
}

// DeleteQueue implements driver.Admin. Its lanes, with their leases, go with it.
func (b *Backend) DeleteQueue(ctx context.Context, queue string) error {
	const op = "delete queue"
	n, err := b.config.names(queue)
	if err != nil {
		return fail(op, err)
	}
	// nats-server 2.15 moves a deleted stream's directory aside and removes it later. A second deletion of the same name
	// within that time leaves its directory in place, and the next stream of the name would find the messages again.
	if err := b.api(ctx, callAdmin, "STREAM.PURGE."+n.stream, nil, nil); err != nil && !isGone(err) {
		return fail(op, err)
	}
	err = b.api(ctx, callAdmin, "STREAM.DELETE."+n.stream, nil, nil)
	if err != nil && !isGone(err) {
		return fail(op, err)
	}
	// The states go also if they are all that is left of a queue.
	if err := b.api(ctx, callAdmin, "STREAM.DELETE."+n.states, nil, nil); err != nil && !isGone(err) {
		return fail(op, err)
	}
	return fail(op, err)
}

func isGone(err error) bool { return isAPIError(err, jetstream.JSErrCodeStreamNotFound) }

// PurgeQueue implements driver.Admin. Delayed messages go too.
func (b *Backend) PurgeQueue(ctx context.Context, queue string) error {
	const op = "purge queue"
	n, err := b.config.names(queue)
	if err != nil {
		return fail(op, err)
	}
	if err := b.api(ctx, callAdmin, "STREAM.PURGE."+n.stream, nil, nil); err != nil {
		return fail(op, err)
	}
	if err := b.api(ctx, callAdmin, "STREAM.PURGE."+n.states, nil, nil); err != nil && !isGone(err) {
		return fail(op, err)
	}
	return nil
}

// Gauge implements driver.Gauger. Messages that wait for their time, delayed or returned with a delay, count as in
// flight: the server keeps the latter among the leased ones.
func (b *Backend) Gauge(ctx context.Context, queue string) (driver.Gauge, error) {
	const op = "gauge"
	n, err := b.config.names(queue)
	if err != nil {
		return driver.Gauge{}, fail(op, err)
	}
	consumers, err := b.listConsumers(ctx, n.stream)
	if err != nil {
		return driver.Gauge{}, fail(op, err)
	}
	info, err := b.info(ctx, n.stream, n.lanes+">")
	if err != nil {
		return driver.Gauge{}, fail(op, err)
	}
	leased, inLanes := 0, uint64(0)
	for _, c := range consumers {
		leased += c.NumAckPending
	}
	for _, count := range info.State.Subjects {
		inLanes += count
	}
	g := driver.Gauge{
		Ready:    max(int(inLanes)-leased, 0),
		Delayed:  -1,
		InFlight: leased + int(info.State.Msgs-min(info.State.Msgs, inLanes)),
	}
	if info.State.Msgs > 0 {
		g.Oldest = max(info.TimeStamp.Sub(info.State.FirstTime), 0)
	}
	return g, nil
}

// Peek implements driver.Inspector. It shows the messages of the lanes, leased ones included, and not those that wait
// for their time. Each message is a request.
func (b *Backend) Peek(ctx context.Context, queue string, n int) ([]*driver.Message, error) {
	const op = "peek"
	names, err := b.config.names(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	var all []*driver.Message
	for next := uint64(1); len(all) < n; {
		req, err := json.Marshal(map[string]any{"seq": next, "next_by_subj": names.lanes + ">"})
		if err != nil {
			return nil, fail(op, err)
		}
		out := b.request(ctx, callPeek, &natsgo.Msg{Subject: b.apiRoot + "STREAM.MSG.GET." + names.stream, Data: req})[0]
		if out.err != nil {
			return nil, fail(op, out.err)
		}
		m, err := decodeStored(out.msg.Data)
		if isAPIError(err, jetstream.JSErrCodeMessageNotFound) {
			break
		}
		if err != nil {
			return nil, fail(op, err)
		}
		next = m.Sequence + 1
		shown, err := names.shown(m)
		if err != nil {
			return nil, fail(op, err)
		}
		all = append(all, shown)
	}
	return all, nil
}

func (n *names) shown(m *storedMsg) (*driver.Message, error) {
	lane, ok := laneOfSubject(m.Subject, n.lanes)
	if !ok {
		return nil, fmt.Errorf("message %d: subject %q is no lane's", m.Sequence, m.Subject)
	}
	var h natsgo.Header
	if len(m.Header) > 0 {
		var err error
		if h, err = natsgo.DecodeHeadersMsg(m.Header); err != nil {
			return nil, fmt.Errorf("message %d: %w", m.Sequence, err)
		}
	}
	return &driver.Message{
		ID: messageID(n.stream, m.Sequence), Lane: lane, Header: decodeHeaders(h), Body: m.Data,
	}, nil
}

// Ping implements driver.Pinger: JetStream has answered.
func (b *Backend) Ping(ctx context.Context) error {
	return fail("ping", b.api(ctx, callInfo, "INFO", nil, nil))
}
