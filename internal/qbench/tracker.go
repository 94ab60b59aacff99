package qbench

import (
	"cmp"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

// tracker is what is known of a run while it goes on, from the journals as they are written. It decides when to kill
// and when all is done; the verdict comes from the whole history afterwards.
type tracker struct {
	jobs    map[string]*workload.Job
	pending map[string]bool // stored at the broker, as far as is known, and not finished
	over    map[string]bool // finished
	running map[holding]int64
	ready   map[string]bool // processes that work
	killed  map[string]kill // by message, until it runs again

	total, done time.Duration // run times of all messages, and of finished ones

	published, refused, completed, dead int
	last                                int64 // moment of the last event of a message
}

// holding is a delivery that runs.
type holding struct {
	proc, msg string
	number    int64
}

// kill is the end of the process that a message was running in.
type kill struct {
	proc string
	at   int64
}

// rerun is a message that runs again after a kill.
type rerun struct {
	msg, proc string
	after     time.Duration
}

func newTracker(w *workload.Workload) *tracker {
	t := &tracker{
		jobs: make(map[string]*workload.Job, len(w.Messages)), pending: make(map[string]bool), over: make(map[string]bool),
		running: make(map[holding]int64), ready: make(map[string]bool), killed: make(map[string]kill),
	}
	for i := range w.Messages {
		j := &w.Messages[i]
		t.jobs[j.ID] = j
		t.total += j.Run
	}
	return t
}

// add takes events in and returns the messages that run again after a kill.
func (t *tracker) add(events []history.Event) []rerun {
	var reruns []rerun
	for i := range events {
		e := &events[i]
		if e.Msg != "" {
			t.last = max(t.last, e.T)
		}
		switch e.Kind {
		case history.PublishOK, history.PublishErr:
			t.publish(e)
		case history.Start:
			t.running[holding{e.Proc, e.Msg, e.Delivery}] = e.T
			if k, was := t.killed[e.Msg]; was {
				delete(t.killed, e.Msg)
				reruns = append(reruns, rerun{msg: e.Msg, proc: e.Proc, after: time.Duration(e.T - k.at)})
			}
		case history.End:
			delete(t.running, holding{e.Proc, e.Msg, e.Delivery})
		case history.SettleOK:
			t.settled(e)
		case history.Dead:
			t.finish(e.Msg, &t.dead)
		case history.ProcReady:
			t.ready[e.Proc] = true
		case history.ProcExit, history.Kill:
			if e.Kind == history.ProcExit || e.Signal == "KILL" {
				t.gone(e)
			}
		}
	}
	return reruns
}

// publish: a message whose publish was not certainly refused may be at the broker.
func (t *tracker) publish(e *history.Event) {
	if e.Kind == history.PublishErr && e.Definite {
		t.refused++
		return
	}
	t.published++
	if !t.over[e.Msg] {
		t.pending[e.Msg] = true
	}
}

func (t *tracker) settled(e *history.Event) {
	switch e.Verdict {
	case history.VerdictAck:
		t.finish(e.Msg, &t.completed)
	case history.VerdictReject, history.VerdictDead:
		t.finish(e.Msg, &t.dead)
	}
}

func (t *tracker) finish(msg string, count *int) {
	if t.over[msg] {
		return
	}
	t.over[msg] = true
	delete(t.pending, msg)
	*count++
	if j := t.jobs[msg]; j != nil {
		t.done += j.Run
	}
}

func (t *tracker) gone(e *history.Event) {
	delete(t.ready, e.Proc)
	for h := range t.running {
		if h.proc == e.Proc {
			delete(t.running, h)
			t.killed[h.msg] = kill{proc: e.Proc, at: e.T}
		}
	}
}

// share is how much of the work is done, by run time. A workload whose messages take no time counts messages.
func (t *tracker) share() float64 {
	if t.total == 0 {
		return float64(len(t.over)) / float64(max(len(t.jobs), 1))
	}
	return float64(t.done) / float64(t.total)
}

// longest is the message that has been running for the longest time at moment now, among those that are not about to
// end if there are such.
func (t *tracker) longest(now int64) (h holding, since int64, found bool) {
	type claim struct {
		holding
		since int64
		stays bool
	}
	var best claim
	for h, since := range t.running {
		c := claim{holding: h, since: since, stays: t.left(h.msg, since, now) >= aboutToEnd}
		if !found || c.stays && !best.stays || c.stays == best.stays && before(c.since, best.since, c.msg, best.msg) {
			best, found = c, true
		}
	}
	return best.holding, best.since, found
}

// aboutToEnd is how close to its end a job is no longer worth a kill: it may be done before the signal arrives.
const aboutToEnd = 100 * time.Millisecond

func before(a, b int64, msgA, msgB string) bool {
	return cmp.Or(cmp.Compare(a, b), cmp.Compare(msgA, msgB)) < 0
}

// left is how much longer a job should run.
func (t *tracker) left(msg string, since, now int64) time.Duration {
	j := t.jobs[msg]
	if j == nil {
		return 0
	}
	return j.Run - time.Duration(now-since)
}
