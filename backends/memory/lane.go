package memory

// lane is a named part of a queue. A lane other than "" is forgotten when its last message is gone, so that a tenant
// that was here once costs nothing for ever.
type lane struct {
	name  string
	ready heap[*message] // by seq
	count int            // messages not gone, in whatever state
	pos   int            // place in queue.order; -1 while nothing is ready
	fresh bool           // listed in queue.fresh
}

func newLane(name string) *lane {
	return &lane{
		name: name,
		pos:  -1,
		ready: heap[*message]{
			less:  func(a, b *message) bool { return a.seq < b.seq },
			moved: func(m *message, at int) { m.pos = at },
		},
	}
}

// byHead orders lanes by their first deliverable message, so that a Receive of any lane finds the oldest at once.
func byHead() heap[*lane] {
	return heap[*lane]{
		less:  func(a, b *lane) bool { return a.ready.top().seq < b.ready.top().seq },
		moved: func(l *lane, at int) { l.pos = at },
	}
}

// byDue orders delayed and leased messages by the time at which something happens to them.
func byDue() heap[*message] {
	return heap[*message]{
		less: func(a, b *message) bool {
			if c := a.due.Compare(b.due); c != 0 {
				return c < 0
			}
			return a.seq < b.seq
		},
		moved: func(m *message, at int) { m.pos = at },
	}
}
