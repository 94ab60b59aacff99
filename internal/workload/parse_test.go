package workload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const minimal = `name: small
arrivals: {model: closed}
messages: 10
run: {distribution: fixed, value: 1s}
`

func TestParseFull(t *testing.T) {
	s, err := ParseFile("testdata/full.yaml")
	require.NoError(t, err)
	s.lines = nil
	require.Equal(t, &Spec{
		File: "testdata/full.yaml", Name: "full", Seed: 7, Scale: 0.01,
		Arrivals:   Arrivals{Model: Open, Process: Poisson, Rate: 2, Duration: 10 * time.Minute},
		Tenants:    []Tenant{{Name: "acme", Share: 3, Weight: 2}, {Name: "bolt", Share: 1, Burst: 5 * time.Minute}},
		Priorities: []Level{{10, 0.6}, {0, 0.4}},
		Run:        RunTimes{Distribution: LogNormal, Median: 48 * time.Second, P99: 30 * time.Minute, Cap: 30 * time.Minute},
		Failures:   Failures{Transient: 0.05, Poison: 0.005, Crash: 0.001},
		BodyBytes:  256, Key: TenantKey, Lanes: LanesBoth,
		Retry: Retry{MaxAttempts: 3, MaxCrashes: 5, Base: 30 * time.Second, Cap: 10 * time.Minute},
		Thresholds: []Threshold{
			{Text: "dwell{tenant:bolt}: p95<2s", Metric: "dwell", Tags: map[string]string{"tenant": "bolt"}, Agg: "p95", Op: Less, Value: 2},
			{Text: "lost: count==0", Metric: "lost", Agg: "count", Op: Equal},
			{Text: "idle_while_backlog: rate<0.02", Metric: "idle_while_backlog", Agg: "rate", Op: Less, Value: 0.02},
		},
	}, s)
}

func TestMinimalFile(t *testing.T) {
	s, err := Parse("small.yaml", []byte(minimal))
	require.NoError(t, err)
	w, err := s.Generate(Options{})
	require.NoError(t, err)
	require.Equal(t, 1.0, w.Scale)
	require.Equal(t, LanesPriority, w.Lanes)
	require.Equal(t, Job{ID: "small-1-000009", Seq: 9, Tenant: "tenant-01", Run: time.Second}, w.Messages[9])
}

// Each case is appended to a head, and says on which line what is wrong and what to write instead.
func TestFaultsAreNamedWithLineAndHint(t *testing.T) {
	const (
		head   = "name: x\narrivals: {model: closed}\nmessages: 10\nrun: {distribution: fixed, value: 1s}\n"
		open   = "name: x\nrun: {distribution: fixed, value: 1s}\narrivals:\n  model: open\n"
		closed = "name: x\nmessages: 10\narrivals: {model: closed}\nrun:\n"
	)
	for _, c := range []struct {
		name, text    string
		line          int
		problem, hint string
	}{
		{"empty", "", 0, "empty", "describe"},
		{"comments only", "# nothing\n", 0, "empty", "describe"},
		{"syntax", head + "a: b: c\n", 5, "not YAML", ""},
		{"not a mapping", "- 1\n", 1, "not a mapping", "name"},
		{"second document", head + "---\nname: y\n", 5, "second document", "a file for each"},
		{"unknown key", head + "speed: 3\n", 5, `unknown key "speed"`, "body_bytes"},
		{"unknown key below", head + "retry:\n  base: 1s\n  jitter: 1s\n", 7, `unknown key "jitter" in retry`, "max_attempts"},
		{"twice", head + "seed: 1\nseed: 2\n", 6, "twice", "remove one"},
		{"merge key", head + "failures: &f {poison: 0}\nretry:\n  <<: *f\n", 7, "unknown key", "max_attempts"},
		{"no value", head + "seed:\n", 5, "no value", "remove"},
		{"no name", "messages: 1\n", 0, "no name", "lower-case"},
		{"bad name", "name: A B\n", 1, `"A B"`, "lower-case"},
		{"zero messages", "name: x\nmessages: 0\n", 2, "messages is 0", "at least 1"},
		{"negative messages", "name: x\nmessages: -4\n", 2, "messages is -4", "at least 1"},
		{"text messages", "name: x\nmessages: many\n", 2, "not a whole number", "at least 1"},
		{"list messages", "name: x\nmessages: [1]\n", 2, "not a single value", "at least 1"},
		{"no messages", "name: x\narrivals: {model: closed}\n", 0, "messages is missing", "messages: 2000"},
		{"no model", "name: x\nmessages: 2\n", 0, "arrivals.model is missing", "model: closed"},
		{"unknown model", "name: x\narrivals:\n  model: half\n", 3, `"half"`, "closed or open"},
		{"negative rate", open + "  rate: -5\nmessages: 3\n", 5, "arrivals.rate is -5", "above 0"},
		{"zero rate", open + "  rate: 0\nmessages: 3\n", 5, "arrivals.rate is 0", "above 0"},
		{"no rate", open + "messages: 3\n", 3, "needs a rate", "rate: 50"},
		{"not a number", open + "  rate: .nan\n", 5, "not a number", "above 0"},
		{"no end", open + "  rate: 5\n", 3, "nothing says when", "duration: 60s"},
		{"two ends", open + "  rate: 5\n  duration: 5s\nmessages: 3\n", 7, "both say", "remove one"},
		{"too many", open + "  rate: 1e6\n  duration: 24h\n", 6, "too many", "below"},
		{"none at all", open + "  rate: 0.1\n  duration: 5s\n", 6, "none", "longer"},
		{"too slow", open + "  rate: 1e-6\nmessages: 1000\n", 5, "too long", "higher"},
		{"closed with rate", "name: x\nmessages: 9\narrivals:\n  model: closed\n  rate: 5\n", 5, "no rate", "model: open"},
		{"closed with duration", "name: x\narrivals:\n  model: closed\n  duration: 5s\n", 4, "no duration", "model: open"},
		{"closed with process", "name: x\narrivals:\n  process: poisson\n  model: closed\n", 3, "no arrival process", "model: open"},
		{"no unit", closed + "  distribution: fixed\n  value: 30\n", 6, "without a unit", "30s"},
		{"bad time", closed + "  distribution: fixed\n  value: soon\n", 6, "not a time", "250ms"},
		{"negative time", closed + "  distribution: fixed\n  value: -3s\n", 6, "run.value is -3s", "from 0s"},
		{"no distribution", closed + "  value: 3s\n", 4, "distribution is missing", "lognormal"},
		{"missing parameter", closed + "  distribution: lognormal\n  p99: 3s\n", 4, "run.median is missing", "median and p99"},
		{"wrong parameter", closed + "  distribution: fixed\n  value: 1s\n  p99: 3s\n", 7, "run.p99 has no meaning", "given by value"},
		{"p99 below median", closed + "  distribution: lognormal\n  median: 5s\n  p99: 3s\n", 7, "not above", "longer"},
		{"max below min", closed + "  distribution: uniform\n  min: 5s\n  max: 3s\n", 7, "below min", "longer"},
		{"no tenants", head + "tenants: []\n", 5, "not a list", "dash"},
		{"no tenant count", head + "tenants: {volume: zipf}\n", 5, "count is missing", "count: 60"},
		{"exponent without zipf", head + "tenants:\n  count: 3\n  exponent: 2\n", 7, "no meaning", "volume: zipf"},
		{"tenant twice", head + "tenants:\n  - {name: a, share: 1}\n  - {name: a, share: 1}\n", 7, "twice", "own name"},
		{"tenant without share", head + "tenants:\n  - {name: a}\n", 6, "no share", "share: 1"},
		{"burst in closed", head + "tenants:\n  - {name: a, share: 1, burst: 1s}\n", 6, "one burst already", "model: open"},
		{"two priorities", head + "tenants:\n  - {name: a, share: 1, priority: 2}\npriorities: [{level: 1, share: 1}]\n", 6, "for tenants and for the workload", "keep one"},
		{"level twice", head + "priorities:\n  - {level: 1, share: 1}\n  - {level: 1, share: 1}\n", 7, "twice", "once"},
		{"level without share", head + "priorities:\n  - {level: 1}\n", 6, "no share", "share: 0.5"},
		{"share above one", head + "failures: {poison: 1.5}\n", 5, "failures.poison is 1.5", "0.05"},
		{"shares above one", head + "failures: {poison: 0.7, transient: 0.7}\n", 5, "failures are", "add up to 1"},
		{"cap below base", head + "retry: {base: 3s, cap: 1s}\n", 5, "below the base", "longest"},
		{"lanes", head + "lanes: fast\n", 5, `"fast"`, "none or priority or tenant or both"},
		{"threshold", head + "thresholds:\n  - \"lost: count==0\"\n  - \"lost is 0\"\n", 7, "cannot read threshold", "in quotes"},
		{"threshold unquoted", head + "thresholds:\n  - lost: count==0\n", 6, "not text", "in quotes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("w.yaml", []byte(c.text))
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "w.yaml", e.File)
			require.Equal(t, c.line, e.Line, err)
			require.ErrorContains(t, err, c.problem)
			require.Contains(t, e.Hint, c.hint)
		})
	}
}

func TestErrorReadsLikeACompilers(t *testing.T) {
	_, err := Parse("w.yaml", []byte("name: x\nmessages: 0\n"))
	require.EqualError(t, err, "w.yaml:2: messages is 0, not from 1 to 10000000; write how many messages there are, at least 1")
	cause := errors.New("why")
	require.EqualError(t, &Error{Problem: "wrong", Err: cause}, "wrong: why")
	require.ErrorIs(t, &Error{Err: cause}, cause)
}

func TestParseFileFaults(t *testing.T) {
	_, err := ParseFile(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
	big := filepath.Join(t.TempDir(), "big.yaml")
	require.NoError(t, os.WriteFile(big, make([]byte, maxFile+1), 0o600))
	_, err = ParseFile(big)
	require.ErrorContains(t, err, "larger than 1 MiB")
}

func TestAliasesAreFollowed(t *testing.T) {
	s, err := Parse("w.yaml", []byte(minimal+"failures: {poison: &few 0.1, transient: *few}\n"))
	require.NoError(t, err)
	require.Equal(t, Failures{Transient: 0.1, Poison: 0.1}, s.Failures)
}

func TestOpenArrivals(t *testing.T) {
	generate := func(text string) *Workload {
		s, err := Parse("w.yaml", []byte("name: x\nrun: {distribution: fixed, value: 1s}\n"+text))
		require.NoError(t, err)
		w, err := s.Generate(Options{})
		require.NoError(t, err)
		return w
	}
	even := generate("arrivals: {model: open, process: uniform, rate: 4, duration: 2s}\n")
	require.Len(t, even.Messages, 8)
	require.Equal(t, 750*time.Millisecond, even.Messages[3].At)

	poisson := generate("arrivals: {model: open, rate: 50, duration: 100s}\n")
	require.InDelta(t, 5000, len(poisson.Messages), 300)
	require.Less(t, poisson.Messages[len(poisson.Messages)-1].At, 100*time.Second)
	last := time.Duration(0)
	for _, j := range poisson.Messages {
		require.GreaterOrEqual(t, j.At, last)
		last = j.At
	}
	counted := generate("arrivals: {model: open, rate: 50}\nmessages: 321\n")
	require.Len(t, counted.Messages, 321)
}

func TestBurstComesAtOnceAndKeepsTheRest(t *testing.T) {
	s, err := ParseFile(filepath.Join("..", "..", "examples", "workloads", "noisy-neighbour.yaml"))
	require.NoError(t, err)
	w, err := s.Generate(Options{Scale: 1})
	require.NoError(t, err)
	noisy := 0
	for _, j := range w.Messages {
		if j.Tenant == "noisy" {
			noisy++
			require.Equal(t, 5*time.Minute, j.At)
		} else {
			require.True(t, strings.HasPrefix(j.Tenant, "quiet-"))
		}
	}
	require.InDelta(t, float64(len(w.Messages))*8/12, noisy, 1)
	require.Greater(t, w.Summary().Span, 18*time.Minute)
}

func TestTargetChoosesTheScale(t *testing.T) {
	s, err := Parse("w.yaml", []byte(minimal))
	require.NoError(t, err)
	w, err := s.Generate(Options{Slots: 4, Target: 300 * time.Millisecond}) // ten seconds on four slots take three
	require.NoError(t, err)
	require.Equal(t, 0.1, w.Scale)
	_, err = s.Generate(Options{Target: time.Second})
	require.ErrorContains(t, err, "number of slots")
	s.Run.Value = 0
	s.lines["run.value"] = 1
	_, err = s.Generate(Options{Target: time.Second, Slots: 1})
	require.ErrorContains(t, err, "no work")
}

func TestSpecMadeInCodeIsChecked(t *testing.T) {
	for _, s := range []Spec{
		{},
		{Name: "x", Arrivals: Arrivals{Model: Closed}, Messages: -1},
		{Name: "x", Arrivals: Arrivals{Model: Open, Rate: -1}, Messages: 1},
		{Name: "x", Arrivals: Arrivals{Model: Closed}, Messages: 1, Run: RunTimes{Distribution: Fixed, Value: -1}},
	} {
		_, err := s.Generate(Options{})
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Empty(t, e.File)
	}
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	require.NoError(f, err)
	f.Add(full)
	f.Add([]byte(minimal))
	f.Add([]byte(minimal + "tenants: {count: 3, volume: zipf}\nthresholds: [\"a: p95<2s\"]\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("w.yaml", data)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Problem)
			return
		}
		if s.Messages > 5000 || s.Arrivals.Rate*s.Arrivals.Duration.Seconds() > 5000 {
			return
		}
		w, err := s.Generate(Options{})
		if err != nil {
			return
		}
		require.NotEmpty(t, w.Messages)
		last := time.Duration(0)
		for _, j := range w.Messages {
			require.GreaterOrEqual(t, j.At, last)
			require.GreaterOrEqual(t, j.Run, time.Duration(0))
			require.NotEmpty(t, j.Tenant)
			last = j.At
		}
		require.NotEmpty(t, w.Summary().String())
	})
}
