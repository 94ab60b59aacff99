package history

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	begun = "10 w1 deliver a u=100\n11 w1 start a\n"
	rerun = `
			200 w2 deliver a u=1000
			201 w2 start a
			202 w2 end a
			203 w2 settle_sent a v=ack
			204 w2 settle_ok a`
)

var duplicateCases = map[string]struct {
	history string
	want    Cause // empty: none
}{
	"none":           {"10 w1 deliver a u=20" + rerun, ""},
	"retry":          {begun + "20 w1 end a err=x\n21 w1 settle_sent a v=retry\n22 w1 settle_ok a" + rerun, CauseRetry},
	"retry, unsure":  {begun + "20 w1 end a err=x\n21 w1 settle_sent a v=retry\n22 w1 kill" + rerun, CauseRetry},
	"release":        {begun + "20 w1 end a err=x\n21 w1 settle_sent a v=release\n22 w1 settle_ok a" + rerun, CauseRelease},
	"kill":           {begun + "20 w1 kill" + rerun, CauseKill},
	"kill after end": {begun + "20 w1 end a\n21 w1 kill" + rerun, CauseKill},
	"exit":           {begun + "20 w1 proc_exit" + rerun, CauseKill},
	"gone unseen":    {begun + "20 w1 proc_start" + rerun, CauseKill},
	"kill seen early": {`
			5 w1 kill
			10 w1 deliver a u=100
			11 w1 start a` + rerun, CauseKill},
	"its own death is no reason": {`
			10 w1 deliver a u=100
			11 w1 start a
			20 w1 end a
			21 w1 settle_sent a v=ack
			22 w1 settle_ok a
			150 w2 kill
			200 w2 deliver a u=1000
			201 w2 start a`, CauseUnexplained},
	"lease lost":        {begun + "20 w1 lease_lost a" + rerun, CauseLeaseLost},
	"lease ran out":     {begun + "50 w1 stop" + rerun, CauseLeaseLost},
	"lost, then killed": {begun + "20 w1 lease_lost a\n21 w1 kill" + rerun, CauseLeaseLost},
	"late ack":          {begun + rerun + "\n300 w1 end a\n301 w1 settle_sent a v=ack\n302 w1 settle_ok a", CauseLeaseLost},
	"ack lost":          {begun + "20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 settle_err a" + rerun, CauseAckLost},
	"ack lost in death": {begun + "20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 kill" + rerun, CauseAckLost},
	"ack never sent":    {begun + "20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 settle_err a def=true" + rerun, CauseLeaseLost},
	"ambiguous publish": {"3 p publish_invoke a\n4 p publish_err a\n" + begun +
		"20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 settle_ok a" + rerun, CauseAmbiguousPublish},
	"refused publish": {"3 p publish_invoke a\n4 p publish_err a def=true\n" + begun +
		"20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 settle_ok a" + rerun, CauseUnexplained},
	"redrive": {begun + "20 w1 end a err=x\n21 w1 settle_sent a v=dead\n22 w1 dead a\n23 w1 settle_ok a\n30 x redrive a" + rerun,
		CauseRedrive},
	"unexplained": {begun + "20 w1 end a\n21 w1 settle_sent a v=ack\n22 w1 settle_ok a" + rerun, CauseUnexplained},
	"too early":   {"10 w1 deliver a u=300\n11 w1 start a\n" + rerun, CauseUnexplained},
	"one delivery run twice": {`
			200 w2 deliver a u=1000
			201 w2 start a
			202 w2 end a
			203 w2 start a
			204 w2 end a
			205 w2 settle_sent a v=ack
			206 w2 settle_ok a`, CauseUnexplained},
	"given back and run again in the same moment": {`
			10 w1 deliver a u=100
			10 w1 start a
			10 w1 end a
			10 w1 settle_sent a v=release
			10 w1 settle_ok a
			10 w2 deliver a u=100
			10 w2 start a
			10 w2 end a
			10 w2 settle_sent a v=ack
			10 w2 settle_ok a`, CauseRelease},
	"too late to be sent": {begun + rerun + "\n300 w1 end a\n301 w1 settle_err a v=ack", CauseLeaseLost},
	"killed, then given back unstarted": {begun + `
			20 w1 kill
			100 w3 deliver a u=1000
			101 w3 settle_sent a v=release
			102 w3 settle_ok a` + rerun, CauseKill},
	"killed, then counted": {begun + `
			20 w1 kill
			100 w3 deliver a u=1000
			101 w3 settle_sent a v=recount
			102 w3 copy a
			103 w3 settle_ok a` + rerun, CauseKill},
}

func TestDuplicatesByCause(t *testing.T) {
	for name, c := range duplicateCases {
		t.Run(name, func(t *testing.T) {
			v := Check(script(t, publish("a")+c.history), Options{Drained: true})
			require.Equal(t, 1, v.Completed)
			want := map[Cause]int{}
			switch c.want {
			case "", CauseRetry, CauseRelease, CauseRedrive:
			default:
				want[c.want] = 1
			}
			require.Equal(t, want, v.Duplicates.ByCause)
			require.Equal(t, len(want), v.Duplicates.Total)
			require.Len(t, v.Details.Duplicates, len(want))
			counts := map[Cause]int{CauseRetry: v.Retries, CauseRelease: v.Releases, CauseRedrive: v.Redrives}
			for cause, n := range counts {
				require.Equal(t, cause == c.want, n == 1, "%s: %d", cause, n)
			}
		})
	}
}

// A copy whose original was never acked brings the message back twice: once as a retry, once as a duplicate.
// Its process may have died before it could write that the copy was there.
func TestDuplicateOfACopiedOriginal(t *testing.T) {
	for name, copied := range map[string]string{"copy confirmed": "14 w1 copy a", "copy only seen": ""} {
		t.Run(name, func(t *testing.T) { testCopiedOriginal(t, copied) })
	}
}

func testCopiedOriginal(t *testing.T, copied string) {
	v := Check(script(t, publish("a")+`
		10 w1 deliver a u=100
		11 w1 start a
		12 w1 end a err=x
		13 w1 settle_sent a v=retry
		15 w1 kill
		20 w2 deliver a u=50 g=1
		21 w2 start a
		22 w2 end a
		23 w2 settle_sent a v=ack
		24 w2 settle_ok a
		100 w2 deliver a u=200
		101 w2 start a
		102 w2 end a
		103 w2 settle_sent a v=ack
		104 w2 settle_ok a
		`+copied), Options{Drained: true})
	require.True(t, v.Valid, v.InvalidReasons)
	require.Equal(t, 1, v.Retries)
	require.Equal(t, map[Cause]int{CauseAckLost: 1}, v.Duplicates.ByCause)
	require.Equal(t, 1, v.Duplicates.FinishedAgain)
}

// Each reason explains one run, not any number of them.
func TestAReasonIsUsedOnce(t *testing.T) {
	v := Check(script(t, publish("a")+`
		10 w1 deliver a u=100
		11 w1 start a
		12 w1 kill
		100 w2 deliver a u=200
		101 w2 start a
		102 w2 end a
		103 w2 settle_sent a v=ack
		104 w2 settle_ok a
		105 w3 deliver a u=200
		106 w3 start a`), Options{})
	require.Equal(t, map[Cause]int{CauseKill: 1, CauseUnexplained: 1}, v.Duplicates.ByCause)
}

func TestWhichDuplicatesAreFatal(t *testing.T) {
	killed := script(t, publish("a")+"10 w1 deliver a u=100\n11 w1 start a\n12 w1 kill\n100 w2 deliver a u=200\n101 w2 start a")
	require.True(t, Check(killed, Options{}).Valid)
	require.False(t, Check(killed, Options{FaultFree: true}).Valid)
	odd := script(t, publish("a")+"10 w1 deliver a\n11 w1 start a\n12 w1 end a\n13 w1 settle_sent a v=ack\n"+
		"14 w2 deliver a\n15 w2 start a\n16 w1 settle_ok a\n17 w2 end a\n18 w2 settle_sent a v=ack")
	require.True(t, Check(odd, Options{SettleUnconfirmed: true}).Valid, "acks were lost")
	require.False(t, Check(odd, Options{}).Valid)
	require.True(t, Check(odd, Options{AllowUnexplained: true}).Valid)
}
