package workload

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseThreshold(t *testing.T) {
	for text, want := range map[string]Threshold{
		"dwell{tenant:quiet}: p95<2s":          {Metric: "dwell", Tags: map[string]string{"tenant": "quiet"}, Agg: "p95", Op: Less, Value: 2},
		"lost: count==0":                       {Metric: "lost", Agg: "count", Op: Equal},
		"idle_while_backlog:rate < 0.02":       {Metric: "idle_while_backlog", Agg: "rate", Op: Less, Value: 0.02},
		"dwell{tenant:a, priority:10}: max>=5": {Metric: "dwell", Tags: map[string]string{"tenant": "a", "priority": "10"}, Agg: "max", Op: GreaterEqual, Value: 5},
		"dwell: p99.9 <= 250ms":                {Metric: "dwell", Agg: "p99.9", Op: LessEqual, Value: 0.25},
		"efficiency: value != -1e3":            {Metric: "efficiency", Agg: "value", Op: NotEqual, Value: -1000},
	} {
		got, err := ParseThreshold(text)
		require.NoError(t, err, text)
		want.Text = text
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		"", "lost", "lost: count", "lost: count=0", "lost: p955<1", "lost: mode<1", "lost: p95<fast", "lost: p95<NaN",
		"lost: p95<Inf", "dwell{}: p95<1", "dwell{tenant}: p95<1", "dwell{tenant:}: p95<1", "dwell{a:1,a:2}: p95<1",
		"Dwell: p95<1", "lost: count<1 2",
	} {
		_, err := ParseThreshold(text)
		var e *Error
		require.ErrorAs(t, err, &e, text)
		require.NotEmpty(t, e.Hint, text)
	}
}

func TestEval(t *testing.T) {
	for text, want := range map[string][3]bool{ // for 1, 2 and 3
		"m: max<2": {true, false, false}, "m: max<=2": {true, true, false}, "m: max>2": {false, false, true},
		"m: max>=2": {false, true, true}, "m: max==2": {false, true, false}, "m: max!=2": {true, false, true},
	} {
		th, err := ParseThreshold(text)
		require.NoError(t, err)
		require.Equal(t, want, [3]bool{th.Eval(1), th.Eval(2), th.Eval(3)}, text)
		require.False(t, th.Eval(math.NaN()), text)
	}
	require.False(t, Threshold{}.Eval(0))
}

func TestMatches(t *testing.T) {
	quiet, err := ParseThreshold("dwell{tenant:quiet-*,priority:0}: p95<2s")
	require.NoError(t, err)
	require.True(t, quiet.Matches(map[string]string{"tenant": "quiet-1", "priority": "0", "more": "x"}))
	require.False(t, quiet.Matches(map[string]string{"tenant": "noisy", "priority": "0"}))
	require.False(t, quiet.Matches(map[string]string{"tenant": "quiet-1"}))
	require.True(t, Threshold{}.Matches(nil))
}

func FuzzParseThreshold(f *testing.F) {
	f.Add("dwell{tenant:quiet-*}: p95<2s")
	f.Add("lost: count==0")
	f.Fuzz(func(t *testing.T, text string) {
		th, err := ParseThreshold(text)
		if err != nil {
			return
		}
		again, err := ParseThreshold(th.String())
		require.NoError(t, err)
		require.Equal(t, th, again)
		require.False(t, math.IsNaN(th.Value) || math.IsInf(th.Value, 0))
	})
}
