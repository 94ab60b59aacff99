package qbench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

// threshold is a condition of the workload whose metric is known here.
type threshold struct {
	workload.Threshold
	metric metric
}

// metric is something that a threshold can be about.
type metric struct {
	aggregates []string // without percentiles
	spread     bool     // it has percentiles, too
	tagged     bool     // it can be limited to tenants and priorities
	value      func(m *measured, t workload.Threshold) (float64, bool)
}

var spreads = []string{"count", "avg", "min", "med", "max"}

// metrics are those that thresholds know, by name.
var metrics = map[string]metric{
	"dwell":      {aggregates: spreads, spread: true, tagged: true, value: dwellOf},
	"redelivery": {aggregates: spreads, spread: true, value: ofTimes(func(m *measured) []time.Duration { return m.redeliveries })},
	"scale_up":   {aggregates: spreads, spread: true, value: ofTimes(func(m *measured) []time.Duration { return m.scaleUps })},

	"lost":          counted(func(r *Run) int { return r.Verdict.Lost }),
	"unexpected":    counted(func(r *Run) int { return r.Verdict.Unexpected }),
	"overlaps":      counted(func(r *Run) int { return r.Verdict.Overlaps }),
	"overruns":      counted(func(r *Run) int { return r.Verdict.Overruns }),
	"duplicates":    counted(func(r *Run) int { return r.Verdict.Duplicates.Total }),
	"completed":     counted(func(r *Run) int { return r.Verdict.Completed }),
	"dead_lettered": counted(func(r *Run) int { return r.Verdict.DeadLettered }),

	"makespan":                 single(func(r *Run) *float64 { return &r.Metrics.MakespanS }),
	"efficiency":               single(func(r *Run) *float64 { return r.Metrics.Efficiency }),
	"idle_while_backlog":       single(func(r *Run) *float64 { return &r.Metrics.IdleWhileBacklog }),
	"throughput":               single(func(r *Run) *float64 { return &r.Metrics.ThroughputPerS }),
	"wasted_work":              single(func(r *Run) *float64 { return &r.Metrics.WastedWork }),
	"broker_calls_per_message": single(func(r *Run) *float64 { return &r.Metrics.BrokerCallsPerMessage }),
	"worker_rss_mb":            single(func(r *Run) *float64 { return &r.Metrics.WorkerRSSMBMax }),
}

func counted(of func(*Run) int) metric {
	return metric{aggregates: []string{"count", "value"}, value: func(m *measured, _ workload.Threshold) (float64, bool) {
		return float64(of(m.run)), true
	}}
}

// single is a metric of one number; nil means that it has no meaning for the run.
func single(of func(*Run) *float64) metric {
	return metric{aggregates: []string{"value", "rate", "max"}, value: func(m *measured, _ workload.Threshold) (float64, bool) {
		if v := of(m.run); v != nil {
			return *v, true
		}
		return 0, false
	}}
}

func ofTimes(of func(*measured) []time.Duration) func(*measured, workload.Threshold) (float64, bool) {
	return func(m *measured, t workload.Threshold) (float64, bool) { return aggregate(t.Agg, of(m)) }
}

func dwellOf(m *measured, t workload.Threshold) (float64, bool) {
	own := slices.DeleteFunc(slices.Clone(m.samples), func(s sample) bool {
		return !t.Matches(map[string]string{"tenant": s.Tenant, "priority": strconv.Itoa(s.Priority)})
	})
	return aggregate(t.Agg, dwells(own))
}

// aggregate is in seconds. Of nothing there is only a count.
func aggregate(agg string, times []time.Duration) (float64, bool) {
	d := newDistribution(times)
	if agg == "count" {
		return float64(d.count), true
	}
	if d.count == 0 {
		return 0, false
	}
	switch agg {
	case "avg":
		return d.sum / float64(d.count), true
	case "min":
		return d.least.Seconds(), true
	case "max":
		return d.longest.Seconds(), true
	case "med":
		return d.at(50).Seconds(), true
	}
	percent, err := strconv.ParseFloat(strings.TrimPrefix(agg, "p"), 64)
	return d.at(percent).Seconds(), err == nil
}

// knownThresholds refuses thresholds about what is not measured here: they would never be met, or always.
func knownThresholds(ts []workload.Threshold) ([]threshold, error) {
	var known []threshold
	for _, t := range ts {
		m, found := metrics[t.Metric]
		if !found {
			return nil, badUsage("known are "+strings.Join(names(), ", "), "threshold %q: unknown metric %q", t.Text, t.Metric)
		}
		percentile := strings.HasPrefix(t.Agg, "p")
		if !slices.Contains(m.aggregates, t.Agg) && !(percentile && m.spread) {
			hint := "use " + strings.Join(m.aggregates, ", ")
			if m.spread {
				hint += " or a percentile such as p95"
			}
			return nil, badUsage(hint, "threshold %q: %s has no %s", t.Text, t.Metric, t.Agg)
		}
		for tag := range t.Tags {
			if !m.tagged || tag != "tenant" && tag != "priority" {
				return nil, badUsage("only dwell has tags, tenant and priority", "threshold %q: %s has no tag %q", t.Text, t.Metric, tag)
			}
		}
		known = append(known, threshold{Threshold: t, metric: m})
	}
	return known, nil
}

func names() []string {
	var all []string
	for name := range metrics {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// judge compares the threshold with what was measured.
func (t threshold) judge(m *measured) Threshold {
	v, has := t.metric.value(m, t.Threshold)
	if !has {
		return Threshold{Text: t.Text}
	}
	shown := rounded(v, 6)
	return Threshold{Text: t.Text, Value: &shown, Met: t.Eval(v)}
}

func (t Threshold) String() string {
	if t.Value == nil {
		return t.Text + "  (nothing was measured)"
	}
	return fmt.Sprintf("%s  (%v)", t.Text, *t.Value)
}
