package queue

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// laneTable shares a worker's slots among the lanes it knows: fair queueing by slot-seconds. It cannot see what waits in
// a lane: that one is empty it learns when it asks and gets nothing.
//
// The lane that has used the least goes first. Used is time that jobs did take, so that a wrong guess of how long a job
// will take leaves no trace: what running jobs are still expected to take (pledged) counts only while it is decided who
// is next. A lane that was empty, or at its tenant's bound, comes back at its level's clock, which is where the one
// stands that is owed most among those with messages: who was away saves nothing up.
type laneTable struct {
	policy Lanes

	mu      sync.Mutex
	lanes   map[string]*laneEntry
	order   []*laneEntry // all of them, as want sorted them last
	tenants map[string]*tenant
	levels  map[int]*level
	running map[*charge]struct{}
	clock   float64 // of the levels
	mean    float64 // seconds that a job of any lane takes: what is assumed of a new one
}

// account is what a lane or a priority has had of the slots, in slot-seconds divided by its weight.
type account struct {
	weight  float64
	used    float64 // by jobs that ended, and so far by those that run
	pledged float64 // what those that run are expected to take yet; as want last saw it
	away    bool    // it did not compete: it comes back at the clock
	mean    float64 // seconds that a job takes; moving average
}

// level is the lanes of one priority.
type level struct {
	account
	priority int
	clock    float64 // of its lanes

	stand float64 // where it stands in the decision under way
	least float64 // used by the one of its lanes that is owed most; +Inf: none competes
}

type laneEntry struct {
	account
	name   string
	tenant *tenant
	level  *level
	empty  bool // it was, when last asked

	stand float64 // where it stands in the decision under way
	won   int     // slots, in the decision under way
}

// tenant is what a tenant's lanes have in common.
type tenant struct {
	name string
	room int  // how many more of its jobs may start, in the decision under way
	full bool // none, from the beginning
}

// charge is a running job and the seconds that it has been charged so far.
type charge struct {
	lane    *laneEntry
	began   time.Time
	seconds float64
}

func newLaneTable(policy Lanes) *laneTable {
	t := &laneTable{
		policy: policy, lanes: map[string]*laneEntry{}, tenants: map[string]*tenant{}, levels: map[int]*level{},
		running: map[*charge]struct{}{}, mean: 1,
	}
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

// lane returns the entry of that name. A new one begins at the clock.
func (t *laneTable) lane(name string) *laneEntry {
	if e := t.lanes[name]; e != nil {
		return e
	}
	who, priority := parseLane(name)
	l := t.levels[priority]
	if l == nil {
		l = &level{priority: priority, account: newAccount(t.policy.PriorityShares, priority, t.mean)}
		t.levels[priority] = l
	}
	if t.tenants[who] == nil {
		t.tenants[who] = &tenant{name: who}
	}
	e := &laneEntry{name: name, tenant: t.tenants[who], level: l, account: newAccount(t.policy.Weights, who, t.mean)}
	t.lanes[name] = e
	t.order = append(t.order, e)
	return e
}

func newAccount[K comparable](weights map[K]float64, who K, mean float64) account {
	a := account{weight: 1, away: true, mean: mean}
	if w, found := weights[who]; found {
		a.weight = w
	}
	return a
}

// compete says whether the account competes from now on.
func (a *account) compete(does bool, clock float64) {
	if does && a.away {
		a.used = max(a.used, clock)
	}
	a.away = !does
}

// started opens the account of a job that began now.
func (t *laneTable) started(name string, now time.Time) *charge {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &charge{lane: t.lane(name), began: now}
	t.running[c] = struct{}{}
	return c
}

// ended closes it.
func (t *laneTable) ended(c *charge, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, c)
	c.upTo(took)
	for _, mean := range []*float64{&c.lane.mean, &c.lane.level.mean, &t.mean} {
		*mean += (took.Seconds() - *mean) / 8
	}
}

// upTo charges the job's lane and level for what it has taken since the last time.
func (c *charge) upTo(took time.Duration) {
	more := took.Seconds() - c.seconds
	c.seconds += more
	c.lane.used += more / c.lane.weight
	c.lane.level.used += more / c.lane.level.weight
}

// settleUp charges what runs for the time until now, and notes what it is expected to take yet.
func (t *laneTable) settleUp(now time.Time) {
	for _, l := range t.levels {
		l.pledged = 0
	}
	for _, e := range t.order {
		e.pledged = 0
	}
	for c := range t.running {
		e, l := c.lane, c.lane.level
		c.upTo(now.Sub(c.began))
		e.pledged += max(e.mean-c.seconds, 0) / e.weight
		l.pledged += max(l.mean-c.seconds, 0) / l.weight
	}
}

// answered notes what a demand found. Its lanes were asked in order, and an answer may hold fewer messages than there
// are: it says of lanes before the last one in it that they have none if they gave none, and of all if it is empty.
func (t *laneTable) answered(w driver.Want, ds []*driver.Delivery) {
	got := make(map[string]bool, len(ds))
	for _, d := range ds {
		got[d.Lane] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for left, i := len(got), 0; i < len(w.Lanes) && (left > 0 || len(ds) == 0); i++ {
		name := w.Lanes[i].Lane
		t.lanes[name].empty = !got[name]
		if got[name] {
			left--
		}
	}
}

// want turns a number of free slots into a demand: lanes in order of what they are owed. room is how many more jobs of
// a tenant may start; nil: as many as there are slots. recheck says that a lane was left out for a reason that may be
// gone at any moment.
func (t *laneTable) want(free int, now time.Time, room func(tenant string) int) (w driver.Want, recheck bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleUp(now)
	for _, who := range t.tenants {
		if who.room = math.MaxInt; room != nil {
			who.room = room(who.name)
		}
		who.full = who.room <= 0
	}
	t.wind()
	t.share(free)
	w = driver.Want{Max: free, Lanes: make([]driver.LaneWant, 0, len(t.order))}
	for _, e := range t.order {
		switch {
		case e.won > 0:
			w.Lanes = append(w.Lanes, driver.LaneWant{Lane: e.name, Max: e.won})
		case e.tenant.full: // a job that ends opens it again
		case e.empty || e.tenant.room > 0: // for what came since it was last asked
			w.Lanes = append(w.Lanes, driver.LaneWant{Lane: e.name, Max: 1})
		default:
			recheck = true // its tenant's room is promised to lanes that may be empty by now
		}
	}
	return w, recheck
}

// wind sets the clocks: to the one that is owed most among those that compete. It stands still while none does.
func (t *laneTable) wind() {
	for _, l := range t.levels {
		l.least = math.Inf(1)
	}
	for _, e := range t.order {
		e.compete(!e.empty && !e.tenant.full, e.level.clock)
		if !e.away {
			e.level.least = min(e.level.least, e.used)
		}
	}
	least := math.Inf(1)
	for _, l := range t.levels {
		l.compete(!math.IsInf(l.least, 1), t.clock)
		if !l.away {
			l.clock = max(l.clock, l.least)
			least = min(least, l.used)
		}
	}
	if !math.IsInf(least, 1) {
		t.clock = max(t.clock, least)
	}
}

// share sorts the lanes by who is owed most, and gives the free slots one by one to the first that may have a message,
// each time as if the job were charged already.
func (t *laneTable) share(free int) {
	for _, l := range t.levels {
		l.stand = l.used + l.pledged
	}
	for _, e := range t.order {
		e.stand, e.won = e.used+e.pledged, 0
	}
	slices.SortFunc(t.order, t.before)
	var rivals []*laneEntry
	for _, e := range t.order {
		if !e.away {
			rivals = append(rivals, e)
		}
	}
	for range free {
		var best *laneEntry
		for _, e := range rivals {
			if e.tenant.room > 0 && (best == nil || t.before(e, best) < 0) {
				best = e
			}
		}
		if best == nil {
			return
		}
		best.won++
		best.tenant.room--
		best.stand += best.mean / best.weight
		best.level.stand += best.level.mean / best.level.weight
	}
}

// before compares lanes by who is next.
func (t *laneTable) before(a, b *laneEntry) int {
	if a.level != b.level {
		if len(t.policy.PriorityShares) > 0 && a.level.stand != b.level.stand {
			return cmp.Compare(a.level.stand, b.level.stand)
		}
		return cmp.Compare(b.level.priority, a.level.priority)
	}
	if a.stand != b.stand {
		return cmp.Compare(a.stand, b.stand)
	}
	return cmp.Compare(a.name, b.name)
}
