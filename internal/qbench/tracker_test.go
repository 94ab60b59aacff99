package qbench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

func TestTrackerFollowsAHandmadeRun(t *testing.T) {
	w, events := handmade()
	sorted := history.Index(events) // for its bounds only: add takes events as the journals give them
	tr := newTracker(w)
	var reruns []rerun
	for at := sorted.From; at <= sorted.To; at += sec / 20 {
		for _, e := range events {
			if e.T == at {
				reruns = append(reruns, tr.add([]history.Event{e})...)
			}
		}
		switch at {
		case 101 * sec:
			h, since, found := tr.longest(at)
			require.True(t, found)
			require.Equal(t, "m1", h.msg)
			require.Equal(t, 100*sec+sec/10, since)
			require.Zero(t, tr.share())
		case 101*sec + sec*9/20:
			require.Equal(t, 1, tr.completed)
			require.Equal(t, 1, tr.dead)
			require.InDelta(t, 0.5, tr.share(), 1e-9)
			require.Len(t, tr.running, 1)
		case 103 * sec:
			require.Empty(t, tr.running, "what a killed process ran does not run any more")
			require.Equal(t, map[string]bool{"w2": true, "w3": true}, tr.ready)
		}
	}
	require.Empty(t, tr.pending)
	require.Equal(t, []rerun{{msg: "m2", proc: "w3", after: 5 * time.Second}}, reruns)
	require.InDelta(t, 0.75, tr.share(), 1e-9)
}

func TestTrackerPrefersAVictimThatIsNotAboutToEnd(t *testing.T) {
	w := &workload.Workload{Messages: []workload.Job{
		{ID: "old", Run: 10 * time.Second}, {ID: "young", Run: 10 * time.Second}, {ID: "instant"},
	}}
	tr := newTracker(w)
	tr.add([]history.Event{
		{T: sec, Kind: history.Start, Proc: "w1", Msg: "old", Delivery: 1},
		{T: 2 * sec, Kind: history.Start, Proc: "w2", Msg: "young", Delivery: 1},
		{T: sec / 2, Kind: history.Start, Proc: "w3", Msg: "instant", Delivery: 1},
	})
	h, _, _ := tr.longest(5 * sec)
	require.Equal(t, "w1", h.proc)
	h, _, _ = tr.longest(10*sec + sec*95/100)
	require.Equal(t, "w2", h.proc, "old has 50 ms left")
	tr.add([]history.Event{{T: 11 * sec, Kind: history.ProcExit, Proc: "w1"}, {T: 11 * sec, Kind: history.ProcExit, Proc: "w2"}})
	h, _, found := tr.longest(11 * sec)
	require.True(t, found)
	require.Equal(t, "w3", h.proc, "better than nobody")
}

func TestTrackerWaitsForWhatMayHaveBeenStored(t *testing.T) {
	tr := newTracker(&workload.Workload{Messages: []workload.Job{{ID: "a"}, {ID: "b"}, {ID: "c"}}})
	tr.add([]history.Event{
		{Kind: history.PublishOK, Msg: "a"}, {Kind: history.PublishErr, Msg: "b"},
		{Kind: history.PublishErr, Msg: "c", Definite: true},
	})
	require.Equal(t, map[string]bool{"a": true, "b": true}, tr.pending)
	require.Equal(t, 1, tr.refused)
	// A message may be done before its confirmation is known.
	late := newTracker(&workload.Workload{Messages: []workload.Job{{ID: "a"}}})
	late.add([]history.Event{{Kind: history.SettleOK, Msg: "a", Verdict: history.VerdictAck}, {Kind: history.PublishOK, Msg: "a"}})
	require.Empty(t, late.pending)
	require.InDelta(t, 1, late.share(), 1e-9, "work that takes no time counts by message")
	late.add([]history.Event{{Kind: crewNoise, Proc: "w1", T: 9 * sec}})
	require.Zero(t, late.last, "what workers note about themselves is no sign of life of a message")
}

const crewNoise history.Kind = "rss"
