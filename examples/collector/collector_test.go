package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
)

// platform stands in for the advertising platform: it throttles each advertiser's first request and knows no "wrong".
type platform struct {
	mu   sync.Mutex
	seen map[string]int
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[r.URL.Path]++
	switch {
	case strings.Contains(r.URL.Path, "/wrong/"):
		w.WriteHeader(http.StatusBadRequest)
	case p.seen[r.URL.Path] == 1:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		_, _ = w.Write([]byte("clicks: 7"))
	}
}

func TestSchedulerAndWorker(t *testing.T) {
	api := &platform{seen: map[string]int{}}
	server := httptest.NewServer(api)
	defer server.Close()
	backend := memory.Open(memory.Config{})
	defer backend.Close(t.Context())

	p, err := queue.NewProducer(t.Context(), backend, "collect", queue.ProducerConfig{Lanes: lanes})
	require.NoError(t, err)
	who := []advertiser{{"acme", true}, {"globex", false}, {"wrong", false}}
	require.NoError(t, schedule(t.Context(), p, "2026-11-22", who, []string{"search", "social"}))
	require.NoError(t, schedule(t.Context(), p, "2026-11-22", who, []string{"search"}), "again: deduplicated")

	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	collected := make(chan report, 100)
	c := &collector{api: server.URL, client: server.Client(), store: func(_ context.Context, r report, token uint64, data []byte) error {
		require.Equal(t, "clicks: 7", string(data))
		require.NotZero(t, token)
		collected <- r
		return nil
	}}
	w, err := newWorker(backend)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, queue.JSON(c.collect)) }()
	got := map[report]int{}
	for range 4 {
		select {
		case r := <-collected:
			got[r]++
		case <-ctx.Done():
			require.Fail(t, "not collected in time", "%v", got)
		}
	}
	require.Eventually(t, func() bool { return w.Stats().DeadLettered == 2 }, 10*time.Second, 10*time.Millisecond)
	stop()
	require.NoError(t, <-done)
	require.Len(t, got, 4, "each once: %v", got)
	require.EqualValues(t, 4, w.Stats().Retried, "each was throttled once")
	require.EqualValues(t, 4, w.Stats().Acked)
}
