package history

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedeliveries(t *testing.T) {
	const begin = "10 w1 deliver a u=100\n11 w1 start a\n"
	for name, c := range map[string]struct {
		history string
		want    []Redelivery
	}{
		"killed": {begin + "20 w1 kill\n100 w2 deliver a u=200\n103 w2 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Latency: 83 * ms, To: "w2"}}},
		"killed before it started": {"10 w1 deliver a u=100\n20 w1 kill\n100 w2 deliver a u=200\n103 w2 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Latency: 83 * ms, To: "w2"}}},
		"killed, its lease without a clock": {"10 w1 deliver a\n20 w1 kill\n21 w2 deliver a u=200\n22 w2 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Latency: 2 * ms, To: "w2"}}},
		"exited": {begin + "20 w1 proc_exit\n100 w2 deliver a u=200\n103 w2 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: ProcExit, At: 20 * ms, Latency: 83 * ms, To: "w2"}}},
		"to its own successor": {begin + "20 w1 kill\n30 w1 proc_exit\n40 w1 proc_start\n100 w1 deliver a u=200\n103 w1 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Latency: 83 * ms, To: "w1"}}},
		"passed over once": {begin + "20 w1 kill\n100 w2 deliver a u=200\n101 w2 settle_sent a v=release\n102 w2 settle_ok a\n110 w3 deliver a u=200\n120 w3 start a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Latency: 100 * ms, To: "w3"}}},
		"missing": {begin + "20 w1 kill",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Missing: true}}},
		"dead-lettered instead": {begin + "20 w1 kill\n100 w2 deliver a u=200\n101 w2 settle_sent a v=dead\n102 w2 dead a\n103 w2 settle_ok a", nil},
		"stopped": {begin + "20 w1 stop\n100 w2 deliver a u=200\n103 w2 start a\n300 w1 cont\n301 w1 end a",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Stop, At: 20 * ms, Latency: 83 * ms, To: "w2"}}},
		"continued in time": {begin + "20 w1 stop\n30 w1 cont\n31 w1 end a\n32 w1 settle_sent a v=ack", nil},
		"run elsewhere though still held": {"10 w1 deliver a u=1000\n11 w1 start a\n20 w1 stop\n30 w2 deliver a u=900\n31 w2 start a\n40 w1 cont\n41 w1 end a\n42 w1 settle_sent a v=ack",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Stop, At: 20 * ms, Latency: 11 * ms, To: "w2"}}},
		"given back too late": {begin + "20 w1 stop\n300 w1 cont\n301 w1 end a err=x\n302 w1 settle_sent a v=retry",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Stop, At: 20 * ms, Missing: true}}},
		"retried before": {"3 w0 deliver a u=100\n4 w0 start a\n5 w0 end a err=x\n6 w0 settle_sent a v=retry\n" + begin + "20 w1 kill",
			[]Redelivery{{Msg: "a", Proc: "w1", Fault: Kill, At: 20 * ms, Missing: true}}},
		"stopped for good":    {begin + "20 w1 stop", []Redelivery{{Msg: "a", Proc: "w1", Fault: Stop, At: 20 * ms, Missing: true}}},
		"settled before":      {begin + "12 w1 end a\n13 w1 settle_sent a v=ack\n20 w1 kill", nil},
		"lost before":         {begin + "13 w1 lease_lost a\n20 w1 kill", nil},
		"asked to stop":       {begin + "20 w1 kill sig=SIGTERM\n30 w1 end a\n31 w1 settle_sent a v=ack", nil},
		"another was killed":  {begin + "20 w2 kill", nil},
		"stopped, then other": {"8 w1 stop\n9 w1 cont\n" + begin, nil},
	} {
		t.Run(name, func(t *testing.T) {
			events := script(t, publish("a")+c.history)
			require.Equal(t, c.want, Index(events).Redeliveries())
			v := Check(events, Options{})
			require.Equal(t, c.want, v.Details.Redeliveries)
			require.Equal(t, len(c.want), v.Redelivered+v.RedeliveryMissing)
		})
	}
}

func TestWork(t *testing.T) {
	w := Check(script(t, publish("a", "b", "c", "d")+`
		1000 w1 deliver a u=9000
		1000 w1 start a
		2000 w1 kill
		9000 w2 deliver a u=20000
		9000 w2 start a
		13000 w2 end a
		13001 w2 settle_sent a v=ack
		13002 w2 settle_ok a
		1000 w2 deliver b u=9000
		1000 w2 start b
		1500 w2 end b err=x
		1500 w2 settle_sent b v=dead
		1501 w2 dead b
		1502 w2 settle_ok b
		1000 w3 deliver c u=9000
		1000 w3 start c
		1250 w3 end c err=draining
		1250 w3 settle_sent c v=release
		1251 w3 settle_ok c
		15000 w3 deliver d u=90000
		15000 w3 start d
		16000 p heal`), Options{}).Work
	require.Equal(t, Work{Useful: 4, Failed: 0.5, Wasted: 1.25, Running: 1, Ratio: 1.25 / 4}, w)
}

// A run whose lease is over can no longer be of use, though it is not at its end.
func TestWorkBeyondItsLease(t *testing.T) {
	w := Index(script(t, publish("a")+"1000 w1 deliver a u=2000\n1000 w1 start a\n3000 p heal")).Work()
	require.Equal(t, Work{Wasted: 2}, w)
}

func TestPeak(t *testing.T) {
	x := Index(script(t, `
		1 p publish_ok a ten=t1 key=k
		1 p publish_ok b ten=t1
		1 p publish_ok c ten=t2
		10 w1 deliver a u=100
		10 w1 deliver b u=100
		10 w2 deliver c u=100
		11 w1 start a
		12 w1 start b
		12 w2 start c
		13 w1 end a
		20 w1 kill
		20 w2 end c`))
	require.Equal(t, map[string]int{"w1": 2, "w2": 1}, x.Peak(ByProcess))
	require.Equal(t, map[string]int{"t1": 2, "t2": 1}, x.Peak(ByTenant))
	require.Equal(t, map[string]int{"k": 1}, x.Peak(ByKey))
	require.Equal(t, 3, x.Peak(func(*Run) string { return "all" })["all"])
}

func TestPeakOfTouchingRuns(t *testing.T) {
	x := Index(script(t, "1 w1 deliver a\n1 w1 deliver b\n2 w1 start a\n3 w1 end a\n3 w1 start b\n4 w1 end b"))
	require.Equal(t, map[string]int{"w1": 1}, x.Peak(ByProcess))
}

func TestProcesses(t *testing.T) {
	x := Index(script(t, `
		1 w1 join
		2 w1 proc_start
		3 w1 proc_ready n=2
		4 w1 deliver a u=100
		5 w1 start a
		6 w1 deliver b u=100
		7 w1 start b
		8 w1 end a
		10 w1 end b
		20 w1 stop
		30 w1 cont
		40 w1 proc_ready n=3
		50 w1 kill
		51 w1 proc_exit
		60 w1 join
		61 w1 proc_start
		62 w1 proc_ready n=1
		70 w1 kill sig=TERM
		71 w1 proc_drain
		72 w1 deliver a u=100
		73 w1 start a
		75 w1 end a
		80 w1 proc_exit
		90 p heal`))
	require.Len(t, x.Processes, 2)
	first, second := x.Processes[0], x.Processes[1]
	require.Equal(t, []int64{1, 2, 3, Never, 50}, scaled(first.Joined, first.Began, first.Ready, first.Drain, first.Down))
	require.Equal(t, []int64{60, 61, 62, 71, 80}, scaled(second.Joined, second.Began, second.Ready, second.Drain, second.Down))
	require.Equal(t, []bool{true, false}, []bool{first.Killed, second.Killed})
	require.Equal(t, 1, second.Life)
	require.Equal(t, []SlotSpan{
		{Span{3 * ms, 20 * ms}, 2}, {Span{30 * ms, 40 * ms}, 2}, {Span{40 * ms, 50 * ms}, 3},
	}, first.Live(x.To))
	require.Equal(t, (17*2+10*2+10*3)*ms, first.SlotTime(x.To))
	require.Equal(t, 9*ms, second.SlotTime(x.To))
	require.Equal(t, []Span{{5 * ms, 10 * ms}}, first.Busy())
	require.Equal(t, []Span{{73 * ms, 75 * ms}}, second.Busy())
	require.Len(t, x.Message("a").Deliveries, 2)
	require.Nil(t, x.Message("none"))
}

func scaled(moments ...int64) []int64 {
	for i, m := range moments {
		if m != Never {
			moments[i] = m / ms
		}
	}
	return moments
}

// The order in which the events come does not matter, only their moments.
func TestIndexSortsACopy(t *testing.T) {
	events := script(t, publish("a")+run)
	reversed := make([]Event, len(events))
	for i, e := range events {
		reversed[len(events)-1-i] = e
	}
	first := reversed[0]
	require.Equal(t, Check(events, Options{Drained: true}), Check(reversed, Options{Drained: true}))
	require.Equal(t, first, reversed[0])
}
