package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// deliveryRules are family D: delivery and settlement.
var deliveryRules = []Rule{
	{
		ID: "D01", Name: "acked_never_again", Tier: Smoke,
		Claim: "an acked message is never delivered again",
		Check: ackedNeverAgain,
	},
	{
		ID: "D02", Name: "nothing_confirmed_is_lost", Tier: Smoke,
		Claim: "nothing confirmed is lost, whatever handlers do",
		Check: nothingLost,
	},
	{
		ID: "D03", Name: "nothing_unexpected", Tier: Smoke,
		Claim: "a queue delivers what was published to it, byte for byte: not another queue's messages, not what was refused",
		Check: nothingUnexpected,
	},
	{
		ID: "D04", Name: "no_duplicates_without_a_fault", Tier: Smoke,
		Claim: "without a fault every message is delivered once",
		Check: noDuplicates,
	},
	{
		ID: "D05", Name: "attempts_counted", Tier: Fast,
		Claim:    "attempts count from 1, one more with every failure, whichever worker it was",
		Emulated: copiesCount,
		Check:    attemptsCounted,
	},
	{
		ID: "D06", Name: "one_holder", Tier: Fast,
		Claim: "while a worker holds a lease nobody else runs the message",
		Needs: needsKept,
		Check: oneHolder,
	},
	{
		ID: "D07", Name: "second_verdict_refused", Tier: Smoke,
		Claim: "a second verdict returns ErrAlreadySettled, is not sent, and harms nothing else",
		Check: secondVerdict,
	},
	{
		ID: "D08", Name: "verdicts_race", Tier: Fast,
		Claim: "of two verdicts given at once exactly one wins",
		Check: verdictsRace,
	},
	{
		ID: "D09", Name: "ack_that_did_not_arrive", Tier: Fast,
		Claim: "an ack that did not reach the broker is an error, and the message comes back",
		Check: ackNotArrived,
	},
	{
		ID: "D11", Name: "panic_is_a_failed_attempt", Tier: Fast,
		Claim: "a panic is a failed attempt, and the worker lives on",
		Check: panicsFail,
	},
	{
		ID: "D12", Name: "result_after_the_lease", Tier: Fast,
		Claim: "what a handler returns after its lease was lost is discarded",
		Check: resultAfterLease,
	},
	{
		ID: "D13", Name: "idle_is_cheap_and_awake", Tier: Fast,
		Claim: "an idle worker gets the next message at once, and costs next to nothing",
		Check: idleCheap,
	},
	{
		ID: "D15", Name: "ack_is_durable", Tier: Fast,
		Claim: "when an ack is reported the message is gone, though the process dies now",
		Check: ackDurable,
	},
}

// copiesCount: where nothing is kept with a returned message, the queue publishes a copy that carries the counts.
func copiesCount(c driver.Capabilities) string {
	if c.Carries {
		return ""
	}
	return "the counts travel in copies of the message"
}

func ackedNeverAgain(e *Env) {
	e.Publish(queue.Lanes{}, e.Jobs(20, 0, nil)...)
	c := e.Consumer(e.Queue, queue.ConsumerConfig{})
	for _, d := range e.Receive(c, 20, late) {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	// What was not settled comes back at once when its consumer closes, and to anybody.
	e.Must(c.Close(e.Ctx), "close the consumer")
	e.Quietly(e.Consumer(e.Queue, queue.ConsumerConfig{}), 3*e.Lease+e.Caps.DeathDetected, "it was acked")
}

func nothingLost(e *Env) {
	n := 2000
	if e.Tier == Full {
		n = 10_000
	}
	dead := 0
	dice := rand.New(rand.NewPCG(e.Seed, 2))
	jobs := e.Jobs(n, time.Millisecond, func(_ int, j *Job) {
		switch roll := dice.IntN(100); {
		case roll < 10:
			j.Fail = 1
		case roll < 20:
			j.Run = 50 * time.Millisecond
		case roll < 21:
			j.Poison = true
		case roll < 22:
			j.Do = workload.Reject
		case roll < 24:
			j.Do = workload.Panic
		case roll < 26 && (e.Caps.Carries || e.Caps.Counting != driver.Uncounted): // else nobody knows that it was released
			j.Do, j.Times = workload.Release, 1
		case roll < 28:
			j.Fail, j.After = 1, 300*time.Millisecond
		}
		if j.Poison || j.Do == workload.Reject {
			dead++
		}
	})
	ws := e.Workers(3, Slots(8))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", 90*time.Second, finished(n))
	e.Drain(ws, 20*time.Second)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Confirmed == n, "%d of %d messages were confirmed", v.Confirmed, n)
	e.Check(v.DeadLettered == dead, "%d messages are dead letters, %d had to be", v.DeadLettered, dead)
}

// finished: so many messages are acked or dead-lettered.
func finished(n int) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool {
		done := 0
		for _, m := range t.Messages {
			if m.Finished() != history.Never {
				done++
			}
		}
		return done >= n
	}
}

// nothingUnexpected publishes to two queues, of which one has the other's name and more, and in between what must be
// refused.
func nothingUnexpected(e *Env) {
	const n = 60
	beside := e.Queue + "-b"
	other, err := queue.NewProducer(e.Ctx, e.Open(), beside, queue.ProducerConfig{Logger: e.log})
	e.Must(err, "open a producer")
	bodies := map[string]map[string][]byte{e.Queue: {}, beside: {}}
	var own []*queue.Message
	for i := range n {
		m := e.Message(Job{ID: fmt.Sprintf("%s/%d", e.Queue, i), Order: workload.Order{Seq: i}})
		own, bodies[e.Queue][m.ID] = append(own, m), m.Body
		b := e.Message(Job{ID: fmt.Sprintf("%s/%d", beside, i), Order: workload.Order{Seq: n + i}})
		bodies[beside][b.ID] = b.Body
		e.Must(other.Publish(e.Ctx, b), "publish to the other queue")
	}
	e.publishAmongRefused(own)
	for name, want := range bodies {
		c := e.ConsumerOn(e.Open(), name, queue.ConsumerConfig{})
		if name == e.Queue {
			c = e.Puller("taker", e.Open(), queue.ConsumerConfig{})
		}
		for _, d := range e.Receive(c, n, late) {
			body, published := want[d.ID]
			e.Check(published, "%s delivered message %q, which was never published to it", name, d.ID)
			e.Check(bytes.Equal(body, d.Body), "message %s came with another body", d.ID)
			e.Check(d.Queue == name, "message %s says that it came from %s", d.ID, d.Queue)
			e.Must(d.Ack(e.Ctx), "ack")
			delete(want, d.ID)
		}
		e.Quietly(c, e.Lease/2, "everything was delivered")
	}
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

// publishAmongRefused publishes ms and, in the same calls, messages that have to be refused.
func (e *Env) publishAmongRefused(ms []*queue.Message) {
	p := e.Producer(queue.ProducerConfig{Hooks: e.Published()})
	refused := []*queue.Message{
		{ID: "reserved header", Header: map[string]string{"hf-id": "x"}},
		{ID: "negative delay", Delay: -time.Second},
		{ID: "no text \xff"},
	}
	if e.Caps.MaxBytes > 0 && e.Caps.MaxBytes <= 64<<20 {
		refused = append(refused, &queue.Message{ID: "too large", Body: make([]byte, e.Caps.MaxBytes+1)})
	}
	for i, bad := range refused {
		part := ms[i*len(ms)/len(refused) : (i+1)*len(ms)/len(refused)]
		half := len(part) / 2
		batch := append(append(append([]*queue.Message{}, part[:half]...), bad), part[half:]...)
		for _, m := range batch {
			e.Publishing(m)
		}
		err := p.Publish(e.Ctx, batch...)
		for k := range batch {
			one := driver.Outcome(err, k)
			e.Check((one != nil) == (k == half), "publishing %q: %v", batch[k].ID, one)
		}
		e.Check(errors.Is(err, queue.ErrInvalid) || errors.Is(err, queue.ErrTooLarge), "%q was refused with: %v", bad.ID, err)
	}
}

func noDuplicates(e *Env) {
	n := 600
	if e.Tier == Full {
		n = 5000
	}
	dice := rand.New(rand.NewPCG(e.Seed, 4))
	jobs := e.Jobs(n, 0, func(i int, j *Job) {
		j.Run = time.Duration(dice.IntN(40)) * time.Millisecond
		if i%(n/8) == 0 && needsKept(e.Setting) == "" { // held for longer than a lease
			j.Run = e.Lease * 3 / 2
		}
	})
	ws := e.Workers(3, Slots(8))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", 60*time.Second+2*e.Lease, finished(n))
	e.Sleep(e.Lease + e.Caps.DeathDetected) // time for what would come twice
	e.Drain(ws, 20*time.Second)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Completed == n, "%d of %d messages were completed", v.Completed, n)
	e.once("there was no fault")
}

// once checks that every message of the rule was delivered once.
func (e *Env) once(why string) {
	for _, m := range e.Timeline().Messages {
		e.Check(len(m.Deliveries) == 1, "message %s was delivered %d times: %s", m.ID, len(m.Deliveries), why)
	}
}
