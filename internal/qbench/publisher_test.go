package qbench

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// publishAll publishes a workload to a broker in memory and returns the publisher and its journal.
func publishAll(ctx context.Context, t *testing.T, w *workload.Workload, c memory.Config) (*publisher, []history.Event) {
	t.Helper()
	b := memory.Open(c)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	out, err := queue.NewProducer(t.Context(), b, "q", queue.ProducerConfig{Lanes: lanes(w), Patience: -1})
	require.NoError(t, err)
	var journal bytes.Buffer
	p := newPublisher(&run{plan: &plan{load: w}, queue: "q"}, out, history.NewWriter(&journal, producerName, nil))
	p.run(ctx, history.Now())
	require.True(t, p.over())
	events, err := history.Read(&journal)
	require.NoError(t, err)
	return p, events
}

func TestPublisherKeepsTheOrderOfABacklog(t *testing.T) {
	w, err := workload.Collector(workload.CollectorConfig{Messages: 250})
	require.NoError(t, err)
	p, events := publishAll(t.Context(), t, w, memory.Config{})
	late, fault, unwritten := p.result()
	require.NoError(t, fault)
	require.NoError(t, unwritten)
	require.Len(t, late, 250)
	next := 0
	for _, e := range events {
		if e.Kind == history.PublishOK {
			require.Equal(t, w.Messages[next].ID, e.Msg)
			next++
		}
	}
	require.Equal(t, 250, next)
}

func TestPublisherSendsEachMessageAtItsInstant(t *testing.T) {
	w := &workload.Workload{Model: workload.Open, Messages: []workload.Job{
		{ID: "a"}, {ID: "b", At: 30 * time.Millisecond}, {ID: "c", At: 30 * time.Millisecond}, {ID: "d", At: 60 * time.Millisecond},
	}}
	_, events := publishAll(t.Context(), t, w, memory.Config{})
	var t0 int64
	seen := 0
	for _, e := range events {
		if e.Kind != history.PublishInvoke {
			continue
		}
		if e.Msg == "a" {
			t0 = e.Due
		}
		require.GreaterOrEqual(t, e.T, e.Due, "never early")
		seen++
	}
	require.Equal(t, 4, seen)
	for _, e := range events {
		if e.Kind == history.PublishInvoke && e.Msg == "d" {
			require.Equal(t, t0+int64(60*time.Millisecond), e.Due)
		}
	}
}

func TestPublisherWritesDownWhatWasRefused(t *testing.T) {
	w := &workload.Workload{Model: workload.Closed, Messages: []workload.Job{
		{ID: "fits"}, {ID: "large", Seq: 1, BodyBytes: 100_000},
	}}
	p, events := publishAll(t.Context(), t, w, memory.Config{MaxBytes: 10_000})
	_, fault, _ := p.result()
	require.ErrorIs(t, fault, queue.ErrTooLarge)
	for _, e := range events {
		switch {
		case e.Kind == history.PublishOK:
			require.Equal(t, "fits", e.Msg)
		case e.Kind == history.PublishErr:
			require.Equal(t, "large", e.Msg)
			require.True(t, e.Definite)
		}
	}
	v := history.Check(events, history.Options{})
	require.Equal(t, []int{2, 1}, []int{v.Published, v.Confirmed})
}

func TestPublisherStopsWhenItIsToldTo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w := &workload.Workload{Model: workload.Open, Messages: []workload.Job{{ID: "soon"}, {ID: "never", At: time.Hour}}}
	_, events := publishAll(ctx, t, w, memory.Config{})
	for _, e := range events {
		require.Equal(t, "soon", e.Msg)
	}
}

func TestRetryPolicyIsTheReferences(t *testing.T) {
	r := workload.Retry{MaxAttempts: 4, Base: 300 * time.Millisecond, Cap: time.Second}
	q := retry(r)
	require.Equal(t, queue.Retry{
		MaxAttempts: 4, MaxCrashes: 5, Base: 300 * time.Millisecond, Factor: 2, Max: time.Second, Jitter: -1,
	}, q)
	delay := redelay(r)
	require.Equal(t, 300*time.Millisecond, delay(1, workload.Job{}))
	require.Equal(t, time.Second, delay(3, workload.Job{}))
	require.Equal(t, minRedelay, redelay(workload.Retry{})(1, workload.Job{}))
	require.Positive(t, retry(workload.Retry{}).Base, "zero would mean package queue's own default")
	require.Greater(t, retry(workload.Retry{Base: time.Second}).Max, time.Hour)
}
