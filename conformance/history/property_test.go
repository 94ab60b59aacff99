package history

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// composer makes up a valid history, message by message, and counts what the checker must find in it. Every delivery has
// a process of its own, so that a kill hits one delivery.
type composer struct {
	t      *rapid.T
	events []Event
	want   Verdict
	now    int64
	procs  int
}

// life is the state of a message while its history is made up.
type life struct {
	id       string
	attempt  int
	token    uint64
	runs     int  // so far
	spare    bool // the next run has no other reason than a second publish
	reason   Cause
	proc     string
	until    int64
	finished bool
}

func (c *composer) tick() { c.now += rapid.Int64Range(1, 40*ms).Draw(c.t, "tick") }

func (c *composer) put(kind Kind, proc string, e Event) {
	c.tick()
	e.T, e.Kind, e.Proc = c.now, kind, proc
	c.events = append(c.events, e)
}

func (c *composer) message(i int) {
	c.now = rapid.Int64Range(1, 1000*ms).Draw(c.t, "from")
	l := &life{id: fmt.Sprint("m", i)}
	publish := func(outcome Kind, definite bool) {
		c.put(PublishInvoke, "p", Event{Msg: l.id})
		if outcome != "" {
			c.put(outcome, "p", Event{Msg: l.id, Definite: definite})
		}
	}
	c.want.Published++
	lives := 1
	switch rapid.SampledFrom([]string{"ok", "ok", "ok", "arrived", "lost", "refused", "resent", "twice"}).Draw(c.t, "publish") {
	case "ok":
		publish(PublishOK, false)
		c.want.Confirmed++
	case "arrived":
		publish("", false)
		c.want.Recovered++
	case "lost":
		publish(PublishErr, false)
		lives = 0
	case "refused":
		publish(PublishErr, true)
		lives = 0
	case "resent":
		publish(PublishErr, true)
		publish(PublishOK, false)
		c.want.Confirmed++
	case "twice":
		publish(PublishErr, false)
		publish(PublishOK, false)
		c.want.Confirmed++
		lives = 2
	}
	for n := range lives {
		l.attempt, l.finished, l.spare = 1, false, n > 0
		for !l.finished {
			c.delivery(l)
		}
	}
}

func (c *composer) delivery(l *life) {
	c.procs++
	l.proc = fmt.Sprint("w", c.procs)
	l.token++
	c.tick()
	l.until = c.now + rapid.Int64Range(1000*ms, 2000*ms).Draw(c.t, "term")
	c.put(ProcStart, l.proc, Event{})
	c.put(Deliver, l.proc, Event{Msg: l.id, Until: l.until, Attempt: l.attempt, Token: l.token})
	if rapid.IntRange(0, 9).Draw(c.t, "unstarted") == 0 {
		c.put(SettleSent, l.proc, Event{Msg: l.id, Verdict: VerdictRelease})
		c.put(SettleOK, l.proc, Event{Msg: l.id})
		return
	}
	c.put(Start, l.proc, Event{Msg: l.id})
	c.count(l)
	if rapid.Bool().Draw(c.t, "extended") {
		l.until += rapid.Int64Range(0, 1000*ms).Draw(c.t, "extension")
		c.put(Extend, l.proc, Event{Msg: l.id, Until: l.until})
	}
	c.outcome(l)
}

// count counts a run by the reason that the delivery before it left.
func (c *composer) count(l *life) {
	l.runs++
	if l.runs == 1 {
		return
	}
	if l.spare {
		l.reason, l.spare = CauseAmbiguousPublish, false
	}
	switch l.reason {
	case CauseRetry:
		c.want.Retries++
	case CauseRelease:
		c.want.Releases++
	default:
		c.want.Duplicates.Total++
		c.want.Duplicates.ByCause[l.reason]++
	}
}

func (c *composer) outcome(l *life) {
	settle := func(verdict, err string) {
		c.put(End, l.proc, Event{Msg: l.id, Err: err})
		c.put(SettleSent, l.proc, Event{Msg: l.id, Verdict: verdict})
	}
	outcomes := []string{"ack", "ack", "dead", "retry", "release", "kill", "lost", "stop", "ack lost"}
	switch rapid.SampledFrom(outcomes).Draw(c.t, "outcome") {
	case "ack":
		settle(VerdictAck, "")
		c.put(SettleOK, l.proc, Event{Msg: l.id})
		c.finish(l, &c.want.Completed)
	case "dead":
		settle(VerdictDead, "broken")
		c.put(Dead, l.proc, Event{Msg: l.id})
		c.put(SettleOK, l.proc, Event{Msg: l.id})
		c.finish(l, &c.want.DeadLettered)
	case "retry":
		settle(VerdictRetry, "broken")
		c.put(SettleOK, l.proc, Event{Msg: l.id})
		l.reason, l.attempt = CauseRetry, l.attempt+1
	case "release":
		settle(VerdictRelease, "draining")
		c.put(SettleOK, l.proc, Event{Msg: l.id})
		l.reason = CauseRelease
	case "kill":
		c.put(Kill, l.proc, Event{Signal: "KILL"})
		l.reason, c.now = CauseKill, l.until
	case "lost":
		c.put(LeaseLost, l.proc, Event{Msg: l.id})
		c.put(End, l.proc, Event{Msg: l.id, Err: "lease lost"})
		l.reason = CauseLeaseLost
	case "stop":
		c.put(Stop, l.proc, Event{})
		c.now = l.until + rapid.Int64Range(0, 1000*ms).Draw(c.t, "stopped")
		c.put(Cont, l.proc, Event{})
		c.put(End, l.proc, Event{Msg: l.id, Err: "lease lost"})
		l.reason = CauseLeaseLost
	case "ack lost":
		settle(VerdictAck, "")
		c.put(Kill, l.proc, Event{Signal: "KILL"})
		l.reason, c.now = CauseAckLost, l.until
	}
}

func (c *composer) finish(l *life, count *int) {
	l.finished = true
	if c.want.Completed+c.want.DeadLettered < c.want.Confirmed+c.want.Recovered {
		*count++
		return
	}
	c.want.Duplicates.FinishedAgain++
}

func compose(t *rapid.T) *composer {
	c := &composer{t: t}
	c.want.Duplicates.ByCause = make(map[Cause]int)
	for i := range rapid.IntRange(1, 6).Draw(t, "messages") {
		c.message(i)
	}
	byTime(c.events)
	return c
}

var everything = Options{Drained: true, Fencing: true}

func TestValidHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := compose(t)
		v := Check(c.events, everything)
		require.Empty(t, v.InvalidReasons)
		require.True(t, v.Valid)
		require.True(t, v.Balanced)
		got := Verdict{
			Published: v.Published, Confirmed: v.Confirmed, Recovered: v.Recovered, Completed: v.Completed,
			DeadLettered: v.DeadLettered, Duplicates: v.Duplicates, Retries: v.Retries, Releases: v.Releases,
		}
		require.Equal(t, c.want, got)
		require.Zero(t, v.AckUnconfirmed)
		require.Zero(t, v.RedeliveryMissing)
	})
}

// mutation spoils a valid history at the ack of one message, and says whether the checker noticed.
type mutation struct {
	name   string
	spoil  func(events []Event, ack Event) []Event
	caught func(was, is Verdict) bool
}

func drop(events []Event, ack Event, kinds ...Kind) []Event {
	return slices.DeleteFunc(events, func(e Event) bool {
		return e.Msg == ack.Msg && slices.Contains(kinds, e.Kind) && (e.Proc == ack.Proc || e.Proc == "p")
	})
}

func change(events []Event, ack Event, kind Kind, f func(*Event)) []Event {
	for i := range events {
		if e := &events[i]; e.Msg == ack.Msg && e.Proc == ack.Proc && e.Kind == kind {
			f(e)
		}
	}
	return events
}

func intruder(events []Event, ack Event, at int64) []Event {
	return append(events,
		Event{T: at, Kind: Deliver, Proc: "intruder", Msg: ack.Msg, Until: at + 1000*ms, Token: 1 << 40, Attempt: 99},
		Event{T: at + 1, Kind: Start, Proc: "intruder", Msg: ack.Msg})
}

var mutations = []mutation{
	{"the answer to an ack is missing",
		func(es []Event, ack Event) []Event { return drop(es, ack, SettleOK) },
		func(_, is Verdict) bool { return is.Valid && is.AckUnconfirmed == 1 }},
	{"an ack is missing",
		func(es []Event, ack Event) []Event { return drop(es, ack, SettleSent, SettleOK) },
		func(_, is Verdict) bool { return !is.Valid && is.Lost == 1 }},
	{"half an ack is missing",
		func(es []Event, ack Event) []Event { return drop(es, ack, SettleSent) },
		func(_, is Verdict) bool { return !is.Valid && is.Orphans == 1 }},
	{"a publish is missing",
		func(es []Event, ack Event) []Event { return drop(es, ack, PublishInvoke, PublishOK, PublishErr) },
		func(_, is Verdict) bool { return !is.Valid && is.Unexpected == 1 }},
	{"a delivery is missing",
		func(es []Event, ack Event) []Event { return drop(es, ack, Deliver) },
		func(_, is Verdict) bool { return !is.Valid && is.Orphans > 0 }},
	{"delivered to another at the same time",
		func(es []Event, ack Event) []Event {
			i := slices.IndexFunc(es, func(e Event) bool { return e.Kind == End && e.Proc == ack.Proc })
			return intruder(es, ack, es[i].T)
		},
		func(was, is Verdict) bool {
			return !is.Valid && is.Overlaps == 1 &&
				is.Duplicates.ByCause[CauseUnexplained] == was.Duplicates.ByCause[CauseUnexplained]+1
		}},
	{"delivered after the ack",
		func(es []Event, ack Event) []Event { return intruder(es, ack, ack.T+1) },
		func(_, is Verdict) bool { return !is.Valid && is.AckedThenDelivered == 1 && is.Overlaps == 0 }},
	{"no token",
		func(es []Event, ack Event) []Event {
			return change(es, ack, Deliver, func(e *Event) { e.Token = 0 })
		},
		func(_, is Verdict) bool { return !is.Valid && is.TokenRegressions == 1 }},
	{"ran on after its lease",
		func(es []Event, ack Event) []Event {
			es = drop(es, ack, SettleSent, SettleOK)
			var until int64
			change(es, ack, Deliver, func(e *Event) { until = e.Until })
			change(es, ack, Extend, func(e *Event) { until = e.Until })
			return change(es, ack, End, func(e *Event) { e.T = until + 5000*ms })
		},
		func(_, is Verdict) bool { return !is.Valid && is.FatalOverruns == 1 }},
}

func TestMutatedHistoriesAreCaught(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				c := compose(t)
				x := Index(c.events)
				var acks []Event
				for _, e := range c.events {
					msg := x.Message(e.Msg)
					if e.Kind != SettleOK || !msg.single() {
						continue
					}
					if ends := msg.endings(); ends[0].completed && ends[0].at == e.T && ends[0].delivery.Proc.Name == e.Proc {
						acks = append(acks, e)
					}
				}
				if len(acks) == 0 {
					t.Skip("nothing was acked")
				}
				ack := rapid.SampledFrom(acks).Draw(t, "ack")
				was := Check(c.events, everything)
				spoiled := m.spoil(slices.Clone(c.events), ack)
				is := Check(spoiled, everything)
				require.True(t, m.caught(was, is), "%+v", is)
			})
		})
	}
}
