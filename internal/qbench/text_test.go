package qbench

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/conformance/history"
)

// fixed is a document with every part of the text in it.
func fixed() *Document {
	f := func(v float64) *float64 { return &v }
	n := func(v int) *int { return &v }
	q := Quantiles{P50: 1.5, P95: 250, P99: 12_000, Max: 130_000}
	return &Document{Schema: 1, Runs: []Run{{
		Broker:   Broker{URL: "nats://host:4222", Name: "NATS JetStream", Version: "2.15.2"},
		Workload: Workload{Name: "mine", Seed: 7, Scale: 0.01, Messages: 12, Tenants: 2},
		Workers:  Workers{Processes: 2, Slots: 4},
		Faults:   []Fault{{AtS: 1.25, Kind: "kill", Target: "w2"}, {AtS: 3, Kind: "join", Target: "w3"}},
		Settings: Settings{
			Model: "open", Lanes: "both", LeaseS: 5, Durability: "as the server is configured", Publish: "confirmed",
			Ack: "confirmed", MaxAttempts: 3, MaxCrashes: 5, RetryBaseS: 0.5, MinRedelayS: 0.2, Load: 0.9, Capped: 2, WorkS: 75,
		},
		Verdict: Verdict{
			Valid: false, InvalidReasons: []string{"1 lost"}, Confirmed: 11, Recovered: 1, Completed: 10, DeadLettered: 1, Lost: 1,
			Duplicates: Duplicates{Total: 3, ByCause: map[history.Cause]int{history.CauseKill: 2, history.CauseAckLost: 1}},
			Details:    &history.Details{Lost: []string{"mine-7-000003"}},
		},
		Thresholds: []Threshold{{Text: "lost: count==0", Value: f(1)}, {Text: "dwell{tenant:x}: p95<1s"}, {Text: "overlaps: count==0", Value: f(0), Met: true}},
		Metrics: Metrics{
			MakespanS: 20, ReferenceMakespanS: f(19), LowerBoundS: f(18.5), Efficiency: f(0.95), IdleWhileBacklog: 0.0123,
			ThroughputPerS: 0.55, DwellMS: q, RedeliveryMS: Redelivery{Count: 2, P50: 4000, P95: 5000, Max: 5000},
			ScaleUpMS: ScaleUp{Count: 1, P50: 20, Max: 20}, WastedWork: 0.05, BrokerCallsPerMessage: 3.5, WorkerRSSMBMax: 20.4,
		},
		ByTenant:   []Group{{Tenant: "acme", Messages: 10, WorkS: 60, DwellMS: q}, {Tenant: "bolt", Messages: 2, WorkS: 15, DeadLettered: 1, DwellMS: q}},
		ByPriority: []Group{{Priority: n(10), Messages: 12, WorkS: 75, DeadLettered: 1, DwellMS: q}},
		Calls:      map[string]int64{"publish": 12, "ack": 11, "pull": 40},
		Generator:  Generator{LateP99MS: 1.5, CPUShare: 0.031},
	}}}
}

func TestTextOfADocument(t *testing.T) {
	want := strings.TrimPrefix(`
qbench run  NATS JetStream 2.15.2, nats://host:4222

✗ lost: count==0  (1)
✗ dwell{tenant:x}: p95<1s  (nothing was measured)
✓ overlaps: count==0  (0)
✗ invalid: 11 confirmed + 1 recovered = 10 completed + 1 dead-lettered + 1 lost; 0 unexpected, 0 overlaps, 0 overruns
  - 1 lost
    lost: mine-7-000003

  workload            mine, seed 7, scale 0.01: 12 messages of 2 tenants, 75.0 s of work, each published at its instant, load 0.9, 2 run times capped
  workers             2 processes of 4 slots, lease 5.00 s, lanes by priority and tenant
  safety              publish confirmed, ack confirmed, as the server is configured
  retry               3 attempts, after 500 ms, doubling; 5 crashes
  faults              kill w2 at 1.25 s, join w3 at 3.00 s

  efficiency          95.0 % of the reference schedule (it needs 19.0 s; no schedule can need less than 18.5 s)
  makespan            20.0 s, 0.55 messages/s
  idle while backlog  1.2 % of the slots' time
  dwell               p50 1.5 ms, p95 250 ms, p99 12.0 s, max 2.2 min
  redelivery          2 messages; p50 4.00 s, p95 5.00 s, max 5.00 s after the kill
  scale-up            1 worker; first start after p50 20 ms, max 20 ms
  wasted work         5.0 % of the useful work
  duplicates          1 by ack lost, 2 by kill
  broker calls        3.5 a message: pull 40, publish 12, ack 11
  worker memory       20 MiB at most
  generator           p99 late by 1.5 ms, 3.1 % of the processors

  priority  messages    work  dead  dwell p50     p95     p99      max
  10              12  75.0 s     1     1.5 ms  250 ms  12.0 s  2.2 min

  tenant (all)  messages    work  dead  dwell p50     p95     p99      max
  acme                10  60.0 s     0     1.5 ms  250 ms  12.0 s  2.2 min
  bolt                 2  15.0 s     1     1.5 ms  250 ms  12.0 s  2.2 min
`, "\n")
	require.Equal(t, want, fixed().text(plain))
}

func TestColorChangesNothingButColor(t *testing.T) {
	text := fixed().text(colored)
	for _, code := range []string{colored.good, colored.bad, colored.strong, colored.faint, colored.end} {
		require.Contains(t, text, code)
		text = strings.ReplaceAll(text, code, "")
	}
	require.Equal(t, fixed().text(plain), text)
}

func TestExitCodeOfADocument(t *testing.T) {
	d := fixed()
	code := func() int {
		if err := d.exit(); err != nil {
			code, text := explain(err)
			require.Empty(t, text)
			return code
		}
		return ExitOK
	}
	require.Equal(t, ExitInvalid, code(), "an invalid run is worse than a crossed threshold")
	d.Runs[0].Verdict = Verdict{Valid: true}
	require.Equal(t, ExitThreshold, code())
	d.Runs[0].Thresholds = d.Runs[0].Thresholds[2:]
	require.Equal(t, ExitOK, code())
	d.Runs[0].Verdict = Verdict{InvalidReasons: []string{reasonInterrupted}}
	require.Equal(t, ExitInterrupted, code())
}
