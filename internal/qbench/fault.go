package qbench

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

type faultKind string

// The kinds of fault.
const (
	faultKill faultKind = "kill" // SIGKILL to the worker with the longest-running job
	faultJoin faultKind = "join" // one more worker
)

// fault is something that is to happen during the run.
type fault struct {
	kind faultKind
	at   moment
}

// moment is either a share of the work or a time from the start.
type moment struct {
	share float64       // of the run times of all messages, above 0 and below 1; 0: after counts
	after time.Duration // from the first intended publish
}

func (m moment) String() string {
	if m.share > 0 {
		return strconv.FormatFloat(100*m.share, 'f', -1, 64) + "%"
	}
	return m.after.String()
}

// reached reports whether the moment has come.
func (m moment) reached(share float64, passed time.Duration) bool {
	if m.share > 0 {
		return share >= m.share
	}
	return passed >= m.after
}

// parseFaults reads the values of --kill or --join.
func parseFaults(kind faultKind, values []string) ([]fault, error) {
	var faults []fault
	for _, value := range values {
		if value == "none" {
			if len(values) > 1 {
				return nil, badUsage("give one or the other", "--%s none together with --%s %s", kind, kind, other(values))
			}
			return nil, nil
		}
		m, err := parseMoment(value)
		if err != nil {
			return nil, badUsage("give a share of the work such as 40%, a time such as 10s, or none", "--%s %q: %w", kind, value, err)
		}
		faults = append(faults, fault{kind: kind, at: m})
	}
	return faults, nil
}

func other(values []string) string {
	for _, v := range values {
		if v != "none" {
			return v
		}
	}
	return "none"
}

func parseMoment(text string) (moment, error) {
	if number, is := strings.CutSuffix(text, "%"); is {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(percent) {
			return moment{}, fmt.Errorf("%q is not a number", number)
		}
		if percent <= 0 || percent >= 100 {
			return moment{}, fmt.Errorf("not between 0%% and 100%%")
		}
		return moment{share: percent / 100}, nil
	}
	after, err := time.ParseDuration(text)
	if err != nil {
		return moment{}, fmt.Errorf("neither a share nor a time")
	}
	if after <= 0 {
		return moment{}, fmt.Errorf("not after the start")
	}
	return moment{after: after}, nil
}
