package conformance

import (
	"errors"
	"fmt"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
)

// fencing has messages delivered again in every way there is: their holder's connection broke, their handler failed,
// they were given back, they were dead-lettered and redriven.
func fencing(e *Env) {
	const n = 5
	rounds := []string{"retry", "break", "release", "retry", "break", "retry", "release", "break", "retry", "release"}
	if e.Tier < Full {
		rounds = []string{"retry", "break", "release", "retry", "retry", "break", "release", "retry", "release", "retry"}
	}
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	last := map[string]uint64{}
	rising := func(ds []*queue.Delivery) {
		for _, d := range ds {
			e.Check(d.Token > last[d.ID], "message %s came with token %d after %d", d.ID, d.Token, last[d.ID])
			last[d.ID] = d.Token
		}
	}
	for i, way := range rounds {
		l := e.line()
		c := e.Puller(fmt.Sprintf("taker%d", i), l.Backend, queue.ConsumerConfig{Retry: often})
		ds := e.Receive(c, n, e.back())
		rising(ds)
		for _, d := range ds {
			switch way {
			case "retry":
				e.Must(d.RetryAfter(e.Ctx, errTold, 0), "retry")
			case "release":
				e.Must(d.Release(e.Ctx), "release")
			}
		}
		if way == "break" {
			l.silence()
			l.sever()
		} else {
			e.Must(c.Close(e.Ctx), "close")
		}
	}
	c := e.Puller("last", e.Open(), queue.ConsumerConfig{Retry: often})
	ds := e.Receive(c, n, e.back())
	rising(ds)
	e.Must(ds[0].Reject(e.Ctx, errTold), "reject")
	for _, d := range ds[1:] {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	e.Valid(history.Options{Drained: true, Fencing: true})
	moved, err := queue.Redrive(e.Ctx, e.Open(), e.Queue+".dead", queue.RedriveConfig{})
	e.Must(err, "redrive")
	e.Check(moved == 1, "%d messages were redriven, not 1", moved)
	again := e.Receive(e.Consumer(e.Queue, queue.ConsumerConfig{}), 1, late)
	rising(again)
	e.Must(again[0].Ack(e.Ctx), "ack")
	e.Note("tokens", "%d deliveries", len(rounds)+2)
}

// fencingDenied: a token that could not be trusted is none.
func fencingDenied(e *Env) {
	var unsupported *queue.UnsupportedError
	_, err := queue.NewConsumer(e.Ctx, e.Open(), e.Queue, queue.ConsumerConfig{Needs: queue.Needs{Fencing: true}, Logger: e.log})
	e.Check(errors.As(err, &unsupported), "a consumer that needs fencing: %v", err)
	e.Publish(queue.Lanes{}, e.Jobs(1, 0, nil)...)
	d := e.Receive(e.Consumer(e.Queue, queue.ConsumerConfig{}), 1, late)[0]
	e.Check(d.Token == 0, "a delivery has token %d", d.Token)
	e.Must(d.Ack(e.Ctx), "ack")
}
