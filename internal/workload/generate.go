package workload

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"time"
)

// Options are what a run decides about a workload. The zero value leaves everything to its description.
type Options struct {
	Seed   uint64        // 0: the description's
	Scale  float64       // factor for all times; 0: the description's, unless Target is set
	Slots  int           // how many messages are worked on at once; only Target and a trace's Load need it
	Target time.Duration // choose Scale so that all is done after about this time; 0: do not
}

func (o Options) check() error {
	switch {
	case o.Scale < 0 || o.Target < 0 || o.Slots < 0:
		return &Error{Problem: fmt.Sprintf("scale %v, slots %d or target %v is negative", o.Scale, o.Slots, o.Target)}
	case o.Scale > 10:
		return &Error{Problem: fmt.Sprintf("scale is %v", o.Scale), Hint: "give a factor of 10 at most"}
	case o.Scale > 0 && o.Target > 0:
		return &Error{Problem: "both a scale and a target time are given", Hint: "give one of them"}
	case o.Target > 0 && o.Slots == 0:
		return &Error{Problem: "a target time needs the number of slots", Hint: "give the number of slots"}
	}
	return nil
}

// Generate makes the workload that s describes: the same one for the same s and o, always and everywhere. Errors are
// of type *Error.
func (s *Spec) Generate(o Options) (*Workload, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	seed := cmp.Or(o.Seed, s.Seed, 1)
	w := &Workload{
		Name: s.Name, Seed: seed, Scale: cmp.Or(s.Scale, 1), Model: s.Arrivals.Model,
		Lanes: cmp.Or(s.Lanes, LanesPriority), Retry: s.Retry, Thresholds: s.Thresholds,
	}
	w.Messages = make([]Job, 0, s.Messages)
	for _, at := range s.Arrivals.times(s.Messages, newStream(seed, forArrivals)) {
		w.Messages = append(w.Messages, Job{At: at, BodyBytes: s.BodyBytes})
	}
	s.assignTenants(w)
	s.assignPriorities(w)
	runs := newStream(seed, forRuns)
	for i := range w.Messages {
		run, capped := s.Run.draw(runs)
		w.Messages[i].Run = run
		if capped {
			w.Capped++
		}
	}
	s.Failures.assign(w)
	return w, w.finish(o)
}

// times returns when messages arrive: n of them, or as many as fit into the duration, but at least one.
func (a Arrivals) times(n int, s stream) []time.Duration {
	if a.Model == Closed {
		return make([]time.Duration, n)
	}
	var at []time.Duration
	for now, i := 0.0, 0; n == 0 || i < n; i++ {
		if a.Process == Even {
			now = float64(i) / a.Rate
		} else {
			now += s.exponential() / a.Rate
		}
		if n == 0 && now >= a.Duration.Seconds() && i > 0 {
			break
		}
		at = append(at, seconds(now))
	}
	return at
}

func (s *Spec) assignTenants(w *Workload) {
	tenants := s.Tenants
	if len(tenants) == 0 {
		tenants = zipf(1, 0)
	}
	shares := make([]float64, len(tenants))
	for i, t := range tenants {
		shares[i] = t.Share
		if t.Weight > 0 {
			if w.Weights == nil {
				w.Weights = make(map[string]float64)
			}
			w.Weights[t.Name] = t.Weight
		}
	}
	for i, which := range newStream(w.Seed, forTenants).deal(shares, len(w.Messages)) {
		j, t := &w.Messages[i], tenants[which]
		j.Tenant, j.Priority = t.Name, t.Priority
		if s.Key == TenantKey {
			j.Key = t.Name
		}
		if t.Burst > 0 {
			j.At = t.Burst
		}
	}
}

func (s *Spec) assignPriorities(w *Workload) {
	if len(s.Priorities) == 0 {
		return
	}
	shares := make([]float64, len(s.Priorities))
	for i, l := range s.Priorities {
		shares[i] = l.Share
	}
	for i, which := range newStream(w.Seed, forPriorities).deal(shares, len(w.Messages)) {
		w.Messages[i].Priority = s.Priorities[which].Level
	}
}

func (f Failures) assign(w *Workload) {
	shares := []float64{f.Transient, f.Poison, f.Crash, max(0, 1-f.Transient-f.Poison-f.Crash)}
	for i, which := range newStream(w.Seed, forFailures).deal(shares, len(w.Messages)) {
		switch j := &w.Messages[i]; which {
		case 0:
			j.Fail = 1
		case 1:
			j.Poison = true
		case 2:
			j.Crash = true
		}
	}
}

// finish puts the messages in order, scales all times and names the messages.
func (w *Workload) finish(o Options) error {
	slices.SortStableFunc(w.Messages, func(a, b Job) int { return cmp.Compare(a.At, b.At) })
	if o.Scale > 0 {
		w.Scale = o.Scale
	}
	if o.Target > 0 {
		span := makespan(w, o.Slots)
		if span <= 0 {
			return &Error{Problem: "there is no work to scale to a target time", Hint: "give a scale"}
		}
		w.Scale = short(o.Target.Seconds() / span)
	}
	var total float64
	for i := range w.Messages {
		j := &w.Messages[i]
		j.At, j.Run = scaled(j.At, w.Scale), scaled(j.Run, w.Scale)
		total += j.SlotTime(w.Retry).Seconds()
	}
	if total > 100*longest.Seconds() {
		return &Error{Problem: fmt.Sprintf("all run times add up to %.3g seconds", total), Hint: "give a smaller scale"}
	}
	w.Retry = w.Retry.scaled(w.Scale)
	for i := range w.Messages {
		w.Messages[i].Seq = i
		w.Messages[i].ID = fmt.Sprintf("%s-%d-%06d", w.Name, w.Seed, i)
	}
	return nil
}

// makespan estimates, in seconds, when slots that take messages in the order given would be done. It knows of no
// priorities, retry delays or deaths, which move it by little, and is linear in the scale. Package replay has the exact
// answer, for times that are scaled already.
func makespan(w *Workload, slots int) float64 {
	free, end := make(instants, slots), 0.0
	for _, j := range w.Messages {
		free[0] = max(free[0], j.At.Seconds()) + float64(j.Starts(w.Retry))*j.Run.Seconds()
		end = max(end, free[0])
		heap.Fix(&free, 0)
	}
	return end
}

// instants is a heap of times with the earliest first.
type instants []float64

func (h instants) Len() int           { return len(h) }
func (h instants) Less(i, k int) bool { return h[i] < h[k] }
func (h instants) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *instants) Push(x any)        { *h = append(*h, x.(float64)) }
func (h *instants) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
