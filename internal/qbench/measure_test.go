package qbench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

const sec = int64(time.Second)

// handmade is a run of four messages of one second each, on two workers of one slot, that begins at 100 s. w1 is killed
// at 101.5 s with m2 in work; m3 fails at its only attempt; m4 is meant for 107 s and never runs.
func handmade() (*workload.Workload, []history.Event) {
	job := func(seq int, id, tenant string, priority int, at time.Duration) workload.Job {
		return workload.Job{ID: id, Seq: seq, Tenant: tenant, Priority: priority, At: at, Run: time.Second}
	}
	w := &workload.Workload{
		Name: "handmade", Seed: 1, Scale: 1, Model: workload.Closed, Lanes: workload.LanesNone,
		Retry: workload.Retry{MaxAttempts: 1},
		Messages: []workload.Job{
			job(0, "m1", "a", 1, 0), job(1, "m2", "a", 1, 0), job(2, "m3", "b", 0, 0), job(3, "m4", "b", 0, 7*time.Second),
		},
	}
	w.Messages[2].Poison = true
	at := func(s float64) int64 { return 100*sec + int64(s*float64(sec)) }
	var events []history.Event
	add := func(s float64, proc string, kind history.Kind, msg string, more ...func(*history.Event)) {
		e := history.Event{T: at(s), Proc: proc, Kind: kind, Msg: msg}
		for _, m := range more {
			m(&e)
		}
		events = append(events, e)
	}
	verdict := func(v string) func(*history.Event) { return func(e *history.Event) { e.Verdict = v } }
	until := func(s float64) func(*history.Event) { return func(e *history.Event) { e.Until = at(s) } }
	n := func(n int) func(*history.Event) { return func(e *history.Event) { e.N = n } }
	for _, p := range []string{"w1", "w2"} {
		add(-1, p, history.ProcReady, "", n(1))
	}
	for _, j := range w.Messages[:3] {
		due := func(e *history.Event) { e.Due = 100*sec + int64(j.At) }
		add(0, producerName, history.PublishInvoke, j.ID, due)
		add(0, producerName, history.PublishOK, j.ID)
	}
	add(0, "w1", history.Deliver, "m1", until(5))
	add(0.1, "w1", history.Start, "m1")
	add(1.1, "w1", history.End, "m1")
	add(1.1, "w1", history.SettleSent, "m1", verdict("ack"))
	add(1.2, "w1", history.SettleOK, "m1", verdict("ack"))
	add(1.2, "w1", history.Deliver, "m2", until(6.2))
	add(1.25, "w1", history.Start, "m2")
	add(1.5, "supervisor", history.Kill, "", func(e *history.Event) { e.Proc, e.Signal = "w1", "KILL" })
	add(2, "supervisor", history.Join, "", func(e *history.Event) { e.Proc = "w3" })
	add(2.2, "w3", history.ProcReady, "", n(1))
	add(0, "w2", history.Deliver, "m3", until(5))
	add(0.2, "w2", history.Start, "m3")
	add(1.2, "w2", history.End, "m3", func(e *history.Event) { e.Err = "told to fail" })
	add(1.2, "w2", history.SettleSent, "m3", verdict("dead"))
	add(1.3, "w2", history.Dead, "m3")
	add(1.4, "w2", history.SettleOK, "m3", verdict("dead"))
	add(6.2, "w3", history.Deliver, "m2", until(11))
	add(6.5, "w3", history.Start, "m2")
	add(7.5, "w3", history.End, "m2")
	add(7.5, "w3", history.SettleSent, "m2", verdict("ack"))
	add(7.6, "w3", history.SettleOK, "m2", verdict("ack"))
	return w, events
}

func TestSamplesOfAHandmadeRun(t *testing.T) {
	w, events := handmade()
	timeline := history.Index(events)
	all := samples(w, timeline, 100*sec, 109*sec)
	require.Len(t, all, 4)

	require.Equal(t, 100*time.Millisecond, all[0].dwell)
	require.Equal(t, 1200*time.Millisecond, all[0].done)
	require.Equal(t, 1250*time.Millisecond, all[1].dwell, "its first start, not that after the kill")
	require.Equal(t, 7600*time.Millisecond, all[1].done)
	require.False(t, all[1].dead)
	require.True(t, all[2].dead)
	require.Equal(t, 1300*time.Millisecond, all[2].done)
	require.False(t, all[3].started || all[3].finished || all[3].stored)
	require.Equal(t, 2*time.Second, all[3].dwell, "from its intended instant to the end of the run")

	require.Equal(t, 7600*time.Millisecond, makespan(all))
	require.Equal(t, []time.Duration{5 * time.Second}, redeliveries(timeline))
	require.Equal(t, []time.Duration{4500 * time.Millisecond}, scaleUps(timeline, map[string]bool{"w3": true}))
	require.Empty(t, scaleUps(timeline, nil))
	require.True(t, redelivered(timeline, "w1"))
	require.False(t, redelivered(timeline, "w2"))

	require.Len(t, samples(w, timeline, 100*sec, 106*sec), 3, "m4 was not due yet")
}

func TestGroupsOfAHandmadeRun(t *testing.T) {
	w, events := handmade()
	all := samples(w, history.Index(events), 100*sec, 109*sec)
	tenants := byTenant(all)
	require.Equal(t, []string{"a", "b"}, []string{tenants[0].Tenant, tenants[1].Tenant})
	require.Equal(t, 2, tenants[0].Completed)
	require.Equal(t, 1, tenants[1].DeadLettered)
	require.Zero(t, tenants[1].Completed)
	require.InDelta(t, 2, tenants[1].WorkS, 0)
	require.InDelta(t, 1250, tenants[0].DwellMS.Max, 1)
	priorities := byPriority(all)
	require.Equal(t, 1, *priorities[0].Priority)
	require.Equal(t, 0, *priorities[1].Priority)
}

// handmadeRun is the run around the handmade history.
func handmadeRun(t *testing.T) (*run, *measured) {
	t.Helper()
	w, events := handmade()
	b, err := openBroker(t.Context(), "nats+embedded://")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.close()) })
	p := &plan{broker: "nats+embedded://", load: w, work: w.Summary(), workers: 2, slots: 1, lease: 5 * time.Second}
	r := &run{plan: p, broker: b, t0: 100 * sec, end: 109 * sec}
	r.nemesis = newNemesis(r)
	r.nemesis.done = []faultDone{{kind: "kill", target: "w1", at: 101*sec + sec/2}, {kind: "join", target: "w3", at: 102 * sec}}
	m := &measured{run: r.describe(), timeline: history.Index(events)}
	m.samples = samples(w, m.timeline, r.t0, r.end)
	m.redeliveries, m.scaleUps = redeliveries(m.timeline), scaleUps(m.timeline, r.nemesis.joined())
	return r, m
}

func TestMetricsOfAHandmadeRun(t *testing.T) {
	r, m := handmadeRun(t)
	r.measure(m, endedFinished, m.timeline.Work())
	x := m.run.Metrics
	require.InDelta(t, 7.6, x.MakespanS, 1e-9)
	// With no overhead w1 works on m1 until 1 s and then on m3 until it is killed, w2 on m2 until 1 s. m3 is back 5 s
	// after the kill and takes a second.
	require.InDelta(t, 7.5, *x.ReferenceMakespanS, 1e-9)
	require.InDelta(t, 7.5/7.6, *x.Efficiency, 1e-4)
	require.InDelta(t, 3/7.6, x.ThroughputPerS, 1e-3)
	require.Equal(t, 1, x.RedeliveryMS.Count)
	require.InDelta(t, 5000, x.RedeliveryMS.P50, 0)
	require.InDelta(t, 4500, x.ScaleUpMS.Max, 0)
	require.InDelta(t, 0.25/2, x.WastedWork, 1e-4)

	m.run = r.describe()
	r.measure(m, endedOvertime, m.timeline.Work())
	require.Nil(t, m.run.Metrics.Efficiency)
	require.InDelta(t, 9, m.run.Metrics.MakespanS, 1e-9)
}

func TestVerdictOfAHandmadeRun(t *testing.T) {
	r, m := handmadeRun(t)
	r.measure(m, endedFinished, m.timeline.Work())
	r.conclude(m, endedFinished, history.Judge(m.timeline, history.Options{Drained: true}))
	v := m.run.Verdict
	require.Equal(t, []string{"1 messages were not published"}, v.InvalidReasons)
	require.Equal(t, []int{3, 2, 1, 0}, []int{v.Confirmed, v.Completed, v.DeadLettered, v.Lost})
	require.Equal(t, map[history.Cause]int{history.CauseKill: 1}, v.Duplicates.ByCause)

	r.plan.load.Messages = r.plan.load.Messages[:3]
	r.conclude(m, endedFinished, history.Judge(m.timeline, history.Options{Drained: true}))
	require.True(t, m.run.Verdict.Valid)
	require.Nil(t, m.run.Verdict.Details)

	r.nemesis.done = append(r.nemesis.done, faultDone{kind: "kill", target: "w2", at: 108 * sec})
	r.conclude(m, endedFinished, history.Judge(m.timeline, history.Options{Drained: true}))
	require.Equal(t, []string{"no redelivery after the kill: w2 had nothing in work that ran again"}, m.run.Verdict.InvalidReasons)

	r.plan.load.Model = workload.Open
	m.run.Generator.LateP99MS = 251
	r.conclude(m, endedFinished, history.Judge(m.timeline, history.Options{Drained: true}))
	require.Contains(t, strings.Join(m.run.Verdict.InvalidReasons, "\n"), "the generator was late: p99 is 251 ms")
}

func TestALostMessageIsNamed(t *testing.T) {
	r, m := handmadeRun(t)
	_, events := handmade()
	settled := slices.DeleteFunc(events, func(e history.Event) bool {
		return e.Msg == "m1" && (e.Kind == history.SettleSent || e.Kind == history.SettleOK)
	})
	r.conclude(m, endedEmpty, history.Check(settled, history.Options{Drained: true}))
	v := m.run.Verdict
	require.False(t, v.Valid)
	require.Equal(t, 1, v.Lost)
	require.Equal(t, v.Confirmed+v.Recovered, v.Completed+v.DeadLettered+v.Lost)
	require.Contains(t, v.InvalidReasons, "1 lost")
	require.Equal(t, []string{"m1"}, v.Details.Lost)
	text := (&Document{Schema: 1, Runs: []Run{*m.run}}).text(plain)
	require.Contains(t, text, "✗ invalid: 3 confirmed = 1 completed + 1 dead-lettered + 1 lost")
	require.Contains(t, text, "    lost: m1\n")
}

func TestUsageTakesTheLastCountOfEachProcess(t *testing.T) {
	r, m := handmadeRun(t)
	own := r.broker.calls()
	r.usage(m, []history.Event{
		{Kind: crew.Calls, Proc: "w1", Cause: "ack", N: 1}, {Kind: crew.Calls, Proc: "w1", Cause: "ack", N: 3},
		{Kind: crew.Calls, Proc: "w2", Cause: "ack", N: 5}, {Kind: crew.Calls, Proc: "w2", Cause: "pull", N: 7},
		{Kind: crew.RSS, Proc: "w1", N: 3 << 20}, {Kind: crew.RSS, Proc: "w2", N: 2 << 20},
	})
	require.Equal(t, 8+own["ack"], m.run.Calls["ack"])
	require.Equal(t, 7+own["pull"], m.run.Calls["pull"])
	require.InDelta(t, 3, m.run.Metrics.WorkerRSSMBMax, 0)
	var total int64
	for _, n := range m.run.Calls {
		total += n
	}
	require.InDelta(t, float64(total)/3, m.run.Metrics.BrokerCallsPerMessage, 1e-3)
}

func TestDistributionOfNothing(t *testing.T) {
	d := newDistribution(nil)
	require.Equal(t, Quantiles{}, d.quantiles())
	zero := newDistribution([]time.Duration{0, 0})
	require.Equal(t, Quantiles{}, zero.quantiles())
	one := newDistribution([]time.Duration{-time.Second, 1234567 * time.Microsecond})
	require.InDelta(t, 1234.567, one.quantiles().P99, 0.001, "never above the longest")
}
