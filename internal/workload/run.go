package workload

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Distribution is the shape of the run times.
type Distribution string

// The distributions, with the fields of RunTimes that each uses.
const (
	LogNormal   Distribution = "lognormal"   // Median, P99
	Exponential Distribution = "exponential" // Mean
	Uniform     Distribution = "uniform"     // Min, Max
	Fixed       Distribution = "fixed"       // Value
)

// RunTimes says how long jobs take, in the time of the model.
type RunTimes struct {
	Distribution Distribution
	Median, P99  time.Duration
	Mean         time.Duration
	Min, Max     time.Duration
	Value        time.Duration
	Cap          time.Duration // longer draws are cut to it; 0: no cap
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

// draw returns a run time and whether it was cut to the cap.
func (r RunTimes) draw(s stream) (time.Duration, bool) {
	var d float64 // in seconds
	switch r.Distribution {
	case LogNormal:
		sigma := math.Log(r.P99.Seconds()/r.Median.Seconds()) / z99
		d = r.Median.Seconds() * math.Exp(sigma*s.normal())
	case Exponential:
		d = r.Mean.Seconds() * s.exponential()
	case Uniform:
		d = r.Min.Seconds() + float64((r.Max-r.Min).Seconds()*s.unit())
	case Fixed:
		d = r.Value.Seconds()
	}
	limit := longest
	if r.Cap > 0 {
		limit = r.Cap
	}
	if d > limit.Seconds() {
		return limit, true
	}
	return seconds(d), false
}

// runKeys are the keys of a workload file that each distribution needs.
var runKeys = map[Distribution][]string{
	LogNormal:   {"median", "p99"},
	Exponential: {"mean"},
	Uniform:     {"min", "max"},
	Fixed:       {"value"},
}

func (r RunTimes) byKey() map[string]time.Duration {
	return map[string]time.Duration{
		"median": r.Median, "p99": r.P99, "mean": r.Mean, "min": r.Min, "max": r.Max, "value": r.Value,
	}
}

func (s *Spec) checkRun() error {
	r := s.Run
	needs, known := runKeys[r.Distribution]
	if !known {
		return s.fail("run", `write "distribution: lognormal" (or exponential, uniform, fixed) under run`,
			"run.distribution is missing")
	}
	want := fmt.Sprintf("a %s distribution is given by %s (and cap)", r.Distribution, strings.Join(needs, " and "))
	for _, key := range []string{"median", "p99", "mean", "min", "max", "value"} {
		value, given := r.byKey()[key], s.lines["run."+key] > 0
		switch needed := slices.Contains(needs, key); {
		case value < 0 || value > longest:
			return s.fail("run."+key, "write a time from 0s to "+longest.String(), "run.%s is %v", key, value)
		case !needed && (given || value != 0):
			return s.fail("run."+key, want, "run.%s has no meaning here", key)
		case needed && value == 0 && !given && key != "min" && key != "value":
			return s.fail("run", want, "run.%s is missing", key)
		}
	}
	switch {
	case r.Distribution == LogNormal && r.P99 <= r.Median:
		return s.fail("run.p99", "make p99 the longer one", "p99 %v is not above the median %v", r.P99, r.Median)
	case r.Distribution == Uniform && r.Max < r.Min:
		return s.fail("run.max", "make max the longer one", "max %v is below min %v", r.Max, r.Min)
	case r.Cap < 0 || r.Cap > longest:
		return s.fail("run.cap", "write a time up to "+longest.String(), "run.cap is %v", r.Cap)
	}
	return nil
}
