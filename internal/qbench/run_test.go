package qbench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// small is a run that takes a few seconds.
var small = []string{"run", "--limit", "60", "--workers", "2", "--slots", "2", "--target", "3s", "--lease", "3s"}

func with(args []string, more ...string) []string {
	return append(append([]string{}, args...), more...)
}

func TestRunKillsAWorkerAndLosesNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "kept")
	got := execute(t.Context(), with(small, "--format", "json", "--out", out)...)
	require.Equal(t, ExitOK, got.code, "%s\n%.1200s", got.stderr, got.stdout)
	run := got.document(t)

	v := run.Verdict
	require.True(t, v.Valid, v.InvalidReasons)
	require.Equal(t, 60, v.Confirmed)
	require.Equal(t, v.Confirmed+v.Recovered, v.Completed+v.DeadLettered+v.Lost)
	require.Zero(t, v.Lost+v.Unexpected+v.Overlaps+v.Unfinished)

	require.Equal(t, Broker{URL: "nats+embedded://", Name: "NATS JetStream", Version: run.Broker.Version}, run.Broker)
	require.NotEmpty(t, run.Broker.Version)
	require.Equal(t, Workers{Processes: 2, Slots: 2}, run.Workers)
	require.Len(t, run.Faults, 2)
	require.Equal(t, "kill", run.Faults[0].Kind)
	require.Equal(t, Fault{AtS: run.Faults[1].AtS, Kind: "join", Target: "w3"}, run.Faults[1])

	x := run.Metrics
	require.Positive(t, x.RedeliveryMS.Count)
	require.Positive(t, x.RedeliveryMS.Max)
	require.Equal(t, 1, x.ScaleUpMS.Count)
	require.Positive(t, x.WastedWork)
	require.NotNil(t, x.Efficiency)
	require.LessOrEqual(t, *x.LowerBoundS, *x.ReferenceMakespanS)
	require.Positive(t, x.BrokerCallsPerMessage)
	require.Positive(t, x.WorkerRSSMBMax)
	require.GreaterOrEqual(t, run.Calls["publish"], int64(60))
	require.Positive(t, run.Generator.CPUShare)
	messages := 0
	for _, g := range run.ByTenant {
		messages += g.Messages
	}
	require.Equal(t, 60, messages)
	require.Len(t, run.ByPriority, 2)
	require.Equal(t, 10, *run.ByPriority[0].Priority)

	require.Contains(t, got.stderr, "killed (SIGKILL)")
	require.Contains(t, got.stderr, "runs again")
	saved, err := os.ReadFile(filepath.Join(out, "report.json"))
	require.NoError(t, err)
	require.Equal(t, got.stdout, string(saved))
	events, err := history.ReadDir(out)
	require.NoError(t, err)
	require.True(t, history.Check(events, history.Options{Drained: true, Fencing: true}).Valid)
	requireNoWorkers(t, events)

	again := execute(t.Context(), with(small, "--out", out)...)
	require.Equal(t, ExitUsage, again.code)
	require.Contains(t, again.stderr, "not empty")
}

func TestRunInterruptedReportsAndLeavesNoWorker(t *testing.T) {
	out := filepath.Join(t.TempDir(), "kept")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan result)
	go func() {
		done <- execute(ctx, "run", "--limit", "200", "--target", "60s", "--workers", "2", "--out", out, "--format", "json", "--quiet")
	}()
	require.Eventually(t, func() bool {
		events, err := history.ReadDir(out)
		if err != nil {
			return false
		}
		for _, e := range events {
			if e.Kind == history.SettleOK {
				return true
			}
		}
		return false
	}, 20*time.Second, 20*time.Millisecond)
	interrupt()
	got := <-done
	require.Equal(t, ExitInterrupted, got.code, "%s", got.stderr)
	run := got.document(t)
	require.False(t, run.Verdict.Valid)
	require.Equal(t, []string{reasonInterrupted}, run.Verdict.InvalidReasons)
	require.Positive(t, run.Verdict.Completed)
	require.Positive(t, run.Verdict.Unfinished)
	require.Zero(t, run.Verdict.Lost)
	require.Equal(t, run.Verdict.Confirmed+run.Verdict.Recovered,
		run.Verdict.Completed+run.Verdict.DeadLettered+run.Verdict.Unfinished)
	require.Nil(t, run.Metrics.Efficiency)
	// What waits still has waited until the interrupt.
	require.InDelta(t, run.Metrics.MakespanS*1000, run.Metrics.DwellMS.Max, 100)
	require.Empty(t, got.stderr)
	events, err := history.ReadDir(out)
	require.NoError(t, err)
	requireNoWorkers(t, events)
}

// requireNoWorkers looks for the processes that the journals name.
func requireNoWorkers(t *testing.T, events []history.Event) {
	t.Helper()
	workers := 0
	for _, e := range events {
		if e.Kind == history.ProcStart && e.N > 0 {
			workers++
			require.True(t, errors.Is(syscall.Kill(e.N, 0), syscall.ESRCH), "worker %s (%d) is there", e.Proc, e.N)
		}
	}
	require.GreaterOrEqual(t, workers, 2)
}

func TestRunInterruptedBeforeItBegan(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	got := execute(ctx, small...)
	require.Equal(t, ExitInterrupted, got.code, "%s", got.stderr)
	require.Empty(t, got.stdout)
}

// quick has nothing to wait for; it crosses one threshold and meets the others.
const quick = `
name: quick
arrivals: {model: open, process: uniform, rate: 100}
messages: 40
tenants: [{name: acme, share: 1}, {name: bolt, share: 1}]
run: {distribution: fixed, value: 5ms}
lanes: both
thresholds:
  - "lost: count==0"
  - "dwell{tenant:acme}: p95<10s"
  - "dwell{tenant:nobody}: p95<10s"
`

func TestRunCrossedThreshold(t *testing.T) {
	path := file(t, "quick.yaml", quick)
	got := execute(t.Context(), "run", "--workload", path, "--workers", "1", "--kill", "none", "--join", "none", "--format", "json")
	require.Equal(t, ExitThreshold, got.code, "%s", got.stderr)
	run := got.document(t)
	require.True(t, run.Verdict.Valid, run.Verdict.InvalidReasons)
	require.Empty(t, run.Faults)
	require.Len(t, run.Thresholds, 3)
	require.True(t, run.Thresholds[0].Met)
	require.True(t, run.Thresholds[1].Met)
	require.Equal(t, Threshold{Text: "dwell{tenant:nobody}: p95<10s"}, run.Thresholds[2])
	require.Equal(t, "open", run.Settings.Model)
	require.InDelta(t, 0.4, run.Metrics.MakespanS, 0.3)
}

func TestRunKillThatNeverHappenedIsInvalid(t *testing.T) {
	path := file(t, "quick.yaml", strings.Split(quick, "thresholds:")[0])
	got := execute(t.Context(), "run", "--workload", path, "--workers", "2", "--kill", "1h", "--join", "none", "--quiet")
	require.Equal(t, ExitInvalid, got.code, "%s", got.stderr)
	require.Contains(t, got.stdout, "✗ invalid")
	require.Contains(t, got.stdout, "no redelivery after the kill: the run was over before the kill at 1h0m0s")
	require.Empty(t, got.stderr)
}

// crashing has a message that kills each worker that starts it.
const crashing = `
name: crashing
arrivals: {model: closed}
messages: 20
run: {distribution: fixed, value: 20ms}
failures: {crash: 0.05}
`

func TestRunReplacesWorkersThatAMessageKills(t *testing.T) {
	path := file(t, "crashing.yaml", crashing)
	got := execute(t.Context(), "run", "--workload", path, "--workers", "2", "--kill", "none", "--join", "none",
		"--lease", "1s", "--format", "json")
	require.Equal(t, ExitOK, got.code, "%s\n%s", got.stdout, got.stderr)
	run := got.document(t)
	require.Equal(t, 1, run.Verdict.DeadLettered)
	require.Equal(t, 19, run.Verdict.Completed)
	require.Len(t, run.Faults, 5, "it runs five times, the last three alone")
	require.Equal(t, "exit", run.Faults[0].Kind)
	require.Contains(t, got.stderr, "takes its place")
}

func TestRunRefusesWhatTheBrokerCannotDo(t *testing.T) {
	path := file(t, "keys.yaml", `
name: keys
arrivals: {model: closed}
messages: 2
tenants: [{name: acme, share: 1}]
key: tenant
run: {distribution: fixed, value: 1ms}
`)
	got := execute(t.Context(), "run", "--workload", path)
	require.Equal(t, ExitBroker, got.code)
	require.Contains(t, got.stderr, "Needs.KeyOrder")
	require.Empty(t, got.stdout)
}

func TestRunOnAServerLeavesNothingBehindAndTellsNoSecret(t *testing.T) {
	shared, stop, err := backends.Serve("nats+embedded://")
	require.NoError(t, err)
	defer stop()
	out := filepath.Join(t.TempDir(), "kept")
	path := file(t, "quick.yaml", strings.Split(quick, "thresholds:")[0])
	url := strings.Replace(shared, "://", "://me:hunter2@", 1)
	got := execute(t.Context(), "run", "--broker", url, "--workload", path, "--workers", "1", "--kill", "none", "--join", "none",
		"--out", out, "--format", "json")
	require.Equal(t, ExitOK, got.code, "%s", got.stderr)
	run := got.document(t)
	require.Equal(t, shared, run.Broker.URL)
	require.Equal(t, "as the server is configured", run.Settings.Durability)

	require.NotContains(t, got.stderr, "hunter2")
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 5)
	queueName := ""
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(out, f.Name()))
		require.NoError(t, err)
		require.NotContains(t, string(content), "hunter2", f.Name())
		if events, err := history.Read(strings.NewReader(string(content))); err == nil && f.Name() == "producer.jsonl" {
			queueName = events[0].Queue
		}
	}
	b, err := backends.Open(t.Context(), shared)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(t.Context())) }()
	require.NotEmpty(t, queueName)
	require.ErrorIs(t, b.(driver.Admin).DeleteQueue(t.Context(), queueName), driver.NotFound)
}

func TestRunLeavesNoTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	path := file(t, "quick.yaml", strings.Split(quick, "thresholds:")[0])
	got := execute(t.Context(), "run", "--workload", path, "--workers", "1", "--kill", "none", "--join", "none", "--quiet")
	require.Equal(t, ExitOK, got.code, "%s", got.stderr)
	got = execute(t.Context(), "run", "--broker", "nats://127.0.0.1:1")
	require.Equal(t, ExitBroker, got.code)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
