package workload

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DefaultTraceTarget is how long a trace takes to work off where neither a scale nor a target is given.
const DefaultTraceTarget = 210 * time.Second

// TraceOptions says how a trace becomes a workload. The zero value needs Slots.
type TraceOptions struct {
	Options // Scale 0 and Target 0: Target is DefaultTraceTarget
	// Load is the utilisation of Slots while jobs arrive: arrivals are moved together or apart for it; 0: they are not.
	Load      float64
	Failures  Failures
	Retry     Retry // in the time of the trace
	Lanes     Lanes
	BodyBytes int
}

// settle puts jobs into the order of submission and counts time from the first.
func (t *Trace) settle() error {
	slices.SortStableFunc(t.Jobs, func(a, b TraceJob) int { return cmp.Compare(a.Submit, b.Submit) })
	first := t.Jobs[0].Submit
	for i := range t.Jobs {
		j := &t.Jobs[i]
		j.Submit -= first
		if j.Submit > 100*longest {
			return &Error{
				File: t.Name, Line: j.Line, Problem: "the job comes more than a century after the first",
				Hint: "submit times are in seconds",
			}
		}
	}
	return nil
}

// Span returns the time from the first submission to the last.
func (t *Trace) Span() time.Duration { return t.Jobs[len(t.Jobs)-1].Submit }

// Utilisation returns how much of that many slots the jobs take while they arrive: total run time / (slots * span). It
// is 0 where all arrive at once.
func (t *Trace) Utilisation(slots int) float64 {
	span := t.Span().Seconds() * float64(slots)
	if span <= 0 {
		return 0
	}
	return t.work() / span
}

// work returns the sum of all run times in seconds, which may exceed a time.Duration.
func (t *Trace) work() float64 {
	var total float64
	for _, j := range t.Jobs {
		total += j.Run.Seconds()
	}
	return total
}

// Workload makes an open workload of t: its users are the tenants, its submissions the arrivals. Errors are of type
// *Error.
func (t *Trace) Workload(o TraceOptions) (*Workload, error) {
	if o.Scale == 0 && o.Target == 0 {
		o.Target = DefaultTraceTarget
	}
	err := o.check()
	if err != nil {
		return nil, err
	}
	stretch := 1.0
	if o.Load != 0 {
		if stretch, err = t.stretch(o); err != nil {
			return nil, err
		}
	}
	w := &Workload{
		Name: t.slug(), Seed: cmp.Or(o.Seed, 1), Scale: 1, Model: Open, Load: o.Load, Capped: t.Capped,
		Lanes: cmp.Or(o.Lanes, LanesPriority), Retry: o.Retry, Messages: make([]Job, len(t.Jobs)),
	}
	for i, j := range t.Jobs {
		w.Messages[i] = Job{Tenant: j.User, At: scaled(j.Submit, stretch), Run: j.Run, BodyBytes: o.BodyBytes}
	}
	checked := Spec{Failures: o.Failures, Retry: o.Retry}
	if err := checked.checkRest(); err != nil {
		return nil, err
	}
	o.Failures.assign(w)
	return w, w.finish(o.Options)
}

// stretch returns the factor for arrivals that gives the slots the load asked for.
func (t *Trace) stretch(o TraceOptions) (float64, error) {
	if o.Slots == 0 || o.Load < 0 {
		return 0, &Error{
			Problem: fmt.Sprintf("load %v of %d slots", o.Load, o.Slots),
			Hint:    "give a load above 0, such as 0.9, and the number of slots",
		}
	}
	utilisation := t.Utilisation(o.Slots)
	if utilisation == 0 {
		return 0, &Error{
			File: t.Name, Problem: "all jobs arrive at once or none takes any time: their load cannot be changed",
			Hint: "leave the load out",
		}
	}
	stretch := utilisation / o.Load
	if t.Span().Seconds()*stretch > 100*longest.Seconds() {
		return 0, &Error{
			File: t.Name, Problem: fmt.Sprintf("a load of %v would take more than a century", o.Load),
			Hint: "give a higher load",
		}
	}
	return stretch, nil
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slug makes a workload's name of the file's.
func (t *Trace) slug() string {
	base := strings.ToLower(filepath.Base(t.Name))
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".gz"), ".swf")
	base = strings.Trim(notSlug.ReplaceAllString(base, "-"), "-")
	return cmp.Or(base[:min(len(base), 40)], "trace")
}
