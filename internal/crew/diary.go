package crew

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// diary writes a worker's journal from the hooks of package queue.
type diary struct {
	w    *history.Writer
	fail Failpoint
	kill func() // ends the process as SIGKILL does

	handlers sync.WaitGroup // that have not returned

	slots  int // as told last; only obey changes it once the worker runs
	paused bool

	next    atomic.Int64
	numbers sync.Map // *queue.Delivery → its number in this process
}

// note writes an event. A worker that cannot write its journal must not go on: its history would lie.
func (j *diary) note(e history.Event) {
	if err := j.w.Write(e); err != nil {
		fmt.Fprintf(os.Stderr, "worker: journal: %v\n", err)
		os.Exit(ExitFailed)
	}
}

// about is an event of a delivery.
func (j *diary) about(d *queue.Delivery, kind history.Kind) history.Event {
	number, _ := j.numbers.Load(d)
	n, _ := number.(int64)
	return history.Event{Kind: kind, Msg: d.ID, Delivery: n}
}

func (j *diary) hooks() queue.Hooks {
	return queue.Hooks{
		Received: j.received,
		Started: func(d *queue.Delivery) {
			j.handlers.Add(1) // before anybody can know of it
			e := j.about(d, history.Start)
			e.Attempt, e.Ignores = d.Attempt, ignores(d)
			j.note(e)
		},
		Ended: func(d *queue.Delivery, err error) {
			e := j.about(d, history.End)
			e.Err = text(err)
			j.note(e)
			j.die(BeforeAck)
		},
		Extended: func(d *queue.Delivery, until time.Time) {
			e := j.about(d, history.Extend)
			e.Until = j.w.At(until)
			j.note(e)
		},
		LeaseLost: func(d *queue.Delivery, cause error) {
			e := j.about(d, history.LeaseLost)
			e.Cause = text(cause)
			j.note(e)
		},
		Settling: func(d *queue.Delivery, s queue.Settlement) { j.settle(d, s, history.SettleSent, nil) },
		Settled:  j.settled,
		Copied: func(d *queue.Delivery, generation int) {
			e := j.about(d, history.Copy)
			e.Generation = generation
			j.note(e)
		},
		Stuck: func(d *queue.Delivery, _ time.Duration) { j.note(j.about(d, Stuck)) },
		DeadLettered: func(d *queue.Delivery, r queue.Reason) {
			e := j.about(d, history.Dead)
			e.Cause = string(r)
			j.note(e)
		},
	}
}

func (j *diary) received(d *queue.Delivery) {
	j.numbers.Store(d, j.next.Add(1))
	e := j.about(d, history.Deliver)
	e.Queue, e.Tenant, e.Lane, e.Key, e.Priority = d.Queue, d.Tenant, d.Lane, d.Key, d.Priority
	e.Attempt, e.Deliveries, e.Generation, e.Token = d.Attempt, d.DeliveryCount, d.Generation, d.Token
	e.N, e.Until = d.Crashes, j.w.At(d.LeaseUntil())
	j.note(e)
	j.die(AfterReceive)
}

func (j *diary) settled(d *queue.Delivery, s queue.Settlement, err error) {
	if err == nil {
		if s.Verdict == queue.VerdictAck {
			j.die(AfterAckSent)
		}
		j.settle(d, s, history.SettleOK, nil)
	} else {
		j.settle(d, s, history.SettleErr, err)
	}
	j.numbers.Delete(d)
}

func (j *diary) settle(d *queue.Delivery, s queue.Settlement, kind history.Kind, err error) {
	e := j.about(d, kind)
	e.Verdict, e.Delay, e.Err = s.Verdict.String(), int64(s.Delay), text(err)
	if s.Dead != "" {
		e.Verdict = history.VerdictDead
		if s.Verdict == queue.VerdictReject && s.Dead == queue.ReasonRejected {
			e.Verdict = history.VerdictReject
		}
	}
	e.Definite = err != nil && (errors.Is(err, queue.ErrUnavailable) || errors.Is(err, queue.ErrAlreadySettled))
	j.note(e)
}

// Events that only benchmarks read. A worker writes them every second and at its end, so that a killed one is missed by
// little.
const (
	Calls history.Kind = "calls" // requests of one kind (in Cause) that the process has sent so far (N)
	RSS   history.Kind = "rss"   // the largest resident size of the process so far, in bytes (N)
)

// Stuck is written when a handler is reported as one that does not return. It decides nothing.
const Stuck history.Kind = "stuck"

// measure writes Calls and RSS events until ctx ends.
func (j *diary) measure(ctx context.Context, b driver.Backend) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		if m, can := b.(driver.Meter); can {
			for kind, n := range m.Calls() {
				j.note(history.Event{Kind: Calls, Cause: kind, N: int(n)})
			}
		}
		j.note(history.Event{Kind: RSS, N: int(peakRSS())})
	}
}

// die kills the process if this is its failpoint.
func (j *diary) die(at Failpoint) {
	if j.fail == at {
		j.kill()
	}
}

func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal arrives
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
