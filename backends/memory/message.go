package memory

import (
	"bytes"
	"maps"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// state is where a message stands.
type state int

const (
	ready   state = iota // in its lane, deliverable
	blocked              // behind another message of its key
	delayed              // waiting for its time
	leased               // handed over, not settled
	gone                 // acked, purged or dropped; not counted
)

// message is one stored message. It is in at most one heap: of its lane while ready, of the clock while delayed or
// leased.
type message struct {
	seq    uint64          // its place in the queue, kept until it is gone
	stored *driver.Message // never changed; nil when gone
	sentAt time.Time
	lane   *lane
	state  state
	pos    int       // its place in the heap it is in
	due    time.Time // when it becomes deliverable, or when its lease runs out

	prev, next *message // all messages of the queue, by seq
	line       *line    // messages of its key; nil without order
	behind     *message // the next one of its key

	carried string // Return.State
	handed  int    // deliveries that count
	acked   bool   // how it went, if gone

	grant     uint64 // number of the current or latest lease
	grantedAt time.Time
	holder    *consumer
}

// line is the messages of one key in the order of seq, when keys are ordered: only the first may be delivered.
type line struct {
	key         string
	first, last *message
}

// receipt is a lease as its consumer knows it.
type receipt struct {
	m       *message
	grant   uint64
	holder  *consumer
	session *session // nil without sessions
}

// current says whether the lease still stands. The clock must have been looked at (queue.advance).
func (r *receipt) current() bool { return r.m.state == leased && r.m.grant == r.grant }

// confirmed says whether the lease ended with an Ack.
func (r *receipt) confirmed() bool { return r.m.acked && r.m.grant == r.grant }

// clone copies a message so that neither side can change what the other sees.
func clone(m *driver.Message) driver.Message {
	c := *m
	c.Header = maps.Clone(m.Header)
	c.Body = bytes.Clone(m.Body)
	return c
}

// size is what counts against Config.MaxBytes.
func size(m *driver.Message) int {
	n := len(m.Body)
	for name, value := range m.Header {
		n += len(name) + len(value)
	}
	return n
}
