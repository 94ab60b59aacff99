package history

import "slices"

// Span is a half-open interval of the journals' clock.
type Span struct {
	From, To int64
}

// Process is one life of a worker, producer or supervisor: a name used again after proc_start is another Process. A
// moment that did not come is Never.
type Process struct {
	Name   string
	Life   int   // 0 for the first of its name
	Joined int64 // the supervisor asked for it
	Began  int64 // proc_start
	Ready  int64 // the first proc_ready
	Drain  int64
	Down   int64 // killed or gone, whichever is first
	Killed bool  // Down is a kill, not an exit
	Stops  []Span
	Slots  []SlotChange // by time
	Runs   []*Run       // by start

	worked bool // it wrote something itself
}

// SlotChange says that a process receives with N slots from At on.
type SlotChange struct {
	At int64
	N  int
}

// SlotSpan says that N slots were live during Span.
type SlotSpan struct {
	Span
	N int
}

// Dead reports whether the process was gone at moment at.
func (p *Process) Dead(at int64) bool { return p.Down <= at }

// Live returns the intervals in which the process could start messages, up to moment to: from proc_ready to proc_drain
// or its death, without the times it was stopped.
func (p *Process) Live(to int64) []SlotSpan {
	last := min(to, p.Drain, p.Down)
	var spans []SlotSpan
	for i, c := range p.Slots {
		end := last
		if i+1 < len(p.Slots) {
			end = min(end, p.Slots[i+1].At)
		}
		for _, s := range p.awake(Span{c.At, end}) {
			spans = append(spans, SlotSpan{Span: s, N: c.N})
		}
	}
	return spans
}

// SlotTime is the live time of all slots up to moment to, in nanoseconds.
func (p *Process) SlotTime(to int64) int64 {
	var sum int64
	for _, s := range p.Live(to) {
		sum += (s.To - s.From) * int64(s.N)
	}
	return sum
}

// Busy returns the intervals in which at least one handler ran, by time and apart from each other.
func (p *Process) Busy() []Span {
	var busy []Span
	for _, r := range p.Runs {
		if n := len(busy); n > 0 && r.From <= busy[n-1].To {
			busy[n-1].To = max(busy[n-1].To, r.To)
			continue
		}
		busy = append(busy, r.Span)
	}
	return busy
}

// awake returns the parts of s in which the process was not stopped.
func (p *Process) awake(s Span) []Span {
	var parts []Span
	for _, stop := range p.Stops {
		if stop.To <= s.From || stop.From >= s.To {
			continue
		}
		if stop.From > s.From {
			parts = append(parts, Span{s.From, stop.From})
		}
		s.From = stop.To
	}
	if s.From < s.To {
		parts = append(parts, s)
	}
	return parts
}

// awakeTime is how long of s the process was not stopped.
func (p *Process) awakeTime(s Span) int64 {
	var sum int64
	for _, part := range p.awake(s) {
		sum += part.To - part.From
	}
	return sum
}

// processes finds the process that an event is about.
type processes struct {
	all     []*Process
	current map[string]*Process // by name, the latest life
}

func (ps *processes) of(name string) *Process {
	p := ps.current[name]
	if p == nil {
		p = ps.begin(name, 0)
	}
	return p
}

func (ps *processes) begin(name string, life int) *Process {
	p := &Process{
		Name: name, Life: life,
		Joined: Never, Began: Never, Ready: Never, Drain: Never, Down: Never,
	}
	ps.current[name] = p
	ps.all = append(ps.all, p)
	return p
}

// starting returns the process that a proc_start or a join is about: a new life if the one before is over or has begun.
func (ps *processes) starting(e *Event) *Process {
	p := ps.of(e.Proc)
	if p.Down == Never && p.Began == Never && !p.worked && (e.Kind == ProcStart || p.Joined == Never) {
		return p
	}
	if p.Down == Never { // nobody saw it go, but here is its successor
		p.Down = e.T
	}
	return ps.begin(e.Proc, p.Life+1)
}

func (ps *processes) add(e *Event) {
	switch e.Kind {
	case ProcStart:
		ps.starting(e).Began = e.T
		return
	case Join:
		ps.starting(e).Joined = e.T
		return
	}
	p := ps.of(e.Proc)
	switch e.Kind {
	case ProcReady:
		p.Ready, p.worked = min(p.Ready, e.T), true
		p.Slots = append(p.Slots, SlotChange{At: e.T, N: e.N})
	case ProcDrain:
		p.Drain = min(p.Drain, e.T)
	case ProcExit:
		p.Down = min(p.Down, e.T)
	case Kill:
		if e.fatal() && p.Down == Never {
			p.Down, p.Killed = e.T, true
		}
	case Stop:
		if n := len(p.Stops); n == 0 || p.Stops[n-1].To != Never {
			p.Stops = append(p.Stops, Span{e.T, Never})
		}
	case Cont:
		if n := len(p.Stops); n > 0 && p.Stops[n-1].To == Never {
			p.Stops[n-1].To = e.T
		}
	}
}

// sortRuns puts the runs of every process in order of their start.
func (ps *processes) sortRuns() {
	for _, p := range ps.all {
		slices.SortStableFunc(p.Runs, func(a, b *Run) int { return byMoment(a.From, b.From) })
	}
}
