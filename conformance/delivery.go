package conformance

import (
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
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
}

func ackedNeverAgain(e *Env) {
	e.Publish(queue.Lanes{}, e.Jobs(20, 0, nil)...)
	c := e.Consumer(e.Queue, queue.ConsumerConfig{})
	for _, d := range e.Receive(c, 20, 10*time.Second) {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	e.Quietly(c, 3*e.Lease+e.Caps.DeathDetected, "it was acked")
}

func nothingLost(e *Env) {
	n := 2000
	if e.Tier == Full {
		n = 10_000
	}
	jobs := e.Jobs(n, time.Millisecond, func(i int, j *Job) {
		switch i % 10 {
		case 0:
			j.Fail = 1
		case 1:
			j.Run = 50 * time.Millisecond
		case 2:
			j.Poison = i%100 == 2
		}
	})
	ws := e.Workers(3, Slots(8))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", 90*time.Second, finished(n))
	e.Drain(ws, 20*time.Second)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.Confirmed == n, "%d of %d messages were confirmed", v.Confirmed, n)
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
