package workload

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func collector(t *testing.T, c CollectorConfig) *Workload {
	t.Helper()
	w, err := Collector(c)
	require.NoError(t, err)
	return w
}

func TestCollectorIsWhatItsCommentSays(t *testing.T) {
	for seed := range uint64(5) {
		w := collector(t, CollectorConfig{Seed: seed + 1})
		s := w.Summary()
		require.Equal(t, 2000, s.Messages)
		require.Equal(t, 60, s.Tenants)
		require.Equal(t, 100, s.Transient)
		require.Equal(t, 10, s.Poison)
		require.Zero(t, s.Crash)
		require.Zero(t, s.Span)
		require.Equal(t, Closed, w.Model)
		require.InEpsilon(t, 40*16, s.SlotTime.Seconds(), 0.1, "40 s on 16 slots")
		require.InEpsilon(t, 48*w.Scale, s.Median.Seconds(), 0.15)
		require.Equal(t, scaled(30*time.Minute, w.Scale), s.Longest)
		require.InDelta(t, 20, s.Capped, 15, "one in a hundred is cut to the 99th percentile")
		require.Equal(t, 3, w.Retry.MaxAttempts)
		require.Equal(t, scaled(30*time.Second, w.Scale), w.Retry.Delay(1))

		paid, volume := 0, make(map[string]int)
		for i, j := range w.Messages {
			require.Equal(t, i, j.Seq)
			require.Contains(t, []int{0, 10}, j.Priority)
			if j.Priority == 10 {
				paid++
			}
			volume[j.Tenant]++
		}
		require.Equal(t, 1200, paid)
		require.Greater(t, volume["tenant-01"], 2*volume["tenant-02"]-20)
		require.Less(t, volume["tenant-60"], 10)
	}
}

// The digests were taken once: a change of them means that results of earlier runs can no longer be compared.
func TestSameSeedSameWorkload(t *testing.T) {
	require.Equal(t, collector(t, CollectorConfig{Seed: 1}).Digest(), collector(t, CollectorConfig{}).Digest())
	require.Equal(t, "9706e4aa5795a1d8", collector(t, CollectorConfig{Seed: 1}).Digest())
	require.NotEqual(t, "9706e4aa5795a1d8", collector(t, CollectorConfig{Seed: 2}).Digest())
	spec, err := ParseFile("testdata/full.yaml")
	require.NoError(t, err)
	w, err := spec.Generate(Options{})
	require.NoError(t, err)
	require.Equal(t, "44921eef73943b37", w.Digest())
}

func TestCollectorOptions(t *testing.T) {
	a := collector(t, CollectorConfig{Target: 20 * time.Second, Slots: 8, Messages: 500, Tenants: 7})
	require.Len(t, a.Messages, 500)
	require.Equal(t, 7, a.Summary().Tenants)
	b := collector(t, CollectorConfig{Scale: a.Scale, Messages: 500, Tenants: 7})
	require.Equal(t, a.Digest(), b.Digest(), "the scale that was chosen can be given back")

	var e *Error
	_, err := Collector(CollectorConfig{Messages: -1})
	require.ErrorAs(t, err, &e)
	_, err = Collector(CollectorConfig{Scale: 1, Target: time.Second})
	require.ErrorContains(t, err, "both a scale and a target")
	_, err = Collector(CollectorConfig{Slots: -1})
	require.ErrorContains(t, err, "negative")
}

func TestScaleAppliesToAllTimesAlike(t *testing.T) {
	spec, err := ParseFile("testdata/full.yaml")
	require.NoError(t, err)
	one, err := spec.Generate(Options{Scale: 1})
	require.NoError(t, err)
	tenth, err := spec.Generate(Options{Scale: 0.1})
	require.NoError(t, err)
	require.Equal(t, len(one.Messages), len(tenth.Messages))
	for i, j := range one.Messages {
		k := tenth.Messages[i]
		require.InDelta(t, j.At.Seconds()/10, k.At.Seconds(), 1e-6)
		require.InDelta(t, j.Run.Seconds()/10, k.Run.Seconds(), 1e-6)
		j.At, j.Run, k.At, k.Run = 0, 0, 0, 0
		require.Equal(t, j, k)
	}
	require.Equal(t, 3*time.Second, tenth.Retry.Base)
	require.Equal(t, 60*time.Second, tenth.Retry.Cap)
}

func TestRetryDelay(t *testing.T) {
	r := Retry{Base: time.Second, Cap: 5 * time.Second}
	for i, want := range []time.Duration{1, 2, 4, 5, 5} {
		require.Equal(t, want*time.Second, r.Delay(i+1))
	}
	require.Zero(t, Retry{}.Delay(7))
	require.Positive(t, Retry{Base: time.Second}.Delay(1000), "no overflow")
	require.Equal(t, time.Second, Retry{Base: 2 * time.Second, Cap: time.Second}.Delay(1))
}

func TestStarts(t *testing.T) {
	r := Retry{MaxAttempts: 3, MaxCrashes: 4}
	for _, c := range []struct {
		job    Job
		starts int
		dies   bool
	}{
		{Job{}, 1, false},
		{Job{Fail: 2}, 3, false},
		{Job{Fail: 3}, 3, true},
		{Job{Poison: true}, 3, true},
		{Job{Crash: true}, 4, true},
	} {
		require.Equal(t, c.starts, c.job.Starts(r), "%+v", c.job)
		require.Equal(t, c.dies, c.job.Dies(r), "%+v", c.job)
	}
	require.Equal(t, 3, Retry{}.Attempts())
	require.Equal(t, 5, Retry{}.Crashes())
}

func TestDistributionsHaveTheirParameters(t *testing.T) {
	const n = 20_000
	draw := func(r RunTimes) []float64 {
		st, xs := newStream(9, forRuns), make([]float64, n)
		for i := range xs {
			d, _ := r.draw(st)
			xs[i] = d.Seconds()
		}
		slices.Sort(xs)
		return xs
	}
	mean := func(xs []float64) (m float64) {
		for _, x := range xs {
			m += x / n
		}
		return m
	}
	ln := draw(RunTimes{Distribution: LogNormal, Median: 48 * time.Second, P99: 30 * time.Minute})
	require.InEpsilon(t, 48, ln[n/2], 0.05)
	require.InEpsilon(t, 1800, ln[n*99/100], 0.1)
	ex := draw(RunTimes{Distribution: Exponential, Mean: 10 * time.Second})
	require.InEpsilon(t, 10, mean(ex), 0.03)
	require.InEpsilon(t, 10*math.Ln2, ex[n/2], 0.04)
	un := draw(RunTimes{Distribution: Uniform, Min: time.Second, Max: 3 * time.Second})
	require.InEpsilon(t, 2, mean(un), 0.02)
	require.GreaterOrEqual(t, un[0], 1.0)
	require.LessOrEqual(t, un[n-1], 3.0)
	capped, cut := RunTimes{Distribution: Fixed, Value: time.Minute, Cap: time.Second}.draw(newStream(1, forRuns))
	require.Equal(t, time.Second, capped)
	require.True(t, cut)
}

func TestStreams(t *testing.T) {
	a, b, again := newStream(1, forRuns), newStream(1, forTenants), newStream(1, forRuns)
	require.NotEqual(t, a.pcg.Uint64(), b.pcg.Uint64())
	again.unit()
	require.Equal(t, a.unit(), again.unit())
	seen := make(map[int]bool)
	for range 1000 {
		k := a.below(7)
		require.True(t, k >= 0 && k < 7)
		seen[k] = true
		u := a.unit()
		require.True(t, u > 0 && u < 1)
	}
	require.Len(t, seen, 7)
}

func TestApportion(t *testing.T) {
	require.Equal(t, []int{5, 3, 2}, apportion([]float64{5, 3, 2}, 10))
	require.Equal(t, []int{4, 3, 3}, apportion([]float64{1, 1, 1}, 10))
	require.Equal(t, []int{1, 0, 0}, apportion([]float64{1, 1, 1}, 1))
	require.Equal(t, []int{0, 0, 0, 10}, apportion([]float64{0, 0, 0, 1}, 10))
}

func TestSummaryOfNothing(t *testing.T) {
	w := Workload{}
	require.Equal(t, Summary{}, w.Summary())
	require.Contains(t, collector(t, CollectorConfig{}).Summary().String(), "2000 messages of 60 tenants")
}
