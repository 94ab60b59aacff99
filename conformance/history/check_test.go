package history

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// run is a delivery of message a to worker w1 from 10 ms on, that is acked.
const run = `
	10 w1 deliver a u=1000
	11 w1 start a
	20 w1 end a
	21 w1 settle_sent a v=ack
	23 w1 settle_ok a`

var totalsCases = map[string]struct {
	history string
	o       Options
	want    Verdict // of the totals
}{
	"completed": {publish("a") + run, Options{Drained: true, FaultFree: true},
		Verdict{Published: 1, Confirmed: 1, Completed: 1}},
	"never delivered": {publish("a", "b") + run, Options{Drained: true},
		Verdict{Published: 2, Confirmed: 2, Completed: 1, Lost: 1}},
	"not drained yet": {publish("a", "b") + run, Options{},
		Verdict{Published: 2, Confirmed: 2, Completed: 1, Unfinished: 1}},
	"delivered and never settled": {publish("a") + "10 w1 deliver a u=1000\n11 w1 start a", Options{Drained: true},
		Verdict{Published: 1, Confirmed: 1, Lost: 1}},
	"producer died": {"1 p publish_invoke a\n2 p kill" + run, Options{Drained: true},
		Verdict{Published: 1, Recovered: 1, Completed: 1}},
	"confirmation lost": {"1 p publish_invoke a\n2 p publish_err a" + run, Options{Drained: true},
		Verdict{Published: 1, Recovered: 1, Completed: 1}},
	"confirmation lost and never arrived": {"1 p publish_invoke a\n2 p publish_err a", Options{Drained: true},
		Verdict{Published: 1}},
	"refused": {"1 p publish_invoke a\n2 p publish_err a def=true", Options{Drained: true},
		Verdict{Published: 1}},
	"refused, then confirmed": {"0 p publish_invoke a\n0 p publish_err a def=true\n" + publish("a") + run,
		Options{Drained: true, FaultFree: true}, Verdict{Published: 1, Confirmed: 1, Completed: 1}},
	"refused and delivered": {"1 p publish_invoke a\n2 p publish_err a def=true" + run, Options{Drained: true},
		Verdict{Published: 1, Unexpected: 1}},
	"never published":            {run, Options{Drained: true}, Verdict{Unexpected: 1}},
	"published by somebody else": {publish("a") + run, Options{Producers: []string{"q"}}, Verdict{Unexpected: 1}},
	"published by the expected": {publish("a") + run, Options{Producers: []string{"q", "p"}},
		Verdict{Published: 1, Confirmed: 1, Completed: 1}},
	"ack never answered": {publish("a") + `
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a
		21 w1 settle_sent a v=ack
		22 w1 kill`, Options{Drained: true},
		Verdict{Published: 1, Confirmed: 1, Completed: 1, AckUnconfirmed: 1}},
	"ack never answered, without a handler": {publish("a") + `
		10 w1 deliver a u=1000
		21 w1 settle_sent a v=ack
		22 w1 kill`, Options{Drained: true},
		Verdict{Published: 1, Confirmed: 1, Completed: 1, AckUnconfirmed: 1}},
	"ack never answered and handler not ended": {publish("a") + `
		10 w1 deliver a u=1000
		11 w1 start a
		21 w1 settle_sent a v=ack
		22 w1 kill`, Options{Drained: true}, Verdict{Published: 1, Confirmed: 1, Lost: 1}},
	"confirmed to another producer": {`
		1 p publish_invoke a
		1 q publish_invoke a
		2 p publish_ok a` + run, Options{Drained: true, Producers: []string{"q"}},
		Verdict{Published: 1, Recovered: 1, Completed: 1}},
	"ack refused": {publish("a") + `
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a
		21 w1 settle_sent a v=ack
		22 w1 settle_err a def=true`, Options{Drained: true}, Verdict{Published: 1, Confirmed: 1, Lost: 1}},
	"ack never answered and seen again": {publish("a") + `
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a
		21 w1 settle_sent a v=ack
		22 w1 kill
		1000 w2 deliver a u=2000`, Options{Drained: true}, Verdict{Published: 1, Confirmed: 1, Lost: 1}},
	"dead-lettered": {publish("a") + `
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a err=broken
		21 w1 settle_sent a v=dead
		22 w1 dead a cause=attempts
		23 w1 settle_ok a`, Options{Drained: true, FaultFree: true},
		Verdict{Published: 1, Confirmed: 1, DeadLettered: 1}},
	"redriven and completed": {publish("a") + `
		3 w1 deliver a u=1000
		4 w1 start a
		5 w1 end a err=broken
		6 w1 settle_sent a v=reject
		7 w1 dead a
		8 w1 settle_ok a
		9 admin redrive a` + run, Options{Drained: true, FaultFree: true},
		Verdict{Published: 1, Confirmed: 1, Completed: 1}},
	"other queue": {publish("a") + run + "\n30 w1 deliver a u=1000 q=dead\n31 w1 start a q=dead",
		Options{Queue: "main", Drained: true, FaultFree: true}, Verdict{Published: 1, Confirmed: 1, Completed: 1}},
}

func TestTotals(t *testing.T) {
	for name, c := range totalsCases {
		t.Run(name, func(t *testing.T) {
			v := Check(script(t, c.history), c.o)
			got := Verdict{
				Published: v.Published, Confirmed: v.Confirmed, Recovered: v.Recovered, Completed: v.Completed,
				AckUnconfirmed: v.AckUnconfirmed, DeadLettered: v.DeadLettered, Lost: v.Lost,
				Unfinished: v.Unfinished, Unexpected: v.Unexpected,
			}
			require.Equal(t, c.want, got)
			require.True(t, v.Balanced)
			require.Equal(t, c.want.Lost+c.want.Unexpected == 0, v.Valid, v.InvalidReasons)
			require.Len(t, v.Details.Lost, v.Lost)
			require.Len(t, v.Details.Unexpected, v.Unexpected)
		})
	}
}

func TestFinishedTwiceCountsOnce(t *testing.T) {
	v := Check(script(t, publish("a")+`
		10 w1 deliver a u=100
		11 w1 start a
		100 w2 deliver a u=1000
		101 w2 start a
		102 w2 end a
		103 w2 settle_sent a v=ack
		104 w2 settle_ok a
		110 w1 end a err=late
		111 w1 settle_sent a v=dead
		112 w1 dead a
		113 w1 settle_ok a`), Options{Drained: true})
	require.Equal(t, []int{1, 0, 0}, []int{v.Completed, v.DeadLettered, v.Lost})
	require.Equal(t, 1, v.Duplicates.FinishedAgain)
	require.Equal(t, 1, v.LateSettles)
	require.True(t, v.Balanced)
}

func TestUnbalancedTotalsAreRefused(t *testing.T) {
	j := judge{v: Verdict{Confirmed: 1}}
	j.conclude()
	require.False(t, j.v.Valid)
	require.False(t, j.v.Balanced)
	require.Contains(t, j.v.InvalidReasons[0], "balance")
}

var overlapCases = map[string]struct {
	history string
	o       Options
	want    int
}{
	"held by two": {`
		10 w1 deliver a u=100
		99 w2 deliver a u=200`, Options{}, 1},
	"right after Until": {`
		10 w1 deliver a u=100
		100 w2 deliver a u=200`, Options{}, 0},
	"extended": {`
		10 w1 deliver a u=100
		50 w1 extend a u=150
		100 w2 deliver a u=200`, Options{}, 1},
	"right after the extension": {`
		10 w1 deliver a u=100
		50 w1 extend a u=150
		150 w2 deliver a u=200`, Options{}, 0},
	"shortened": {`
		10 w1 deliver a u=100
		50 w1 extend a u=60
		60 w2 deliver a u=200`, Options{}, 0},
	"after it was given back": {`
		10 w1 deliver a u=100
		20 w1 settle_sent a v=retry
		20 w2 deliver a u=200`, Options{}, 0},
	"before it was given back": {`
		10 w1 deliver a u=100
		19 w2 deliver a u=200
		20 w1 settle_sent a v=retry`, Options{}, 1},
	"the settle was never sent": {`
		10 w1 deliver a u=100
		20 w1 settle_sent a v=retry
		21 w1 settle_err a def=true
		30 w2 deliver a u=200`, Options{}, 1},
	"the settle may have been sent": {`
		10 w1 deliver a u=100
		20 w1 settle_sent a v=retry
		21 w1 settle_err a
		30 w2 deliver a u=200`, Options{}, 0},
	"sent at the second try": {`
		10 w1 deliver a u=100
		20 w1 settle_sent a v=retry
		21 w1 settle_err a def=true
		40 w1 settle_sent a v=retry
		41 w1 settle_ok a
		40 w2 deliver a u=200`, Options{}, 0},
	"lost and noticed": {`
		10 w1 deliver a u=100
		20 w1 lease_lost a cause=cut
		20 w2 deliver a u=200`, Options{}, 0},
	"lost and noticed late": {`
		10 w1 deliver a u=100
		20 w2 deliver a u=200
		21 w1 lease_lost a cause=cut`, Options{}, 1},
	"death does not end a lease": {`
		10 w1 deliver a u=100
		20 w1 kill
		30 w2 deliver a u=200`, Options{}, 1},
	"unless the broker sees it": {`
		10 w1 deliver a u=100
		20 w1 kill
		30 w2 deliver a u=200`, Options{DeathFrees: true}, 0},
	"or the lease has no clock": {`
		10 w1 deliver a
		20 w1 kill
		30 w2 deliver a u=200`, Options{}, 0},
	"no clock and alive": {`
		10 w1 deliver a
		30 w2 deliver a u=200`, Options{}, 1},
	"a soft signal is no death": {`
		10 w1 deliver a
		20 w1 kill sig=TERM
		30 w2 deliver a u=200`, Options{DeathFrees: true}, 1},
	"twice in one process": {`
		10 w1 deliver a u=100 d=1
		30 w1 deliver a u=200 d=2`, Options{}, 1},
	"settled by number": {`
		10 w1 deliver a u=100 d=1
		20 w1 settle_sent a v=retry d=1
		30 w1 deliver a u=200 d=2
		31 w1 settle_sent a v=retry d=2
		32 w2 deliver a u=200`, Options{}, 0},
	"across generations": {`
		10 w1 deliver a u=100
		30 w2 deliver a u=200 g=1`, Options{}, 1},
	"three at once": {`
		10 w1 deliver a u=100
		30 w2 deliver a u=200
		40 w3 deliver a u=200`, Options{}, 2},
	"published twice": {`
		3 p publish_invoke a
		4 p publish_ok a
		10 w1 deliver a u=100
		30 w2 deliver a u=200`, Options{}, 0},
	"published twice, held by three": {`
		3 p publish_invoke a
		4 p publish_ok a
		10 w1 deliver a u=100
		30 w2 deliver a u=200
		31 w3 deliver a u=200`, Options{}, 1},
	"other message": {publish("b") + `
		10 w1 deliver a u=100
		30 w2 deliver b u=200`, Options{}, 0},
}

func TestOverlaps(t *testing.T) {
	for name, c := range overlapCases {
		t.Run(name, func(t *testing.T) {
			v := Check(script(t, publish("a")+c.history), c.o)
			require.Equal(t, c.want, v.Overlaps)
			require.Len(t, v.Details.Overlaps, c.want)
			require.Equal(t, c.want == 0, v.Valid, v.InvalidReasons)
		})
	}
}

func TestOverlapSaysWhoHeldIt(t *testing.T) {
	v := Check(script(t, publish("a")+"10 w1 deliver a u=100\n30 w2 deliver a u=200 g=1"), Options{})
	require.Equal(t, []Overlap{{
		Msg: "a", Holder: "w1", Taker: "w2", TakerGeneration: 1, From: 30 * ms, To: 100 * ms,
	}}, v.Details.Overlaps)
}

func TestOverruns(t *testing.T) {
	const late = "10 w1 deliver a u=100\n11 w1 start a\n"
	for name, c := range map[string]struct {
		history          string
		o                Options
		overruns, fatals int
	}{
		"in time":              {late + "100 w1 end a", Options{}, 0, 0},
		"within the tolerance": {late + "350 w1 end a", Options{}, 1, 0},
		"beyond it":            {late + "351 w1 end a", Options{}, 1, 1},
		"own tolerance":        {late + "351 w1 end a", Options{Tolerance: time.Second}, 1, 0},
		"after lease_lost": {late + `50 w1 lease_lost a
			301 w1 end a`, Options{}, 1, 1},
		"extended": {late + `50 w1 extend a u=500
			500 w1 end a`, Options{}, 0, 0},
		"stopped meanwhile": {late + `90 w1 stop
			1000 w1 cont
			1200 w1 end a`, Options{}, 1, 0},
		"stopped, and too long after": {late + `90 w1 stop
			1000 w1 cont
			1251 w1 end a`, Options{}, 1, 1},
		"another one stopped": {late + `90 w2 stop
			1000 w2 cont
			1200 w1 end a`, Options{}, 1, 1},
		"still running at the end":    {late + "1200 p heal", Options{}, 1, 1},
		"killed in time":              {late + "90 w1 kill\n1200 p heal", Options{}, 0, 0},
		"ignores its context":         {"10 w1 deliver a u=100\n11 w1 start a ign=true\n1200 w1 end a", Options{}, 1, 0},
		"all ignore their context":    {late + "1200 w1 end a", Options{IgnoresContext: true}, 1, 0},
		"stopped until it was killed": {late + "90 w1 stop\n900 w1 kill", Options{}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := Check(script(t, publish("a")+c.history), c.o)
			require.Equal(t, c.overruns, v.Overruns)
			require.Equal(t, c.fatals, v.FatalOverruns)
			require.Equal(t, c.fatals == 0, v.Valid, v.InvalidReasons)
		})
	}
}

func TestAckedThenDelivered(t *testing.T) {
	again := publish("a") + run + "\n30 w2 deliver a u=2000"
	v := Check(script(t, again), Options{Drained: true})
	require.Equal(t, 1, v.AckedThenDelivered)
	require.False(t, v.Valid)
	require.Zero(t, v.Duplicates.Total, "it did not start")
	require.True(t, Check(script(t, again), Options{Drained: true, SettleUnconfirmed: true}).Valid)

	v = Check(script(t, publish("a")+run+"\n23 w2 deliver a u=2000"), Options{Drained: true})
	require.Zero(t, v.AckedThenDelivered, "not after the ack was confirmed")
	v = Check(script(t, publish("a")+run+"\n30 w2 deliver a u=2000 g=1"), Options{Drained: true})
	require.Zero(t, v.AckedThenDelivered, "a copy is not what was acked")
	v = Check(script(t, publish("a")+"3 p publish_invoke a"+run+"\n30 w2 deliver a u=2000"), Options{Drained: true})
	require.Zero(t, v.AckedThenDelivered, "published twice")
}

var keyOrderCases = map[string]struct {
	history          string
	order, exclusion int
}{
	"one after the other": {`
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a
		21 w1 settle_sent a v=ack
		21 w1 deliver b u=1000
		22 w1 start b
		30 w1 end b
		31 w1 settle_sent b v=dead
		32 w1 dead b
		40 w1 deliver c u=1000
		41 w1 start c`, 0, 0},
	"overtaken": {`
		10 w1 deliver b u=1000
		11 w1 start b
		20 w1 end b
		21 w1 settle_sent b v=ack
		30 w1 deliver a u=1000
		31 w1 start a
		40 w1 end a
		41 w1 settle_sent a v=ack`, 1, 0},
	"overtaken after a failure": {`
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a err=x
		21 w1 settle_sent a v=retry
		30 w1 deliver b u=1000
		31 w1 start b`, 1, 0},
	"overtaken across producers": {`
		10 w1 deliver a u=1000
		11 w1 start a
		20 w1 end a
		21 w1 settle_sent a v=ack
		30 w1 deliver c u=1000
		31 w1 start c`, 1, 0},
	"at the same time": {`
		10 w1 deliver a u=1000
		11 w1 start a
		12 w2 deliver b u=1000
		13 w2 start b
		20 w1 end a
		21 w2 end b`, 1, 1},
	"other key at the same time": {`
		10 w1 deliver a u=1000
		11 w1 start a
		12 w2 deliver d u=1000
		13 w2 start d
		20 w1 end a
		21 w2 end d`, 0, 0},
	"one that lost its lease excludes nobody": {`
		10 w1 deliver a u=100
		11 w1 start a
		12 w1 stop
		100 w2 deliver a u=2000
		101 w2 start a
		102 w2 end a
		103 w2 settle_sent a v=ack
		104 w2 deliver b u=2000
		105 w2 start b
		200 w1 cont
		201 w1 end a`, 0, 0},
	"a killed one keeps its place": {`
		10 w1 deliver a u=1000
		11 w1 start a
		12 w1 kill
		1000 w2 deliver a u=2000
		1001 w2 start a
		1002 w2 end a
		1003 w2 settle_sent a v=ack
		1004 w2 deliver b u=2000
		1005 w2 start b`, 0, 0},
}

func TestKeyOrder(t *testing.T) {
	const published = `
		1 p publish_invoke a key=k
		2 p publish_ok a key=k
		3 p publish_invoke b key=k
		4 p publish_ok b key=k
		5 q publish_invoke c key=k
		6 q publish_ok c key=k
		7 q publish_invoke d key=other
		8 q publish_ok d key=other`
	for name, c := range keyOrderCases {
		t.Run(name, func(t *testing.T) {
			events := script(t, published+c.history)
			v := Check(events, Options{KeyOrder: true})
			require.Equal(t, c.order, v.OrderViolations, v.Details.Order)
			require.Equal(t, c.exclusion, v.ExclusionBreaches, v.Details.Exclusion)
			require.Equal(t, c.order+c.exclusion == 0, v.Valid)
			require.True(t, Check(events, Options{}).Valid, "not claimed")
		})
	}
}

// The order of publishes that were under way together, or not confirmed at once, is not defined.
func TestKeyOrderOfConcurrentPublishes(t *testing.T) {
	v := Check(script(t, `
		1 p publish_invoke a key=k
		2 q publish_invoke b key=k
		3 p publish_ok a
		4 q publish_ok b
		10 w1 deliver b u=1000
		11 w1 start b`), Options{KeyOrder: true})
	require.Zero(t, v.OrderViolations)
	v = Check(script(t, `
		1 p publish_invoke a key=k
		2 p publish_err a
		3 p publish_invoke b key=k
		4 p publish_ok b
		10 w1 deliver b u=1000
		11 w1 start b`), Options{KeyOrder: true})
	require.Zero(t, v.OrderViolations)
}

func TestAttemptsAndTokens(t *testing.T) {
	for name, c := range map[string]struct {
		first, second    string
		attempts, tokens int
	}{
		"rising":                     {"a=1 tok=1", "a=2 tok=2", 0, 0},
		"same attempt":               {"a=1 tok=1", "a=1 tok=2", 0, 0},
		"attempt back":               {"a=2 tok=1", "a=1 tok=2", 1, 0},
		"attempt unknown":            {"a=2 tok=1", "tok=2", 0, 0},
		"same token":                 {"a=1 tok=1", "a=1 tok=1", 0, 1},
		"token back":                 {"a=1 tok=2", "a=1 tok=1", 0, 1},
		"no token":                   {"a=1 tok=2", "a=1", 0, 1},
		"copy, then copy's original": {"a=2 tok=9 g=1", "a=1 tok=2", 0, 0},
		"copy with a lower token":    {"a=1 tok=9", "a=2 tok=2 g=1", 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			events := script(t, publish("a")+"10 w1 deliver a u=20 "+c.first+"\n30 w2 deliver a u=40 "+c.second)
			v := Check(events, Options{Fencing: true})
			require.Equal(t, c.attempts, v.AttemptRegressions, v.Details.Attempts)
			require.Equal(t, c.tokens, v.TokenRegressions, v.Details.Tokens)
			require.Equal(t, c.attempts+c.tokens == 0, v.Valid)
			require.Zero(t, Check(events, Options{}).TokenRegressions, "not claimed")
		})
	}
}

func TestOrphans(t *testing.T) {
	for name, line := range map[string]string{
		"start without a delivery":     "10 w1 start a",
		"end without a start":          "10 w1 deliver a u=100\n11 w1 end a",
		"answer without a settle":      "10 w1 deliver a u=100\n11 w1 settle_ok a",
		"other verdict":                "10 w1 deliver a u=100\n11 w1 settle_sent a v=ack\n12 w1 settle_ok a v=retry",
		"other process":                "10 w1 deliver a u=100\n11 w2 start a",
		"other delivery":               "10 w1 deliver a u=100 d=1\n11 w1 start a d=2",
		"other life of the process":    "10 w1 deliver a u=100\n11 w1 kill\n12 w1 proc_start\n13 w1 start a",
		"side effect without delivery": "10 w1 side_effect a",
	} {
		t.Run(name, func(t *testing.T) {
			v := Check(script(t, publish("a")+line), Options{})
			require.Equal(t, 1, v.Orphans)
			require.Len(t, v.Details.Orphans, 1)
			require.False(t, v.Valid)
		})
	}
}

func TestVerdictAsJSON(t *testing.T) {
	data, err := json.Marshal(Check(nil, Options{Drained: true}))
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(data, &got))
	require.Equal(t, []any{}, got["invalid_reasons"])
	require.Equal(t, true, got["valid"])
	for _, name := range []string{
		"published", "confirmed", "recovered", "completed", "dead_lettered", "lost", "unexpected", "overlaps", "overruns",
	} {
		require.Equal(t, 0.0, got[name], name)
	}
	require.Equal(t, map[string]any{"total": 0.0, "by_cause": map[string]any{}, "finished_again": 0.0}, got["duplicates"])
}

func TestDetailsAreCut(t *testing.T) {
	v := Check(script(t, publish("a", "b", "c")), Options{Drained: true, MaxDetails: 2})
	require.Equal(t, 3, v.Lost)
	require.Equal(t, []string{"a", "b"}, v.Details.Lost)
}
