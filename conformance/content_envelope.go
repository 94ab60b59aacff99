package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// plainProducer opens a producer of the driver: what a producer does that is not ours, or whose clock is wrong.
func (e *Env) plainProducer() driver.Producer {
	p, err := e.Open().OpenProducer(e.Ctx, e.Queue)
	e.Must(err, "open a producer of the driver")
	return p
}

// publishPlain publishes messages with the driver, as many in a call as it takes, and returns an outcome for each.
func (e *Env) publishPlain(ms []*driver.Message) driver.BatchError {
	p := e.plainProducer()
	n := len(ms)
	if e.Caps.MaxBatch > 0 {
		n = min(n, e.Caps.MaxBatch)
	}
	var all driver.BatchError
	for batch := range slices.Chunk(ms, n) {
		err := p.Publish(e.Ctx, batch)
		for i := range batch {
			all = append(all, driver.Outcome(err, i))
		}
	}
	return all
}

// sizeLimit looks at both layers: the driver takes what its capabilities say, the queue what it can also dead-letter.
func sizeLimit(e *Env) {
	most := e.Caps.MaxBytes
	sized := func(n int, fill byte, h map[string]string) *driver.Message {
		return &driver.Message{Header: h, Body: bytes.Repeat([]byte{fill}, n)}
	}
	header := map[string]string{"name": "value of a header"}
	ms := []*driver.Message{
		sized(most-1, 'a', nil), sized(1, 'b', nil), sized(most, 'c', nil), sized(most+1, 'd', nil), sized(2, 'e', nil),
		sized(most-len("name")-len(header["name"]), 'f', header), sized(most+1-len("name")-len(header["name"]), 'g', header),
	}
	outcomes := e.publishPlain(ms)
	kept := map[byte]*driver.Message{}
	for i, m := range ms {
		one := outcomes[i]
		size := len(m.Body) + len(m.Header)*(len("name")+len(header["name"]))
		if size > most {
			e.Check(driver.KindOf(one) == driver.TooLarge, "%d bytes where %d are allowed: %v", size, most, one)
			continue
		}
		e.Must(one, fmt.Sprintf("publish %d bytes where %d are allowed", size, most))
		kept[m.Body[0]] = m
	}
	c := e.Consumer(e.Queue, queue.ConsumerConfig{})
	for _, d := range e.Receive(c, len(kept), 2*late) {
		m := kept[d.Body[0]]
		e.Check(m != nil && bytes.Equal(d.Body, m.Body), "%d bytes of %q came back", len(d.Body), d.Body[:1])
		e.Must(d.Ack(e.Ctx), "ack")
	}
	e.tooLargeForTheQueue(c, most)
}

func (e *Env) tooLargeForTheQueue(c *queue.Consumer, most int) {
	b := e.Open()
	p, err := queue.NewProducer(e.Ctx, b, e.Queue, queue.ProducerConfig{Logger: e.log})
	e.Must(err, "open a producer")
	before := settlements(b)
	err = p.Publish(e.Ctx, &queue.Message{Body: make([]byte, max(20<<20, most+1))})
	e.Check(driver.KindOf(err) == driver.TooLarge, "a message of 20 MiB: %v", err)
	e.Check(settlements(b) == before, "a message that is too large was sent")
	err = p.Publish(e.Ctx, &queue.Message{ID: "left"}, &queue.Message{Body: make([]byte, max(20<<20, most+1))}, &queue.Message{ID: "right"})
	e.Check(driver.Outcome(err, 0) == nil && driver.Outcome(err, 2) == nil, "its neighbours: %v", err)
	e.Check(driver.KindOf(driver.Outcome(err, 1)) == driver.TooLarge, "a message of 20 MiB: %v", err)

	largest := &queue.Message{ID: "largest", Body: make([]byte, most)}
	for err = p.Publish(e.Ctx, largest); driver.KindOf(err) == driver.TooLarge; err = p.Publish(e.Ctx, largest) {
		largest.Body = largest.Body[:len(largest.Body)-128]
	}
	e.Must(err, "publish a message that is just not too large")
	e.Check(len(largest.Body) > most-most/8, "the queue takes %d bytes where the broker takes %d", len(largest.Body), most)
	for _, d := range e.Receive(c, 3, 2*late) {
		if d.ID == largest.ID {
			e.Must(d.Reject(e.Ctx, fmt.Errorf("%w: %01000d", errTold, 0)), "dead-letter the largest message")
		} else {
			e.Must(d.Ack(e.Ctx), "ack")
		}
	}
	e.brings(e.deadLetters(1)[largest.ID], largest)
}

// clockSkew publishes with the headers of producers whose clocks are ten minutes wrong.
func clockSkew(e *Env) {
	const pause = time.Second
	p, c := e.plainProducer(), e.Consumer(e.Queue, queue.ConsumerConfig{Retry: often})
	skews := []time.Duration{-10 * time.Minute, 0, 10 * time.Minute}
	written := map[string]time.Time{}
	publish := func(kind string, delay time.Duration) time.Time {
		sent := time.Now()
		for i, skew := range skews {
			id, at := fmt.Sprint(kind, i), sent.Add(skew).Truncate(time.Microsecond)
			written[id] = at
			e.Must(p.Publish(e.Ctx, []*driver.Message{{ID: id, Delay: delay, Header: map[string]string{
				"hf-v": "1", "hf-id": id, "hf-published": strconv.FormatInt(at.UnixMicro(), 10),
			}}}), "publish")
		}
		return sent
	}
	take := func(since time.Time, verdict func(d *queue.Delivery) error) {
		for _, d := range e.Receive(c, len(skews), late) {
			e.Check(d.PublishedAt.Equal(written[d.ID]), "message %s says that it was published at %v, not %v", d.ID, d.PublishedAt, written[d.ID])
			e.Check(time.Since(since) >= pause-blur, "message %s came after %v", d.ID, time.Since(since))
			e.Must(verdict(d), "settle")
		}
	}
	sent := publish("ready", 0)
	take(sent.Add(-pause), func(d *queue.Delivery) error { return d.RetryAfter(e.Ctx, errTold, pause) })
	take(time.Now(), func(d *queue.Delivery) error { return d.Ack(e.Ctx) })
	if e.Caps.Delay.By != driver.Nobody {
		take(publish("delayed", pause), func(d *queue.Delivery) error { return d.Reject(e.Ctx, errTold) })
		e.deadLetters(len(skews))
	}
}

func unreadableEnvelope(e *Env) {
	bad := []map[string]string{
		{"hf-v": "2"}, {"hf-v": "2", "hf-new": "thing", "hf-attempts": "one"}, {"hf-v": ""}, {"hf-v": "1.0"}, {"hf-v": "\x00"},
		{"hf-v": "1", "hf-attempts": "many"}, {"hf-v": "1", "hf-generation": "99999999999999999999"}, {"hf-v": "1", "hf-priority": "1e3"},
		{"hf-v": "1", "hf-published": "-1"}, {"hf-v": "1", "hf-first-failure": "9223372036854775807"}, {"hf-v": "1", "hf-hold": "soon"},
	}
	var ms []*driver.Message
	for i, h := range bad {
		h["hf-id"], h["x"] = fmt.Sprint("bad-", i), "y"
		ms = append(ms, &driver.Message{ID: h["hf-id"], Header: h, Body: []byte{byte(i), 0xff}})
	}
	const foreign = 3
	for i := range foreign {
		ms = append(ms, &driver.Message{Body: []byte{0xf0, byte(i)}, Header: map[string]string{"hf-attempts": "7", "x": "y"}})
	}
	var mu sync.Mutex
	seen := map[string]*queue.Delivery{}
	w := e.Handle(e.Open(), queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}}, func(_ context.Context, d *queue.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		seen[d.ID] = d
		return nil
	})
	e.Must(e.publishPlain(ms).OrNil(), "publish")
	e.Must(e.Producer(queue.ProducerConfig{}).Publish(e.Ctx, &queue.Message{ID: "ours"}), "publish")
	e.Await("every message is settled", late, func(*history.Timeline) bool {
		s := w.Stats()
		return s.Acked == foreign+1 && s.DeadLettered == int64(len(bad))
	})
	e.Must(w.Health(), "the worker's health")
	e.asTheyCame(ms[:len(bad)])
	dead := e.deadLetters(len(bad))
	mu.Lock()
	defer mu.Unlock()
	for _, m := range ms[:len(bad)] {
		d := dead[m.ID]
		e.Check(d != nil && seen[m.ID] == nil, "message %s has no dead letter, or was shown to a handler", m.ID)
		e.Check(bytes.Equal(d.Body, m.Body) && d.Header["x"] == "y", "dead letter %s: %q %q", d.ID, d.Body, d.Header)
		e.Check(d.Dead != nil && d.Dead.Reason == queue.ReasonEnvelope && d.Dead.Origin == e.Queue, "dead letter %s died of %+v", d.ID, d.Dead)
	}
	for id, d := range seen {
		e.Check(id == "ours" || d.Foreign && id != "" && d.Header["hf-attempts"] == "7" && d.Attempt == 1 && d.Body[0] == 0xf0,
			"message %q: foreign %v, attempt %d, headers %q", id, d.Foreign, d.Attempt, d.Header)
	}
}

// asTheyCame looks at dead letters as the driver shows them: nothing of a header that could not be read may be lost.
func (e *Env) asTheyCame(ms []*driver.Message) {
	c, err := e.Open().OpenConsumer(e.Ctx, e.Queue+".dead", driver.ConsumerConfig{Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	came := map[string]map[string]string{}
	for _, d := range e.raw(c, len(ms)) {
		came[d.Header["hf-id"]] = d.Header
	}
	for _, m := range ms {
		got := came[m.Header["hf-id"]]
		for name, value := range m.Header {
			kept, has := got[name]
			e.Check(has && kept == value, "dead letter %s: header %s is %q, was %q", m.ID, name, kept, value)
		}
	}
	e.Must(c.Close(e.Ctx), "give the dead letters back")
}
