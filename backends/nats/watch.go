package nats

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	watchEvery  = 2 * time.Second
	watchBuffer = 64
)

// Watch implements driver.LaneWatcher.
func (b *Backend) Watch(ctx context.Context, queue string) (<-chan driver.LaneEvent, error) {
	const op = "watch"
	n, err := b.config.names(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	info, err := b.info(ctx, n.stream, n.lanes+">")
	if err != nil {
		return nil, fail(op, err)
	}
	w := &watch{b: b, names: n, events: make(chan driver.LaneEvent, watchBuffer), heard: make(chan string, watchBuffer)}
	if err := b.register(op, func() { b.work.Go(func() { w.run(ctx, info) }) }); err != nil {
		return nil, err
	}
	return w.events, nil
}

// watch reports the lanes of a queue: each when it begins to hold messages.
type watch struct {
	b      *Backend
	names  names
	events chan driver.LaneEvent
	heard  chan string // lanes that hints named
	holds  map[string]struct{}
	listed bool // the lanes that were there at first are reported
}

func (w *watch) run(ctx context.Context, info *streamInfo) {
	defer close(w.events)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.b.life, func() { cancel(driver.Closed) })()

	h := newHints(w.b, w.names.hints, w.hear)
	defer h.close()
	wake, _ := h.listen()
	defer func() { h.leave(wake) }()
	for {
		if info != nil && !w.compare(ctx, info) {
			return
		}
		if !w.listed {
			w.listed = true
			if !w.send(ctx, "") { // the default lane is always there
				return
			}
		}
		timer := time.NewTimer(jittered(watchEvery))
		for waiting := true; waiting; {
			select {
			case lane := <-w.heard:
				if !w.report(ctx, lane) {
					timer.Stop()
					return
				}
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
		h.leave(wake)
		wake, _ = h.listen() // again, should a flood have ended it
		info, _ = w.b.info(ctx, w.names.stream, w.names.lanes+">")
	}
}

// hear is called for each hint, and may lose some.
func (w *watch) hear(lane string) {
	select {
	case w.heard <- lane:
	default:
	}
}

// compare reports the lanes that hold messages and did not before.
func (w *watch) compare(ctx context.Context, info *streamInfo) bool {
	before := w.holds
	w.holds = make(map[string]struct{}, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		lane, ok := laneOfSubject(subject, w.names.lanes)
		if !ok {
			continue
		}
		if _, known := before[lane]; known {
			w.holds[lane] = struct{}{}
		} else if !w.report(ctx, lane) {
			return false
		}
	}
	return true
}

// report sends the event of a lane, once until a sweep has found it empty.
func (w *watch) report(ctx context.Context, lane string) bool {
	if _, known := w.holds[lane]; known {
		return true
	}
	w.holds[lane] = struct{}{}
	return w.send(ctx, lane)
}

func (w *watch) send(ctx context.Context, lane string) bool {
	select {
	case w.events <- driver.LaneEvent{Lane: lane, Listed: w.listed}:
		return true
	case <-ctx.Done():
		return false
	}
}
