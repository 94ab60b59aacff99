package nats

import (
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// hints listens to what the server repeats of each stored message: the lane, in the subject. They only make waiting
// shorter, a sweep finds what they miss. So the subscription exists only while somebody waits, keeps little, and
// pauses when a flood of messages makes hints a burden instead of a help.
type hints struct {
	conn   *natsgo.Conn
	outbox *outbox
	root   string
	heard  func(lane string) // called for each hint

	sub *natsgo.Subscription // only the outbox's goroutine touches it

	mu      sync.Mutex
	on      bool      // subscribed, or about to be
	users   int       // that wait now
	idle    time.Time // since when nobody does
	paused  time.Time // until when there is no subscription
	window  time.Time // the second that count is of
	count   int
	waiters map[chan struct{}]struct{}
}

const (
	hintBuffer = 1024        // messages; more are dropped
	hintBytes  = 8 << 20     // of them
	hintFlood  = 5000        // a second, above which hints pause
	hintPause  = time.Second // for so long
	hintLinger = 5 * time.Second
)

func newHints(b *Backend, root string, heard func(lane string)) *hints {
	return &hints{conn: b.conn, outbox: b.outbox, root: root, heard: heard, waiters: make(map[chan struct{}]struct{})}
}

// listen begins a wait: the channel gets a token after each hint. It reports whether the subscription is new: then
// hints of what came before are missing, and the caller must look once more. The subscription reaches the server
// before any request that follows.
func (h *hints) listen() (wake chan struct{}, fresh bool) {
	wake = make(chan struct{}, 1)
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users++
	h.waiters[wake] = struct{}{}
	if h.on || now.Before(h.paused) || !h.outbox.post(&parcel{first: h.subscribe}) {
		return wake, false
	}
	h.on, h.window, h.count = true, now, 0
	return wake, true
}

func (h *hints) subscribe() {
	sub, err := h.conn.Subscribe(h.root+">", h.receive)
	if err != nil {
		return // closed
	}
	_ = sub.SetPendingLimits(hintBuffer, hintBytes)
	h.sub = sub
}

func (h *hints) unsubscribe() {
	if h.sub != nil {
		_ = h.sub.Unsubscribe() // a closed connection has no subscriptions
		h.sub = nil
	}
}

// leave ends a wait.
func (h *hints) leave(wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiters, wake)
	if h.users--; h.users == 0 {
		h.idle = time.Now()
	}
}

// tidy ends the subscription when nobody has waited for a while; a busy consumer calls it now and then.
func (h *hints) tidy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users == 0 && h.on && time.Since(h.idle) > hintLinger {
		h.endLocked()
	}
}

func (h *hints) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked()
	h.paused = time.Now().Add(time.Hour)
}

// endLocked ends the subscription. It stays when the outbox is full, and is ended another time.
func (h *hints) endLocked() {
	if h.on && h.outbox.post(&parcel{first: h.unsubscribe}) {
		h.on = false
	}
}

func (h *hints) receive(m *natsgo.Msg) {
	if lane, ok := laneOfSubject(m.Subject, h.root); ok {
		h.heard(lane)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for wake := range h.waiters {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	h.count++
	if now := time.Now(); now.Sub(h.window) > time.Second {
		h.window, h.count = now, 0
	} else if h.count > hintFlood {
		h.paused = now.Add(hintPause)
		h.endLocked()
	}
}
