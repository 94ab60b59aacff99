package qbench

import (
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/internal/workload"
)

// builtIn is the name of the built-in workload.
const builtIn = "collector"

// plan is a run that can begin: flags checked, the workload made, the directory there.
type plan struct {
	broker     string
	load       *workload.Workload
	work       workload.Summary
	workers    int
	slots      int
	lease      time.Duration
	faults     []fault
	thresholds []threshold
	format     string
	out        outDir
	quiet      bool
}

func (s *settings) plan(given func(string) bool) (*plan, error) {
	if err := s.check(given); err != nil {
		return nil, err
	}
	faults, err := s.faults()
	if err != nil {
		return nil, err
	}
	load, err := s.makeLoad()
	if err != nil {
		return nil, err
	}
	p := &plan{
		broker: s.broker, load: load, work: load.Summary(), workers: s.workers, slots: s.slots, lease: s.lease,
		faults: faults, format: s.format, quiet: s.quiet,
	}
	if p.thresholds, err = knownThresholds(load.Thresholds); err != nil {
		return nil, err
	}
	if p.out, err = openOut(s.out); err != nil {
		return nil, err
	}
	return p, nil
}

// makeLoad makes the workload that the flags ask for.
func (s *settings) makeLoad() (*workload.Workload, error) {
	slots := s.workers * s.slots
	options := workload.Options{Seed: s.seed, Scale: s.scale, Slots: slots, Target: s.target}
	if s.scale > 0 && s.target > 0 {
		return nil, badUsage("give one of them", "both --scale and --target")
	}
	if s.trace != "" {
		return s.fromTrace(options)
	}
	if s.workload != builtIn {
		return s.fromFile(options)
	}
	if s.capRuns > 0 {
		return nil, badUsage("it is for --trace and workload files", "--cap: the run times of %s are capped at 30m already", builtIn)
	}
	return workload.Collector(workload.CollectorConfig{
		Seed: s.seed, Messages: s.limit, Slots: slots, Target: s.target, Scale: s.scale,
	})
}

func (s *settings) fromTrace(o workload.Options) (*workload.Workload, error) {
	file, err := os.Open(s.trace)
	if err != nil {
		return nil, badUsage("", "read trace: %w", err)
	}
	defer func() { _ = file.Close() }()
	trace, err := workload.ReadSWF(file, s.trace, workload.SWFOptions{Limit: s.limit, Cap: s.capRuns})
	if err != nil {
		return nil, err
	}
	return trace.Workload(workload.TraceOptions{Options: o, Load: s.load, BodyBytes: traceBody})
}

// traceBody is the size of the messages of a trace, which does not say it.
const traceBody = 512

func (s *settings) fromFile(o workload.Options) (*workload.Workload, error) {
	spec, err := workload.ParseFile(s.workload)
	if errors.Is(err, os.ErrNotExist) && !strings.ContainsAny(s.workload, `/\.`) {
		return nil, badUsage("the built-in workload is "+builtIn+"; a file is given by its path", "no workload %q", s.workload)
	}
	if err != nil {
		var content *workload.Error
		if errors.As(err, &content) {
			return nil, err
		}
		return nil, badUsage("", "%w", err)
	}
	if s.capRuns > 0 && (spec.Run.Cap == 0 || spec.Run.Cap > s.capRuns) {
		spec.Run.Cap = s.capRuns
	}
	w, err := spec.Generate(o)
	if err != nil || s.limit == 0 || len(w.Messages) <= s.limit {
		return w, err
	}
	spec.Messages, spec.Arrivals.Duration = s.limit, 0
	return spec.Generate(o)
}

// faults reads --kill and --join. A run whose workers are all killed would never end.
func (s *settings) faults() ([]fault, error) {
	kills, err := parseFaults(faultKill, s.kill)
	if err != nil {
		return nil, err
	}
	joins, err := parseFaults(faultJoin, s.join)
	if err != nil {
		return nil, err
	}
	if len(kills) >= s.workers {
		return nil, badUsage("give more --workers, or --kill none",
			"%d workers of which %d are killed leave nobody to go on", s.workers, len(kills))
	}
	return slices.Concat(kills, joins), nil
}
