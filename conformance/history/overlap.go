package history

import "container/heap"

// Overlap is a lease that began while another one of the same message had not ended.
type Overlap struct {
	Msg              string `json:"msg"`
	Holder           string `json:"holder"` // process of the earlier lease
	Taker            string `json:"taker"`  // process of the later one
	HolderGeneration int    `json:"holder_generation"`
	TakerGeneration  int    `json:"taker_generation"`
	From             int64  `json:"from"`
	To               int64  `json:"to"` // both held it from From to To
}

// lease is the interval of a delivery in which its process could believe that it holds the message.
type lease struct {
	d   *Delivery
	end int64
}

// leases is a heap of leases by their end.
type leases []lease

func (l leases) Len() int           { return len(l) }
func (l leases) Less(a, b int) bool { return l[a].end < l[b].end }
func (l leases) Swap(a, b int)      { l[a], l[b] = l[b], l[a] }
func (l *leases) Push(v any)        { *l = append(*l, v.(lease)) }
func (l *leases) Pop() any {
	last := len(*l) - 1
	v := (*l)[last]
	*l = (*l)[:last]
	return v
}

func (j *judge) leaseEnd(d *Delivery) int64 {
	end := d.LeaseEnd()
	if j.o.DeathFrees {
		end = min(end, d.Proc.Down)
	}
	return end
}

func (j *judge) overlaps() {
	for _, m := range j.t.Messages {
		if len(m.Deliveries) > 1 {
			j.overlapsOf(m)
		}
	}
}

// overlapsOf sweeps over the leases of a message in order of their begin. As many may be open as there can be messages
// of this id at the broker.
func (j *judge) overlapsOf(m *Message) {
	allowed := max(1, m.published())
	var open leases
	for _, d := range m.Deliveries {
		for len(open) > 0 && open[0].end <= d.At {
			heap.Pop(&open)
		}
		end := j.leaseEnd(d)
		if end <= d.At {
			continue
		}
		if len(open) >= allowed {
			h := open[0]
			note(j, &j.v.Overlaps, &j.v.Details.Overlaps, Overlap{
				Msg: m.ID, Holder: h.d.Proc.Name, Taker: d.Proc.Name,
				HolderGeneration: h.d.Generation, TakerGeneration: d.Generation,
				From: d.At, To: min(h.end, end),
			})
		}
		heap.Push(&open, lease{d, end})
	}
}

// Overrun is a handler that ran on after its lease.
type Overrun struct {
	Msg   string `json:"msg"`
	Proc  string `json:"proc"`
	End   int64  `json:"end"`   // of the lease
	By    int64  `json:"by"`    // how long it ran on, nanoseconds
	Awake int64  `json:"awake"` // of By, while its process was not stopped
	Fatal bool   `json:"fatal"`
}

func (j *judge) overruns() {
	for _, m := range j.t.Messages {
		for _, d := range m.Deliveries {
			if s := d.Settled(); s != nil && s.Sent > d.Expiry() {
				j.v.LateSettles++
			}
			for _, r := range d.Runs {
				j.overrun(r)
			}
		}
	}
}

func (j *judge) overrun(r *Run) {
	d := r.Delivery
	end := max(d.Expiry(), r.From)
	if r.To <= end {
		return
	}
	awake := d.Proc.awakeTime(Span{end, r.To})
	fatal := awake > int64(j.o.Tolerance) && !r.Ignores && !j.o.IgnoresContext
	if fatal {
		j.v.FatalOverruns++
	}
	note(j, &j.v.Overruns, &j.v.Details.Overruns, Overrun{
		Msg: d.Msg.ID, Proc: d.Proc.Name, End: end, By: r.To - end, Awake: awake, Fatal: fatal,
	})
}
