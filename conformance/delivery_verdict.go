package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

var errTold = errors.New("told to fail")

// often is a retry policy that ends no message of a rule, and waits as little as it may.
var often = queue.Retry{MaxAttempts: 100, MaxCrashes: 100, Base: 200 * time.Millisecond, Factor: 1, Jitter: -1}

func attemptsCounted(e *Env) {
	const n, rounds = 10, 5
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	var cs []*queue.Consumer
	for i := range 3 {
		cs = append(cs, e.Puller(fmt.Sprintf("taker%d", i), e.Open(), queue.ConsumerConfig{Retry: often}))
	}
	for round := 1; round <= rounds; round++ {
		for _, d := range e.Receive(cs[round%len(cs)], n, late) {
			e.Check(d.Attempt == round, "message %s has attempt %d after %d failures", d.ID, d.Attempt, round-1)
			if e.Caps.Carries && e.Caps.Counting == driver.Counted && e.Caps.BrokerDropsAfter == 0 { // else a copy begins anew
				e.Check(d.DeliveryCount == round, "delivery %d of message %s is counted as %d", round, d.ID, d.DeliveryCount)
			}
			if round < rounds {
				e.Must(d.RetryAfter(e.Ctx, errTold, 0), "retry")
			} else {
				e.Must(d.Ack(e.Ctx), "ack")
			}
		}
	}
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

// oneHolder has idle slots lie in wait for messages that are held for five leases.
func oneHolder(e *Env) {
	const n = 6
	ws := e.Workers(3, Slots(4))
	e.Publish(queue.Lanes{}, e.Jobs(n, 5*e.Lease, nil)...)
	e.Await("every message is done", 5*e.Lease+2*late, finished(n))
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true, FaultFree: true, Fencing: e.Caps.Fencing})
	e.once("its lease was kept")
	for _, m := range e.Timeline().Messages {
		d := m.Deliveries[0]
		held := time.Duration(d.Runs[0].To - d.Runs[0].From)
		e.Check(held >= 5*e.Lease, "message %s ran for %v only", m.ID, held)
	}
}

// verdicts are the ways to settle a delivery.
var verdicts = []struct {
	name string
	give func(ctx context.Context, d *queue.Delivery) error
}{
	{"ack", func(ctx context.Context, d *queue.Delivery) error { return d.Ack(ctx) }},
	{"retry", func(ctx context.Context, d *queue.Delivery) error { return d.RetryAfter(ctx, errTold, time.Second) }},
	{"release", func(ctx context.Context, d *queue.Delivery) error { return d.Release(ctx) }},
	{"reject", func(ctx context.Context, d *queue.Delivery) error { return d.Reject(ctx, errTold) }},
}

func secondVerdict(e *Env) {
	const n = 8
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	b := e.Open()
	c := e.Puller("taker", b, queue.ConsumerConfig{Retry: often})
	ds := e.Receive(c, n, late)
	for i, v := range verdicts {
		e.Must(v.give(e.Ctx, ds[i]), "the first verdict, "+v.name)
		before := settlements(b)
		for _, again := range verdicts {
			err := again.give(e.Ctx, ds[i])
			e.Check(errors.Is(err, queue.ErrAlreadySettled), "%s after %s: %v", again.name, v.name, err)
		}
		e.Check(settlements(b) == before, "a second verdict after %s was sent", v.name)
	}
	for _, d := range ds[len(verdicts):] { // neighbours on the same connection
		e.Check(d.Context().Err() == nil, "message %s lost its lease: %v", d.ID, context.Cause(d.Context()))
		e.Must(d.Ack(e.Ctx), "ack a neighbour")
	}
	for _, d := range e.Receive(c, 2, late) { // the retried and the released one, once each
		e.Must(d.Ack(e.Ctx), "ack")
	}
	e.Quietly(c, e.Lease, "everything is settled")
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n-1 && v.DeadLettered == 1, "%d completed, %d dead letters", v.Completed, v.DeadLettered)
	again := len(e.Events(history.Deliver, "")) - n
	e.Check(again == 2, "%d messages came again, not the one that was retried and the one that was released", again)
	e.secondAckOfDriver()
}

// secondAckOfDriver: one layer down, a second ack of a confirmed delivery is harmless.
func (e *Env) secondAckOfDriver() {
	e.Publish(queue.Lanes{}, e.Jobs(2, 0, func(i int, j *Job) { j.ID = fmt.Sprintf("driver/%d", i) })...)
	c, err := e.Open().OpenConsumer(e.Ctx, e.Queue, driver.ConsumerConfig{Window: 10, Term: e.Lease})
	e.Must(err, "open a consumer of the driver")
	var ds []*driver.Delivery
	for over := time.Now().Add(late); len(ds) < 2 && time.Now().Before(over); {
		more, err := c.Receive(e.Ctx, driver.Want{Max: 2 - len(ds)}, time.Second)
		e.Must(err, "receive")
		ds = append(ds, more...)
	}
	e.Check(len(ds) == 2, "%d of 2 messages received", len(ds))
	e.Must(c.Ack(e.Ctx, ds[:1]), "ack")
	e.Must(c.Ack(e.Ctx, ds[:1]), "ack again")
	e.Must(c.Ack(e.Ctx, ds), "ack again, with a neighbour")
	e.Must(c.Close(e.Ctx), "close")
}

// settlements is how many requests of the connection were more than a question: all but receives, for what counts them.
func settlements(b driver.Backend) int64 {
	m, can := b.(driver.Meter)
	if !can {
		return 0
	}
	var sum int64
	for kind, n := range m.Calls() {
		if !slices.Contains([]string{"receive", "pull", "info", "poll", "extend"}, kind) {
			sum += n
		}
	}
	return sum
}

// verdictsRace gives two verdicts at once on each message. The released ones come back, the acked ones do not.
func verdictsRace(e *Env) {
	const n, window = 1000, 200
	c := e.Puller("taker", e.Open(), queue.ConsumerConfig{Window: window, Retry: often})
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	seen := map[string]bool{}
	for acked, over := 0, time.Now().Add(4*late); acked < n; {
		e.Check(time.Now().Before(over), "%d of %d messages were acked", acked, n)
		ds, err := c.Receive(e.Ctx, window)
		e.Must(err, "receive")
		var fresh []*queue.Delivery
		for _, d := range ds {
			if !seen[d.ID] {
				seen[d.ID] = true
				fresh = append(fresh, d)
				continue
			}
			e.Must(d.Ack(e.Ctx), "ack")
			acked++
		}
		for _, won := range e.race(fresh) {
			if won == "ack" {
				acked++
			}
		}
	}
	e.Quietly(c, e.Lease, "everything was acked")
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n, "%d of %d messages were completed", v.Completed, n)
	released := len(e.Events(history.Deliver, "")) - n
	e.Check(released > 0 && released < n, "%d of %d releases won: this was no race", released, n)
	e.Note("released", "%d of %d", released, n)
}

// race gives both verdicts on each delivery at once and returns which one won.
func (e *Env) race(ds []*queue.Delivery) []string {
	errs := make([][2]error, len(ds))
	var wg sync.WaitGroup
	for i, d := range ds {
		ack := func() { errs[i][0] = d.Ack(e.Ctx) }
		release := func() { errs[i][1] = d.Release(e.Ctx) }
		if i%2 == 0 {
			ack, release = release, ack
		}
		start := make(chan struct{})
		for _, f := range []func(){ack, release} {
			wg.Go(func() { <-start; f() })
		}
		close(start)
	}
	wg.Wait()
	won := make([]string, len(ds))
	for i, pair := range errs {
		a, r := pair[0], pair[1]
		switch {
		case a == nil && errors.Is(r, queue.ErrAlreadySettled):
			won[i] = "ack"
		case r == nil && errors.Is(a, queue.ErrAlreadySettled):
			won[i] = "release"
		default:
			e.Failf("of two verdicts on message %s, ack returned %v and release %v", ds[i].ID, a, r)
		}
	}
	return won
}

// panicsFail: every tenth job panics once, one panics always; all in one worker.
func panicsFail(e *Env) {
	const n = 40
	jobs := e.Jobs(n, 10*time.Millisecond, func(i int, j *Job) {
		if i%10 == 0 {
			j.Do, j.Times = workload.Panic, 1
		}
		if i == 5 {
			j.Do, j.Times = workload.Panic, 1000
		}
	})
	w := e.Worker(Slots(4))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", 4*late, finished(n))
	e.Drain([]*Worker{w}, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n-1 && v.DeadLettered == 1, "%d completed, %d dead letters", v.Completed, v.DeadLettered)
	for i, j := range jobs {
		m := e.Timeline().Message(j.ID)
		want := 1
		switch {
		case i == 5:
			want = 3
			e.Check(m.Deaths[0].Reason == string(queue.ReasonAttempts), "the dead letter's reason is %q", m.Deaths[0].Reason)
		case i%10 == 0:
			want = 2
		}
		e.Check(len(m.Deliveries) == want, "message %s was delivered %d times, not %d", j.ID, len(m.Deliveries), want)
		for k, d := range m.Deliveries {
			e.Check(d.Attempt == k+1, "delivery %d of message %s is attempt %d", k+1, j.ID, d.Attempt)
		}
	}
}
