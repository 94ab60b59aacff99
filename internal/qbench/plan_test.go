package qbench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

func base() settings { return settings{workload: builtIn, workers: 2, slots: 2} }

func TestLoadFromTheBuiltInWorkload(t *testing.T) {
	s := base()
	s.limit, s.seed, s.target = 50, 9, 5*time.Second
	w, err := s.makeLoad()
	require.NoError(t, err)
	require.Len(t, w.Messages, 50)
	require.EqualValues(t, 9, w.Seed)
	require.Equal(t, workload.Closed, w.Model)
}

func TestLoadFromAFileThatSaysHowLongMessagesArrive(t *testing.T) {
	s := base()
	s.workload = file(t, "rate.yaml", `
name: rate
arrivals: {model: open, rate: 10, duration: 20s}
run: {distribution: uniform, min: 1s, max: 9s}
`)
	all, err := s.makeLoad()
	require.NoError(t, err)
	require.Greater(t, len(all.Messages), 100)

	s.limit, s.capRuns = 30, 4*time.Second
	some, err := s.makeLoad()
	require.NoError(t, err)
	require.Len(t, some.Messages, 30)
	require.Positive(t, some.Capped)
	for i, j := range some.Messages {
		require.Equal(t, all.Messages[i].At, j.At, "the same messages, only fewer")
		require.LessOrEqual(t, j.Run, 4*time.Second)
	}

	s.limit = 1_000_000
	most, err := s.makeLoad()
	require.NoError(t, err)
	require.Len(t, most.Messages, len(all.Messages), "a limit adds none")
}

func TestLoadFromATrace(t *testing.T) {
	s := base()
	s.trace = file(t, "short.swf", `; Computer: box
1 0 -1 5 1 -1 -1 -1 -1 -1 -1 3 1 -1 -1 -1 -1 -1
2 100 -1 50 1 -1 -1 -1 -1 -1 -1 3 1 -1 -1 -1 -1 -1
3 200 -1 5 1 -1 -1 -1 -1 -1 -1 4 1 -1 -1 -1 -1 -1
`)
	s.limit, s.capRuns, s.load, s.scale = 2, 10*time.Second, 0.5, 1
	w, err := s.makeLoad()
	require.NoError(t, err)
	require.Len(t, w.Messages, 2)
	require.Equal(t, 1, w.Capped)
	require.InDelta(t, 0.5, w.Load, 0)
	// 15 s of work on four slots at half load: the arrivals are 7.5 s apart.
	require.Equal(t, 7500*time.Millisecond, w.Messages[1].At)
	require.Equal(t, traceBody, w.Messages[0].BodyBytes)
}

func TestTimeLimitIsGenerous(t *testing.T) {
	w := &workload.Workload{Model: workload.Closed, Messages: make([]workload.Job, 8)}
	for i := range w.Messages {
		w.Messages[i].Run = 10 * time.Second
	}
	require.Equal(t, 2*time.Minute, timeLimit(&plan{load: w, workers: 2, slots: 2, lease: time.Second}))
}

func TestLanesOfEachPolicy(t *testing.T) {
	weights := map[string]float64{"a": 2}
	for policy, want := range map[workload.Lanes][2]bool{
		workload.LanesNone: {false, false}, "": {true, false}, workload.LanesPriority: {true, false},
		workload.LanesTenant: {false, true}, workload.LanesBoth: {true, true},
	} {
		l := lanes(&workload.Workload{Lanes: policy, Weights: weights})
		require.Equal(t, want, [2]bool{l.Priorities, l.Tenants}, policy)
		require.Equal(t, want[1], l.Weights != nil, policy)
	}
}
