package qbench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	producerName = "producer"
	batchSize    = 100 // messages that one call publishes together, if so many are due
	openSenders  = 8   // calls at a time, so that a slow confirmation holds nobody else up
)

// publisher publishes each message of a workload at its instant, whether or not the broker keeps up.
type publisher struct {
	out     *queue.Producer
	journal *history.Writer
	load    *workload.Workload
	queue   string
	done    chan struct{} // closed when all is published, or publishing was given up

	mu        sync.Mutex
	late      []time.Duration // of each message: sent, minus intended
	fault     error           // the first
	unwritten error           // why the journal lacks something
}

func newPublisher(r *run, out *queue.Producer, journal *history.Writer) *publisher {
	return &publisher{out: out, journal: journal, load: r.plan.load, queue: r.queue, done: make(chan struct{})}
}

// run publishes all messages, counted from moment t0, until ctx ends, and returns when no call is under way.
func (p *publisher) run(ctx context.Context, t0 int64) {
	defer close(p.done)
	due := make(chan int, 4*batchSize)
	senders := openSenders
	if p.load.Model == workload.Closed {
		senders = 1 // the order of publication is that of the workload
	}
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for i := range due {
				p.send(ctx, t0, gather(due, i))
			}
		})
	}
	p.schedule(ctx, t0, due)
	close(due)
	sending.Wait()
}

// gather takes what else is due already.
func gather(due <-chan int, first int) []int {
	batch := []int{first}
	for len(batch) < batchSize {
		select {
		case i, open := <-due:
			if !open {
				return batch
			}
			batch = append(batch, i)
		default:
			return batch
		}
	}
	return batch
}

func (p *publisher) schedule(ctx context.Context, t0 int64, due chan<- int) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, j := range p.load.Messages {
		if wait := time.Duration(t0 + int64(j.At) - history.Now()); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		select {
		case due <- i:
		case <-ctx.Done():
			return
		}
	}
}

// send publishes a batch and writes down what became of each message.
func (p *publisher) send(ctx context.Context, t0 int64, batch []int) {
	if ctx.Err() != nil {
		return
	}
	messages, late := make([]*queue.Message, len(batch)), make([]time.Duration, len(batch))
	for k, i := range batch {
		j := p.load.Messages[i]
		body, err := j.Body()
		if err != nil {
			p.fail(err)
			return
		}
		messages[k] = &queue.Message{ID: j.ID, Key: j.Key, Tenant: j.Tenant, Priority: j.Priority, Body: body}
	}
	for k, i := range batch {
		late[k] = p.invoke(p.load.Messages[i], t0)
	}
	err := p.out.Publish(ctx, messages...)
	if err != nil && ctx.Err() == nil {
		p.fail(err)
	}
	for k, m := range messages {
		p.answer(m.ID, outcome(err, k))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = append(p.late, late...)
}

// invoke writes down that a message is about to be sent, and returns how late that is.
func (p *publisher) invoke(j workload.Job, t0 int64) time.Duration {
	now, intended := history.Now(), t0+int64(j.At)
	p.write(history.Event{
		T: now, Kind: history.PublishInvoke, Msg: j.ID, Queue: p.queue, Tenant: j.Tenant, Key: j.Key,
		Priority: j.Priority, Due: intended, RunMS: j.Run.Milliseconds(),
	})
	return time.Duration(now - intended)
}

// outcome is that of message k of a batch.
func outcome(err error, k int) error {
	var each queue.BatchError
	if errors.As(err, &each) && k < len(each) {
		return each[k]
	}
	return err
}

func (p *publisher) answer(id string, err error) {
	e := history.Event{Kind: history.PublishOK, Msg: id, Queue: p.queue}
	if err != nil {
		e.Kind, e.Err = history.PublishErr, err.Error()
		e.Definite = refused(err)
	}
	p.write(e)
}

// refused reports whether a message is certainly not stored.
func refused(err error) bool {
	switch driver.KindOf(err) {
	case driver.Unavailable, driver.Throttled, driver.TooLarge, driver.Invalid, driver.Denied, driver.NotFound:
		return true
	default:
		return false
	}
}

// write adds to the journal. What is not written there did not happen, as far as the verdict can tell.
func (p *publisher) write(e history.Event) {
	if err := p.journal.Write(e); err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unwritten = errors.Join(p.unwritten, err)
	}
}

// fail keeps the first error.
func (p *publisher) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == nil {
		p.fault = err
	}
}

// result is how late each message was sent, the first error of publishing, and why the journal is not complete.
func (p *publisher) result() (late []time.Duration, fault, unwritten error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.late, p.fault, p.unwritten
}
