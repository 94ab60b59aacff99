package queue

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestLaneNamesAreReversible(t *testing.T) {
	l := Lanes{Tenants: true, Priorities: true}
	rapid.Check(t, func(t *rapid.T) {
		tenant, priority := rapid.String().Draw(t, "tenant"), rapid.Int().Draw(t, "priority")
		gotTenant, gotPriority := parseLane(l.lane(tenant, priority, driver.Capabilities{Lanes: true}))
		require.Equal(t, tenant, gotTenant)
		require.Equal(t, priority, gotPriority)
	})
	require.Equal(t, "", l.lane("", 0, driver.Capabilities{}))
	require.Equal(t, "p10/tacme", l.lane("acme", 10, driver.Capabilities{}))
	require.Equal(t, "tp10/x", l.lane("p10/x", 0, driver.Capabilities{}), "a tenant that looks like a lane")
}

// Where the broker has priorities they are not lanes, unless they shall be shared: the broker's are strict.
func TestNativePrioritiesAreUsedUnlessShared(t *testing.T) {
	native := driver.Capabilities{Priorities: 10}
	require.Equal(t, "", Lanes{Priorities: true}.lane("", 5, native))
	require.False(t, Lanes{Priorities: true}.used(native))
	require.NoError(t, Lanes{Priorities: true}.unmet(native))
	shared := Lanes{Priorities: true, PriorityShares: map[int]float64{5: 3}}
	require.Equal(t, "p5", shared.lane("", 5, native))
	require.True(t, shared.used(native))
	var unsupported *UnsupportedError
	require.ErrorAs(t, shared.unmet(native), &unsupported)
}

func TestLanesRefuseWhatMeansNothing(t *testing.T) {
	caps := driver.Capabilities{Lanes: true}
	for _, l := range []Lanes{
		{Tenants: true, Weights: map[string]float64{"a": 0}},
		{Tenants: true, Weights: map[string]float64{"a": -1}},
		{Tenants: true, Weights: map[string]float64{"a": math.NaN()}},
		{Tenants: true, Weights: map[string]float64{"a": math.Inf(1)}},
		{Priorities: true, PriorityShares: map[int]float64{1: 0}},
		{Weights: map[string]float64{"a": 1}},
		{PriorityShares: map[int]float64{1: 1}},
	} {
		require.ErrorIs(t, l.unmet(caps), driver.Invalid, "%+v", l)
	}
}

// floor is a worker of several slots with a lane table, and the broker's lanes, in a time of its own.
type floor struct {
	table *laneTable
	slots int
	bound map[string]int // by tenant

	now     time.Time
	waiting map[string][]time.Duration // jobs by lane
	running []*onFloor
	had     map[string]float64 // slot-seconds by lane
	starts  []string
	returns int // leased beyond a bound
}

type onFloor struct {
	lane string
	ends time.Time
	c    *charge
}

func newFloor(slots int, l Lanes) *floor {
	return &floor{
		table: newLaneTable(l), slots: slots, now: time.Unix(0, 0),
		waiting: map[string][]time.Duration{}, had: map[string]float64{}, bound: map[string]int{},
	}
}

// put adds n jobs to a lane and makes the lane known.
func (f *floor) put(lane string, n int, job time.Duration) {
	for range n {
		f.waiting[lane] = append(f.waiting[lane], job)
	}
	f.table.add(lane)
}

func (f *floor) of(tenant string) int {
	n := 0
	for _, r := range f.running {
		if t, _ := parseLane(r.lane); t == tenant {
			n++
		}
	}
	return n
}

func (f *floor) room(tenant string) int {
	if b := f.bound[tenant]; b > 0 {
		return max(b-f.of(tenant), 0)
	}
	return math.MaxInt
}

// fill asks for what the free slots can take, as a worker does, until nothing comes.
func (f *floor) fill() {
	for len(f.running) < f.slots {
		w, recheck := f.table.want(f.slots-len(f.running), f.now, f.room)
		var ds []*driver.Delivery
		for _, lw := range w.Lanes {
			for n := 0; n < lw.Max && len(ds) < w.Max && n < len(f.waiting[lw.Lane]); n++ {
				ds = append(ds, &driver.Delivery{Message: driver.Message{Lane: lw.Lane}})
			}
		}
		f.table.answered(w, ds)
		for _, d := range ds {
			f.start(d.Lane)
		}
		if len(ds) == 0 && !recheck {
			return
		}
	}
}

func (f *floor) start(lane string) {
	if tenant, _ := parseLane(lane); f.room(tenant) <= 0 {
		f.returns++
		return
	}
	job := f.waiting[lane][0]
	f.waiting[lane] = f.waiting[lane][1:]
	f.running = append(f.running, &onFloor{lane, f.now.Add(job), f.table.started(lane, f.now)})
	f.starts = append(f.starts, lane)
}

// run lets so much time pass, starting what can start.
func (f *floor) run(d time.Duration) {
	over := f.now.Add(d)
	for f.fill(); len(f.running) > 0; f.fill() {
		slices.SortStableFunc(f.running, func(a, b *onFloor) int { return a.ends.Compare(b.ends) })
		if f.running[0].ends.After(over) {
			break
		}
		f.pass(f.running[0].ends)
		f.table.ended(f.running[0].c, f.now.Sub(f.running[0].c.began))
		f.running = f.running[1:]
	}
	f.pass(over)
}

func (f *floor) pass(to time.Time) {
	for _, r := range f.running {
		f.had[r.lane] += to.Sub(f.now).Seconds()
	}
	f.now = to
}

// shares are the parts of the slot time that lanes have had since the last call.
func (f *floor) shares() map[string]float64 {
	total, s := 0.0, map[string]float64{}
	for _, v := range f.had {
		total += v
	}
	for lane, v := range f.had {
		s[lane] = v / total
	}
	f.had = map[string]float64{}
	return s
}

var byTenant = Lanes{Tenants: true}

func TestOneFreeSlotFacingHundredsOfLanesWantsOneMessage(t *testing.T) {
	table := newLaneTable(byTenant)
	for i := range 500 {
		table.add(fmt.Sprintf("t%03d", i))
	}
	w, _ := table.want(1, time.Unix(0, 0), func(string) int { return math.MaxInt })
	require.Equal(t, 1, w.Max)
	require.Len(t, w.Lanes, 501, "whichever has a message")
}

// However the slots come free, several at once included, each tenant known to have messages gets its turn.
func TestFreeSlotsAreSpreadOverTenants(t *testing.T) {
	f := newFloor(8, byTenant)
	for i := range 20 {
		f.put(fmt.Sprintf("t%02d", i), 100, time.Hour)
	}
	f.fill()
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(f.starts))), 8, "eight tenants: %v", f.starts)

	f = newFloor(8, byTenant)
	for i := range 20 {
		f.put(fmt.Sprintf("t%02d", i), 0, 0) // known, and empty
	}
	f.put("tz", 100, time.Hour)
	f.put("ty", 100, time.Hour)
	f.fill()
	require.Equal(t, 4, f.of("z"), "%v", f.starts)
	require.Equal(t, 4, f.of("y"), "%v", f.starts)
}

// Slots that come free one after the other, with no time in between to charge anybody, are spread all the same.
func TestWhatRunsCountsBeforeItHasTakenTime(t *testing.T) {
	f := newFloor(0, Lanes{Tenants: true, Priorities: true, PriorityShares: map[int]float64{9: 3}})
	for _, lane := range []string{"ta", "tb", "p9/ta", "p9/tb", "p9/tc"} {
		f.put(lane, 100, time.Hour)
	}
	for f.slots < 8 {
		f.slots++
		f.fill()
	}
	require.ElementsMatch(t, []string{"ta", "tb", "p9/ta", "p9/ta", "p9/tb", "p9/tb", "p9/tc", "p9/tc"}, f.starts)
}

func TestWeightsHoldOverALongSaturatedRun(t *testing.T) {
	l := Lanes{Tenants: true, Weights: map[string]float64{"b": 2, "c": 4}}
	jobs := map[string]func(r *rand.Rand) time.Duration{
		"equal": func(*rand.Rand) time.Duration { return time.Minute },
		"skewed": func(r *rand.Rand) time.Duration {
			return time.Duration(math.Exp(2*r.NormFloat64()) * float64(time.Minute))
		},
		"tiny": func(*rand.Rand) time.Duration { return 50 * time.Millisecond },
	}
	for name, job := range jobs {
		for _, slots := range []int{1, 3, 8} {
			t.Run(fmt.Sprintf("%s on %d slots", name, slots), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				f := newFloor(slots, l)
				for range 20_000 {
					for _, lane := range []string{"ta", "tb", "tc"} {
						f.put(lane, 1, job(r))
					}
				}
				f.run(min(20_000*job(r)/time.Duration(slots), 48*time.Hour))
				s := f.shares()
				require.InEpsilon(t, 1.0/7, s["ta"], 0.1, "%v", s)
				require.InEpsilon(t, 2.0/7, s["tb"], 0.1, "%v", s)
				require.InEpsilon(t, 4.0/7, s["tc"], 0.1, "%v", s)
			})
		}
	}
}

func TestTenantOfLongJobsPaysForThem(t *testing.T) {
	f := newFloor(8, byTenant)
	f.put("tlong", 10_000, 30*time.Minute)
	f.put("tshort", 100_000, time.Minute)
	f.run(24 * time.Hour)
	require.InEpsilon(t, 0.5, f.shares()["tshort"], 0.05)
}

// Nobody knows yet how long the jobs of a new tenant take. It is charged as they run, so that it does not hold every
// slot when the first of them ends.
func TestFirstJobsOfATenantAreChargedWhileTheyRun(t *testing.T) {
	f := newFloor(8, byTenant)
	f.put("tlong", 100, 30*time.Minute)
	f.put("tshort", 100_000, time.Second)
	f.run(29 * time.Minute)
	require.LessOrEqual(t, f.of("long"), 6)
	require.Greater(t, f.shares()["tshort"], 0.2)
}

func TestWhoWasIdleSavesNothingUp(t *testing.T) {
	cases := map[string]struct {
		before func(f *floor)
		lane   string
	}{
		"away":                 {func(*floor) {}, "tb"},
		"new":                  {func(*floor) {}, "tnew"},
		"one long job running": {func(f *floor) { f.put("tb", 1, 7*time.Hour) }, "tb"},
		"away for a long time": {func(f *floor) { f.run(100 * time.Hour) }, "tb"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFloor(8, byTenant)
			f.put("tb", 10, time.Minute)
			f.put("ta", 100_000, time.Minute)
			f.run(30 * time.Minute)
			c.before(f)
			f.run(5 * time.Hour) // of a alone, but for what before did
			f.shares()
			f.put(c.lane, 100_000, time.Minute)
			f.run(time.Hour)
			require.InDelta(t, 0.5, f.shares()[c.lane], 0.05)
		})
	}
}

func TestWhoWasAtItsBoundSavesNothingUp(t *testing.T) {
	f := newFloor(8, byTenant)
	f.bound["b"] = 1
	f.put("ta", 100_000, time.Minute)
	f.put("tb", 100_000, time.Minute)
	f.run(5 * time.Hour)
	require.InDelta(t, 1.0/8, f.shares()["tb"], 0.01)
	f.bound["b"] = 0
	f.run(time.Hour)
	require.InDelta(t, 0.5, f.shares()["tb"], 0.05)
}

// A tenant's jobs take half an hour each, then its API is away and they fail at once. What was expected of them must not
// count as time that they had, nor may the others be moved by it.
func TestWrongGuessOfAJobsTimeLeavesNoTrace(t *testing.T) {
	f := newFloor(8, byTenant)
	f.put("ta", 64, 30*time.Minute)
	f.run(4 * time.Hour)
	f.put("ta", 1_000_000, 100*time.Millisecond)
	f.fill()
	f.shares()
	f.put("tb", 10_000, time.Minute) // comes while a's jobs are taken for long ones
	f.run(time.Hour)
	s := f.shares()
	require.InDelta(t, 0.5, s["ta"], 0.05, "%v", s)

	f.put("tc", 10_000, time.Minute)
	f.run(time.Hour)
	s = f.shares()
	require.InDelta(t, 1.0/3, s["tc"], 0.05, "%v", s)
}

func TestEveryMomentsDebtIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 6).Draw(t, "slots")
		weights, lanes := map[string]float64{}, []string{"ta", "tb", "tc"}
		longest := 0.0
		f := newFloor(slots, Lanes{Tenants: true, Weights: weights})
		for _, lane := range lanes {
			weights[lane[1:]] = rapid.Float64Range(0.5, 4).Draw(t, "weight")
			for range 400 {
				job := time.Duration(rapid.IntRange(1, 60).Draw(t, "job")) * time.Second
				longest = max(longest, job.Seconds())
				f.put(lane, 1, job)
			}
		}
		// In a saturated time, what two tenants have had by weight differs by no more than the jobs in service.
		f.run(time.Duration(rapid.IntRange(60, 1000).Draw(t, "seconds")) * time.Second)
		for _, a := range lanes {
			for _, b := range lanes {
				apart := f.had[a]/weights[a[1:]] - f.had[b]/weights[b[1:]]
				most := longest * float64(slots+1) * (1/weights[a[1:]] + 1/weights[b[1:]])
				require.LessOrEqual(t, apart, most, "%s beyond %s", a, b)
			}
		}
	})
}

func TestStrictPrioritiesGoFirstAndTakeTurnsWithin(t *testing.T) {
	f := newFloor(1, Lanes{Tenants: true, Priorities: true})
	f.put("ta", 3, time.Second)
	f.put("tb", 3, time.Second)
	f.run(1500 * time.Millisecond)
	f.put("p5/ta", 3, time.Second)
	f.put("p5/tb", 3, time.Second)
	f.put("p-1", 1, time.Second)
	f.run(time.Minute)
	levels := make([]int, len(f.starts))
	for i, lane := range f.starts {
		_, levels[i] = parseLane(lane)
	}
	require.True(t, slices.IsSortedFunc(levels[2:], func(a, b int) int { return cmp.Compare(b, a) }), "%v", f.starts)
	require.NotEqual(t, f.starts[2], f.starts[3], "tenants take turns within a level: %v", f.starts)
	require.Equal(t, "p-1", f.starts[12])
}

// A level that waits while a higher one has everything keeps a clock of its own: who is new in it does not stand behind
// the time that the higher level has had.
func TestLevelsHaveClocksOfTheirOwn(t *testing.T) {
	f := newFloor(1, Lanes{Tenants: true, Priorities: true})
	f.put("ta", 2000, time.Second)
	f.run(10 * time.Second)
	f.put("p9/tx", 500, time.Second)
	f.run(505 * time.Second)
	f.put("tb", 1000, time.Second)
	f.shares()
	f.run(100 * time.Second)
	require.InDelta(t, 0.5, f.shares()["tb"], 0.05)
}

func TestPriorityShares(t *testing.T) {
	f := newFloor(4, Lanes{Tenants: true, Priorities: true, PriorityShares: map[int]float64{9: 3}})
	f.put("p9/ta", 100_000, time.Minute)
	f.put("ta", 100_000, time.Minute)
	f.put("tb", 100_000, time.Minute)
	f.run(10 * time.Hour)
	s := f.shares()
	require.InEpsilon(t, 0.75, s["p9/ta"], 0.05, "%v", s)
	require.InEpsilon(t, 0.125, s["ta"], 0.1, "%v", s)
	require.InEpsilon(t, 0.125, s["tb"], 0.1, "%v", s)

	f = newFloor(8, Lanes{Priorities: true, PriorityShares: map[int]float64{9: 3}})
	f.put("", 100, time.Hour)
	f.put("p9", 100, time.Hour)
	f.fill()
	require.Equal(t, 2, len(f.starts)-strings.Count(strings.Join(f.starts, ""), "p9"), "several slots at once: %v", f.starts)

	f = newFloor(4, Lanes{Priorities: true, PriorityShares: map[int]float64{9: 3}})
	f.put("", 100_000, time.Minute)
	f.run(10 * time.Hour)
	f.shares()
	f.put("p9", 100_000, time.Minute)
	f.run(10 * time.Hour)
	require.InEpsilon(t, 0.75, f.shares()["p9"], 0.05, "a level that was idle saves nothing up")
}

// A tenant's bound covers all its lanes: what two of them could start each is not leased twice.
func TestBoundOfATenantIsSharedByItsLanes(t *testing.T) {
	f := newFloor(8, Lanes{Tenants: true, Priorities: true})
	f.bound["a"] = 2
	f.put("ta", 100, time.Second)
	f.put("p5/ta", 100, time.Second)
	f.put("tb", 1000, time.Second)
	f.run(90 * time.Second)
	require.Zero(t, f.returns)
	require.InDelta(t, 540, len(f.starts)-200+len(f.waiting["ta"])+len(f.waiting["p5/ta"]), 10, "the other has what is left")
	require.Empty(t, f.waiting["p5/ta"], "the higher first")
	require.InDelta(t, 20, len(f.waiting["ta"]), 4, "two at a time, for ninety seconds")
}

func BenchmarkWant(b *testing.B) {
	for _, lanes := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(lanes), func(b *testing.B) {
			f := newFloor(16, byTenant)
			for i := range lanes {
				f.put(fmt.Sprintf("t%05d", i), 2, time.Hour)
			}
			f.fill()
			b.ReportAllocs()
			for b.Loop() {
				f.table.want(1, f.now, f.room)
			}
		})
	}
}
