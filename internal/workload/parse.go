package workload

import (
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFile is the largest workload file, in bytes.
const maxFile = 1 << 20

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	tenantForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

const (
	nameWant   = "up to 40 lower-case letters, digits and hyphens"
	tenantWant = "up to 64 letters, digits, dots, hyphens and underscores"
)

// ParseFile reads a workload file. Errors about its content are of type *Error.
func ParseFile(path string) (*Spec, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read workload: %w", err)
	}
	if info.Size() > maxFile {
		return nil, &Error{File: path, Problem: "the file is larger than 1 MiB", Hint: "is it a workload file?"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read workload: %w", err)
	}
	return Parse(path, data)
}

// Parse reads the description of a workload in YAML; name stands for its file in errors, which are of type *Error.
// testdata/full.yaml shows every key. Unknown keys, missing ones and those that contradict each other are refused.
func Parse(name string, data []byte) (*Spec, error) {
	root, err := document(name, data)
	if err != nil {
		return nil, err
	}
	r := &reader{file: name, lines: make(map[string]int)}
	s := &Spec{File: name, lines: r.lines}
	top := r.mapping(root, "", "name", "seed", "scale", "arrivals", "messages", "tenants", "priorities", "run", "failures",
		"retry", "lanes", "key", "body_bytes", "thresholds")
	s.readTop(top)
	s.readArrivals(top.sub("arrivals", "model", "process", "rate", "duration"))
	s.readTenants(top)
	s.readPriorities(top)
	s.readRun(top.sub("run", "distribution", "median", "p99", "mean", "min", "max", "value", "cap"))
	s.readFailures(top.sub("failures", "transient", "poison", "crash"))
	s.readRetry(top.sub("retry", "max_attempts", "max_crashes", "base", "cap"))
	s.readThresholds(top)
	if r.err != nil {
		return nil, r.err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Spec) readTop(top section) {
	var seed int
	top.text("name", &s.Name, nameForm, nameWant)
	top.integer("seed", &seed, [2]int{1, math.MaxInt}, "a whole number from 1")
	s.Seed = uint64(seed)
	top.number("scale", &s.Scale, [2]float64{1e-9, 10}, "the factor for all times, such as 0.01")
	top.integer("messages", &s.Messages, [2]int{1, maxMessages}, "how many messages there are, at least 1")
	top.integer("body_bytes", &s.BodyBytes, [2]int{0, 16 << 20}, "the size of a body in bytes")
	choice(top, "lanes", &s.Lanes, LanesNone, LanesPriority, LanesTenant, LanesBoth)
	choice(top, "key", &s.Key, NoKey, TenantKey)
}

func (s *Spec) readArrivals(a section) {
	choice(a, "model", &s.Arrivals.Model, Closed, Open)
	choice(a, "process", &s.Arrivals.Process, Poisson, Even)
	a.number("rate", &s.Arrivals.Rate, [2]float64{1e-6, 1e6}, "messages a second, above 0")
	a.duration("duration", &s.Arrivals.Duration, time.Millisecond)
}

// readTenants reads either a list of tenants or a mapping that says how many there are.
func (s *Spec) readTenants(top section) {
	n := top.values["tenants"]
	if n == nil || top.r.err != nil {
		return
	}
	if resolve(n).Kind == yaml.MappingNode {
		s.readTenantCount(top.sub("tenants", "count", "volume", "exponent"))
		return
	}
	elements, paths := top.list("tenants")
	for i, e := range elements {
		if top.r.err != nil {
			return
		}
		var t Tenant
		m := top.r.mapping(e, paths[i], "name", "share", "priority", "weight", "burst")
		m.text("name", &t.Name, tenantForm, tenantWant)
		m.number("share", &t.Share, [2]float64{1e-6, 1e6}, "a share above 0, relative to the sum of all shares")
		m.integer("priority", &t.Priority, [2]int{0, 255}, "a priority from 0 to 255; higher goes first")
		m.number("weight", &t.Weight, [2]float64{1e-3, 1e3}, "a weight above 0")
		m.duration("burst", &t.Burst, time.Millisecond)
		s.Tenants = append(s.Tenants, t)
	}
}

func (s *Spec) readTenantCount(m section) {
	count, volume, exponent := 0, "uniform", 1.0
	m.integer("count", &count, [2]int{1, 100_000}, "how many tenants there are, at least 1")
	choice(m, "volume", &volume, "zipf", "uniform")
	m.number("exponent", &exponent, [2]float64{0.01, 10}, "an exponent such as 1.1")
	_, given := m.values["exponent"]
	switch {
	case m.r.err != nil:
	case count == 0:
		m.r.fail(m.r.lines[m.path], `write "count: 60" under it`, "tenants.count is missing")
	case volume == "uniform" && given:
		m.r.fail(m.r.lines[m.name("exponent")], `write "volume: zipf", or remove exponent`,
			"tenants.exponent has no meaning with equal volumes")
	case volume == "uniform":
		s.Tenants = zipf(count, 0)
	default:
		s.Tenants = zipf(count, exponent)
	}
}

func (s *Spec) readPriorities(top section) {
	elements, paths := top.list("priorities")
	for i, e := range elements {
		if top.r.err != nil {
			return
		}
		var l Level
		m := top.r.mapping(e, paths[i], "level", "share")
		m.integer("level", &l.Level, [2]int{0, 255}, "a priority from 0 to 255; higher goes first")
		m.number("share", &l.Share, [2]float64{1e-6, 1e6}, "a share above 0, relative to the sum of all shares")
		s.Priorities = append(s.Priorities, l)
	}
}

func (s *Spec) readRun(m section) {
	r := &s.Run
	choice(m, "distribution", &r.Distribution, LogNormal, Exponential, Uniform, Fixed)
	m.duration("median", &r.Median, time.Microsecond)
	m.duration("p99", &r.P99, time.Microsecond)
	m.duration("mean", &r.Mean, time.Microsecond)
	m.duration("min", &r.Min, 0)
	m.duration("max", &r.Max, time.Microsecond)
	m.duration("value", &r.Value, 0)
	m.duration("cap", &r.Cap, time.Microsecond)
}

func (s *Spec) readFailures(m section) {
	const want = "a share of all messages from 0 to 1, such as 0.05"
	m.number("transient", &s.Failures.Transient, [2]float64{0, 1}, want)
	m.number("poison", &s.Failures.Poison, [2]float64{0, 1}, want)
	m.number("crash", &s.Failures.Crash, [2]float64{0, 1}, want)
}

func (s *Spec) readRetry(m section) {
	m.integer("max_attempts", &s.Retry.MaxAttempts, [2]int{1, 1000}, "after how many failures a message is given up")
	m.integer("max_crashes", &s.Retry.MaxCrashes, [2]int{1, 1000}, "after how many crashes a message is given up")
	m.duration("base", &s.Retry.Base, 0)
	m.duration("cap", &s.Retry.Cap, time.Microsecond)
}

func (s *Spec) readThresholds(top section) {
	elements, _ := top.list("thresholds")
	for _, e := range elements {
		n := resolve(e)
		if n.Kind != yaml.ScalarNode {
			top.r.fail(e.Line, thresholdHint, "a threshold is not text")
			return
		}
		t, err := ParseThreshold(n.Value)
		var problem *Error
		if errors.As(err, &problem) {
			top.r.fail(e.Line, problem.Hint, "%s", problem.Problem)
			return
		}
		s.Thresholds = append(s.Thresholds, t)
	}
}
