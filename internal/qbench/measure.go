package qbench

import (
	"cmp"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

// sample is what became of one message. Times count from the start of the run.
type sample struct {
	*workload.Job
	stored   bool          // its publish was confirmed
	arrived  time.Duration // when, or its intended instant if that is later
	started  bool
	dwell    time.Duration // from the intended publish to the first start, or to the end of the run if there was none
	finished bool
	done     time.Duration // when it was completed or dead-lettered
	dead     bool
}

// samples are those of all messages that were meant to be published before the run ended, the ones that never were
// included: those that are not done are the slow ones, and must not be missing.
func samples(w *workload.Workload, t *history.Timeline, t0, end int64) []sample {
	all := make([]sample, 0, len(w.Messages))
	for i := range w.Messages {
		j := &w.Messages[i]
		intended := t0 + int64(j.At)
		if intended > end {
			continue
		}
		s := sample{Job: j, dwell: time.Duration(end - intended)}
		if m := t.Message(j.ID); m != nil {
			s.observe(m, t0, intended)
		}
		all = append(all, s)
	}
	return all
}

func (s *sample) observe(m *history.Message, t0, intended int64) {
	for _, p := range m.Publishes {
		if p.Outcome == history.Confirmed {
			s.stored, s.arrived = true, time.Duration(max(p.Answered, intended)-t0)
			break
		}
	}
	done := history.Never
	for _, d := range m.Deliveries {
		for _, r := range d.Runs {
			if !s.started || time.Duration(r.From-intended) < s.dwell {
				s.started, s.dwell = true, time.Duration(r.From-intended)
			}
		}
		if at := ackedAt(d); at < done {
			done, s.dead = at, false
		}
	}
	for _, death := range m.Deaths {
		if death.At < done {
			done, s.dead = death.At, true
		}
	}
	if done != history.Never {
		s.finished, s.done = true, time.Duration(done-t0)
	}
}

// ackedAt is when a delivery was acked: confirmed, or sent if its process died before the answer.
func ackedAt(d *history.Delivery) int64 {
	s := d.Settled()
	switch {
	case s == nil || s.Verdict != history.VerdictAck:
		return history.Never
	case s.Outcome == history.Confirmed:
		return s.Answered
	default:
		return s.Sent
	}
}

// makespan is when the last message was done.
func makespan(all []sample) time.Duration {
	var last time.Duration
	for _, s := range all {
		last = max(last, s.done)
	}
	return last
}

// distribution is a histogram of times, in microseconds and to three digits.
type distribution struct {
	h       *hdrhistogram.Histogram
	count   int
	sum     float64 // seconds
	longest time.Duration
	least   time.Duration
}

func newDistribution(times []time.Duration) distribution {
	d := distribution{count: len(times)}
	if len(times) == 0 {
		return d
	}
	d.longest, d.least = slices.Max(times), slices.Min(times)
	d.h = hdrhistogram.New(1, max(2, d.longest.Microseconds()), 3)
	for _, t := range times {
		d.sum += t.Seconds()
		// The longest one is the bound of the histogram, so that no value can be refused.
		_ = d.h.RecordValue(max(0, t.Microseconds()))
	}
	return d
}

// at is the value below which the given percentage lies; 0 if there is none.
func (d distribution) at(percent float64) time.Duration {
	if d.count == 0 {
		return 0
	}
	return min(d.longest, time.Duration(d.h.ValueAtPercentile(percent))*time.Microsecond)
}

func (d distribution) quantiles() Quantiles {
	return Quantiles{P50: ms(d.at(50)), P95: ms(d.at(95)), P99: ms(d.at(99)), Max: ms(d.longest)}
}

func ms(d time.Duration) float64 { return rounded(d.Seconds()*1e3, 3) }

func seconds(d time.Duration) float64 { return rounded(d.Seconds(), 3) }

func dwells(all []sample) []time.Duration {
	times := make([]time.Duration, len(all))
	for i, s := range all {
		times[i] = max(0, s.dwell)
	}
	return times
}

// grouped measures the messages of each group apart, in the order of by.
func grouped[K comparable](all []sample, of func(sample) K, name func(*Group, K), by func(a, b Group) int) []Group {
	members := make(map[K][]sample)
	for _, s := range all {
		members[of(s)] = append(members[of(s)], s)
	}
	groups := make([]Group, 0, len(members))
	for key, own := range members {
		g := Group{Messages: len(own), DwellMS: newDistribution(dwells(own)).quantiles()}
		name(&g, key)
		var work time.Duration
		for _, s := range own {
			work += s.Run
			if s.finished && s.dead {
				g.DeadLettered++
			} else if s.finished {
				g.Completed++
			}
		}
		g.WorkS = seconds(work)
		groups = append(groups, g)
	}
	slices.SortFunc(groups, by)
	return groups
}

func byTenant(all []sample) []Group {
	return grouped(all, func(s sample) string { return s.Tenant }, func(g *Group, t string) { g.Tenant = t },
		func(a, b Group) int {
			return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Tenant, b.Tenant))
		})
}

func byPriority(all []sample) []Group {
	return grouped(all, func(s sample) int { return s.Priority }, func(g *Group, p int) { g.Priority = &p },
		func(a, b Group) int { return cmp.Compare(*b.Priority, *a.Priority) })
}

// redeliveries are the times from each kill to the next start of the messages that it interrupted.
func redeliveries(t *history.Timeline) []time.Duration {
	var times []time.Duration
	for _, r := range t.Redeliveries() {
		if r.Fault == history.Kill && !r.Missing {
			times = append(times, time.Duration(r.Latency))
		}
	}
	return times
}

// scaleUps are the times from asking for each worker that joined to its first start of a message.
func scaleUps(t *history.Timeline, joined map[string]bool) []time.Duration {
	var times []time.Duration
	for _, p := range t.Processes {
		if joined[p.Name] && p.Joined != history.Never && len(p.Runs) > 0 {
			times = append(times, time.Duration(p.Runs[0].From-p.Joined))
		}
	}
	return times
}
