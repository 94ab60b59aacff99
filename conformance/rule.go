package conformance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Rule is one check of the catalogue.
type Rule struct {
	ID    string // "D01"
	Name  string // "acked_never_again": with the ID, the name of the test
	Claim string // the sentence of the contract that it checks
	Tier  Tier
	// Needs returns what the backend lacks for this rule to apply, or "". Nil: it always applies.
	Needs func(Setting) string
	// Denied checks, where Needs declines, that who asks for it all the same is refused. Nil: there is nothing to ask for.
	Denied func(e *Env)
	// Emulated returns by what means the queue makes good what the broker lacks, or "". Nil: it is never emulated.
	Emulated func(driver.Capabilities) string
	// Power: the rule turns the broker off and on.
	Power bool
	// Check breaks off by one of Env's failing methods, or returns: then the rule has passed.
	Check func(e *Env)
}

// Setting is what a rule may ask about before it runs.
type Setting struct {
	Caps      driver.Capabilities
	Virtual   bool // virtual time, workers are goroutines
	Network   bool // faults can be put between worker and broker
	Restarts  bool // the broker can be restarted
	Forgetful bool // the broker forgets everything when it is restarted
	Kills     bool // the broker can be killed
	Admin     bool // queues can be made and deleted
	Gauges    bool // queues can be measured
}

// Title is how the rule is called in tests and sheets: "D01_acked_never_again".
func (r Rule) Title() string { return r.ID + "_" + r.Name }

// Tier says how long a rule takes and so when it is run. Each tier includes those before it.
type Tier int

// The tiers.
const (
	Smoke Tier = iota // together under a minute
	Fast              // together under two minutes a backend
	Full              // everything
)

func (t Tier) String() string { return [...]string{"smoke", "fast", "full"}[t] }

// ParseTier is the reverse of Tier.String.
func ParseTier(s string) (Tier, error) {
	for _, t := range []Tier{Smoke, Fast, Full} {
		if t.String() == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("no tier %q: it is smoke, fast or full", s)
}

// Status is how a rule ended.
type Status string

// The statuses.
const (
	Pass        Status = "PASS"
	Fail        Status = "FAIL"
	Emulated    Status = "EMULATED"    // passed, by means of the queue's and not the broker's
	Unsupported Status = "UNSUPPORTED" // declined, and declared
)

// Result is the outcome of one rule on one backend.
type Result struct {
	Rule     Rule
	Status   Status
	Detail   string            // why it failed, is emulated or is declined
	Measured map[string]string // what it measured on the way
}

// Rules returns the table, in the order of the catalogue. The caller may change it.
func Rules() []Rule {
	all := slices.Concat(deliveryRules, leaseRules, crashRules, networkRules, schedulingRules, retryRules, contentRules, resourceRules)
	slices.SortStableFunc(all, func(a, b Rule) int { return strings.Compare(familyOrder(a.ID), familyOrder(b.ID)) })
	return all
}

// familyOrder sorts ids as the catalogue does: D, L, C, N, S, P, W, R.
func familyOrder(id string) string {
	return fmt.Sprintf("%d%s", strings.IndexByte("DLCNSPWRQ", id[0]), id[1:])
}

// Conditions that several rules have.

func needsNetwork(s Setting) string {
	if !s.Network {
		return "no network between worker and broker"
	}
	return ""
}

func needsRestart(s Setting) string {
	switch {
	case !s.Restarts:
		return "the broker cannot be restarted"
	case s.Forgetful:
		return "the broker keeps nothing over a restart"
	}
	return ""
}

func needsProcesses(s Setting) string {
	if s.Virtual {
		return "workers are not processes"
	}
	return ""
}

func needsLanes(s Setting) string {
	if !s.Caps.Lanes {
		return "no lanes"
	}
	return ""
}

func needsKeyOrder(s Setting) string {
	if !s.Caps.KeyOrder || !s.Caps.Carries {
		return "no order per key that holds over a retry"
	}
	return ""
}
