package history

import (
	"cmp"
	"slices"
)

// Cause is why a message ran again.
type Cause string

// The causes. Retry, release and redrive are no duplicates, and have counts of their own.
const (
	CauseRetry            Cause = "retry"
	CauseRelease          Cause = "release"
	CauseRedrive          Cause = "redrive"
	CauseKill             Cause = "kill" // the process of an earlier delivery died
	CauseLeaseLost        Cause = "lease_lost"
	CauseAmbiguousPublish Cause = "ambiguous_publish" // published twice under one id
	CauseAckLost          Cause = "ack_lost"          // a settle was sent and not confirmed
	CauseUnexplained      Cause = "unexplained"
)

// Duplicates are the runs of messages beyond their first that no failure, release or redrive asked for.
type Duplicates struct {
	Total         int           `json:"total"`
	ByCause       map[Cause]int `json:"by_cause"`
	FinishedAgain int           `json:"finished_again"` // acks and dead letters beyond the first of their message
}

// Duplicate is one such run.
type Duplicate struct {
	Msg   string `json:"msg"`
	Proc  string `json:"proc"`
	At    int64  `json:"at"` // delivered
	Cause Cause  `json:"cause"`
}

// step is a moment in the life of a message: a delivery that ran, or a reason for another one.
type step struct {
	at     int64
	order  int  // of steps of one moment, of which there are many in virtual time
	run    *Run // nil: a reason
	reason Cause
}

func (j *judge) duplicates() {
	j.v.Duplicates.ByCause = make(map[Cause]int)
	for _, m := range j.t.Messages {
		if r := m.firstRun(); r != nil {
			j.duplicatesOf(m)
		}
	}
}

// duplicatesOf pairs every run but the first with the latest reason before its delivery that no other run has used. A
// run without a reason is owed to a second publish, as often as there was one, or to nothing that is known.
func (j *judge) duplicatesOf(m *Message) {
	var reasons []Cause
	again := max(0, m.published()-1)
	first := true
	for _, s := range j.steps(m) {
		if s.run == nil {
			reasons = append(reasons, s.reason)
			continue
		}
		if first {
			first = false
			continue
		}
		cause := CauseUnexplained
		if n := len(reasons); n > 0 {
			cause, reasons = reasons[n-1], reasons[:n-1]
		} else if again > 0 {
			cause = CauseAmbiguousPublish
			again--
		}
		j.ranAgain(s.run, cause)
	}
}

func (j *judge) ranAgain(r *Run, cause Cause) {
	v := &j.v
	switch cause {
	case CauseRetry:
		v.Retries++
	case CauseRelease:
		v.Releases++
	case CauseRedrive:
		v.Redrives++
	default:
		v.Duplicates.ByCause[cause]++
		note(j, &v.Duplicates.Total, &v.Details.Duplicates, Duplicate{
			Msg: r.Delivery.Msg.ID, Proc: r.Delivery.Proc.Name, At: r.Delivery.At, Cause: cause,
		})
	}
}

// steps returns the runs of a message, each at the moment it was delivered, and the reasons for them, by time.
func (j *judge) steps(m *Message) []step {
	var steps []step
	for i, d := range m.Deliveries {
		if len(d.Runs) == 0 {
			continue // the reason for the delivery before it stays unused, and good for the next
		}
		at := d.At
		for _, r := range d.Runs {
			steps = append(steps, step{at: at, order: 2 * i, run: r})
			at = r.To // a second run of the same delivery
		}
		for _, s := range j.reasons(d) { // none is one for its own delivery
			s.at, s.order = max(s.at, d.At), 2*i+1
			steps = append(steps, s)
		}
	}
	for _, at := range m.Redriven {
		steps = append(steps, step{at: at, order: -1, reason: CauseRedrive})
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Or(byMoment(a.at, b.at), cmp.Compare(a.order, b.order))
	})
	return steps
}

// reasons returns why a message came back after delivery d, or could have: none if it was settled for good. Of those
// with one moment, the last is the one to use first.
func (j *judge) reasons(d *Delivery) []step {
	s := d.Settled()
	if s == nil || s.Sent > d.Expiry() {
		return d.abandoned()
	}
	at := func(cause Cause) step { return step{at: s.Sent, reason: cause} }
	sure := s.Outcome == Confirmed && !j.o.SettleUnconfirmed
	switch {
	case final(s.Verdict) && sure:
		return nil
	case final(s.Verdict):
		return []step{at(CauseAckLost)}
	}
	cause := CauseRelease
	if s.Verdict == VerdictRetry {
		cause = CauseRetry
	}
	if !sure && d.copied() {
		return []step{at(CauseAckLost), at(cause)} // the copy, and the original that nobody acked
	}
	return []step{at(cause)}
}

// abandoned returns why a message came back that was not settled in time.
func (d *Delivery) abandoned() []step {
	lost, died := d.Expiry(), d.Proc.Down
	switch {
	case died != Never && died <= lost:
		// A kill is written before its signal is sent, so the victim may have received something in between.
		return []step{{at: died, reason: CauseKill}}
	case lost != Never:
		return []step{{at: lost, reason: CauseLeaseLost}}
	default:
		return nil
	}
}

// copied reports whether a copy of the delivery was delivered as well.
func (d *Delivery) copied() bool {
	return slices.ContainsFunc(d.Msg.Deliveries, func(o *Delivery) bool {
		return o.Generation > d.Generation
	})
}
