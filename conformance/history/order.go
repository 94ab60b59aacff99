package history

import (
	"cmp"
	"fmt"
	"slices"
)

func (j *judge) find(d *Delivery, at int64, what string) Finding {
	return Finding{Msg: d.Msg.ID, Proc: d.Proc.Name, At: at, What: what}
}

// single reports whether the broker held one message of this id at most, so that its deliveries are one sequence.
func (m *Message) single() bool { return m.published() <= 1 && len(m.Redriven) == 0 }

// acked finds deliveries after a confirmed ack of the same generation. The original of an acked copy may come back: its
// own ack may have failed, which makes it a duplicate.
func (j *judge) acked() {
	if j.o.SettleUnconfirmed {
		return
	}
	for _, m := range j.t.Messages {
		if len(m.Deliveries) < 2 || !m.single() {
			continue
		}
		gone := make(map[int]int64) // when the generation was acked
		for _, d := range m.Deliveries {
			if s := d.Settled(); s != nil && s.Outcome == Confirmed && s.Verdict == VerdictAck {
				if at, ok := gone[d.Generation]; !ok || s.Answered < at {
					gone[d.Generation] = s.Answered
				}
			}
		}
		for _, d := range m.Deliveries {
			if at, ok := gone[d.Generation]; ok && d.At > at {
				what := fmt.Sprintf("delivered %d ns after its ack was confirmed", d.At-at)
				note(j, &j.v.AckedThenDelivered, &j.v.Details.Acked, j.find(d, d.At, what))
			}
		}
	}
}

// attempts finds deliveries with a lower attempt number than an earlier one of their generation.
func (j *judge) attempts() {
	for _, m := range j.t.Messages {
		if len(m.Deliveries) < 2 || !m.single() {
			continue
		}
		highest := make(map[int]int)
		for _, d := range m.Deliveries {
			if d.Attempt == 0 {
				continue
			}
			if before := highest[d.Generation]; d.Attempt < before {
				what := fmt.Sprintf("attempt %d after attempt %d", d.Attempt, before)
				note(j, &j.v.AttemptRegressions, &j.v.Details.Attempts, j.find(d, d.At, what))
			}
			highest[d.Generation] = max(highest[d.Generation], d.Attempt)
		}
	}
}

// tokens finds deliveries whose fencing token is not above those of all earlier deliveries. A later generation has
// higher tokens even if the original is delivered after its copy.
func (j *judge) tokens() {
	for _, m := range j.t.Messages {
		if !m.single() {
			continue
		}
		ds := slices.Clone(m.Deliveries)
		slices.SortStableFunc(ds, func(a, b *Delivery) int { return cmp.Compare(a.Generation, b.Generation) })
		var highest uint64
		for _, d := range ds {
			if d.Token <= highest {
				what := fmt.Sprintf("token %d after %d", d.Token, highest)
				note(j, &j.v.TokenRegressions, &j.v.Details.Tokens, j.find(d, d.At, what))
			}
			highest = max(highest, d.Token)
		}
	}
}

// queueKey names the messages whose order counts.
type queueKey struct{ queue, key string }

func (j *judge) keys() {
	groups := make(map[queueKey][]*Message)
	var order []queueKey // so that findings come in the same order every time
	for _, m := range j.t.Messages {
		k := queueKey{m.Queue, m.Key}
		if m.Key == "" {
			continue
		}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], m)
	}
	for _, k := range order {
		j.orderOf(groups[k])
		j.exclusionOf(groups[k])
	}
}

// queued is a message of a key with the moments that its order hangs on.
type queued struct {
	m    *Message
	p    *Publish
	done int64
}

// orderOf finds messages that started before one ahead of them was done. One is ahead if the same producer published it
// earlier, or any producer had it confirmed before the publish of the other began. Only messages that were published
// once and confirmed have a place.
func (j *judge) orderOf(ms []*Message) {
	var byInvoke []queued
	for _, m := range ms {
		if len(m.Publishes) == 1 && m.Publishes[0].Outcome == Confirmed {
			byInvoke = append(byInvoke, queued{m, m.Publishes[0], m.Finished()})
		}
	}
	slices.SortStableFunc(byInvoke, func(a, b queued) int { return byMoment(a.p.Invoked, b.p.Invoked) })
	byAnswer := slices.Clone(byInvoke)
	slices.SortStableFunc(byAnswer, func(a, b queued) int { return byMoment(a.p.Answered, b.p.Answered) })

	var confirmed *queued           // the last to be done of those confirmed before
	own := make(map[string]*queued) // and of those of the same producer
	for i, answered := 0, 0; i < len(byInvoke); i++ {
		q := &byInvoke[i]
		for ; answered < len(byAnswer) && byAnswer[answered].p.Answered < q.p.Invoked; answered++ {
			confirmed = later(confirmed, &byAnswer[answered])
		}
		ahead := later(confirmed, own[q.p.Proc])
		if r := q.m.firstRun(); r != nil && ahead != nil && r.From < ahead.done {
			what := fmt.Sprintf("key %q: started before %s was done", q.m.Key, ahead.m.ID)
			note(j, &j.v.OrderViolations, &j.v.Details.Order, j.find(r.Delivery, r.From, what))
		}
		own[q.p.Proc] = later(own[q.p.Proc], q)
	}
}

// later returns the one that was done later.
func later(a, b *queued) *queued {
	if a == nil || b != nil && b.done > a.done {
		return b
	}
	return a
}

// exclusionOf finds handlers of a key that ran at the same time. What runs on after its lease is an overrun instead.
func (j *judge) exclusionOf(ms []*Message) {
	var runs []*Run
	for _, m := range ms {
		for _, d := range m.Deliveries {
			runs = append(runs, d.Runs...)
		}
	}
	slices.SortStableFunc(runs, func(a, b *Run) int { return byMoment(a.From, b.From) })
	var last *Run // the one that ends last
	var end int64
	for _, r := range runs {
		if last != nil && r.From < end {
			what := fmt.Sprintf("key %q: ran beside %s", r.Delivery.Msg.Key, last.Delivery.Msg.ID)
			note(j, &j.v.ExclusionBreaches, &j.v.Details.Exclusion, j.find(r.Delivery, r.From, what))
		}
		if e := min(r.To, r.Delivery.Expiry()); last == nil || e > end {
			last, end = r, e
		}
	}
}
