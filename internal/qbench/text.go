package qbench

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-queue/holdfast/conformance/history"
)

// text is the result for people.
func (d *Document) text(s style) string {
	p := &page{style: s}
	for i := range d.Runs {
		if i > 0 {
			p.line("")
		}
		d.Runs[i].write(p)
	}
	return p.String()
}

func (r *Run) write(p *page) {
	p.line("%s  %s %s, %s", p.style.bold("qbench run"), r.Broker.Name, r.Broker.Version, r.Broker.URL)
	p.line("")
	for _, t := range r.Thresholds {
		p.line("%s %s", p.style.mark(t.Met), t)
	}
	r.writeVerdict(p)
	p.line("")
	r.writeSetup(p)
	p.line("")
	r.writeMetrics(p)
	p.line("")
	p.table(groupRows("priority", r.ByPriority, len(r.ByPriority), func(g Group) string { return fmt.Sprint(*g.Priority) }))
	p.line("")
	p.table(groupRows(fmt.Sprintf("tenant (%s)", topOf(len(r.ByTenant))), r.ByTenant, topTenants, func(g Group) string { return g.Tenant }))
}

const topTenants = 5

func topOf(n int) string {
	if n <= topTenants {
		return "all"
	}
	return fmt.Sprintf("%d largest of %d", topTenants, n)
}

func (r *Run) writeVerdict(p *page) {
	v := r.Verdict
	word := "valid"
	if !v.Valid {
		word = "invalid"
	}
	if r.interrupted() {
		word = "interrupted"
	}
	stored := fmt.Sprintf("%d confirmed", v.Confirmed)
	if v.Recovered > 0 {
		stored += fmt.Sprintf(" + %d recovered", v.Recovered)
	}
	sum := fmt.Sprintf("%d completed + %d dead-lettered + %d lost", v.Completed, v.DeadLettered, v.Lost)
	if v.Unfinished > 0 {
		sum += fmt.Sprintf(" + %d unfinished", v.Unfinished)
	}
	p.line("%s %s: %s = %s; %d unexpected, %d overlaps, %d overruns",
		p.style.mark(v.Valid), p.style.bold(word), stored, sum, v.Unexpected, v.Overlaps, v.Overruns)
	for _, reason := range v.InvalidReasons {
		if reason != reasonInterrupted {
			p.line("  - %s", reason)
		}
	}
	if v.Details != nil {
		writeDetails(p, v.Details)
	}
}

// writeDetails names what the reasons are about.
func writeDetails(p *page, d *history.Details) {
	for _, l := range []struct {
		what string
		ids  []string
	}{{"lost", d.Lost}, {"unfinished", d.Unfinished}, {"unexpected", d.Unexpected}} {
		if len(l.ids) > 0 {
			shown := l.ids[:min(len(l.ids), 5)]
			p.line("    %s: %s", l.what, strings.Join(shown, ", "))
		}
	}
	for _, f := range slices.Concat(d.Acked, d.Order, d.Exclusion, d.Attempts, d.Tokens) {
		p.line("    %s on %s: %s", f.Msg, f.Proc, f.What)
	}
}

func (r *Run) writeSetup(p *page) {
	w, s := r.Workload, r.Settings
	p.row("workload", "%s, seed %d, scale %v: %d messages of %d tenants, %s of work, %s", w.Name, w.Seed, w.Scale,
		w.Messages, w.Tenants, secs(s.WorkS), arrivals(s))
	p.row("workers", "%d processes of %d slots, lease %s, %s", r.Workers.Processes, r.Workers.Slots, secs(s.LeaseS), lanesText(s.Lanes))
	p.row("safety", "publish %s, ack %s, %s", s.Publish, s.Ack, s.Durability)
	p.row("retry", "%s", retryText(s))
	var faults []string
	for _, f := range r.Faults {
		faults = append(faults, fmt.Sprintf("%s %s at %s", f.Kind, f.Target, secs(f.AtS)))
	}
	if len(faults) == 0 {
		faults = []string{"none"}
	}
	p.row("faults", "%s", strings.Join(faults, ", "))
}

func lanesText(lanes string) string {
	switch lanes {
	case "none":
		return "one lane"
	case "both":
		return "lanes by priority and tenant"
	default:
		return "lanes by " + lanes
	}
}

func arrivals(s Settings) string {
	text := "all published at once"
	if s.Model == "open" {
		text = "each published at its instant"
	}
	if s.Load > 0 {
		text += fmt.Sprintf(", load %v", s.Load)
	}
	if s.Capped > 0 {
		text += fmt.Sprintf(", %d run times capped", s.Capped)
	}
	return text
}

func retryText(s Settings) string {
	delay := secs(max(s.RetryBaseS, s.MinRedelayS))
	if s.RetryBaseS > s.MinRedelayS {
		delay += ", doubling"
	}
	return fmt.Sprintf("%d attempts, after %s; %d crashes", s.MaxAttempts, delay, s.MaxCrashes)
}

func (r *Run) writeMetrics(p *page) {
	x := r.Metrics
	if x.Efficiency != nil {
		p.row("efficiency", "%s of the reference schedule (it needs %s; no schedule can need less than %s)",
			p.style.bold(percent(*x.Efficiency)), secs(*x.ReferenceMakespanS), secs(*x.LowerBoundS))
	}
	p.row("makespan", "%s, %.3g messages/s", secs(x.MakespanS), x.ThroughputPerS)
	p.row("idle while backlog", "%s of the slots' time", percent(x.IdleWhileBacklog))
	p.row("dwell", "%s", x.DwellMS)
	if x.RedeliveryMS.Count > 0 {
		p.row("redelivery", "%s; p50 %s, p95 %s, max %s after the kill", plural(x.RedeliveryMS.Count, "message"),
			milli(x.RedeliveryMS.P50), milli(x.RedeliveryMS.P95), milli(x.RedeliveryMS.Max))
	}
	if x.ScaleUpMS.Count > 0 {
		p.row("scale-up", "%s; first start after p50 %s, max %s", plural(x.ScaleUpMS.Count, "worker"), milli(x.ScaleUpMS.P50), milli(x.ScaleUpMS.Max))
	}
	p.row("wasted work", "%s of the useful work", percent(x.WastedWork))
	p.row("duplicates", "%s", duplicatesText(r.Verdict.Duplicates))
	p.row("broker calls", "%.1f a message: %s", x.BrokerCallsPerMessage, callsText(r.Calls))
	p.row("worker memory", "%.0f MiB at most", x.WorkerRSSMBMax)
	p.row("generator", "p99 late by %s, %s of the processors", milli(r.Generator.LateP99MS), percent(r.Generator.CPUShare))
}

func duplicatesText(d Duplicates) string {
	if d.Total == 0 {
		return "none"
	}
	var causes []string
	for _, cause := range slices.Sorted(maps.Keys(d.ByCause)) {
		causes = append(causes, fmt.Sprintf("%d by %s", d.ByCause[cause], strings.ReplaceAll(string(cause), "_", " ")))
	}
	return strings.Join(causes, ", ")
}

func callsText(calls map[string]int64) string {
	kinds := slices.SortedFunc(maps.Keys(calls), func(a, b string) int { return int(calls[b] - calls[a]) })
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s %d", kind, calls[kind])
	}
	return strings.Join(kinds, ", ")
}

func groupRows(title string, groups []Group, most int, name func(Group) string) [][]string {
	rows := [][]string{{title, "messages", "work", "dead", "dwell p50", "p95", "p99", "max"}}
	for _, g := range groups[:min(most, len(groups))] {
		d := g.DwellMS
		rows = append(rows, []string{
			name(g), fmt.Sprint(g.Messages), secs(g.WorkS), fmt.Sprint(g.DeadLettered),
			milli(d.P50), milli(d.P95), milli(d.P99), milli(d.Max),
		})
	}
	return rows
}

func (q Quantiles) String() string {
	return fmt.Sprintf("p50 %s, p95 %s, p99 %s, max %s", milli(q.P50), milli(q.P95), milli(q.P99), milli(q.Max))
}
