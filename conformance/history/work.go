package history

import (
	"cmp"
	"slices"
	"time"
)

// Work is where the time of the handlers went, in seconds.
type Work struct {
	Useful  float64 `json:"useful_s"`  // runs that completed their message
	Failed  float64 `json:"failed_s"`  // runs that failed, and were retried or dead-lettered for it
	Wasted  float64 `json:"wasted_s"`  // runs whose result was thrown away: killed, lost, released, duplicates
	Running float64 `json:"running_s"` // runs that were undecided at the end of the history
	Ratio   float64 `json:"wasted_ratio"`
}

// Work sums up the runs of all handlers. Ratio is Wasted / Useful, 0 if nothing was useful.
func (t *Timeline) Work() Work {
	var w Work
	for _, m := range t.Messages {
		useful := m.usefulRun()
		for _, d := range m.Deliveries {
			for _, r := range d.Runs {
				*w.of(r, useful, t.To) += time.Duration(r.To - r.From).Seconds()
			}
		}
	}
	if w.Useful > 0 {
		w.Ratio = w.Wasted / w.Useful
	}
	return w
}

// of returns the sum that a run belongs to.
func (w *Work) of(r, useful *Run, end int64) *float64 {
	d := r.Delivery
	s := d.Settled()
	switch {
	case r == useful:
		return &w.Useful
	case s != nil && s.Verdict != VerdictAck && s.Verdict != VerdictRelease && s.Verdict != VerdictRecount:
		return &w.Failed
	case d.Msg.diedOf(d):
		return &w.Failed
	case s == nil && !d.Proc.Dead(end) && d.Expiry() > end:
		return &w.Running
	default:
		return &w.Wasted
	}
}

// usefulRun returns the run that completed the message, or nil.
func (m *Message) usefulRun() *Run {
	for _, e := range m.endings() {
		if !e.completed {
			continue
		}
		for _, r := range slices.Backward(e.delivery.Runs) {
			if r.Returned && r.Err == "" {
				return r
			}
		}
	}
	return nil
}

// ByProcess, ByTenant and ByKey group runs for Peak.
func ByProcess(r *Run) string { return r.Delivery.Proc.Name }

// ByTenant groups runs by the tenant of their message.
func ByTenant(r *Run) string { return r.Delivery.Msg.Tenant }

// ByKey groups runs by the key of their message.
func ByKey(r *Run) string { return r.Delivery.Msg.Key }

// Peak returns the highest number of handlers that ran at once in each group. Runs of the group "" are left out. A run
// that begins when another ends does not run beside it.
func (t *Timeline) Peak(group func(*Run) string) map[string]int {
	type change struct {
		at    int64
		delta int
		group string
	}
	var changes []change
	for _, p := range t.Processes {
		for _, r := range p.Runs {
			if g := group(r); g != "" {
				changes = append(changes, change{r.From, 1, g}, change{r.To, -1, g})
			}
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.delta, b.delta))
	})
	now, peak := make(map[string]int), make(map[string]int)
	for _, c := range changes {
		now[c.group] += c.delta
		peak[c.group] = max(peak[c.group], now[c.group])
	}
	return peak
}
