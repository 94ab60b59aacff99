package history

import (
	"math"
	"slices"
	"time"
)

// IdleOptions limits what Idle looks at. Zero values are no limit.
type IdleOptions struct {
	From, To int64                 // window; To 0 is the end of the history
	Eligible func(m *Message) bool // whether a slot could have taken m; nil: any slot any message
}

// IdleTime is how the time of worker slots was spent, in seconds.
type IdleTime struct {
	Live    float64 `json:"live_s"`    // slots of processes that were ready, not draining, stopped or dead
	Idle    float64 `json:"idle_s"`    // of Live, with no handler
	Backlog float64 `json:"backlog_s"` // of Idle, while a message waited
	Share   float64 `json:"share"`     // Backlog / Live, 0 if nothing was live
}

// Ready returns the intervals, up to moment to, in which the message waited for a slot: from publish_ok, or the end of
// its delay, or its due time, whichever is last, to its delivery; after a retry or a release from settle_ok and the end
// of its delay; after a delivery whose settle was not confirmed from the end of its lease at the broker, unless the message had ended with it.
func (m *Message) Ready(to int64) []Span {
	var spans []Span
	from := m.visible()
	for _, d := range m.Deliveries {
		if from < d.At {
			spans = append(spans, Span{from, d.At})
		}
		from = d.back()
	}
	if from < to && len(m.endings()) == 0 {
		spans = append(spans, Span{from, to})
	}
	return spans
}

// visible is when the message could be delivered first. A publish that was never confirmed became visible at a moment
// that nobody saw.
func (m *Message) visible() int64 {
	p := m.confirmed()
	if p == nil {
		return Never
	}
	return max(after(p.Answered, p.Delay), p.Due)
}

// back is when the message became visible again after the delivery.
func (d *Delivery) back() int64 {
	s := d.Settled()
	switch {
	case s == nil || s.Outcome == Ambiguous:
		return d.Until
	case final(s.Verdict):
		return Never
	default:
		return after(s.Answered, s.Delay)
	}
}

func after(at, delay int64) int64 {
	if at > math.MaxInt64-delay {
		return Never
	}
	return at + delay
}

// tick is a change in what the sweep of Idle counts.
type tick struct {
	at      int64
	waiting int // messages
	proc    *Process
	slots   int
	running int
}

// Idle adds up the time that worker slots were live, idle, and idle although a message waited that they could have
// taken. A message between its delivery and its start waits no longer, and its slot is idle still.
func (t *Timeline) Idle(o IdleOptions) IdleTime {
	if o.To == 0 {
		o.To = t.To
	}
	ticks := append(t.slotTicks(), t.waitTicks(o.Eligible)...)
	slices.SortFunc(ticks, func(a, b tick) int { return byMoment(a.at, b.at) })
	s := sweep{at: o.From, end: o.To, use: make(map[*Process]*slotUse)}
	for _, k := range ticks {
		s.advance(k.at)
		s.apply(k)
	}
	s.advance(o.To)
	return s.total()
}

func (t *Timeline) slotTicks() []tick {
	var ticks []tick
	for _, p := range t.Processes {
		if len(p.Slots) == 0 {
			continue
		}
		for _, l := range p.Live(t.To) {
			ticks = append(ticks, tick{at: l.From, proc: p, slots: l.N}, tick{at: l.To, proc: p, slots: -l.N})
		}
		for _, r := range p.Runs {
			ticks = append(ticks, tick{at: r.From, proc: p, running: 1}, tick{at: r.To, proc: p, running: -1})
		}
	}
	return ticks
}

func (t *Timeline) waitTicks(eligible func(*Message) bool) []tick {
	var ticks []tick
	for _, m := range t.Messages {
		if eligible != nil && !eligible(m) {
			continue
		}
		for _, s := range m.Ready(t.To) {
			ticks = append(ticks, tick{at: s.From, waiting: 1}, tick{at: s.To, waiting: -1})
		}
	}
	return ticks
}

type slotUse struct{ slots, running int }

func (u slotUse) idle() int { return max(0, u.slots-u.running) }

// sweep adds up slot time between ticks. Sums are nanoseconds.
type sweep struct {
	at, end                 int64
	waiting, live, idle     int
	use                     map[*Process]*slotUse
	liveNS, idleNS, backlog float64
}

// advance counts the time up to moment to, as far as it is in the window.
func (s *sweep) advance(to int64) {
	to = min(to, s.end)
	if to <= s.at {
		return
	}
	span := float64(to - s.at)
	s.at = to
	s.liveNS += span * float64(s.live)
	s.idleNS += span * float64(s.idle)
	if s.waiting > 0 {
		s.backlog += span * float64(s.idle)
	}
}

func (s *sweep) apply(k tick) {
	s.waiting += k.waiting
	if k.proc == nil {
		return
	}
	u := s.use[k.proc]
	if u == nil {
		u = &slotUse{}
		s.use[k.proc] = u
	}
	s.idle -= u.idle()
	u.slots += k.slots
	u.running += k.running
	s.idle += u.idle()
	s.live += k.slots
}

func (s *sweep) total() IdleTime {
	t := IdleTime{
		Live:    s.liveNS / float64(time.Second),
		Idle:    s.idleNS / float64(time.Second),
		Backlog: s.backlog / float64(time.Second),
	}
	if t.Live > 0 {
		t.Share = t.Backlog / t.Live
	}
	return t
}
