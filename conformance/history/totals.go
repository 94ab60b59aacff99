package history

import "slices"

// ending is one way in which a message left its queue for good.
type ending struct {
	at        int64
	delivery  *Delivery // nil: dead-lettered by an event that named none
	completed bool      // acked; otherwise dead-lettered
	answered  bool      // otherwise the ack was sent, and the message not seen again
}

// endings returns how the message ended, by time. More than one means that it was finished more than once. What was
// dead-lettered and redriven has not ended.
func (m *Message) endings() []ending {
	ends := m.deaths()
	for _, d := range m.Deliveries {
		s := d.Settled()
		if s == nil || s.Outcome != Confirmed || !final(s.Verdict) || m.diedOf(d) {
			continue
		}
		ends = append(ends, ending{at: s.Answered, delivery: d, completed: s.Verdict == VerdictAck, answered: true})
	}
	if n := len(m.Redriven); n > 0 {
		ends = slices.DeleteFunc(ends, func(e ending) bool { return !e.completed && e.at < m.Redriven[n-1] })
	}
	if len(ends) == 0 {
		return m.unconfirmedAck()
	}
	slices.SortStableFunc(ends, func(a, b ending) int { return byMoment(a.at, b.at) })
	return ends
}

// deaths returns one ending a delivery, and one for each death of no known delivery.
func (m *Message) deaths() []ending {
	var ends []ending
	for i, death := range m.Deaths {
		known := func(earlier Death) bool { return death.Delivery != nil && earlier.Delivery == death.Delivery }
		if !slices.ContainsFunc(m.Deaths[:i], known) {
			ends = append(ends, ending{at: death.At, delivery: death.Delivery, answered: true})
		}
	}
	return ends
}

func (m *Message) diedOf(d *Delivery) bool {
	return slices.ContainsFunc(m.Deaths, func(death Death) bool { return death.Delivery == d })
}

// unconfirmedAck is the ending of a message whose handler succeeded and whose ack was sent but never answered, if nobody
// saw the message after that: it may be gone at the broker, and its work is done.
func (m *Message) unconfirmedAck() []ending {
	if len(m.Deliveries) == 0 {
		return nil
	}
	last := m.Deliveries[len(m.Deliveries)-1].At
	for _, d := range m.Deliveries {
		s := d.Settled()
		if s != nil && s.Outcome == Ambiguous && s.Verdict == VerdictAck && s.Sent >= last && d.succeeded() {
			return []ending{{at: s.Sent, delivery: d, completed: true}}
		}
	}
	return nil
}

// origin is what the expected producers know about a message.
type origin struct {
	attempted, confirmed, possible bool
}

func (j *judge) origin(m *Message) origin {
	var o origin
	for _, p := range m.Publishes {
		if j.o.Producers != nil && !slices.Contains(j.o.Producers, p.Proc) {
			continue
		}
		o.attempted = true
		o.confirmed = o.confirmed || p.Outcome == Confirmed
		o.possible = o.possible || p.Outcome != Refused
	}
	return o
}

func (j *judge) totals() {
	v := &j.v
	for _, m := range j.t.Messages {
		from := j.origin(m)
		seen := len(m.Deliveries) > 0 || len(m.Deaths) > 0
		if from.attempted {
			v.Published++
		}
		switch {
		case from.confirmed:
			v.Confirmed++
		case !seen:
			continue
		case from.possible:
			v.Recovered++
		default:
			note(j, &v.Unexpected, &v.Details.Unexpected, m.ID)
			continue
		}
		j.ending(m)
	}
}

// ending counts how a message that did arrive ended. The first ending counts.
func (j *judge) ending(m *Message) {
	v := &j.v
	ends := m.endings()
	switch {
	case len(ends) > 0 && ends[0].completed:
		v.Completed++
		if !ends[0].answered {
			v.AckUnconfirmed++
		}
	case len(ends) > 0:
		v.DeadLettered++
	case j.o.Drained:
		note(j, &v.Lost, &v.Details.Lost, m.ID)
	default:
		note(j, &v.Unfinished, &v.Details.Unfinished, m.ID)
	}
	if len(ends) > 1 {
		v.Duplicates.FinishedAgain += len(ends) - 1
	}
}
