package workload

import (
	"fmt"
	"math"
	"time"
)

// maxMessages bounds what a mistyped file can ask for.
const maxMessages = 10_000_000

// Spec describes a workload: what a workload file says. Its times are those of the service that it models.
type Spec struct {
	File       string // where it was read from; empty: nowhere
	Name       string
	Seed       uint64  // 0: 1
	Scale      float64 // what all times are multiplied by; 0: 1
	Arrivals   Arrivals
	Messages   int      // 0: as many as arrive in Arrivals.Duration
	Tenants    []Tenant // none: a single one
	Priorities []Level  // none: every message has priority 0, or its tenant's
	Run        RunTimes
	Failures   Failures
	BodyBytes  int
	Key        Key
	Lanes      Lanes
	Retry      Retry
	Thresholds []Threshold

	lines map[string]int // of the keys that the file gives
}

// Arrivals says when messages are published.
type Arrivals struct {
	Model    Model
	Process  Process       // Open only; empty: Poisson
	Rate     float64       // Open only: messages a second
	Duration time.Duration // Open only; 0: until Messages are published
}

// Process is the rhythm of an open workload.
type Process string

// The processes.
const (
	Poisson Process = "poisson" // independent of each other, exponential gaps
	Even    Process = "uniform" // all gaps equal
)

// Tenant is one tenant of a Spec.
type Tenant struct {
	Name     string
	Share    float64       // of the messages, relative to the sum of all shares
	Priority int           // of all its messages
	Weight   float64       // in tenant lanes; 0: 1
	Burst    time.Duration // Open only: all its messages are published at this instant; 0: like those of the others
}

// Level is the share of messages that have a priority, relative to the sum of all shares.
type Level struct {
	Level int
	Share float64
}

// Failures are shares of all messages, from 0 to 1.
type Failures struct {
	Transient float64 // fail once, then succeed
	Poison    float64 // fail always
	Crash     float64 // end the process of their worker at every start
}

// Key says what the ordering key of a message is.
type Key string

// The keys. The zero value means NoKey.
const (
	NoKey     Key = "none"
	TenantKey Key = "tenant"
)

// zipf returns n tenants of which the one of rank k has a share of 1/k^exponent; exponent 0 makes them equal.
func zipf(n int, exponent float64) []Tenant {
	tenants := make([]Tenant, n)
	digits := max(2, len(fmt.Sprint(n)))
	for i := range tenants {
		tenants[i] = Tenant{Name: fmt.Sprintf("tenant-%0*d", digits, i+1), Share: math.Pow(float64(i+1), -exponent)}
	}
	return tenants
}

// fail makes an error about the key at a path: on its line, or on that of the nearest section above it.
func (s *Spec) fail(path, hint, format string, args ...any) error {
	e := &Error{File: s.File, Problem: fmt.Sprintf(format, args...), Hint: hint}
	for path != "" && e.Line == 0 {
		e.Line = s.lines[path]
		path = parent(path)
	}
	return e
}

func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

// Check returns what is missing, out of range or contradictory in s, as an *Error, or nil.
func (s *Spec) Check() error {
	for _, check := range []func() error{
		s.checkName, s.checkArrivals, s.checkCount, s.checkTenants, s.checkPriorities, s.checkRun, s.checkRest,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spec) checkName() error {
	if !nameForm.MatchString(s.Name) {
		return s.fail("name", "write "+nameWant, "the workload has no name")
	}
	return nil
}

func (s *Spec) checkArrivals() error {
	a := s.Arrivals
	switch {
	case a.Model == "":
		return s.fail("arrivals", `write "model: closed" (a backlog) or "model: open" (a rate) under arrivals`,
			"arrivals.model is missing")
	case a.Model == Closed && a.Rate != 0:
		return s.fail("arrivals.rate", closedHint, "a closed workload has no rate: all is published at once")
	case a.Model == Closed && a.Duration != 0:
		return s.fail("arrivals.duration", closedHint, "a closed workload has no duration: all is published at once")
	case a.Model == Closed && a.Process != "":
		return s.fail("arrivals.process", closedHint, "a closed workload has no arrival process")
	case a.Model == Open && a.Rate <= 0:
		return s.fail("arrivals.rate", `write "rate: 50" for 50 messages a second`, "an open workload needs a rate above 0")
	}
	return nil
}

const closedHint = `remove it, or write "model: open"`

func (s *Spec) checkCount() error {
	a := s.Arrivals
	switch {
	case s.Messages < 0 || s.Messages > maxMessages:
		return s.fail("messages", fmt.Sprintf("write from 1 to %d", maxMessages), "messages is %d", s.Messages)
	case a.Duration > 0 && s.Messages > 0:
		return s.fail("messages", "remove one of them: with arrivals.rate each follows from the other",
			"messages and arrivals.duration both say when arrivals end")
	case a.Duration <= 0 && s.Messages == 0 && a.Model == Open:
		return s.fail("arrivals", `write "duration: 60s" under arrivals, or "messages: 2000"`,
			"nothing says when arrivals end")
	case a.Duration <= 0 && s.Messages == 0:
		return s.fail("messages", `write "messages: 2000"`, "messages is missing")
	case a.Duration > 0 && a.Rate*a.Duration.Seconds() > maxMessages:
		return s.fail("arrivals.duration", fmt.Sprintf("stay below %d messages", maxMessages),
			"%v messages a second for %v are too many", a.Rate, a.Duration)
	case a.Duration > 0 && a.Rate*a.Duration.Seconds() < 1:
		return s.fail("arrivals.duration", "make it longer or the rate higher",
			"%v messages a second for %v are none", a.Rate, a.Duration)
	case s.Messages > 0 && a.Model == Open && float64(s.Messages)/a.Rate > longest.Seconds()/100:
		return s.fail("arrivals.rate", "make the rate higher or messages fewer",
			"at %v a second, %d messages take too long", a.Rate, s.Messages)
	}
	return nil
}

func (s *Spec) checkTenants() error {
	seen := make(map[string]bool, len(s.Tenants))
	for i, t := range s.Tenants {
		path := fmt.Sprintf("tenants[%d]", i)
		switch {
		case t.Name == "":
			return s.fail(path, `write "name: acme"`, "a tenant has no name")
		case seen[t.Name]:
			return s.fail(path+".name", "give each tenant its own name", "tenant %q is there twice", t.Name)
		case t.Share <= 0:
			return s.fail(path, `write "share: 1"; shares count relative to their sum`, "tenant %q has no share", t.Name)
		case t.Weight < 0:
			return s.fail(path+".weight", "write a weight above 0", "tenant %q has weight %v", t.Name, t.Weight)
		case t.Burst != 0 && s.Arrivals.Model != Open:
			return s.fail(path+".burst", `remove it, or write "model: open"`, "a closed workload is one burst already")
		case t.Priority != 0 && len(s.Priorities) > 0:
			return s.fail(path+".priority", "keep one: priorities by tenant, or by share of all messages",
				"priorities are given for tenants and for the workload")
		}
		seen[t.Name] = true
	}
	return nil
}

func (s *Spec) checkPriorities() error {
	seen := make(map[int]bool, len(s.Priorities))
	for i, l := range s.Priorities {
		path := fmt.Sprintf("priorities[%d]", i)
		switch {
		case l.Share <= 0:
			return s.fail(path, `write "share: 0.5"; shares count relative to their sum`, "level %d has no share", l.Level)
		case seen[l.Level]:
			return s.fail(path+".level", "give each level once", "level %d is there twice", l.Level)
		}
		seen[l.Level] = true
	}
	return nil
}

func (s *Spec) checkRest() error {
	f := s.Failures
	switch {
	case f.Transient < 0 || f.Poison < 0 || f.Crash < 0 || f.Transient+f.Poison+f.Crash > 1:
		return s.fail("failures", "write shares of all messages that add up to 1 at most",
			"failures are %v, %v and %v of the messages", f.Transient, f.Poison, f.Crash)
	case s.Scale < 0 || s.Scale > 10:
		return s.fail("scale", `write a factor such as "scale: 0.01"`, "scale is %v", s.Scale)
	case s.Retry.Base < 0 || s.Retry.Cap < 0:
		return s.fail("retry", "write times of 0s or more", "a retry delay is negative")
	case s.Retry.Cap > 0 && s.Retry.Cap < s.Retry.Base:
		return s.fail("retry.cap", "make the cap the longest delay, or remove it",
			"the cap %v is below the base %v", s.Retry.Cap, s.Retry.Base)
	}
	return nil
}
