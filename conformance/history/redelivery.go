package history

import (
	"cmp"
	"slices"
	"sort"
)

// Redelivery is what became of a message that a process worked on when it was killed or stopped or went away.
type Redelivery struct {
	Msg     string `json:"msg"`
	Proc    string `json:"proc"`
	Fault   Kind   `json:"fault"` // Kill, Stop or ProcExit
	At      int64  `json:"at"`
	Missing bool   `json:"missing"` // it did not run again
	Latency int64  `json:"latency"` // from At to its next start, nanoseconds
	To      string `json:"to,omitempty"`
}

// Redeliveries returns an entry for each delivery that was leased and not settled when its process was killed, stopped
// or gone, by time. A delivery that its process settled in time after it was continued has none, nor has a message that
// ended without running again.
func (t *Timeline) Redeliveries() []Redelivery {
	var rs []Redelivery
	for _, m := range t.Messages {
		for _, d := range m.Deliveries {
			rs = append(rs, d.redeliveries()...)
		}
	}
	slices.SortStableFunc(rs, func(a, b Redelivery) int { return cmp.Compare(a.At, b.At) })
	return rs
}

func (d *Delivery) redeliveries() []Redelivery {
	var rs []Redelivery
	p, end := d.Proc, d.LeaseEnd()
	first := sort.Search(len(p.Stops), func(i int) bool { return p.Stops[i].From >= d.At })
	for _, s := range p.Stops[first:] {
		if s.From >= end {
			break
		}
		if r, ok := d.redelivery(Stop, s.From); ok {
			rs = append(rs, r)
		}
	}
	fault := ProcExit
	if p.Killed {
		fault = Kill
	}
	// A lease without a clock ends with its process, and that is the one to look at.
	if p.Down != Never && (p.Down < end || d.Until == Never && p.Down == end) {
		if r, ok := d.redelivery(fault, p.Down); ok {
			rs = append(rs, r)
		}
	}
	return rs
}

func (d *Delivery) redelivery(fault Kind, at int64) (Redelivery, bool) {
	r := Redelivery{Msg: d.Msg.ID, Proc: d.Proc.Name, Fault: fault, At: at}
	next := d.nextRun(at)
	s := d.Settled()
	if s != nil && s.Sent <= d.Expiry() && (next == nil || s.Sent <= next.From) {
		return r, false // a stopped process that went on in time
	}
	if next == nil {
		r.Missing = true
		ends := d.Msg.endings()
		return r, len(ends) == 0 || ends[len(ends)-1].at < at
	}
	r.Latency, r.To = next.From-at, next.Delivery.Proc.Name
	return r, true
}

// nextRun returns the first run of a later delivery of the message, or nil.
func (d *Delivery) nextRun(at int64) *Run {
	ds := d.Msg.Deliveries
	first := sort.Search(len(ds), func(i int) bool { return ds[i].At > at })
	for _, o := range ds[first:] {
		if o != d && len(o.Runs) > 0 {
			return o.Runs[0]
		}
	}
	return nil
}

func (j *judge) redeliveries() {
	for _, r := range j.t.Redeliveries() {
		if r.Missing {
			j.v.RedeliveryMissing++
		} else {
			j.v.Redelivered++
		}
		if len(j.v.Details.Redeliveries) < j.o.MaxDetails {
			j.v.Details.Redeliveries = append(j.v.Details.Redeliveries, r)
		}
	}
}
