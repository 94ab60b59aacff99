package replay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

// Times are drawn from few whole seconds, so that events often coincide.
func instant(most int) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.IntRange(0, most), func(n int) time.Duration { return time.Duration(n) * s })
}

func drawJobs(t *rapid.T) []workload.Job {
	js := make([]workload.Job, rapid.IntRange(1, 12).Draw(t, "jobs"))
	for i := range js {
		js[i] = workload.Job{
			Seq: i, At: instant(8).Draw(t, "at"), Run: instant(5).Draw(t, "run"),
			Tenant:   rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "tenant"),
			Priority: rapid.IntRange(0, 2).Draw(t, "priority"),
		}
		switch rapid.IntRange(0, 9).Draw(t, "fate") {
		case 0, 1:
			js[i].Fail = rapid.IntRange(1, 3).Draw(t, "fail")
		case 2:
			js[i].Poison = true
		case 3:
			js[i].Crash = true
		}
	}
	return js
}

// drawInput draws an Input of which one worker stays, so that every job is finished.
func drawInput(t *rapid.T) Input {
	in := Input{
		Jobs:    drawJobs(t),
		Workers: []Worker{{Up: instant(4).Draw(t, "up"), Slots: rapid.IntRange(1, 2).Draw(t, "slots")}},
		Retry: workload.Retry{
			MaxAttempts: rapid.IntRange(1, 4).Draw(t, "attempts"), MaxCrashes: rapid.IntRange(1, 3).Draw(t, "crashes"),
			Base: instant(3).Draw(t, "base"), Cap: instant(5).Draw(t, "cap"),
		},
		Detect: instant(3).Draw(t, "detect"),
		Lanes: rapid.SampledFrom([]workload.Lanes{
			"", workload.LanesNone, workload.LanesPriority, workload.LanesTenant, workload.LanesBoth,
		}).Draw(t, "lanes"),
		Weights: map[string]float64{"b": 2},
	}
	for range rapid.IntRange(0, 4).Draw(t, "others") {
		in.Workers = append(in.Workers, Worker{
			Up: instant(10).Draw(t, "up"), Down: instant(20).Draw(t, "down"),
			Slots: rapid.IntRange(0, 2).Draw(t, "slots"), Killed: rapid.Bool().Draw(t, "killed"),
		})
	}
	return in
}

// period is when something was so; it ends before End.
type period struct{ Start, End time.Duration }

func overlap(a, b period) time.Duration { return min(a.End, b.End) - max(a.Start, b.Start) }

// eligible works out from the spans alone when each job was waiting for a slot.
func eligible(in Input, r Result, spans []Span) [][]period {
	waits := make([][]period, len(in.Jobs))
	since := make([]time.Duration, len(in.Jobs))
	failures := make([]int, len(in.Jobs))
	for i, o := range r.Jobs {
		since[i] = o.Arrival
	}
	for _, sp := range spans { // the spans of one job come in order
		waits[sp.Job] = append(waits[sp.Job], period{since[sp.Job], sp.Start})
		since[sp.Job] = sp.End
		switch sp.Ending {
		case Failed:
			failures[sp.Job]++
			since[sp.Job] += in.Retry.Delay(failures[sp.Job])
		case Lost, Crashed:
			since[sp.Job] += in.Detect
		}
	}
	return waits
}

func TestNoSlotIsIdleWhileAMessageIsEligible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		r, spans := replayed(in)
		if r.IdleWhileBacklog != 0 {
			t.Fatalf("%v idle while a message was eligible", r.IdleWhileBacklog)
		}
		var waits []period
		for _, w := range eligible(in, r, spans) {
			waits = append(waits, w...)
		}
		for i, w := range in.Workers {
			for _, free := range freePeriods(i, w, r.Makespan, spans) {
				for _, wait := range waits {
					if overlap(free, wait) > 0 {
						t.Fatalf("worker %d had a free slot in %v, a message waited in %v; spans %v", i, free, wait, spans)
					}
				}
			}
		}
	})
}

// freePeriods returns when a worker had at least one free slot, and fails on a worker that had more jobs than slots: it
// sweeps over the instants at which that could change.
func freePeriods(i int, w Worker, end time.Duration, spans []Span) []period {
	if w.Down > 0 {
		end = min(end, w.Down)
	}
	instants := []time.Duration{w.Up, end}
	for _, sp := range spans {
		if sp.Worker == i {
			instants = append(instants, sp.Start, sp.End)
		}
	}
	slices.Sort(instants)
	var free []period
	for k := 1; k < len(instants); k++ {
		p, busy := period{instants[k-1], instants[k]}, 0
		for _, sp := range spans {
			if sp.Worker == i && overlap(p, period{sp.Start, sp.End}) > 0 {
				busy++
			}
		}
		if busy > w.Slots {
			panic(fmt.Sprintf("worker %d works on %d messages in %v", i, busy, p))
		}
		if busy < w.Slots && p.Start >= w.Up && p.End <= end && p.End > p.Start {
			free = append(free, p)
		}
	}
	return free
}

func TestBookkeepingAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		r, spans := replayed(in)
		if r.Unfinished != 0 || r.Completed+r.DeadLettered != len(in.Jobs) {
			t.Fatalf("unfinished %d, completed %d, dead %d", r.Unfinished, r.Completed, r.DeadLettered)
		}
		if r.Makespan < r.LowerBound {
			t.Fatalf("makespan %v is below the bound %v", r.Makespan, r.LowerBound)
		}
		var useful, failed time.Duration
		for i, j := range in.Jobs {
			o := r.Jobs[i]
			if o.Dead != j.Dies(in.Retry) {
				t.Fatalf("job %d: dead is %t", i, o.Dead)
			}
			if !o.Dead {
				useful += j.Run
			}
			failed += time.Duration(o.Failures) * j.Run
			if o.Dwell() < 0 || o.Done < o.FirstStart || o.Done > r.Makespan {
				t.Fatalf("job %d: %+v", i, o)
			}
		}
		var wasted, busy time.Duration
		for _, sp := range spans {
			busy += sp.End - sp.Start
			if sp.Ending == Lost || sp.Ending == Crashed {
				wasted += sp.End - sp.Start
			}
		}
		if r.Useful != useful || r.Failed != failed || r.Wasted != wasted || r.Busy != useful+failed+wasted || r.Busy != busy {
			t.Fatalf("busy %v, useful %v of %v, failed %v of %v, wasted %v of %v",
				r.Busy, r.Useful, useful, r.Failed, failed, r.Wasted, wasted)
		}
		if r.Starts != len(spans) {
			t.Fatalf("%d starts, %d spans", r.Starts, len(spans))
		}
	})
}

func TestNobodyIsOvertaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.Lanes = rapid.SampledFrom([]workload.Lanes{workload.LanesNone, workload.LanesPriority}).Draw(t, "line")
		r, spans := replayed(in)
		waits := eligible(in, r, spans)
		before := func(a, b int) bool { // whether job a goes before job b
			if p, q := in.Jobs[a].Priority, in.Jobs[b].Priority; in.Lanes.ByPriority() && p != q {
				return p > q
			}
			if x, y := r.Jobs[a].Arrival, r.Jobs[b].Arrival; x != y {
				return x < y
			}
			return a < b
		}
		for _, sp := range spans {
			for other := range in.Jobs {
				for _, w := range waits[other] {
					if w.Start < sp.Start && sp.Start < w.End && before(other, sp.Job) {
						t.Fatalf("job %d started at %v while job %d waited in %v", sp.Job, sp.Start, other, w)
					}
				}
			}
		}
	})
}

func TestOneSlotWithoutFailuresTakesTheSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		js := drawJobs(t)
		var sum time.Duration
		for i := range js {
			js[i].At, js[i].Fail, js[i].Poison, js[i].Crash = 0, 0, false, false
			sum += js[i].Run
		}
		r := Replay(Input{Jobs: js, Workers: one(1)})
		if r.Makespan != sum || r.LowerBound != sum || r.Busy != sum || r.Idle != 0 {
			t.Fatalf("makespan %v, bound %v, busy %v, idle %v; sum %v", r.Makespan, r.LowerBound, r.Busy, r.Idle, sum)
		}
	})
}

// Two tenants of equal weight that both always have something to do never differ by more than the longest job of each.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Workers: one(1), Lanes: workload.LanesTenant}
		most, left := make(map[string]time.Duration), make(map[string]int)
		for i := range rapid.IntRange(2, 40).Draw(t, "jobs") {
			tenant := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant")
			j := workload.Job{Seq: i, Tenant: tenant, Run: instant(9).Draw(t, "run")}
			in.Jobs = append(in.Jobs, j)
			most[tenant] = max(most[tenant], j.Run)
			left[tenant]++
		}
		_, spans := replayed(in)
		served := make(map[string]time.Duration)
		for _, sp := range spans {
			if left["a"] == 0 || left["b"] == 0 {
				break
			}
			tenant := in.Jobs[sp.Job].Tenant
			served[tenant] += sp.End - sp.Start
			left[tenant]--
			if gap := served["a"] - served["b"]; gap.Abs() > most["a"]+most["b"] {
				t.Fatalf("served %v", served)
			}
		}
	})
}

func TestSameInputSameResult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		_, a := replayed(in)
		_, b := replayed(in)
		if !slices.Equal(a, b) {
			t.Fatalf("%v\n%v", a, b)
		}
	})
}
