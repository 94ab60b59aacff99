package rabbit

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

const watchBuffer = 64

// Watch implements driver.LaneWatcher. It follows the registry of the queue's lanes, and looks every two seconds whether
// there is one.
func (b *Backend) Watch(ctx context.Context, queue string) (<-chan driver.LaneEvent, error) {
	const op = "watch"
	n, err := newNames(queue)
	if err != nil {
		return nil, fail(op, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, &driver.Error{Op: op, Kind: driver.Closed}
	}
	w := &watch{b: b, names: n, events: make(chan driver.LaneEvent, watchBuffer)}
	b.work.Go(func() { w.run(ctx) })
	return w.events, nil
}

type watch struct {
	b      *Backend
	names  names
	events chan driver.LaneEvent
	listed bool
}

func (w *watch) run(ctx context.Context) {
	defer close(w.events)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.b.life, func() { cancel(driver.Closed) })()
	for ctx.Err() == nil {
		s, err := w.b.in.session(ctx, time.Hour)
		if err != nil {
			continue
		}
		err = w.b.follow(ctx, s, w.names, func(lane string, listed bool) {
			w.listed = w.listed || listed
			w.send(ctx, lane)
		})
		if isMissing(err) && w.found(ctx) {
			continue
		}
		timer := time.NewTimer(relearn)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// found makes the registry where nobody has used a lane yet: the first lane is then heard of at once. It returns false if
// that cannot be done now.
func (w *watch) found(ctx context.Context) bool {
	if !w.listed {
		w.listed = true
		w.send(ctx, "")
	}
	// By the connection that publishes, since the server may block one that does.
	s := w.b.out.now()
	return !w.b.config.Existing && s != nil && s.isClear() && w.b.enter(ctx, s, w.names, nil) == nil
}

func (w *watch) send(ctx context.Context, lane string) {
	select {
	case w.events <- driver.LaneEvent{Lane: lane, Listed: w.listed}:
	case <-ctx.Done():
	}
}
