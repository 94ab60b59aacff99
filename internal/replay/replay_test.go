package replay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const s = time.Second

// jobs makes a job of each run time, all published at the start.
func jobs(runs ...time.Duration) []workload.Job {
	js := make([]workload.Job, len(runs))
	for i, r := range runs {
		js[i] = workload.Job{Seq: i, Run: r}
	}
	return js
}

// replayed replays in and returns the starts in the order of their ends as well.
func replayed(in Input) (Result, []Span) {
	var spans []Span
	in.Observe = func(sp Span) { spans = append(spans, sp) }
	return Replay(in), spans
}

func one(slots int) []Worker { return []Worker{{Slots: slots}} }

func starts(r Result) []time.Duration {
	at := make([]time.Duration, len(r.Jobs))
	for i, o := range r.Jobs {
		at[i] = o.FirstStart
	}
	return at
}

func TestOneSlotWorksInOrder(t *testing.T) {
	r, _ := replayed(Input{Jobs: jobs(3*s, 1*s, 2*s), Workers: one(1)})
	require.Equal(t, []time.Duration{0, 3 * s, 4 * s}, starts(r))
	require.Equal(t, 6*s, r.Makespan)
	require.Equal(t, 6*s, r.LowerBound)
	require.Equal(t, 6*s, r.Busy)
	require.Zero(t, r.Idle)
	require.InDelta(t, 0.75, r.Efficiency(8*s), 1e-9)
	require.Zero(t, r.Efficiency(0))
}

func TestFreeSlotTakesTheNext(t *testing.T) {
	// Slot A: 0-4; slot B: 0-1, 1-3, 3-6.
	r, _ := replayed(Input{Jobs: jobs(4*s, 1*s, 2*s, 3*s), Workers: one(2)})
	require.Equal(t, []time.Duration{0, 0, 1 * s, 3 * s}, starts(r))
	require.Equal(t, 6*s, r.Makespan)
	require.Equal(t, 5*s, r.LowerBound) // 10 s on two slots
	require.Equal(t, 2*s, r.Idle)
}

func TestArrivalsAreWaitedFor(t *testing.T) {
	js := jobs(1*s, 1*s)
	js[1].At = 5 * s
	r, _ := replayed(Input{Jobs: js, Workers: one(1)})
	require.Equal(t, 6*s, r.Makespan)
	require.Equal(t, 6*s, r.LowerBound)
	require.Equal(t, 4*s, r.Idle)
	require.Zero(t, r.IdleWhileBacklog)

	r, _ = replayed(Input{Jobs: js, Arrivals: []time.Duration{7 * s, 6 * s}, Workers: one(1)})
	require.Equal(t, []time.Duration{7 * s, 6 * s}, starts(r), "measured arrivals take the place of the plan")
	require.Equal(t, 8*s, r.Makespan)
}

func TestPriorityGoesFirstUnlessThereIsOneLine(t *testing.T) {
	js := jobs(1*s, 1*s, 1*s)
	js[2].Priority = 10
	r, _ := replayed(Input{Jobs: js, Workers: one(1)})
	require.Equal(t, []time.Duration{1 * s, 2 * s, 0}, starts(r))
	r, _ = replayed(Input{Jobs: js, Workers: one(1), Lanes: workload.LanesNone})
	require.Equal(t, []time.Duration{0, 1 * s, 2 * s}, starts(r))
}

func TestFailedMessageComesBackInItsPlace(t *testing.T) {
	js := jobs(1*s, 1*s, 1*s, 1*s)
	js[0].Fail = 1
	in := Input{Jobs: js, Workers: one(1), Retry: workload.Retry{Base: 1500 * time.Millisecond}}
	// 0: fails at 1 and is eligible at 2.5; 1 from 1 to 2, 2 from 2 to 3, then 0 again, before 3.
	r, spans := replayed(in)
	require.Equal(t, []int{0, 1, 2, 0, 3}, jobsOf(spans))
	require.Equal(t, 4*s, r.Jobs[0].Done)
	require.Equal(t, 1, r.Jobs[0].Failures)
	require.Equal(t, 1*s, r.Failed)
	require.Equal(t, 4*s, r.Useful)
	require.Equal(t, 5*s, r.Makespan)
}

func jobsOf(spans []Span) []int {
	js := make([]int, len(spans))
	for i, sp := range spans {
		js[i] = sp.Job
	}
	return js
}

func TestPoisonIsDeadLetteredAfterItsAttempts(t *testing.T) {
	js := jobs(1 * s)
	js[0].Poison = true
	in := Input{Jobs: js, Workers: one(1), Retry: workload.Retry{MaxAttempts: 3, Base: 1 * s, Cap: 90 * s}}
	r, _ := replayed(in) // 0-1, delay 1, 2-3, delay 2, 5-6
	require.Equal(t, Outcome{Done: 6 * s, Starts: 3, Failures: 3, Finished: true, Dead: true}, r.Jobs[0])
	require.Equal(t, 6*s, r.Makespan)
	require.Equal(t, 6*s, r.LowerBound)
	require.Equal(t, 1, r.DeadLettered)

	in.RetryDelay = func(failure int, j workload.Job) time.Duration { return time.Duration(failure) * 10 * s }
	r, _ = replayed(in) // 0-1, 11-12, 32-33
	require.Equal(t, 33*s, r.Makespan)
	require.Equal(t, 33*s, r.LowerBound)
}

func TestKilledWorkersMessagesStartAgainElsewhere(t *testing.T) {
	in := Input{
		Jobs: jobs(4*s, 4*s, 4*s), Detect: 2 * s,
		Workers: []Worker{{Slots: 1, Down: 3 * s, Killed: true}, {Slots: 1}},
	}
	// Worker 0 loses job 0 at 3; worker 1 does job 1 until 4 and job 2 until 8; job 0 is back at 5 and runs from 8 to 12.
	r, spans := replayed(in)
	require.Equal(t, []Span{
		{Job: 0, Worker: 0, Start: 0, End: 3 * s, Ending: Lost},
		{Job: 1, Worker: 1, Start: 0, End: 4 * s},
		{Job: 2, Worker: 1, Start: 4 * s, End: 8 * s},
		{Job: 0, Worker: 1, Start: 8 * s, End: 12 * s},
	}, spans)
	require.Equal(t, 12*s, r.Makespan)
	require.Equal(t, 3*s, r.Wasted)
	require.Equal(t, 15*s, r.Busy)
	require.Equal(t, 9*s, r.LowerBound) // two slots until 3, then one for the other 6 s
	require.Equal(t, time.Duration(0), r.Jobs[0].FirstStart)

	in.Detect = 0 // back at 3, and its place is before job 2
	r, spans = replayed(in)
	require.Equal(t, []int{0, 1, 0, 2}, jobsOf(spans))
	require.Equal(t, 12*s, r.Makespan)
}

func TestWorkerThatDrainsFinishesWhatItHas(t *testing.T) {
	r, spans := replayed(Input{
		Jobs:    jobs(4*s, 4*s, 4*s),
		Workers: []Worker{{Slots: 1, Down: 1 * s}, {Slots: 1, Up: 2 * s}},
	})
	require.Equal(t, []Span{
		{Job: 0, Worker: 0, Start: 0, End: 4 * s},
		{Job: 1, Worker: 1, Start: 2 * s, End: 6 * s},
		{Job: 2, Worker: 1, Start: 6 * s, End: 10 * s},
	}, spans)
	require.Zero(t, r.Wasted)
	require.LessOrEqual(t, r.LowerBound, r.Makespan)
}

func TestJobThatEndsAtTheKillIsDone(t *testing.T) {
	r, _ := replayed(Input{
		Jobs: jobs(2*s, 1*s), Workers: []Worker{{Slots: 1, Down: 2 * s, Killed: true}, {Slots: 1, Up: 2 * s}},
	})
	require.Equal(t, 2*s, r.Jobs[0].Done)
	require.Equal(t, 2*s, r.Jobs[1].FirstStart)
	require.Zero(t, r.Wasted)
}

func TestWithoutWorkersJobsAreLeft(t *testing.T) {
	r, _ := replayed(Input{Jobs: jobs(1*s, 1*s), Workers: []Worker{
		{Slots: 1, Down: 1500 * time.Millisecond, Killed: true}, {Slots: 0}, {Slots: 3, Up: 2 * s, Down: 1 * s},
	}})
	require.Equal(t, 1, r.Unfinished)
	require.Equal(t, 1, r.Completed)
	require.False(t, r.Jobs[1].Finished)
	require.Equal(t, 500*time.Millisecond, r.Wasted)

	require.Equal(t, Result{Jobs: []Outcome{}}, Replay(Input{Workers: one(1)}))
}

func TestCrashingMessageIsDeadLettered(t *testing.T) {
	js := jobs(1*s, 1*s)
	js[0].Crash = true
	r, _ := replayed(Input{Jobs: js, Workers: one(1), Retry: workload.Retry{MaxCrashes: 2}, Detect: 3 * s})
	// 0-1, known at 4; 4-5, known at 8.
	require.Equal(t, 8*s, r.Jobs[0].Done)
	require.True(t, r.Jobs[0].Dead)
	require.Equal(t, 2*s, r.Jobs[1].Done)
	require.Equal(t, 2*s, r.Wasted)
	require.Equal(t, 8*s, r.LowerBound)
}

func TestTenantsTakeTurnsBySlotTime(t *testing.T) {
	js := jobs(2*s, 2*s, 2*s, 1*s, 1*s, 1*s)
	for i := range js {
		js[i].Tenant = "loud"
		if i > 2 {
			js[i].Tenant = "quiet"
		}
	}
	in := Input{Jobs: js, Workers: one(1), Lanes: workload.LanesTenant}
	// Charged so far (loud, quiet): loud first by order (2,0); quiet (2,1); quiet (2,2); loud by order (4,2); quiet; loud.
	_, spans := replayed(in)
	require.Equal(t, []int{0, 3, 4, 1, 5, 2}, jobsOf(spans))

	in.Weights = map[string]float64{"loud": 4} // (0.5,0) (0.5,1) (1,1) then a tie that the order decides
	_, spans = replayed(in)
	require.Equal(t, []int{0, 3, 1, 2, 4, 5}, jobsOf(spans))

	js[5].Priority = 1
	in.Lanes = workload.LanesBoth
	_, spans = replayed(in)
	require.Equal(t, []int{5, 0, 3, 1, 2, 4}, jobsOf(spans))
}

func TestTenantThatWasAwaySavesNothingUp(t *testing.T) {
	js := jobs(1*s, 1*s, 1*s, 1*s, 1*s, 1*s)
	for i := range js {
		js[i].Tenant = "here"
		if i > 3 {
			js[i].Tenant, js[i].At = "late", 2500*time.Millisecond
		}
	}
	_, spans := replayed(Input{Jobs: js, Workers: one(1), Lanes: workload.LanesTenant})
	// "late" comes when "here" was served with tag 2, and starts from there: one turn before it, one in between.
	require.Equal(t, []int{0, 1, 2, 4, 3, 5}, jobsOf(spans))
}

func TestInstantJobsTakeNoTime(t *testing.T) {
	js := jobs(0, 0, 0)
	js[1].Fail = 2
	r, spans := replayed(Input{Jobs: js, Workers: one(1)})
	require.Len(t, spans, 5)
	require.Zero(t, r.Makespan)
	require.Equal(t, 3, r.Completed)
}

func TestDwellIsMeasuredToTheFirstStart(t *testing.T) {
	js := jobs(1*s, 1*s, 1*s)
	js[0].Fail = 1
	js[2].Tenant = "quiet"
	r := Replay(Input{Jobs: js, Workers: one(1)})
	require.EqualValues(t, 3, r.Dwell(nil).TotalCount())
	quiet := r.Dwell(func(i int) bool { return js[i].Tenant == "quiet" })
	require.EqualValues(t, 1, quiet.TotalCount())
	require.InEpsilon(t, 3e6, quiet.ValueAtPercentile(95), 0.002) // after the retry of the first
}

func TestCollectorOnSixteenSlots(t *testing.T) {
	w, err := workload.Collector(workload.CollectorConfig{Seed: 3})
	require.NoError(t, err)
	workers := []Worker{{Slots: 4}, {Slots: 4}, {Slots: 4}, {Slots: 4}}
	r := Replay(FromWorkload(w, workers, 0))
	require.Equal(t, 2000, r.Completed+r.DeadLettered)
	require.Equal(t, 10, r.DeadLettered)
	require.InDelta(t, 40, r.Makespan.Seconds(), 4, "the scale is chosen for 40 s")
	require.Equal(t, w.Summary().SlotTime, r.Busy)
	require.GreaterOrEqual(t, r.Makespan, r.LowerBound)
}

func BenchmarkMillionJobs(b *testing.B) {
	w, err := workload.Collector(workload.CollectorConfig{Messages: 1_000_000, Tenants: 500})
	require.NoError(b, err)
	workers := make([]Worker, 50)
	for i := range workers {
		workers[i] = Worker{Slots: 4, Up: time.Duration(i) * s}
		if i%3 == 2 {
			workers[i].Down, workers[i].Killed = time.Duration(60*i)*s, true
		}
	}
	for _, lanes := range []workload.Lanes{workload.LanesPriority, workload.LanesBoth} {
		b.Run(string(lanes), func(b *testing.B) {
			b.ReportAllocs()
			in := FromWorkload(w, workers, 5*s)
			in.Lanes = lanes
			for b.Loop() {
				if r := Replay(in); r.Unfinished > 0 {
					b.Fatal("jobs are left")
				}
			}
		})
	}
}
