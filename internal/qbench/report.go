package qbench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"

	"github.com/holdfast-queue/holdfast/conformance/history"
)

// Document is the result of a command as JSON. Schema 1 may gain fields; none changes its meaning or goes.
type Document struct {
	Schema int   `json:"schema"`
	Runs   []Run `json:"runs"`
}

// Run is the result of one run. Fields in ms are milliseconds and in s seconds. A metric that has no meaning for the run
// is null.
type Run struct {
	Broker     Broker           `json:"broker"`
	Workload   Workload         `json:"workload"`
	Workers    Workers          `json:"workers"`
	Faults     []Fault          `json:"faults"`
	Settings   Settings         `json:"settings"`
	Verdict    Verdict          `json:"verdict"`
	Thresholds []Threshold      `json:"thresholds,omitempty"`
	Metrics    Metrics          `json:"metrics"`
	ByTenant   []Group          `json:"by_tenant"`   // the most messages first
	ByPriority []Group          `json:"by_priority"` // the highest first
	Calls      map[string]int64 `json:"calls"`       // requests to the broker by kind, of all processes
	Generator  Generator        `json:"generator"`
}

// Broker says what was measured.
type Broker struct {
	URL     string `json:"url"` // without credentials
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Workload says what was asked of it.
type Workload struct {
	Name     string  `json:"name"`
	Seed     uint64  `json:"seed"`
	Scale    float64 `json:"scale"`
	Messages int     `json:"messages"`
	Tenants  int     `json:"tenants"`
}

// Workers are the processes at the start.
type Workers struct {
	Processes int `json:"processes"`
	Slots     int `json:"slots"` // of each
}

// Fault is something that happened to a worker: "kill", "join", or "exit" if it ended by itself.
type Fault struct {
	AtS    float64 `json:"at_s"` // from the first intended publish
	Kind   string  `json:"kind"`
	Target string  `json:"target"`
}

// Settings are what the numbers depend on, the safety of messages above all.
type Settings struct {
	Model       string  `json:"model"`  // closed: all published at once; open: each at its instant
	Digest      string  `json:"digest"` // of messages and retry policy: runs of one digest did the same work
	Lanes       string  `json:"lanes"`
	LeaseS      float64 `json:"lease_s"`
	DetectS     float64 `json:"detect_s"`   // from the death of a worker until the broker gives its messages away, as stated
	Durability  string  `json:"durability"` // what a confirmed message survives
	Publish     string  `json:"publish"`
	Ack         string  `json:"ack"`
	MaxAttempts int     `json:"max_attempts"`
	MaxCrashes  int     `json:"max_crashes"`
	RetryBaseS  float64 `json:"retry_base_s"` // after the first failure, doubled with each further one
	RetryCapS   float64 `json:"retry_cap_s"`  // 0: none
	MinRedelayS float64 `json:"min_redelay_s"`
	Load        float64 `json:"load,omitempty"`   // utilisation that arrivals were fitted to
	Capped      int     `json:"capped,omitempty"` // run times that were cut
	WorkS       float64 `json:"work_s"`           // run times of all messages, once each
}

// Verdict says whether the broker kept its promises. Confirmed + Recovered = Completed + DeadLettered + Lost +
// Unfinished.
type Verdict struct {
	Valid          bool             `json:"valid"`
	InvalidReasons []string         `json:"invalid_reasons"`
	Published      int              `json:"published"`
	Confirmed      int              `json:"confirmed"`
	Recovered      int              `json:"recovered"` // not confirmed, and delivered
	Completed      int              `json:"completed"`
	DeadLettered   int              `json:"dead_lettered"`
	Lost           int              `json:"lost"`
	Unfinished     int              `json:"unfinished,omitempty"` // of a run that did not come to its end
	Unexpected     int              `json:"unexpected"`
	Overlaps       int              `json:"overlaps"`
	Overruns       int              `json:"overruns"`
	Duplicates     Duplicates       `json:"duplicates"`
	Details        *history.Details `json:"details,omitempty"` // of an invalid run
}

// Duplicates are runs of a message that no failure asked for, by cause.
type Duplicates struct {
	Total   int                   `json:"total"`
	ByCause map[history.Cause]int `json:"by_cause"`
}

// Threshold is a condition of the workload and whether it was met.
type Threshold struct {
	Text  string   `json:"threshold"`
	Value *float64 `json:"value"` // in seconds where it is a time; null: nothing was measured, which meets nothing
	Met   bool     `json:"met"`
}

// Metrics are what was measured.
type Metrics struct {
	MakespanS             float64    `json:"makespan_s"` // from the first intended publish to the last end of a message
	ReferenceMakespanS    *float64   `json:"reference_makespan_s"`
	LowerBoundS           *float64   `json:"lower_bound_s"`
	Efficiency            *float64   `json:"efficiency"` // reference / measured makespan
	IdleWhileBacklog      float64    `json:"idle_while_backlog"`
	ThroughputPerS        float64    `json:"throughput_per_s"`
	DwellMS               Quantiles  `json:"dwell_ms"` // from the intended publish to the first start
	RedeliveryMS          Redelivery `json:"redelivery_ms"`
	ScaleUpMS             ScaleUp    `json:"scale_up_ms"`
	WastedWork            float64    `json:"wasted_work"` // time of runs thrown away / time of useful runs
	BrokerCallsPerMessage float64    `json:"broker_calls_per_message"`
	WorkerRSSMBMax        float64    `json:"worker_rss_mb_max"`
}

// Quantiles of a distribution. A message that never started counts as having waited until the end.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Redelivery is the time from a kill to the next start of each message that it interrupted.
type Redelivery struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	Max   float64 `json:"max"`
}

// ScaleUp is the time from asking for a worker during the run to its first start of a message.
type ScaleUp struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	Max   float64 `json:"max"`
}

// Group is what was measured of the messages of a tenant or of a priority.
type Group struct {
	Tenant       string    `json:"tenant,omitempty"`
	Priority     *int      `json:"priority,omitempty"`
	Messages     int       `json:"messages"`
	Completed    int       `json:"completed"`
	DeadLettered int       `json:"dead_lettered"`
	WorkS        float64   `json:"work_s"` // run times of all its messages, once each
	DwellMS      Quantiles `json:"dwell_ms"`
}

// Generator is how well the load was made.
type Generator struct {
	LateP99MS float64 `json:"late_p99_ms"` // sent after the intended instant
	CPUShare  float64 `json:"cpu_share"`   // of the machine, by this process: with the broker, if that is embedded
}

// rounded cuts a number to digits after the point: what is beyond was not measured.
func rounded(v float64, digits int) float64 {
	f := math.Pow10(digits)
	return math.Round(v*f) / f
}

// deliver prints the result, keeps it if that was asked for, and returns why the exit code is not zero.
func (p *Program) deliver(plan *plan, doc *Document) error {
	var asJSON bytes.Buffer
	enc := json.NewEncoder(&asJSON)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if plan.out.keep {
		for name, content := range map[string][]byte{"report.json": asJSON.Bytes(), "report.txt": []byte(doc.text(plain))} {
			if err := os.WriteFile(plan.out.file(name), content, 0o644); err != nil {
				return fmt.Errorf("report: %w", err)
			}
		}
	}
	out := asJSON.String()
	if plan.format == formatText {
		style := plain
		if p.Color {
			style = colored
		}
		out = doc.text(style)
	}
	if _, err := fmt.Fprint(p.Stdout, out); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return doc.exit()
}

// exit is why the exit code is not zero, without words: the result has them.
func (d *Document) exit() error {
	code := ExitOK
	for _, r := range d.Runs {
		switch {
		case r.interrupted():
			return &exitError{code: ExitInterrupted}
		case !r.Verdict.Valid:
			code = ExitInvalid
		case code == ExitOK && !r.met():
			code = ExitThreshold
		}
	}
	if code == ExitOK {
		return nil
	}
	return &exitError{code: code}
}

const reasonInterrupted = "interrupted"

func (r *Run) interrupted() bool {
	for _, reason := range r.Verdict.InvalidReasons {
		if reason == reasonInterrupted {
			return true
		}
	}
	return false
}

// met reports whether every threshold was met.
func (r *Run) met() bool {
	for _, t := range r.Thresholds {
		if !t.Met {
			return false
		}
	}
	return true
}
