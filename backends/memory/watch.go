package memory

import (
	"context"
	"maps"
	"slices"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// watcher holds the lanes that one Watch has yet to report. A lane is in it once at most, so it is bounded by the
// lanes of the queue and never holds a publisher up.
type watcher struct {
	b     *Backend
	queue string
	wake  chan struct{} // holds one

	// Broker.mu guards what follows.
	pending  []string
	unlisted int // of pending, those that were there when Watch was called
	listed   map[string]struct{}
}

// Watch reports the lanes that the queue has, and each lane when it appears; one that was emptied, and is forgotten,
// appears anew with its next message. None is lost. The queue need not exist yet. The channel closes when ctx ends or
// the Backend is closed.
func (b *Backend) Watch(ctx context.Context, queue string) (<-chan driver.LaneEvent, error) {
	if err := b.enter(ctx, "watch"); err != nil {
		return nil, err
	}
	defer b.broker.mu.Unlock()
	w := &watcher{b: b, queue: queue, wake: make(chan struct{}, 1), listed: map[string]struct{}{}}
	if q := b.broker.queues[queue]; q != nil {
		for _, name := range slices.Sorted(maps.Keys(q.lanes)) {
			w.add(name)
		}
	}
	w.unlisted = len(w.pending)
	if b.broker.watchers[queue] == nil {
		b.broker.watchers[queue] = map[*watcher]struct{}{}
	}
	b.broker.watchers[queue][w] = struct{}{}
	events := make(chan driver.LaneEvent)
	b.watches.Go(func() { w.run(ctx, events) })
	return events, nil
}

func (w *watcher) run(ctx context.Context, events chan<- driver.LaneEvent) {
	defer close(events)
	defer w.stop()
	for {
		event, some := w.next()
		if !some {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
			case <-w.b.done:
			}
			return
		}
		select {
		case events <- event:
		case <-ctx.Done():
			return
		case <-w.b.done:
			return
		}
	}
}

// add lists a lane. The caller holds Broker.mu.
func (w *watcher) add(lane string) {
	if _, twice := w.listed[lane]; twice {
		return
	}
	w.listed[lane] = struct{}{}
	w.pending = append(w.pending, lane)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) next() (e driver.LaneEvent, some bool) {
	w.b.broker.mu.Lock()
	defer w.b.broker.mu.Unlock()
	if len(w.pending) == 0 {
		return e, false
	}
	e.Lane, w.pending = w.pending[0], w.pending[1:]
	delete(w.listed, e.Lane)
	w.unlisted--
	e.Listed = w.unlisted <= 0
	return e, true
}

func (w *watcher) stop() {
	w.b.broker.mu.Lock()
	defer w.b.broker.mu.Unlock()
	w.b.broker.forget(w)
}

// forget takes a watcher off the list. The caller holds mu.
func (b *Broker) forget(w *watcher) {
	delete(b.watchers[w.queue], w)
	if len(b.watchers[w.queue]) == 0 {
		delete(b.watchers, w.queue)
	}
}

// unwatch takes the watchers of a connection off the list. The caller holds mu.
func (b *Broker) unwatch(of *Backend) {
	for _, all := range b.watchers {
		for w := range all {
			if w.b == of {
				b.forget(w)
			}
		}
	}
}
