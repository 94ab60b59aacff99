package crew

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// publish publishes batch after batch until the process is killed. That a message is sent is journaled before, and its
// outcome after: what a killed producer was told is on disk.
func (j *diary) publish(b driver.Backend, spec Spec) error {
	ctx := context.Background()
	p, err := queue.NewProducer(ctx, b, spec.Queue, queue.ProducerConfig{
		Lanes: spec.Lanes, Logger: slog.New(slog.DiscardHandler), Hooks: queue.Hooks{Published: j.published},
	})
	if err != nil {
		return err
	}
	body, err := spec.Publish.Order.Encode(spec.Publish.Bytes)
	if err != nil {
		return err
	}
	for sent := 0; ; sent += spec.Publish.Batch {
		ms := make([]*queue.Message, spec.Publish.Batch)
		for i := range ms {
			ms[i] = &queue.Message{ID: fmt.Sprintf("%s-%s-%d", spec.Queue, spec.Name, sent+i), Body: body}
			j.note(history.Event{Kind: history.PublishInvoke, Msg: ms[i].ID, Queue: spec.Queue})
		}
		if err := p.Publish(ctx, ms...); err != nil && !spec.Publish.Stubborn {
			return err
		}
	}
}

func (j *diary) published(m *queue.Message, err error) {
	e := history.Event{Kind: history.PublishOK, Msg: m.ID}
	if err != nil {
		e.Kind, e.Err, e.Definite = history.PublishErr, err.Error(), !errors.Is(err, queue.ErrAmbiguous)
	}
	j.note(e)
}
