package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func newProducer(t *testing.T, b driver.Backend, cfg queue.ProducerConfig) *queue.Producer {
	t.Helper()
	cfg.Logger = quiet
	p, err := queue.NewProducer(t.Context(), b, "jobs", cfg)
	require.NoError(t, err)
	return p
}

func several(n int) []*queue.Message {
	ms := make([]*queue.Message, n)
	for i := range ms {
		ms[i] = msg(fmt.Sprint(i))
	}
	return ms
}

// outcomes are the errors of a Publish, one a message.
func outcomes(t *testing.T, err error, n int) queue.BatchError {
	t.Helper()
	var b queue.BatchError
	require.ErrorAs(t, err, &b)
	require.Len(t, b, n)
	return b
}

func TestPublishReportsEachMessage(t *testing.T) {
	f := &fakeBroker{answer: func(_ int, ms []*driver.Message) error {
		return each(ms, func(m *driver.Message) error {
			switch m.ID {
			case "1":
				return kind(driver.Denied)
			case "3":
				return kind(driver.Ambiguous)
			}
			return nil
		})
	}}
	var told []string
	p := newProducer(t, f, queue.ProducerConfig{Hooks: queue.Hooks{
		Published: func(m *queue.Message, err error) { told = append(told, fmt.Sprintf("%s %v", m.ID, err == nil)) },
	}})
	b := outcomes(t, p.Publish(t.Context(), several(5)...), 5)
	require.NoError(t, errors.Join(b[0], b[2], b[4]))
	require.ErrorIs(t, b[1], queue.ErrDenied)
	require.ErrorIs(t, b[3], queue.ErrAmbiguous)
	require.Len(t, f.calls, 1, "neither is sent again")
	require.Equal(t, []string{"0 true", "1 false", "2 true", "3 false", "4 true"}, told)

	err := p.Publish(t.Context(), msg("1"))
	require.ErrorIs(t, err, queue.ErrDenied)
	var qe *queue.Error
	require.ErrorAs(t, err, &qe)
	require.Equal(t, "1", qe.ID)
	require.Equal(t, driver.Denied, qe.Kind())
}

func TestPublishSetsIDs(t *testing.T) {
	f := &fakeBroker{}
	a, b := &queue.Message{}, &queue.Message{}
	require.NoError(t, newProducer(t, f, queue.ProducerConfig{}).Publish(t.Context(), a, b))
	require.NotEmpty(t, a.ID)
	require.NotEqual(t, a.ID, b.ID)
	require.Equal(t, []string{a.ID, b.ID}, f.ids())
	require.NoError(t, newProducer(t, f, queue.ProducerConfig{}).Publish(t.Context()), "nothing to publish")
}

func TestPublishResendsAmbiguous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fakeBroker{answer: func(call int, ms []*driver.Message) error {
			if call > 2 {
				return nil
			}
			return each(ms, func(m *driver.Message) error {
				if m.ID == "1" {
					return kind(driver.Ambiguous)
				}
				return nil
			})
		}}
		p := newProducer(t, f, queue.ProducerConfig{OnAmbiguous: queue.Resend})
		require.NoError(t, p.Publish(t.Context(), several(3)...))
		require.Len(t, f.calls, 3)
		for _, call := range f.calls[1:] {
			require.Len(t, call, 1, "only what is not confirmed is sent again")
			require.Equal(t, f.calls[0][1], call[0], "with the same ids, so that a broker can tell")
		}
	})
}

// Sent once without an answer, then the broker is away: it may be stored, and must not be reported as if it were not.
func TestPublishAmbiguousStaysAmbiguous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fakeBroker{answer: func(call int, _ []*driver.Message) error {
			if call == 1 {
				return kind(driver.Ambiguous)
			}
			return kind(driver.Unavailable)
		}}
		p := newProducer(t, f, queue.ProducerConfig{OnAmbiguous: queue.Resend, Patience: 3 * time.Second})
		err := p.Publish(t.Context(), msg("a"))
		require.ErrorIs(t, err, queue.ErrAmbiguous)
		require.Greater(t, len(f.calls), 2)
	})
}

func TestPublishTriesAgainWithinPatience(t *testing.T) {
	for _, k := range []driver.Kind{driver.Unavailable, driver.Throttled} {
		t.Run(string(k), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				began := time.Now()
				var failed int
				f := &fakeBroker{answer: func(int, []*driver.Message) error {
					if time.Since(began) < 20*time.Second {
						return kind(k)
					}
					return nil
				}}
				cfg := queue.ProducerConfig{Hooks: queue.Hooks{Failed: func(op string, err error) {
					require.Equal(t, "publish", op)
					require.ErrorIs(t, err, k)
					failed++
				}}}
				require.NoError(t, newProducer(t, f, cfg).Publish(t.Context(), several(2)...))
				require.Less(t, time.Since(began), 25*time.Second)
				require.Equal(t, len(f.calls)-1, failed)
				require.Less(t, failed, 25, "with growing pauses")
			})
		})
	}
}

// Patience is for the whole of a Publish, however many calls it takes.
func TestPublishGivesUpOnceForAllBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fakeBroker{
			caps:   driver.Capabilities{MaxBatch: 10},
			answer: func(int, []*driver.Message) error { return kind(driver.Unavailable) },
		}
		began := time.Now()
		b := outcomes(t, newProducer(t, f, queue.ProducerConfig{}).Publish(t.Context(), several(100)...), 100)
		require.LessOrEqual(t, time.Since(began), 31*time.Second)
		for _, err := range b {
			require.ErrorIs(t, err, queue.ErrUnavailable)
		}
	})
}

// Patience runs while nothing gets through: a broker that throttles a long batch is not given up.
func TestPublishIsPatientWhileSomethingGetsThrough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fakeBroker{answer: func(_ int, ms []*driver.Message) error {
			return each(ms, func(m *driver.Message) error {
				if m == ms[0] {
					return nil
				}
				return kind(driver.Throttled)
			})
		}}
		began := time.Now()
		require.NoError(t, newProducer(t, f, queue.ProducerConfig{Patience: 5 * time.Second}).Publish(t.Context(), several(60)...))
		require.Greater(t, time.Since(began), time.Minute)
		require.Len(t, f.ids(), 60)
	})
}

func TestPublishOneTry(t *testing.T) {
	f := &fakeBroker{
		caps:   driver.Capabilities{MaxBatch: 1},
		answer: func(int, []*driver.Message) error { return kind(driver.Unavailable) },
	}
	b := outcomes(t, newProducer(t, f, queue.ProducerConfig{Patience: -1}).Publish(t.Context(), several(3)...), 3)
	require.Len(t, f.calls, 3, "one for each message")
	require.ErrorIs(t, b[2], queue.ErrUnavailable)
}

func TestPublishEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fakeBroker{
			caps:   driver.Capabilities{MaxBatch: 1},
			answer: func(int, []*driver.Message) error { return kind(driver.Unavailable) },
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		b := outcomes(t, newProducer(t, f, queue.ProducerConfig{}).Publish(ctx, several(3)...), 3)
		require.Equal(t, 2*time.Second, time.Since(began))
		require.ErrorIs(t, b[1], queue.ErrUnavailable)
		require.ErrorIs(t, b[1], context.DeadlineExceeded)
	})
}

// A message of 20 MiB is refused at once, and its neighbours are stored.
func TestPublishTooLarge(t *testing.T) {
	b := memory.Open(memory.Config{})
	p := newProducer(t, b, queue.ProducerConfig{})
	before := b.Calls()["publish"]
	require.ErrorIs(t, p.Publish(t.Context(), &queue.Message{Body: make([]byte, 20<<20)}), queue.ErrTooLarge)
	require.Equal(t, before, b.Calls()["publish"], "nothing of it is sent")

	got := outcomes(t, p.Publish(t.Context(), msg("a"), &queue.Message{ID: "big", Body: make([]byte, 20<<20)}, msg("b")), 3)
	require.NoError(t, errors.Join(got[0], got[2]))
	require.ErrorIs(t, got[1], queue.ErrTooLarge)
	g, err := b.Gauge(t.Context(), "jobs")
	require.NoError(t, err)
	require.Equal(t, 2, g.Ready)
	require.ErrorIs(t, p.Publish(t.Context(), &queue.Message{Header: map[string]string{"x": strings.Repeat("y", 20<<20)}}), queue.ErrTooLarge)
	require.NoError(t, b.Close(t.Context()))
}

func TestPublishKeyOrder(t *testing.T) {
	f := &fakeBroker{
		caps: driver.Capabilities{KeyOrder: true, Carries: true, MaxBatch: 3},
		answer: func(_ int, ms []*driver.Message) error {
			keys := map[string]bool{}
			for _, m := range ms {
				require.False(t, keys[m.Key] && m.Key != "", "one of a key at a time")
				keys[m.Key] = true
			}
			return each(ms, func(m *driver.Message) error {
				switch m.ID {
				case "a1":
					return kind(driver.Invalid)
				case "b1":
					return kind(driver.Ambiguous)
				}
				return nil
			})
		},
	}
	var ms []*queue.Message
	for i := range 4 {
		for _, key := range []string{"a", "b", "c", ""} {
			ms = append(ms, &queue.Message{ID: fmt.Sprint(key, i), Key: key})
		}
	}
	ms = append(ms, &queue.Message{ID: "d0", Key: "d", Delay: -1}, &queue.Message{ID: "d1", Key: "d"})
	p := newProducer(t, f, queue.ProducerConfig{Needs: queue.Needs{KeyOrder: true}})
	b := outcomes(t, p.Publish(t.Context(), ms...), len(ms))
	got := map[string]error{}
	for i, m := range ms {
		got[m.ID] = b[i]
	}
	require.ErrorIs(t, got["a1"], queue.ErrInvalid)
	require.ErrorIs(t, got["b1"], queue.ErrAmbiguous)
	require.ErrorIs(t, got["d0"], queue.ErrInvalid)
	for _, after := range []string{"a2", "a3", "b2", "b3", "d1"} {
		require.ErrorIs(t, got[after], queue.ErrUnsent, after)
	}
	var ofC []string
	for _, id := range f.ids() {
		if strings.HasPrefix(id, "c") {
			ofC = append(ofC, id)
		}
	}
	require.Equal(t, []string{"c0", "c1", "c2", "c3"}, ofC)
	require.Len(t, f.ids(), 10, "a0, b0, all of c and of no key")
}

func TestPublishRefusesWhatTheBrokerCannot(t *testing.T) {
	b := memory.Open(memory.Config{NoDelay: true})
	p := newProducer(t, b, queue.ProducerConfig{})
	got := outcomes(t, p.Publish(t.Context(), msg("a"), &queue.Message{ID: "later", Delay: time.Second}), 2)
	require.NoError(t, got[0])
	var unsupported *queue.UnsupportedError
	require.ErrorAs(t, got[1], &unsupported)
	require.Contains(t, unsupported.Error(), "no delay")

	for name, m := range map[string]*queue.Message{
		"negative delay": {Delay: -time.Second},
		"own header":     {Header: map[string]string{"HF-id": "x"}},
		"binary header":  {Header: map[string]string{"x": "\xff"}},
		"binary id":      {ID: "\xff"},
		"binary key":     {Key: "\xff"},
		"binary tenant":  {Tenant: "\xff"},
	} {
		require.ErrorIs(t, p.Publish(t.Context(), m), queue.ErrInvalid, name)
	}
	require.NoError(t, b.Close(t.Context()))
	require.ErrorIs(t, p.Publish(t.Context(), msg("b")), queue.ErrClosed)

	_, err := queue.NewProducer(t.Context(), memory.Open(memory.Config{}), "jobs", queue.ProducerConfig{Needs: queue.Needs{MessageBytes: memory.DefaultMaxBytes}})
	require.ErrorAs(t, err, &unsupported, "no room to retry or dead-letter a message that fills the broker's limit")
}
