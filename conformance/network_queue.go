package conformance

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// queueDeleted takes the queue away from a worker that has a job in work, and gives it another one of the same name.
func queueDeleted(e *Env) {
	backend := e.Open()
	admin := e.Open().(driver.Admin)
	p := e.Producer(queue.ProducerConfig{})
	watch := &endings{}
	hooks := watch.hooks(e.Journaled("worker"))
	started, finish := make(chan string, 3), make(chan struct{})
	w := e.Handle(backend, queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}, Hooks: hooks, Grace: time.Second},
		func(ctx context.Context, d *queue.Delivery) error {
			started <- d.ID
			select {
			case <-finish:
			case <-ctx.Done():
			}
			return context.Cause(ctx)
		})
	orphan := e.Jobs(1, 0, nil)[0]
	e.Publish(queue.Lanes{}, orphan)
	e.next(started, orphan.ID, late)
	e.Check(w.Health() == nil, "before anything happened, the worker's health is %v", w.Health())

	e.fault("the queue is deleted")
	e.Must(admin.DeleteQueue(e.Ctx, e.Queue), "delete the queue")
	err := p.Publish(e.Ctx, &queue.Message{Body: []byte("{}")})
	e.Check(errors.Is(err, queue.ErrNotFound), "publishing to a queue that was deleted: %v", err)
	e.Await("the worker says that its queue is not found", late, func(*history.Timeline) bool {
		return watch.notFound() && errors.Is(w.Health(), queue.ErrNotFound)
	})
	close(finish)
	e.Await("the job in work learns that its message is gone", e.Lease+late, func(*history.Timeline) bool { return watch.gone() })

	e.Must(admin.CreateQueue(e.Ctx, e.Queue), "make the queue again")
	e.heal("the queue is there")
	later := e.Jobs(1, 0, func(_ int, j *Job) { j.ID += "-later" })[0]
	e.Publish(queue.Lanes{}, later)
	e.next(started, later.ID, 2*late)
	e.Await("it is acked", late, func(t *history.Timeline) bool { return t.Message(later.ID).Finished() != history.Never })
	e.Check(w.Health() == nil, "with a queue again, the worker's health is %v", w.Health())
	v := e.Judge(history.Options{})
	e.Check(v.Overlaps+v.FatalOverruns+v.Unexpected == 0, "the history is not valid: %v", v.InvalidReasons)
}

// endings notes what a worker hears of a queue that is gone.
type endings struct {
	mu              sync.Mutex
	failed, verdict error
}

// hooks adds the notes to other hooks.
func (n *endings) hooks(h queue.Hooks) queue.Hooks {
	settled, lost := h.Settled, h.LeaseLost
	h.Failed = func(op string, err error) {
		if op == "receive" && errors.Is(err, queue.ErrNotFound) {
			n.note(&n.failed, err)
		}
	}
	h.Settled = func(d *queue.Delivery, s queue.Settlement, err error) {
		settled(d, s, err)
		n.note(&n.verdict, err)
	}
	h.LeaseLost = func(d *queue.Delivery, cause error) {
		lost(d, cause)
		n.note(&n.verdict, cause)
	}
	return h
}

func (n *endings) note(to *error, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		*to = err
	}
}

// notFound: a receive said that there is no such queue.
func (n *endings) notFound() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.failed != nil }

// gone: a verdict failed, or a lease was lost.
func (n *endings) gone() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.verdict != nil }

// next checks that the next message on started is id.
func (e *Env) next(started <-chan string, id string, within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case got := <-started:
		e.Check(got == id, "message %s started instead of %s", got, id)
	case <-timer.C:
		e.Failf("message %s did not start within %v", id, within)
	}
}
