package history

import "slices"

// Index sorts a history by message and by process. The events need not be in order, and are not changed.
func Index(events []Event) *Timeline {
	sorted := slices.Clone(events)
	byTime(sorted)
	x := indexer{
		t:     &Timeline{byID: make(map[string]*Message)},
		procs: processes{current: make(map[string]*Process)},
		held:  make(map[held]*Delivery),
	}
	if len(sorted) > 0 {
		x.t.From, x.t.To = sorted[0].T, sorted[len(sorted)-1].T
	}
	for i := range sorted {
		x.add(&sorted[i])
	}
	x.endRuns()
	x.procs.sortRuns()
	x.t.Processes = x.procs.all
	return x.t
}

// held names a delivery: by its number, or with number 0 the latest of its message in its process.
type held struct {
	proc   *Process
	msg    string
	number int64
}

type indexer struct {
	t     *Timeline
	procs processes
	held  map[held]*Delivery
}

func (x *indexer) add(e *Event) {
	switch e.Kind {
	case PublishInvoke, PublishOK, PublishErr:
		x.publish(e)
	case Deliver:
		x.deliver(e)
	case Start, Extend, LeaseLost, SideEffect, End, SettleSent, SettleOK, SettleErr, Copy:
		x.handle(e)
	case Dead:
		m := x.message(e)
		m.Deaths = append(m.Deaths, Death{At: e.T, Reason: e.Cause, Delivery: x.delivery(e)})
	case Redrive:
		m := x.message(e)
		m.Redriven = append(m.Redriven, e.T)
	case Torn:
		x.t.Torn++
	case ProcStart, ProcReady, ProcDrain, ProcExit, Kill, Stop, Cont, Join:
		x.procs.add(e)
	case Fault, Heal: // they say why, and decide nothing
	}
}

func (x *indexer) message(e *Event) *Message {
	m := x.t.byID[e.Msg]
	if m == nil {
		m = &Message{ID: e.Msg}
		x.t.byID[e.Msg] = m
		x.t.Messages = append(x.t.Messages, m)
	}
	fill(&m.Queue, e.Queue)
	fill(&m.Tenant, e.Tenant)
	fill(&m.Lane, e.Lane)
	fill(&m.Key, e.Key)
	fill(&m.Priority, e.Priority)
	fill(&m.RunMS, e.RunMS)
	return m
}

// fill keeps the first value that is not zero.
func fill[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

func (x *indexer) publish(e *Event) {
	m := x.message(e)
	if e.Kind == PublishInvoke {
		m.Publishes = append(m.Publishes, &Publish{
			Proc: e.Proc, Invoked: e.T, Answered: Never, Due: e.Due, Delay: e.Delay,
		})
		return
	}
	p := unanswered(m.Publishes, e.Proc)
	if p == nil { // a producer that journals outcomes only
		p = &Publish{Proc: e.Proc, Invoked: e.T, Due: e.Due, Delay: e.Delay}
		m.Publishes = append(m.Publishes, p)
	}
	p.Answered = e.T
	p.Outcome = outcome(e, PublishOK)
}

// unanswered returns the latest publish of a process that has no answer yet, or nil.
func unanswered(ps []*Publish, proc string) *Publish {
	for _, p := range slices.Backward(ps) {
		if p.Answered == Never && p.Proc == proc {
			return p
		}
	}
	return nil
}

func outcome(e *Event, ok Kind) Outcome {
	switch {
	case e.Kind == ok:
		return Confirmed
	case e.Definite:
		return Refused
	default:
		return Ambiguous
	}
}

func (x *indexer) deliver(e *Event) {
	m, p := x.message(e), x.procs.of(e.Proc)
	p.worked = true
	d := &Delivery{
		Msg: m, Proc: p, Number: e.Delivery, At: e.T, Until: until(e), Lost: Never, Copied: Never,
		Attempt: e.Attempt, Deliveries: e.Deliveries, Generation: e.Generation, Token: e.Token,
	}
	m.Deliveries = append(m.Deliveries, d)
	x.held[held{d.Proc, e.Msg, 0}] = d
	x.held[held{d.Proc, e.Msg, e.Delivery}] = d
}

func until(e *Event) int64 {
	if e.Until == 0 {
		return Never
	}
	return e.Until
}

func (x *indexer) delivery(e *Event) *Delivery {
	return x.held[held{x.procs.of(e.Proc), e.Msg, e.Delivery}]
}

// handle adds an event to its delivery. One that fits none is kept apart: the journal leaves something out.
func (x *indexer) handle(e *Event) {
	d := x.delivery(e)
	if d == nil || !d.add(e) {
		x.t.Orphans = append(x.t.Orphans, *e)
	}
}

// add reports whether the event fits the delivery.
func (d *Delivery) add(e *Event) bool {
	switch e.Kind {
	case Start:
		r := &Run{Span: Span{e.T, Never}, Delivery: d, Ignores: e.Ignores}
		d.Runs = append(d.Runs, r)
		d.Proc.Runs = append(d.Proc.Runs, r)
		fill(&d.Attempt, e.Attempt)
	case End:
		return d.end(e)
	case Extend:
		d.Until = until(e)
	case LeaseLost:
		if e.T < d.Lost {
			d.Lost, d.LostCause = e.T, e.Cause
		}
	case SideEffect:
		d.Effects = append(d.Effects, e.T)
	case Copy:
		d.Copied = min(d.Copied, e.T)
	case SettleSent:
		d.Settles = append(d.Settles, &Settle{Verdict: e.Verdict, Sent: e.T, Answered: Never, Delay: e.Delay})
	default:
		return d.answer(e)
	}
	return true
}

func (d *Delivery) end(e *Event) bool {
	for _, r := range d.Runs {
		if !r.Returned {
			r.To, r.Err, r.Returned = e.T, e.Err, true
			return true
		}
	}
	return false
}

// answer adds a settle_ok or settle_err to the latest settle of its verdict that has no answer. A settle_err without one
// is a verdict that came too late to be sent.
func (d *Delivery) answer(e *Event) bool {
	for _, s := range slices.Backward(d.Settles) {
		if s.Answered == Never && (e.Verdict == "" || e.Verdict == s.Verdict) {
			s.Answered = e.T
			s.Outcome = outcome(e, SettleOK)
			fill(&s.Delay, e.Delay)
			return true
		}
	}
	if e.Kind == SettleErr {
		d.Settles = append(d.Settles, &Settle{Verdict: e.Verdict, Sent: e.T, Answered: e.T, Delay: e.Delay, Outcome: Refused})
	}
	return e.Kind == SettleErr
}

// endRuns gives the runs that did not return the moment at which they ended.
func (x *indexer) endRuns() {
	for _, p := range x.procs.all {
		for _, r := range p.Runs {
			if !r.Returned {
				// A kill is written before its signal is sent, so the victim may have started something in between.
				r.To = max(r.From, min(p.Down, x.t.To))
			}
		}
	}
}
