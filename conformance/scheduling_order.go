package conformance

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue"
)

// keyOrderDenied asks for an order that the broker cannot keep.
func keyOrderDenied(e *Env) {
	e.refusesAll("order per key", queue.Lanes{}, queue.Needs{KeyOrder: true})
}

// keyOrder lets messages of several keys take any time, and some fail at first: the next of their key waits for them.
func keyOrder(e *Env) {
	const keys = 10
	each := 20
	if e.Tier == Full {
		each = 100
	}
	r := rand.New(rand.NewPCG(e.Seed, 12))
	jobs := e.Jobs(keys*each, 0, func(i int, j *Job) {
		j.Key, j.Run = fmt.Sprint("key", i%keys), unit/10+time.Duration(r.Int64N(int64(unit)))
		if i%17 == 5 {
			j.Fail = 1
		}
		if i%50 == 7 {
			j.Poison = true
		}
	})
	ws := e.Workers(3, Slots(4), With(func(s *crew.Spec) { s.Needs.KeyOrder = true }))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("the messages are done", time.Duration(2*each)*unit+2*late, finished(len(jobs)))
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true, FaultFree: true, KeyOrder: true})
	together := e.Timeline().Peak(func(*history.Run) string { return "all" })["all"]
	e.Check(together > keys/2, "no more than %d messages of %d keys ran at once", together, keys)
	e.Note("keys at once", "%d of %d", together, keys)
}
