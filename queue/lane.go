package queue

import (
	"math"
	"strconv"
	"strings"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Lanes says how a queue's messages are kept apart, so that paid work goes before internal work and one tenant's flood
// does not stop the others. Producers and workers of a queue must use the same. The zero value is one lane, first come
// first served.
//
// Lanes decide which message starts next, and interrupt nothing: a job that runs keeps its slot. They are shared out by
// each worker for its own slots.
type Lanes struct {
	// Tenants gives each tenant a lane. A worker serves them fairly by slot-seconds: a tenant of 30-minute jobs pays for
	// them, one that was idle saves nothing up. With Priorities, tenants share what their priority gets.
	Tenants bool
	// Priorities gives each priority a lane, where the broker has no priorities of its own. Higher ones go first, so that
	// lower ones wait as long as there are higher ones. A message that comes back keeps its priority.
	Priorities bool
	// Weights are tenants' shares of slot time relative to each other. A tenant not named has 1. It needs Tenants.
	Weights map[string]float64
	// PriorityShares, if set, replaces the strict order of priorities by shares of slot time, so that lower ones never
	// starve; also where the broker has priorities of its own, since those are strict. A priority not named has 1. It
	// needs Priorities. Nil: strict.
	PriorityShares map[int]float64
}

func (l Lanes) unmet(caps driver.Capabilities) error {
	if l.used(caps) && !caps.Lanes {
		return &UnsupportedError{Broker: brokerName(caps), Wanted: "Lanes", Has: "no lanes"}
	}
	switch {
	case len(l.Weights) > 0 && !l.Tenants:
		return invalid("Lanes.Weights needs Lanes.Tenants: without lanes of tenants there is nothing to weigh")
	case len(l.PriorityShares) > 0 && !l.Priorities:
		return invalid("Lanes.PriorityShares needs Lanes.Priorities: without lanes of priorities there is nothing to share")
	}
	for who, w := range l.Weights {
		if !isWeight(w) {
			return invalid("Lanes.Weights[" + strconv.Quote(who) + "] must be a number above zero")
		}
	}
	for p, w := range l.PriorityShares {
		if !isWeight(w) {
			return invalid("Lanes.PriorityShares[" + strconv.Itoa(p) + "] must be a number above zero")
		}
	}
	return nil
}

func isWeight(w float64) bool { return w > 0 && !math.IsInf(w, 1) }

// used reports whether there is more than the one lane.
func (l Lanes) used(caps driver.Capabilities) bool { return l.Tenants || l.byPriority(caps) }

// byPriority reports whether priorities are lanes.
func (l Lanes) byPriority(caps driver.Capabilities) bool {
	return l.Priorities && (caps.Priorities == 0 || len(l.PriorityShares) > 0)
}

// lane names the lane of a message: "", "p10", "tacme" or "p10/tacme". Priority 0 without a tenant is the lane "", where
// the messages of foreign producers are.
func (l Lanes) lane(tenant string, priority int, caps driver.Capabilities) string {
	var parts []string
	if l.byPriority(caps) && priority != 0 {
		parts = append(parts, "p"+strconv.Itoa(priority))
	}
	if l.Tenants && tenant != "" {
		parts = append(parts, "t"+tenant)
	}
	return strings.Join(parts, "/")
}

// parseLane is the reverse of lane.
func parseLane(name string) (tenant string, priority int) {
	if rest, found := strings.CutPrefix(name, "p"); found {
		digits, after, _ := strings.Cut(rest, "/")
		if n, err := strconv.Atoi(digits); err == nil {
			priority, name = n, after
		}
	}
	if t, found := strings.CutPrefix(name, "t"); found {
		tenant = t
	}
	return tenant, priority
}
