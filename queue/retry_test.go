package queue

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRetryDelay(t *testing.T) {
	steady := Retry{Jitter: -1}.withDefaults()
	want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600}
	for i, w := range want {
		require.Equal(t, w*time.Second, steady.delay(i+1))
	}
	require.Equal(t, time.Second, steady.delay(0))
	require.Equal(t, 10*time.Minute, steady.delay(math.MaxInt))
	require.Equal(t, minRedelay, Retry{Base: 1, Factor: 1}.withDefaults().delay(5))

	rapid.Check(t, func(t *rapid.T) {
		r := Retry{
			Base: time.Duration(rapid.Int64().Draw(t, "base")), Factor: rapid.Float64Range(0, 1e9).Draw(t, "factor"),
			Max: time.Duration(rapid.Int64().Draw(t, "max")), Jitter: rapid.Float64Range(-1, 5).Draw(t, "jitter"),
		}.withDefaults()
		d := r.delay(rapid.Int().Draw(t, "n"))
		if d < minRedelay || d > max(r.Max, minRedelay) {
			t.Fatalf("%+v: %v", r, d)
		}
	})
}

func TestReleaseDelayGrowsToABound(t *testing.T) {
	require.Zero(t, releaseDelay(0), "a drain: at once")
	last := time.Duration(0)
	for n := 1; n < 100; n++ {
		d := releaseDelay(n)
		require.GreaterOrEqual(t, d, minRedelay*9/10)
		require.LessOrEqual(t, d, maxReleaseDelay*11/10)
		require.Greater(t, d, last*3/5)
		last = d
	}
	require.LessOrEqual(t, releaseDelay(math.MaxInt), maxReleaseDelay*11/10)
}

func TestBackoff(t *testing.T) {
	b := backoff{first: time.Second, top: 4 * time.Second}
	for _, mean := range []time.Duration{1, 2, 4, 4, 4} {
		d := b.pause()
		require.InDelta(t, float64(mean*time.Second), float64(d), float64(mean*time.Second)/2)
	}
	b.reset()
	require.LessOrEqual(t, b.pause(), 1500*time.Millisecond)
}

func TestJSONRejectsWhatDoesNotDecode(t *testing.T) {
	ran := false
	h := JSON(func(context.Context, struct{ N int }, *Delivery) error { ran = true; return nil })
	for _, body := range []string{"", "{", `{"N":"x"}`, `{"N":1} x`} {
		err := h(t.Context(), &Delivery{Message: Message{Body: []byte(body)}})
		var said *verdictError
		require.ErrorAs(t, err, &said)
		require.Equal(t, VerdictReject, said.verdict)
		require.ErrorContains(t, err, "decode body")
	}
	require.False(t, ran)
	require.NoError(t, h(t.Context(), &Delivery{Message: Message{Body: []byte(`{"N":1}`)}}))
	require.True(t, ran)
	_, err := NewJSON(make(chan int))
	require.Error(t, err)
	require.False(t, errors.Is(err, ErrInvalid))
}
