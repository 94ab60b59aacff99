package nats

import (
	"sync"

	natsgo "github.com/nats-io/nats.go"
)

// slot is a subscription for the answers to one pull at a time. A message of a stream arrives with the subject it was
// published to, so that only the subscription tells which pull it answers. Making one for each pull costs more than
// the pull itself; a slot is therefore used again, but only after its pull has ended for certain.
type slot struct {
	inbox string
	sub   *natsgo.Subscription // only the outbox's goroutine touches it

	mu   sync.Mutex
	pull *pull
}

func (s *slot) receive(m *natsgo.Msg) {
	s.mu.Lock()
	p := s.pull
	s.mu.Unlock()
	if p != nil {
		p.reply(m)
	}
}

func (s *slot) set(p *pull) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pull = p
}

// slots are the slots of a backend.
type slots struct {
	mu   sync.Mutex
	free []*slot
	used map[*slot]*pull
}

const idleSlots = 32 // that are kept

// take finds a free slot for p, or makes one. The parcel that carries the pull must subscribe a new one first.
func (s *slots) take(p *pull, inbox func() string) (sl *slot, fresh bool) {
	s.mu.Lock()
	if n := len(s.free) - 1; n >= 0 {
		sl, s.free = s.free[n], s.free[:n]
	}
	s.mu.Unlock()
	if sl == nil {
		sl, fresh = &slot{inbox: inbox()}, true
	}
	sl.set(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = make(map[*slot]*pull)
	}
	s.used[sl] = p
	return sl, fresh
}

// remove takes a slot out of use.
func (s *slots) remove(sl *slot) {
	sl.set(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, sl)
}

// keep makes a slot free for another pull, unless enough are.
func (s *slots) keep(sl *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) >= idleSlots {
		return false
	}
	s.free = append(s.free, sl)
	return true
}

func (s *slots) pulls() []*pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*pull, 0, len(s.used))
	for _, p := range s.used {
		all = append(all, p)
	}
	return all
}

func (s *slots) dropAll(err error) {
	for _, p := range s.pulls() {
		p.dropped(err)
	}
}

func (s *slots) deny(subject string, err error) {
	for _, p := range s.pulls() {
		if p.subject == subject {
			p.fail(err)
		}
	}
}

// subscribe runs in the outbox's goroutine.
func (b *Backend) subscribe(sl *slot) {
	sub, err := b.conn.Subscribe(sl.inbox, sl.receive)
	if err != nil {
		return // closed: the pull that follows fails too
	}
	// No limit: what arrives here was asked for, message by message, and dropping it would strand leases.
	_ = sub.SetPendingLimits(-1, -1)
	sl.sub = sub
}

// reuse takes back the slot of a pull that has ended for certain.
func (b *Backend) reuse(sl *slot) {
	b.slots.remove(sl)
	if !b.slots.keep(sl) {
		b.unsubscribe(sl)
	}
}

// discard takes back the slot of a pull that may still bring something.
func (b *Backend) discard(sl *slot) {
	b.slots.remove(sl)
	b.unsubscribe(sl)
}

func (b *Backend) unsubscribe(sl *slot) {
	b.outbox.post(&parcel{first: func() {
		if sl.sub != nil {
			_ = sl.sub.Unsubscribe() // fails only when the connection is closed
		}
	}})
}
