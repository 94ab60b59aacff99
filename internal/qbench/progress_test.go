package qbench

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

func halfway() *tracker {
	t := newTracker(&workload.Workload{Messages: []workload.Job{{ID: "a", Run: time.Second}, {ID: "b", Run: time.Second}}})
	t.add([]history.Event{
		{Kind: history.ProcReady, Proc: "w1"}, {Kind: history.PublishOK, Msg: "a"}, {Kind: history.PublishOK, Msg: "b"},
		{Kind: history.SettleOK, Msg: "a", Verdict: history.VerdictAck},
	})
	return t
}

const halfwayLine = "██████████░░░░░░░░░░  50 %  1 of 2 done  0 dead  0 running  1 waiting  1 worker"

func TestProgressWritesALineNowAndThen(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&Program{Stderr: &out}, false)
	p.t0 = sec
	p.step(halfway(), 3*sec)
	p.step(halfway(), 3*sec) // too soon
	p.event(4*sec, "%s joins", "w2")
	require.Equal(t, "    2.0s  "+halfwayLine+"\n    3.0s  w2 joins\n", out.String())
}

func TestProgressRewritesItsLineOnATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&Program{Stderr: &out, Live: true}, false)
	p.step(halfway(), 2*sec)
	p.event(3*sec, "w2 joins")
	p.clear()
	require.Equal(t, "    2.0s  "+halfwayLine+"\r\x1b[K    3.0s  w2 joins\n", out.String())
}

func TestQuietProgressSaysNothing(t *testing.T) {
	p := newProgress(&Program{}, true) // a nil writer would panic
	p.step(halfway(), sec)
	p.event(sec, "kill")
	p.say("words")
	p.clear()
}
