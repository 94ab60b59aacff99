package middleware_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/middleware"
)

var errBroken = errors.New("broken")

func delivery(id string) *queue.Delivery {
	return &queue.Delivery{Message: queue.Message{ID: id, Body: []byte("secret")}, Attempt: 1}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := middleware.Log(slog.New(slog.NewTextHandler(&out, nil)))
	result := error(nil)
	h := log(func(context.Context, *queue.Delivery) error { return result })
	require.NoError(t, h(t.Context(), delivery("a")))
	require.Contains(t, out.String(), "level=INFO")
	require.NotContains(t, out.String(), "secret")
	result = errBroken
	require.ErrorIs(t, h(t.Context(), delivery("b")), errBroken)
	require.Contains(t, out.String(), "level=WARN")
	require.Contains(t, out.String(), "err=broken")
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := map[string]time.Duration{"slow": time.Minute}
		h := middleware.Timeout(func(d *queue.Delivery) time.Duration { return limits[d.ID] })(
			func(ctx context.Context, d *queue.Delivery) error {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Hour):
					return nil
				}
			})
		began := time.Now()
		require.ErrorIs(t, h(t.Context(), delivery("slow")), queue.ErrTimeout)
		require.Equal(t, time.Minute, time.Since(began))
		require.NoError(t, h(t.Context(), delivery("free")), "no limit")
	})
}

func TestOnce(t *testing.T) {
	runs := map[string]int{}
	fail := true
	h := middleware.Once(2)(func(_ context.Context, d *queue.Delivery) error {
		runs[d.ID]++
		if d.ID == "f" && fail {
			return errBroken
		}
		return nil
	})
	for _, id := range []string{"a", "a", "b", "a", "c", "a"} {
		require.NoError(t, h(t.Context(), delivery(id)))
	}
	require.Equal(t, map[string]int{"a": 2, "b": 1, "c": 1}, runs, "a was forgotten for c")
	require.Error(t, h(t.Context(), delivery("f")))
	fail = false
	require.NoError(t, h(t.Context(), delivery("f")))
	require.Equal(t, 2, runs["f"], "a failure is not remembered")
}

func TestChainRunsTheFirstOutermost(t *testing.T) {
	var order []string
	note := func(name string) queue.Middleware {
		return func(next queue.Handler) queue.Handler {
			return func(ctx context.Context, d *queue.Delivery) error {
				order = append(order, name)
				return next(ctx, d)
			}
		}
	}
	h := queue.Chain(func(context.Context, *queue.Delivery) error { return nil }, note("one"), note("two"))
	require.NoError(t, h(t.Context(), delivery("a")))
	require.Equal(t, []string{"one", "two"}, order)
}
