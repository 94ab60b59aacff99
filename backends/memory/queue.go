package memory

import (
	"container/list"
	"strconv"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// queue is the state of one queue. Broker.mu guards all of it.
//
// Every request follows one path: advance (what has become due by now), the change itself, then settle down: serve
// (waiting receivers get what became ready) and rouse (the first of them looks at the clock again if something is due
// earlier than it knew). Between requests, no ready message is wanted by a waiting receiver.
type queue struct {
	b    *Broker
	name string

	lanes map[string]*lane
	order heap[*lane]    // lanes with something ready
	clock heap[*message] // delayed and leased messages
	lines map[string]*line
	dedup window

	seq         uint64
	first, last *message // messages not gone
	count       [gone]int

	waiters *list.List // of *waiter, the longest waiting first
	fresh   []*lane    // lanes in which something became ready since the last serve
}

func newQueue(b *Broker, name string) *queue {
	q := &queue{
		b: b, name: name,
		order: byHead(), clock: byDue(),
		lanes: map[string]*lane{}, lines: map[string]*line{},
		dedup:   window{length: b.cfg.Dedup},
		waiters: list.New(),
	}
	q.lane("")
	return q
}

// lane finds or makes a lane, and announces a new one.
func (q *queue) lane(name string) *lane {
	l := q.lanes[name]
	if l == nil {
		l = newLane(name)
		q.lanes[name] = l
		q.b.announce(q.name, name)
	}
	return l
}

// add stores a message that was checked and copied.
func (q *queue) add(stored *driver.Message, now time.Time) {
	if q.dedup.seen(stored.DedupID, now) {
		return
	}
	q.seq++
	if stored.ID == "" {
		stored.ID = strconv.FormatUint(q.seq, 10)
	}
	m := &message{seq: q.seq, stored: stored, sentAt: now, lane: q.lane(stored.Lane), state: blocked}
	m.lane.count++
	q.count[blocked]++
	if m.prev = q.last; m.prev != nil {
		m.prev.next = m
	} else {
		q.first = m
	}
	q.last = m
	if q.b.cfg.KeyOrder && stored.Key != "" {
		q.lineUp(m)
	}
	q.place(m, now.Add(stored.Delay), now)
}

// lineUp puts a new message behind the others of its key.
func (q *queue) lineUp(m *message) {
	l := q.lines[m.stored.Key]
	if l == nil {
		l = &line{key: m.stored.Key, first: m}
		q.lines[l.key] = l
	} else {
		l.last.behind = m
	}
	l.last = m
	m.line = l
}

// place puts a message that is in no heap where it waits next.
func (q *queue) place(m *message, due, now time.Time) {
	switch {
	case due.After(now):
		m.due = due
		q.become(m, delayed)
		q.clock.push(m)
	case m.line != nil && m.line.first != m:
		q.become(m, blocked)
	default:
		q.become(m, ready)
		m.lane.ready.push(m)
		q.reorder(m.lane)
		if !m.lane.fresh {
			m.lane.fresh = true
			q.fresh = append(q.fresh, m.lane)
		}
	}
}

func (q *queue) become(m *message, s state) {
	q.count[m.state]--
	m.state = s
	q.count[s]++
}

// reorder gives a lane its place among the others after its first ready message changed.
func (q *queue) reorder(l *lane) {
	switch listed := l.pos >= 0; {
	case l.ready.len() == 0 && listed:
		q.order.remove(l.pos)
	case l.ready.len() == 0:
	case listed:
		q.order.fix(l.pos)
	default:
		q.order.push(l)
	}
}

// advance makes everything happen that is due by now.
func (q *queue) advance(now time.Time) {
	q.dedup.forget(now)
	for q.clock.len() > 0 && !q.clock.top().due.After(now) {
		m := q.clock.top()
		if m.state == leased {
			q.giveBack(m, now, now)
			continue
		}
		q.clock.remove(m.pos)
		q.place(m, now, now)
	}
}

// remove forgets a leased message for good. What a receipt still holds of it is a few words.
func (q *queue) remove(m *message, now time.Time) {
	q.clock.remove(m.pos)
	q.free(m)
	q.unlink(m)
	q.count[m.state]--
	m.state, m.stored = gone, nil
	if m.lane.count--; m.lane.count == 0 && m.lane.name != "" {
		delete(q.lanes, m.lane.name)
	}
	m.lane = nil
	if m.line == nil {
		return
	}
	l, next := m.line, m.behind
	m.line, m.behind = nil, nil
	if next == nil {
		delete(q.lines, l.key)
		return
	}
	l.first = next
	if next.state == blocked {
		q.place(next, now, now)
	}
}

func (q *queue) unlink(m *message) {
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		q.first = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	} else {
		q.last = m.prev
	}
	m.prev, m.next = nil, nil
}

// purge forgets every message. Leases on them are lost.
func (q *queue) purge() {
	for m := q.first; m != nil; {
		next := m.next
		if m.holder != nil {
			q.free(m)
		}
		m.state, m.stored, m.lane = gone, nil, nil
		m.prev, m.next, m.line, m.behind = nil, nil, nil, nil
		m = next
	}
	q.first, q.last, q.count = nil, nil, [gone]int{}
	q.order, q.clock, q.fresh = byHead(), byDue(), nil
	q.lanes, q.lines = map[string]*lane{}, map[string]*line{}
	q.lane("")
}
