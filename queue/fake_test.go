package queue_test

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var errTest = errors.New("arranged by the test")

func kind(k driver.Kind) error { return &driver.Error{Op: "test", Kind: k, Err: errTest} }

// fakeBroker answers Publish as it is told and remembers what was asked.
type fakeBroker struct {
	driver.Backend // nil: nothing but publishing is used
	caps           driver.Capabilities
	answer         func(call int, ms []*driver.Message) error // nil: everything is stored

	mu     sync.Mutex
	calls  [][]*driver.Message
	stored []*driver.Message
}

func (f *fakeBroker) Capabilities() driver.Capabilities { return f.caps }

func (f *fakeBroker) OpenProducer(context.Context, string) (driver.Producer, error) {
	return (*fakeProducer)(f), nil
}

type fakeProducer fakeBroker

func (p *fakeProducer) Close(context.Context) error { return nil }

func (p *fakeProducer) Publish(ctx context.Context, ms []*driver.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, ms)
	var err error
	if ctx.Err() != nil {
		err = kind(driver.Unavailable)
	} else if p.answer != nil {
		err = p.answer(len(p.calls), ms)
	}
	for i, m := range ms {
		if driver.Outcome(err, i) == nil {
			p.stored = append(p.stored, m)
		}
	}
	return err
}

// ids are the ids of what was stored, in order.
func (f *fakeBroker) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, len(f.stored))
	for i, m := range f.stored {
		ids[i] = m.ID
	}
	return ids
}

// each makes a BatchError of what f says of each message.
func each(ms []*driver.Message, f func(m *driver.Message) error) error {
	errs := make(driver.BatchError, len(ms))
	for i, m := range ms {
		errs[i] = f(m)
	}
	return errs.OrNil()
}

// refusing is a backend whose stores to one queue fail while broken says so.
type refusing struct {
	driver.Backend
	queue  string
	broken func() error
}

func (r *refusing) OpenProducer(ctx context.Context, name string) (driver.Producer, error) {
	p, err := r.Backend.OpenProducer(ctx, name)
	if err != nil || name != r.queue {
		return p, err
	}
	return &refusingProducer{p, r}, nil
}

type refusingProducer struct {
	driver.Producer
	r *refusing
}

func (p *refusingProducer) Publish(ctx context.Context, ms []*driver.Message) error {
	if err := p.r.broken(); err != nil {
		return err
	}
	return p.Producer.Publish(ctx, ms)
}
