package qbench

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-queue/holdfast/backends"
)

const runHelp = `Run publishes a workload, works it off with worker processes, kills one of them in the middle of its longest-running
job, adds another one, and reports when all messages are done.

By default it starts a NATS server inside this process, with its messages in a temporary directory, and runs the
built-in workload "collector": 2,000 messages of 60 tenants, a few large and many small, published all at once. Run
times are those of calls to slow interfaces, from seconds to 30 minutes, shortened by a scale that is printed, so that
all is done after about 45 s. Of the messages 5 % fail once and 0.5 % always. The same --seed gives the same messages.

The generator publishes an open workload (one with a rate, or a trace) on time, whatever the broker does: if the 99th
percentile is late by more than 250 ms, or 1 % of the run if that is longer, the run is invalid. Waiting times count from
the intended instants in any case.

The result goes to standard output and nothing else does; progress goes to standard error.
`

const runExamples = `  qbench run                                  all defaults
  qbench run --seed 7 --format json           another draw, for programs
  qbench run --workload mine.yaml --out runs/1
  qbench run --trace nasa.swf.gz --limit 3000 --load 0.9
  qbench run --broker nats://localhost:4222 --kill 25% --kill 50%`

// settings are the flags of run.
type settings struct {
	broker   string
	workload string
	trace    string
	limit    int
	scale    float64
	target   time.Duration
	load     float64
	capRuns  time.Duration
	workers  int
	slots    int
	kill     []string
	join     []string
	lease    time.Duration
	seed     uint64
	format   string
	out      string
	quiet    bool
}

func newRun(p *Program) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Run a workload on a broker, kill a worker, and report",
		Long:    runHelp + "\n" + exitHelp,
		Example: runExamples,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return badUsage("everything is given by flags; see qbench run --help", "unexpected argument %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := s.plan(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return p.run(cmd.Context(), plan)
		},
	}
	s.register(cmd)
	return cmd
}

func (s *settings) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&s.broker, "broker", "nats+embedded://", "`URL` of the broker: "+strings.Join(backends.Forms()[:3], ", "))
	f.StringVar(&s.workload, "workload", builtIn, "`NAME` of the built-in workload, or a workload file in YAML")
	f.StringVar(&s.trace, "trace", "", "trace `FILE` in the Standard Workload Format, plain or gzip, in place of a workload")
	f.IntVar(&s.limit, "limit", 0, "use at most this many messages (0: all)")
	f.Float64Var(&s.scale, "scale", 0, "factor for all times of the workload (0: from --target, or the file's)")
	f.DurationVar(&s.target, "target", 0, "choose the scale so that the work takes about this long (0: 40s, for traces 3m30s)")
	f.Float64Var(&s.load, "load", 0, "move the arrivals of a trace together or apart until they use this share of the slots (0: leave them)")
	f.DurationVar(&s.capRuns, "cap", 0, "cut longer run times to this, in the time of the workload, and count them (0: no cap)")
	f.IntVar(&s.workers, "workers", 4, "worker processes at the start")
	f.IntVar(&s.slots, "slots", 4, "messages that each of them works on at once")
	f.StringArrayVar(&s.kill, "kill", []string{"40%"},
		"SIGKILL the worker with the longest-running job at this `SHARE` of the work, or after a time such as 10s; may be repeated; none")
	f.StringArrayVar(&s.join, "join", []string{"60%"},
		"start one more worker at this `SHARE` of the work, or after a time; may be repeated; none")
	f.DurationVar(&s.lease, "lease", 5*time.Second, "term of a lease, and so how long the messages of a killed worker wait")
	f.Uint64Var(&s.seed, "seed", 0, "draw the workload from this number (0: the workload's own, or 1)")
	f.StringVar(&s.format, "format", formatText, "format of the result: text or json")
	f.StringVar(&s.out, "out", "", "keep the journals and the report in this `DIR`, which must be empty or new")
	f.BoolVar(&s.quiet, "quiet", false, "no progress on standard error")
}

// The formats of the result.
const (
	formatText = "text"
	formatJSON = "json"
)

// check refuses values that no run can have. given says whether a flag was set.
func (s *settings) check(given func(string) bool) error {
	if err := s.checkCrew(given); err != nil {
		return err
	}
	return s.checkWork(given)
}

func (s *settings) checkCrew(given func(string) bool) error {
	switch {
	case s.workers < 1 || s.workers > 64:
		return badUsage("give from 1 to 64", "--workers %d", s.workers)
	case s.slots < 1 || s.slots > 1024:
		return badUsage("give from 1 to 1024", "--slots %d", s.slots)
	case s.lease < time.Second || s.lease > time.Hour:
		return badUsage("give from 1s to 1h", "--lease %v", s.lease)
	case given("seed") && s.seed == 0:
		return badUsage("give a whole number from 1", "--seed 0")
	case !slices.Contains([]string{formatText, formatJSON}, s.format):
		return badUsage("use text or json", "--format %q", s.format)
	}
	return nil
}

func (s *settings) checkWork(given func(string) bool) error {
	switch {
	case s.limit < 0 || given("limit") && s.limit == 0:
		return badUsage("give a number of messages from 1", "--limit %d", s.limit)
	case s.scale < 0 || given("scale") && !(s.scale > 0):
		return badUsage("give a factor above 0, such as 0.01", "--scale %v", s.scale)
	case s.target < 0 || given("target") && s.target == 0:
		return badUsage("give a time such as 40s", "--target %v", s.target)
	case s.capRuns < 0 || given("cap") && s.capRuns == 0:
		return badUsage("give a time such as 30m", "--cap %v", s.capRuns)
	case s.load < 0 || given("load") && !(s.load > 0):
		return badUsage("give a share of the slots such as 0.9", "--load %v", s.load)
	case s.trace != "" && given("workload"):
		return badUsage("give one of them", "both --trace and --workload")
	case s.trace == "" && s.load != 0:
		return badUsage("a workload file has its arrivals.rate", "--load is for --trace only")
	}
	return nil
}
