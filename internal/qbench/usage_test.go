package qbench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

func TestBadFlagsAreUsageErrorsWithAHint(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown command":     {[]string{"rum"}, `did you mean "run"?`},
		"argument":            {[]string{"run", "collector"}, `unexpected argument "collector"`},
		"unknown flag":        {[]string{"run", "--worker", "3"}, "see qbench run --help"},
		"no number":           {[]string{"run", "--workers", "many"}, "see qbench run --help"},
		"no workers":          {[]string{"run", "--workers", "0"}, "give from 1 to 64"},
		"no slots":            {[]string{"run", "--slots", "-1"}, "give from 1 to 1024"},
		"short lease":         {[]string{"run", "--lease", "10ms"}, "give from 1s to 1h"},
		"seed zero":           {[]string{"run", "--seed", "0"}, "from 1"},
		"limit zero":          {[]string{"run", "--limit", "0"}, "from 1"},
		"negative scale":      {[]string{"run", "--scale", "-1"}, "above 0"},
		"NaN scale":           {[]string{"run", "--scale", "NaN"}, "above 0"},
		"scale and target":    {[]string{"run", "--scale", "1", "--target", "1s"}, "give one of them"},
		"load without trace":  {[]string{"run", "--load", "0.9"}, "for --trace only"},
		"cap on the built-in": {[]string{"run", "--cap", "1m"}, "capped at 30m already"},
		"trace and workload":  {[]string{"run", "--trace", "a", "--workload", "b"}, "give one of them"},
		"format":              {[]string{"run", "--format", "xml"}, "use text or json"},
		"kill of everybody":   {[]string{"run", "--workers", "1"}, "leave nobody to go on"},
		"kill share":          {[]string{"run", "--kill", "140%"}, "not between 0% and 100%"},
		"kill text":           {[]string{"run", "--kill", "soon"}, "a share of the work such as 40%"},
		"kill and none":       {[]string{"run", "--kill", "none", "--kill", "3s"}, "--kill none together with --kill 3s"},
		"join in the past":    {[]string{"run", "--join", "-1s"}, "not after the start"},
		"unknown workload":    {[]string{"run", "--workload", "colector"}, "the built-in workload is collector"},
		"no such file":        {[]string{"run", "--workload", "./none.yaml"}, "no such file"},
		"no such trace":       {[]string{"run", "--trace", "none.swf"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			got := execute(t.Context(), c.args...)
			require.Equal(t, ExitUsage, got.code)
			require.Contains(t, got.stderr, c.want)
			require.Empty(t, got.stdout)
		})
	}
}

func TestHelpDocumentsExitCodes(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {}} {
		got := execute(t.Context(), args...)
		require.Equal(t, ExitOK, got.code)
		require.Contains(t, got.stdout, "130  interrupted")
		require.Empty(t, got.stderr)
	}
}

func TestMoments(t *testing.T) {
	m, err := parseMoment("12.5%")
	require.NoError(t, err)
	require.Equal(t, moment{share: 0.125}, m)
	require.Equal(t, "12.5%", m.String())
	require.False(t, m.reached(0.12, time.Hour))
	require.True(t, m.reached(0.125, 0))

	m, err = parseMoment("90s")
	require.NoError(t, err)
	require.Equal(t, "1m30s", m.String())
	require.False(t, m.reached(0.99, 89*time.Second))
	require.True(t, m.reached(0, 90*time.Second))

	for _, bad := range []string{"", "%", "0%", "100%", "NaN%", "0s", "40"} {
		_, err := parseMoment(bad)
		require.Error(t, err, bad)
	}
}

func TestThresholdsAboutNothingThatIsMeasuredAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"dwel: p95<1s":             "unknown metric",
		"dwell: rate<1":            "has no rate",
		"lost: p95<1":              "has no p95",
		"lost{tenant:a}: count==0": "only dwell has tags",
		"dwell{lane:a}: p95<1s":    "only dwell has tags",
	} {
		parsed, err := workload.ParseThreshold(text)
		require.NoError(t, err)
		_, err = knownThresholds([]workload.Threshold{parsed})
		require.ErrorContains(t, err, want)
	}
}

func TestEveryThresholdMetricAnswers(t *testing.T) {
	half := 0.5
	m := &measured{
		run:          &Run{Metrics: Metrics{Efficiency: &half}},
		samples:      []sample{{Job: &workload.Job{Tenant: "a", Priority: 3}, dwell: 2 * time.Second}},
		redeliveries: []time.Duration{time.Second}, scaleUps: []time.Duration{time.Second},
	}
	for _, name := range names() {
		for _, agg := range metrics[name].aggregates {
			_, has := metrics[name].value(m, workload.Threshold{Metric: name, Agg: agg})
			require.True(t, has, "%s: %s", name, agg)
		}
	}
	for text, met := range map[string]bool{
		"dwell{tenant:a}: p95<=2s": true, "dwell{priority:3}: max<1s": false, "dwell{tenant:b}: count==0": true,
		"dwell{tenant:b}: avg<9s": false, "efficiency: value>0.4": true, "redelivery: med<2s": true, "scale_up: min<1s": false,
	} {
		parsed, err := workload.ParseThreshold(text)
		require.NoError(t, err)
		known, err := knownThresholds([]workload.Threshold{parsed})
		require.NoError(t, err)
		require.Equal(t, met, known[0].judge(m).Met, text)
	}
	m.run.Metrics.Efficiency = nil
	none, has := metrics["efficiency"].value(m, workload.Threshold{})
	require.False(t, has, none)
}

func FuzzParseMoment(f *testing.F) {
	for _, s := range []string{"40%", "none", "12s", "1e-9%", "99.999%", "-3%", "1h2m", "∞%", "0x1p-3%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMoment(text)
		if err != nil {
			return
		}
		inShare, inTime := m.share > 0 && m.share < 1, m.after > 0
		require.True(t, inShare != inTime, "%+v", m)
		require.False(t, m.reached(0, 0))
		again, err := parseMoment(m.String())
		require.NoError(t, err)
		require.InDelta(t, m.share, again.share, 1e-12)
		require.Equal(t, m.after, again.after)
	})
}
