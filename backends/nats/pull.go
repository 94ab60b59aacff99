package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// pull is one request for messages of a lane. The server answers with messages, and ends it with a status unless it
// sent all that were asked for.
//
// A pull whose caller has left keeps its slot until it has ended: what it still brings is leased, and is given back.
type pull struct {
	lane    *lane
	slot    *slot
	subject string
	sent    time.Time // before the request: leases are counted from here
	wait    time.Duration
	term    time.Duration
	epoch   string
	want    int

	mu     sync.Mutex
	got    []*natsgo.Msg
	taken  int // that left got
	err    error
	left   bool          // done is closed
	ended  bool          // nothing more comes
	over   time.Time     // nothing is expected after
	done   chan struct{} // closed when the caller need not wait any more
	change chan struct{} // gets a token when got or ended changed, for whoever gives back
}

var (
	errBusy    = errors.New("too many pulls wait at the lane")
	errNoLane  = errors.New("consumer of the lane is gone")
	errStopped = errors.New("server is shutting down or elects a leader")
)

// afterDrop is how long after a pull's own time a broken connection leaves it a chance.
const afterDrop = time.Second

func (p *pull) reply(m *natsgo.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Reply != "" {
		p.got = append(p.got, m)
		if p.taken+len(p.got) >= p.want {
			p.endLocked(nil)
		}
	} else if end, err := pullStatus(m); end {
		p.endLocked(err)
	}
	p.noteLocked()
}

// pullStatus reads a status: whether it ends the pull, and what it means for who waits.
func pullStatus(m *natsgo.Msg) (end bool, err error) {
	code, text := statusOf(m)
	switch code {
	case "", "100":
		return false, nil // heartbeats are not asked for, but would do no harm
	case "404", "408":
		return true, nil // nothing, or no more of it
	case "503":
		return true, errNoLane
	case "409":
		switch {
		case strings.Contains(text, "Consumer Deleted"):
			return true, errNoLane
		case strings.Contains(text, "Exceeded MaxWaiting"):
			return true, errBusy
		case strings.Contains(text, "Server Shutdown"), strings.Contains(text, "Leadership Change"):
			return true, &unsentError{errStopped}
		}
	}
	return true, &driver.Error{Kind: driver.Unknown, Err: fmt.Errorf("pull refused: %s %s", code, text)}
}

func (p *pull) endLocked(err error) {
	p.ended = true
	p.leaveLocked(err)
}

func (p *pull) leaveLocked(err error) {
	if !p.left {
		p.left, p.err = true, err
		close(p.done)
	}
}

func (p *pull) noteLocked() {
	select {
	case p.change <- struct{}{}:
	default:
	}
}

// dropped ends the wait but not the pull: after a quick reconnect the server may find its reply subject listened to
// again, and deliver.
func (p *pull) dropped(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked(&unsentError{err})
	p.over = p.sent.Add(p.wait + afterDrop)
	p.noteLocked()
}

// fail ends a pull that did not reach the server.
func (p *pull) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(err)
	p.noteLocked()
}

// take returns what has arrived since the last take, whether the pull has ended, and until when it can last.
func (p *pull) take() (got []*natsgo.Msg, ended bool, over time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	got, p.got = p.got, nil
	p.taken += len(got)
	return got, p.ended, p.over
}

// pullRequest is what the server reads. With no_wait it answers at once; with expires beside it, when the first
// message has come or the time is over: then it sends all that is there, up to batch, and ends.
type pullRequest struct {
	Batch   int           `json:"batch"`
	NoWait  bool          `json:"no_wait"`
	Expires time.Duration `json:"expires,omitempty"`
}

// fetch leases up to n messages of a lane: those that are there, or those that come first within wait. When ctx ends
// it leaves at once, and what the pull brings is given back in the background.
func (c *Consumer) fetch(ctx context.Context, l *lane, n int, wait time.Duration) ([]*receiptMsg, error) {
	durable, term, err := c.ensureLane(ctx, l)
	if err != nil {
		return nil, err
	}
	wait = min(wait, term/4) // a lease is counted from the request, so the wait is taken from it
	body, err := json.Marshal(pullRequest{Batch: n, NoWait: true, Expires: wait})
	if err != nil {
		return nil, err
	}
	now := time.Now()
	p := &pull{
		lane: l, subject: c.b.apiRoot + "CONSUMER.MSG.NEXT." + c.names.stream + "." + durable,
		sent: now, wait: wait, term: term, epoch: c.currentEpoch(), want: n, over: now.Add(wait + 2*c.b.config.Timeout),
		done: make(chan struct{}), change: make(chan struct{}, 1),
	}
	sl, fresh := c.b.slots.take(p, c.b.conn.NewInbox)
	p.slot = sl
	sent := &parcel{
		msgs:   []*natsgo.Msg{{Subject: p.subject, Reply: sl.inbox, Data: body}},
		unsent: func(_ int, err error) { p.fail(err) },
	}
	if fresh {
		sent.first = func() { c.b.subscribe(sl) }
	}
	if err := c.b.outbox.put(ctx, sent); err != nil {
		c.b.discard(sl)
		return nil, err
	}
	c.b.meter.add(callPull, 1)
	return c.await(ctx, p, sent)
}

func (c *Consumer) await(ctx context.Context, p *pull, sent *parcel) ([]*receiptMsg, error) {
	timer := time.NewTimer(p.wait + c.b.config.Timeout)
	defer timer.Stop()
	var cause error
	select {
	case <-p.done:
		got, ended, _ := p.take()
		if ended {
			c.b.reuse(p.slot)
		} else {
			c.background(func() { c.returnPull(p) })
		}
		if errors.Is(p.err, errNoLane) {
			p.lane.lost()
		}
		if len(got) > 0 {
			return c.receipts(p, got), nil
		}
		return nil, p.err
	case <-ctx.Done():
		cause = causeOf(ctx)
	case <-timer.C:
		cause = &unsentError{errNoAnswer} // of a pull this harms nobody
	}
	if sent.withdraw() {
		c.b.discard(p.slot)
	} else {
		c.background(func() { c.returnPull(p) })
	}
	return nil, cause
}

// returnPull gives back what an abandoned pull brings, until it has ended.
func (c *Consumer) returnPull(p *pull) {
	for {
		got, ended, over := p.take()
		if len(got) > 0 {
			c.giveBack(c.receipts(p, got))
		}
		if ended {
			c.b.reuse(p.slot)
			return
		}
		timer := time.NewTimer(time.Until(over))
		select {
		case <-p.change:
			timer.Stop()
		case <-timer.C:
			c.b.discard(p.slot)
			return
		case <-c.b.life.Done():
			timer.Stop()
			c.b.discard(p.slot)
			return
		}
	}
}

// receiptMsg is a message with its lease, before the caller sees it.
type receiptMsg struct {
	*receipt
	msg *natsgo.Msg
}

func (c *Consumer) receipts(p *pull, msgs []*natsgo.Msg) []*receiptMsg {
	all := make([]*receiptMsg, 0, len(msgs))
	for _, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			// Not an acknowledgement subject: somebody published to the inbox. There is nothing to give back.
			continue
		}
		all = append(all, &receiptMsg{msg: m, receipt: &receipt{
			c: c, lane: p.lane, reply: m.Reply, epoch: p.epoch,
			sequence: meta.Sequence.Stream, delivered: meta.NumDelivered, stamp: meta.Timestamp.UnixNano(),
			term: p.term, grants: []time.Time{p.sent},
		}})
	}
	return all
}
