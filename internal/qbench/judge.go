package qbench

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

// measured is a run with what its report is made of.
type measured struct {
	run          *Run
	samples      []sample
	timeline     *history.Timeline
	redeliveries []time.Duration
	scaleUps     []time.Duration
}

// judge reads the journals and makes the report.
func (r *run) judge(how ending) (*Document, error) {
	events, err := history.ReadDir(r.plan.out.path)
	if err != nil {
		return nil, err
	}
	life := events
	if !how.drained() {
		// What happened while the workers were killed is no part of the run.
		life = slices.DeleteFunc(slices.Clone(events), func(e history.Event) bool { return e.T > r.end })
	}
	m := &measured{run: r.describe(), timeline: history.Index(life)}
	m.samples = samples(r.plan.load, m.timeline, r.t0, r.end)
	m.redeliveries = redeliveries(m.timeline)
	m.scaleUps = scaleUps(m.timeline, r.nemesis.joined())
	verdict := history.Judge(m.timeline, r.claims(how))
	r.measure(m, how, verdict.Work)
	r.usage(m, events)
	r.conclude(m, how, verdict)
	for _, t := range r.plan.thresholds {
		m.run.Thresholds = append(m.run.Thresholds, t.judge(m))
	}
	return &Document{Schema: 1, Runs: []Run{*m.run}}, nil
}

// claims is what the history is judged by.
func (r *run) claims(how ending) history.Options {
	caps := r.broker.Capabilities()
	return history.Options{
		Producers: []string{producerName}, Drained: how.drained(), SettleUnconfirmed: !caps.SettleConfirmed,
		DeathFrees: caps.DeathDetected > 0, Fencing: caps.Fencing, KeyOrder: needs(r.plan.load).KeyOrder,
	}
}

func (r *run) describe() *Run {
	p, caps, retrying := r.plan, r.broker.Capabilities(), r.plan.load.Retry
	run := &Run{
		Broker: Broker{URL: r.broker.url(), Name: caps.Name, Version: caps.Version},
		Workload: Workload{
			Name: p.load.Name, Seed: p.load.Seed, Scale: p.load.Scale, Messages: p.work.Messages, Tenants: p.work.Tenants,
		},
		Workers: Workers{Processes: p.workers, Slots: p.slots},
		Faults:  []Fault{},
		Settings: Settings{
			Model: string(p.load.Model), Digest: p.load.Digest(), Lanes: string(p.load.Lanes),
			LeaseS: p.lease.Seconds(), DetectS: r.detect().Seconds(), Durability: r.broker.durability(),
			Publish: "confirmed", Ack: "confirmed", MaxAttempts: retrying.Attempts(), MaxCrashes: retrying.Crashes(),
			RetryBaseS: retrying.Base.Seconds(), RetryCapS: retrying.Cap.Seconds(), MinRedelayS: minRedelay.Seconds(),
			Load: p.load.Load, Capped: p.load.Capped, WorkS: seconds(p.work.Work),
		},
	}
	if !caps.SettleConfirmed {
		run.Settings.Ack = "sent"
	}
	if p.load.Lanes == "" {
		run.Settings.Lanes = string(workload.LanesPriority)
	}
	for _, f := range r.nemesis.done {
		run.Faults = append(run.Faults, Fault{AtS: seconds(r.since(f.at)), Kind: f.kind, Target: f.target})
	}
	return run
}

// measure fills in the metrics.
func (r *run) measure(m *measured, how ending, work history.Work) {
	last := makespan(m.samples)
	if !how.drained() {
		last = r.since(r.end)
	}
	x := &m.run.Metrics
	x.MakespanS = seconds(last)
	x.IdleWhileBacklog = rounded(r.idleWhileBacklog(m.timeline, last), 5)
	x.WastedWork = rounded(work.Ratio, 5)
	if how.drained() {
		ideal := r.reference(m.samples, m.timeline)
		reference, bound, efficiency := seconds(ideal.Makespan), seconds(ideal.LowerBound), rounded(ideal.Efficiency(last), 4)
		x.ReferenceMakespanS, x.LowerBoundS, x.Efficiency = &reference, &bound, &efficiency
	}
	done := 0
	for _, s := range m.samples {
		if s.finished {
			done++
		}
	}
	if last > 0 {
		x.ThroughputPerS = rounded(float64(done)/last.Seconds(), 3)
	}
	x.DwellMS = newDistribution(dwells(m.samples)).quantiles()
	again, up := newDistribution(m.redeliveries), newDistribution(m.scaleUps)
	x.RedeliveryMS = Redelivery{Count: again.count, P50: ms(again.at(50)), P95: ms(again.at(95)), Max: ms(again.longest)}
	x.ScaleUpMS = ScaleUp{Count: up.count, P50: ms(up.at(50)), Max: ms(up.longest)}
	m.run.ByTenant, m.run.ByPriority = byTenant(m.samples), byPriority(m.samples)
	m.run.Generator = Generator{
		LateP99MS: ms(newDistribution(r.late).at(99)), CPUShare: rounded(r.cpu.share(), 4),
	}
}

// usage adds up what the processes noted about themselves.
func (r *run) usage(m *measured, events []history.Event) {
	type counter struct{ proc, kind string }
	sent, peak := make(map[counter]int64), 0
	for _, e := range events {
		switch e.Kind {
		case crew.Calls:
			c := counter{e.Proc, e.Cause}
			sent[c] = max(sent[c], int64(e.N))
		case crew.RSS:
			peak = max(peak, e.N)
		}
	}
	calls := make(map[string]int64)
	for kind, n := range r.broker.calls() {
		calls[kind] += n
	}
	for c, n := range sent {
		calls[c.kind] += n
	}
	var total int64
	for kind, n := range calls {
		if n == 0 {
			delete(calls, kind)
		}
		total += n
	}
	m.run.Calls = calls
	m.run.Metrics.WorkerRSSMBMax = rounded(float64(peak)/(1<<20), 1)
	stored := 0
	for _, s := range m.samples {
		if s.stored {
			stored++
		}
	}
	if stored > 0 {
		m.run.Metrics.BrokerCallsPerMessage = rounded(float64(total)/float64(stored), 3)
	}
}

// conclude fills in the verdict: that of the history, and what only the run itself knows.
func (r *run) conclude(m *measured, how ending, v history.Verdict) {
	reasons := slices.Concat(r.reasons(m, how, v), v.InvalidReasons)
	m.run.Verdict = Verdict{
		Valid: len(reasons) == 0, InvalidReasons: append([]string{}, reasons...),
		Published: v.Published, Confirmed: v.Confirmed, Recovered: v.Recovered, Completed: v.Completed,
		DeadLettered: v.DeadLettered, Lost: v.Lost, Unfinished: v.Unfinished, Unexpected: v.Unexpected,
		Overlaps: v.Overlaps, Overruns: v.Overruns,
		Duplicates: Duplicates{Total: v.Duplicates.Total, ByCause: v.Duplicates.ByCause},
	}
	if !m.run.Verdict.Valid && how != endedInterrupted {
		m.run.Verdict.Details = &v.Details
	}
}

// lateBudget is how late the generator may be: the 99th percentile of the messages of an open workload, against the
// length of the run. In a closed one everything is due at once, and how long the broker takes is a result.
func lateBudget(length time.Duration) time.Duration { return max(250*time.Millisecond, length/100) }

func (r *run) reasons(m *measured, how ending, v history.Verdict) []string {
	var reasons []string
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if how == endedInterrupted {
		return []string{reasonInterrupted}
	}
	reasons = append(reasons, r.complaints...)
	if v.Unfinished > 0 {
		add("%d unfinished", v.Unfinished)
	}
	if missing := len(r.plan.load.Messages) - v.Confirmed - v.Recovered; missing > 0 {
		if r.publishFault != nil {
			add("%d messages were not published: %v", missing, r.publishFault)
		} else {
			add("%d messages were not published", missing)
		}
	}
	for _, f := range r.nemesis.waiting {
		if f.kind == faultKill {
			add("no redelivery after the kill: the run was over before the kill at %s", f.at)
		}
	}
	for _, f := range r.nemesis.done {
		if f.kind == string(faultKill) && !redelivered(m.timeline, f.target) {
			add("no redelivery after the kill: %s had nothing in work that ran again", f.target)
		}
	}
	budget := lateBudget(time.Duration(m.run.Metrics.MakespanS * float64(time.Second)))
	if late := m.run.Generator.LateP99MS; r.plan.load.Model == workload.Open && late > ms(budget) {
		add("the generator was late: p99 is %s, and %s is the budget", span(time.Duration(late*1e6)), span(budget))
	}
	return reasons
}

// redelivered reports whether a message ran again that the killed process had in work.
func redelivered(t *history.Timeline, proc string) bool {
	return slices.ContainsFunc(t.Redeliveries(), func(r history.Redelivery) bool {
		return r.Proc == proc && r.Fault == history.Kill && !r.Missing
	})
}
