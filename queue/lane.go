package queue

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Lanes says how a queue's messages are kept apart, so that paid work goes before internal work and one tenant's flood
// does not stop the others. Producers and workers of a queue must agree on Tenants and Priorities. The zero value is
// one lane, first come first served.
type Lanes struct {
	// Tenants gives each tenant a lane. A worker serves them fairly by slot-seconds: a tenant of 30-minute jobs pays for
	// them.
	Tenants bool
	// Priorities gives each priority a lane, where the broker has no priorities of its own. Higher ones go first.
	Priorities bool
	// Weights are tenants' shares of slot time relative to each other. A tenant not named has 1.
	Weights map[string]float64
	// PriorityShares, if set, replaces the strict order of priorities by shares of slot time, so that lower ones never
	// starve. A priority not named has 1. Nil: strict.
	PriorityShares map[int]float64
}

func (l Lanes) unmet(caps driver.Capabilities) error {
	wants := l.Tenants || l.Priorities && caps.Priorities == 0
	if wants && !caps.Lanes {
		return &UnsupportedError{Broker: brokerName(caps), Wanted: "Lanes", Has: "no lanes"}
	}
	for who, w := range l.Weights {
		if !(w > 0) {
			return invalid("Lanes.Weights[" + strconv.Quote(who) + "] must be above zero")
		}
	}
	for p, w := range l.PriorityShares {
		if !(w > 0) {
			return invalid("Lanes.PriorityShares[" + strconv.Itoa(p) + "] must be above zero")
		}
	}
	return nil
}

// lane names the lane of a message: "", "p10", "tacme" or "p10/tacme". Priority 0 without a tenant is the lane "", where
// the messages of foreign producers are.
func (l Lanes) lane(tenant string, priority int, caps driver.Capabilities) string {
	var parts []string
	if l.Priorities && caps.Priorities == 0 && priority != 0 {
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

// account is what a lane, or a priority level, has had of the slots: start-time fair queueing over slot-seconds.
type account struct {
	weight  float64
	used    float64 // slot-seconds by weight; running jobs are charged what they are expected to take
	running int
	mean    float64 // seconds; moving average of finished jobs
}

func (a *account) price() float64 { return a.mean / a.weight }

// laneTable shares a worker's slots among the lanes it knows.
type laneTable struct {
	policy Lanes

	mu     sync.Mutex
	lanes  map[string]*laneEntry
	levels map[int]*account
	now    float64 // virtual time of the lanes: the start tag of the last job
	nowLev float64
}

type laneEntry struct {
	account
	name     string
	tenant   string
	priority int
}

func newLaneTable(policy Lanes) *laneTable {
	t := &laneTable{policy: policy, lanes: map[string]*laneEntry{}, levels: map[int]*account{}}
	t.add("")
	return t
}

// add makes a lane known. It returns false if it was.
func (t *laneTable) add(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(t.lanes)
	t.lane(name)
	return len(t.lanes) > before
}

// lane returns the entry of that name, a new one if there is none.
func (t *laneTable) lane(name string) *laneEntry {
	if e := t.lanes[name]; e != nil {
		return e
	}
	tenant, priority := parseLane(name)
	e := &laneEntry{name: name, tenant: tenant, priority: priority, account: newAccount(t.policy.Weights, tenant)}
	t.lanes[name] = e
	if t.levels[priority] == nil {
		level := newAccount(t.policy.PriorityShares, priority)
		t.levels[priority] = &level
	}
	return e
}

func newAccount[K comparable](weights map[K]float64, who K) account {
	if w, found := weights[who]; found {
		return account{weight: w, mean: 1}
	}
	return account{weight: 1, mean: 1}
}

// want turns a number of free slots into a demand: lanes in order of what they are owed. room bounds a tenant's further
// jobs; capped says that a lane was left out for it.
func (t *laneTable) want(free int, room func(tenant string) int) (w driver.Want, capped bool) {
	w.Max = free
	t.mu.Lock()
	defer t.mu.Unlock()
	order := make([]*bid, 0, len(t.lanes))
	for _, e := range t.lanes {
		b := &bid{lane: e, used: max(e.used, idleFloor(&e.account, t.now)), room: min(free, room(e.tenant))}
		if b.room <= 0 {
			capped = true
			continue
		}
		order = append(order, b)
	}
	t.share(order, free)
	for _, b := range order {
		most := b.won
		if most == 0 {
			most = b.room
		}
		w.Lanes = append(w.Lanes, driver.LaneWant{Lane: b.lane.name, Max: min(most, b.room)})
	}
	return w, capped
}

// bid is a lane competing for free slots.
type bid struct {
	lane *laneEntry
	used float64
	room int
	won  int
}

func idleFloor(a *account, now float64) float64 {
	if a.running == 0 {
		return now
	}
	return 0
}

// share gives free slots one by one to the lane that is owed most, as if each had work, and sorts by who won first.
func (t *laneTable) share(order []*bid, free int) {
	level := map[int]float64{}
	for p, a := range t.levels {
		level[p] = max(a.used, idleFloor(a, t.nowLev))
	}
	before := func(a, b *bid) int {
		p, q := a.lane.priority, b.lane.priority
		if p != q && t.policy.PriorityShares != nil {
			if c := cmp.Compare(level[p], level[q]); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(q, p), cmp.Compare(a.used, b.used), cmp.Compare(a.lane.name, b.lane.name))
	}
	slices.SortFunc(order, before)
	ranking := slices.Clone(order)
	for range min(free, 4*len(order)) {
		best := -1
		for i, b := range ranking {
			if b.won < b.room && (best < 0 || before(b, ranking[best]) < 0) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		b := ranking[best]
		b.won++
		b.used += b.lane.price()
		a := t.levels[b.lane.priority]
		level[b.lane.priority] += a.price()
	}
	slices.SortStableFunc(order, func(a, b *bid) int { return cmp.Compare(min(b.won, 1), min(a.won, 1)) })
}

// charge is what a running job was expected to take, in seconds.
type charge struct{ lane, level float64 }

// started charges a lane for a job that begins.
func (t *laneTable) started(name string) charge {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.lane(name)
	level := t.levels[e.priority]
	expected := charge{lane: e.mean, level: level.mean}
	t.now = e.start(t.now)
	t.nowLev = level.start(t.nowLev)
	return expected
}

// ended corrects the charge to what the job took.
func (t *laneTable) ended(name string, expected charge, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.lane(name)
	e.end(expected.lane, took.Seconds())
	t.levels[e.priority].end(expected.level, took.Seconds())
}

// start charges the account and returns the virtual time.
func (a *account) start(now float64) float64 {
	a.used = max(a.used, idleFloor(a, now))
	now = max(now, a.used)
	a.used += a.price()
	a.running++
	return now
}

func (a *account) end(expected, took float64) {
	a.used += (took - expected) / a.weight
	a.mean += (took - a.mean) / 8
	a.running--
}

func (t *laneTable) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lanes)
}
