package workload

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Op compares what was measured with the value of a threshold.
type Op string

// The comparisons.
const (
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
	Equal        Op = "=="
	NotEqual     Op = "!="
)

// Threshold is a condition that a run must meet, written as
//
//	metric: aggregate op value                  lost: count==0
//	metric{tag:value,...}: aggregate op value   dwell{tenant:quiet-*}: p95<2s
//
// Aggregates are count, rate, value, sum, avg, min, med, max and percentiles such as p95 or p99.9. Which metrics there
// are is known to whoever measures.
type Threshold struct {
	Text   string // as it was written
	Metric string
	Tags   map[string]string // nil: none; a value that ends in * stands for all that begin so
	Agg    string
	Op     Op
	Value  float64 // a duration is in seconds of the measuring clock: thresholds are not scaled
}

var (
	thresholdForm = regexp.MustCompile(
		`^([a-z][a-z0-9_]*)(?:\{([^{}]*)\})?\s*:\s*([a-z][a-z0-9.]*)\s*(<=|>=|==|!=|<|>)\s*(\S+)$`)
	aggregates = regexp.MustCompile(`^(?:count|rate|value|sum|avg|min|med|max|p[0-9]{1,2}(?:\.[0-9]{1,4})?)$`)
)

const thresholdHint = `write it like "dwell{tenant:quiet}: p95<2s", in quotes`

// ParseThreshold reads one threshold. Its errors are of type *Error, without a file.
func ParseThreshold(text string) (Threshold, error) {
	m := thresholdForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Threshold{}, &Error{Problem: "cannot read threshold " + strconv.Quote(text), Hint: thresholdHint}
	}
	t := Threshold{Text: strings.TrimSpace(text), Metric: m[1], Agg: m[3], Op: Op(m[4])}
	if !aggregates.MatchString(t.Agg) {
		return Threshold{}, &Error{
			Problem: "unknown aggregate " + strconv.Quote(t.Agg) + " in threshold " + strconv.Quote(text),
			Hint:    "use count, rate, value, sum, avg, min, med, max or a percentile such as p95 or p99.9",
		}
	}
	var err error
	if t.Tags, err = parseTags(m[2], strings.Contains(text, "{")); err != nil {
		return Threshold{}, err
	}
	t.Value, err = parseBound(m[5])
	return t, err
}

func parseTags(text string, given bool) (map[string]string, error) {
	if !given {
		return nil, nil
	}
	tags := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" {
			return nil, &Error{Problem: "cannot read tag " + strconv.Quote(part), Hint: "write {name:value}"}
		}
		if _, twice := tags[name]; twice {
			return nil, &Error{Problem: "tag " + strconv.Quote(name) + " is given twice", Hint: "remove one"}
		}
		tags[name] = value
	}
	return tags, nil
}

func parseBound(text string) (float64, error) {
	if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
		return v, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &Error{
			Problem: "cannot read bound " + strconv.Quote(text) + " of a threshold",
			Hint:    "write a number such as 0.02 or a time such as 250ms or 2s",
		}
	}
	return d.Seconds(), nil
}

// Eval reports whether a measured value meets the threshold. A value that is not a number never does.
func (t Threshold) Eval(value float64) bool {
	if math.IsNaN(value) {
		return false
	}
	switch t.Op {
	case Less:
		return value < t.Value
	case LessEqual:
		return value <= t.Value
	case Greater:
		return value > t.Value
	case GreaterEqual:
		return value >= t.Value
	case Equal:
		return value == t.Value
	case NotEqual:
		return value != t.Value
	default:
		return false
	}
}

// Matches reports whether a measurement with these tags is one that the threshold is about: every tag of the threshold
// is there with its value.
func (t Threshold) Matches(tags map[string]string) bool {
	for name, want := range t.Tags {
		got, ok := tags[name]
		if prefix, open := strings.CutSuffix(want, "*"); open {
			ok = ok && strings.HasPrefix(got, prefix)
		} else {
			ok = ok && got == want
		}
		if !ok {
			return false
		}
	}
	return true
}

func (t Threshold) String() string { return t.Text }
