package rabbit

import (
	"container/heap"
	"context"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Hints tell waiting workers that a lane may hold something: its name, without a body, to a fanout exchange that leads to
// a queue of each worker process that waits. They are transient, bounded and may be lost; a sweep finds what they miss.

const (
	// hintEvery is how often a lane is hinted at most: what comes in between is covered by the next hint.
	hintEvery = 20 * time.Millisecond
	// hintsDue bounds how many delayed messages a producer means to hint at when their time is over.
	hintsDue = 10_000
	// hintBuffer and hintAge bound what waits for a worker that does not listen.
	hintBuffer = 2000
	hintAge    = 5 * time.Second
)

// hinter sends a queue's hints from one process.
type hinter struct {
	b     *Backend
	names names

	life context.Context
	end  context.CancelFunc
	done chan struct{} // nil until the first hint
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	lanes map[string]bool // to be hinted at
	later dueHints
	ch    *amqp.Channel
	of    *session
}

func newHinter(b *Backend, n names) *hinter {
	h := &hinter{b: b, names: n, wake: make(chan struct{}, 1), lanes: map[string]bool{}}
	h.life, h.end = context.WithCancel(context.Background())
	return h
}

// add hints at a lane, after a delay.
func (h *hinter) add(lane string, after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life.Err() != nil {
		return
	}
	switch {
	case after <= 0:
		h.lanes[lane] = true
	case len(h.later) < hintsDue:
		heap.Push(&h.later, dueHint{time.Now().Add(after + hintEvery), lane})
	}
	if h.done == nil {
		h.done = make(chan struct{})
		go h.run(h.done)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *hinter) close() {
	h.mu.Lock()
	h.end()
	done := h.done
	h.mu.Unlock()
	if done != nil {
		<-done
	}
}

func (h *hinter) run(done chan struct{}) {
	defer close(done)
	defer func() {
		if h.ch != nil {
			_ = h.ch.Close()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		lanes, next := h.due(time.Now())
		for _, lane := range lanes {
			h.send(lane)
		}
		pause := time.NewTimer(hintEvery)
		select {
		case <-pause.C:
		case <-h.life.Done():
			pause.Stop()
			return
		}
		timer.Reset(next)
		select {
		case <-h.wake:
		case <-timer.C:
		case <-h.life.Done():
			return
		}
	}
}

// due takes out the lanes to hint at now, and says in how long to look again.
func (h *hinter) due(now time.Time) (lanes []string, next time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.later) > 0 && !h.later[0].at.After(now) {
		h.lanes[heap.Pop(&h.later).(dueHint).lane] = true
	}
	for lane := range h.lanes {
		lanes = append(lanes, lane)
	}
	clear(h.lanes)
	if len(h.later) == 0 {
		return lanes, time.Hour
	}
	return lanes, h.later[0].at.Sub(now)
}

// send sends one hint, or drops it.
func (h *hinter) send(lane string) {
	s := h.b.out.now()
	if s == nil || s.ctx.Err() != nil {
		return
	}
	select {
	case <-*s.clear.Load():
	default:
		return // publishing is blocked
	}
	if h.of != s || h.ch == nil || h.ch.IsClosed() {
		ch, err := s.open()
		if err != nil {
			return
		}
		h.of, h.ch = s, ch
		if h.b.declareHints(ch, h.names) != nil {
			return
		}
	}
	h.b.meter.count(callHint)
	_ = h.ch.Publish(h.names.hints(), "", false, false, amqp.Publishing{Body: []byte(lane)})
}

func (b *Backend) declareHints(ch *amqp.Channel, n names) error {
	b.meter.count(callDeclare)
	return ch.ExchangeDeclare(n.hints(), amqp.ExchangeFanout, true, false, false, false, nil)
}

// dueHint is a hint for later.
type dueHint struct {
	at   time.Time
	lane string
}

type dueHints []dueHint

func (d dueHints) Len() int           { return len(d) }
func (d dueHints) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dueHints) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueHints) Push(x any)        { *d = append(*d, x.(dueHint)) }
func (d *dueHints) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}
