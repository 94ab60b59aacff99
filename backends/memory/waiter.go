package memory

import (
	"container/list"
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// waiter is a Receive that found nothing and waits. Broker.mu guards its fields but the channels.
type waiter struct {
	c    *consumer
	want driver.Want
	done chan struct{} // closed when got or err was set
	poke chan struct{} // look at the clock again; holds one
	// armed is when the waiter will look at the clock by itself; zero: not yet decided.
	armed time.Time
	place *list.Element // in queue.waiters; nil when it no longer waits
	got   []*driver.Delivery
	err   error
}

func (q *queue) park(c *consumer, want driver.Want) *waiter {
	w := &waiter{c: c, want: want, done: make(chan struct{}), poke: make(chan struct{}, 1)}
	w.place = q.waiters.PushBack(w)
	return w
}

// unpark ends the wait, with what was set before.
func (q *queue) unpark(w *waiter) {
	q.waiters.Remove(w.place)
	w.place = nil
	close(w.done)
}

// wants says whether a lane in which something became ready concerns the waiter.
func (w *waiter) wants(fresh []*lane) bool {
	for _, l := range fresh {
		if l.ready.len() == 0 {
			continue
		}
		if w.want.Lanes == nil {
			return true
		}
		for _, want := range w.want.Lanes {
			if want.Lane == l.name {
				return true
			}
		}
	}
	return false
}

// serve hands what became ready to those who wait for it, the longest waiting first.
func (q *queue) serve(now time.Time) {
	for e := q.waiters.Front(); e != nil && len(q.fresh) > 0; {
		w := e.Value.(*waiter)
		e = e.Next()
		if w.wants(q.fresh) {
			w.got = q.take(w.c, w.want, now)
			q.unpark(w)
		}
	}
	for _, l := range q.fresh {
		l.fresh = false
	}
	clear(q.fresh)
	q.fresh = q.fresh[:0]
}

// rouse sees to it that somebody wakes when the next thing is due. Only the first waiter keeps the time for all.
func (q *queue) rouse() {
	front := q.waiters.Front()
	if front == nil || q.clock.len() == 0 {
		return
	}
	w := front.Value.(*waiter)
	if w.armed.IsZero() || !q.clock.top().due.Before(w.armed) {
		return // it has not looked at the clock yet, or wakes in time
	}
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// fail ends the wait of those whom of picks.
func (q *queue) fail(err error, of func(*waiter) bool) {
	for e := q.waiters.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		if of(w) {
			w.err = err
			q.unpark(w)
		}
	}
	q.rouse()
}

// await waits until w was served, its time is over or ctx ends.
func (q *queue) await(ctx context.Context, w *waiter, wait time.Duration) ([]*driver.Delivery, error) {
	deadline := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for q.arm(w, deadline, timer) {
		select {
		case <-w.done:
		case <-ctx.Done():
		case <-w.poke:
		case <-timer.C:
		}
		if ctx.Err() != nil {
			break
		}
	}
	return q.leave(ctx, w)
}

// arm looks at the clock for everybody and sets the timer for the next look. It returns false when w need not wait on.
func (q *queue) arm(w *waiter, deadline time.Time, timer *time.Timer) bool {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	now := time.Now()
	if w.place != nil {
		q.advance(now)
		q.serve(now)
	}
	if w.place == nil || !now.Before(deadline) {
		return false
	}
	w.armed = deadline
	if q.waiters.Front() == w.place && q.clock.len() > 0 && q.clock.top().due.Before(deadline) {
		w.armed = q.clock.top().due
	}
	timer.Reset(w.armed.Sub(now))
	q.rouse()
	return true
}

// leave ends the wait. What w was served after its ctx ended goes back as if it had never been handed over.
func (q *queue) leave(ctx context.Context, w *waiter) ([]*driver.Delivery, error) {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	if w.place != nil {
		q.unpark(w)
	}
	now := time.Now()
	got, err := w.got, w.err
	if ctx.Err() != nil {
		got, err = nil, ctx.Err()
		q.advance(now)
		for _, d := range w.got {
			if r := d.Receipt.(*receipt); r.current() {
				q.takeBack(r.m, now)
			}
		}
		q.serve(now)
	}
	q.rouse()
	return got, err
}
