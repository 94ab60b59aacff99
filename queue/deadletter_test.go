package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// full is a message with something in every field.
func full(id string) *queue.Message {
	body := make([]byte, 256)
	for i := range body {
		body[i] = byte(i)
	}
	return &queue.Message{
		ID: id, Tenant: "acme ü", Key: "k/1", Priority: -7, Body: body,
		Header: map[string]string{"traceparent": "00-1-2-01", "empty": "", "ünïcode": "ß\n"},
	}
}

func requireFull(t *testing.T, want *queue.Message, got *queue.Delivery) {
	t.Helper()
	require.Equal(t, want.ID, got.ID)
	require.Equal(t, want.Tenant, got.Tenant)
	require.Equal(t, want.Key, got.Key)
	require.Equal(t, want.Priority, got.Priority)
	require.Equal(t, want.Header, got.Header)
	require.Equal(t, want.Body, got.Body)
}

func TestDeadLetterIsComplete(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				born := time.Now()
				b.publish(full("rejected"), full("failing"))
				h := func(_ context.Context, d *queue.Delivery) error {
					if d.ID == "rejected" {
						return queue.Reject(errors.New("no such\ncampaign"))
					}
					return fmt.Errorf("try %d", d.Attempt)
				}
				w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 3, Jitter: -1}}, h)
				time.Sleep(time.Minute)
				require.NoError(t, w.end())
				dead := map[string]*queue.Delivery{}
				for _, d := range b.deadLetters() {
					dead[d.ID] = d
					requireFull(t, full(d.ID), d)
					require.Equal(t, born.UTC(), d.PublishedAt)
					require.Equal(t, "jobs", d.Dead.Origin)
					require.Zero(t, d.Dead.Crashes)
					require.Equal(t, 1, d.Attempt, "a life of its own")
				}
				require.Len(t, dead, 2)
				failed := dead["failing"].Dead
				require.Equal(t, queue.ReasonAttempts, failed.Reason)
				require.Equal(t, 3, failed.Attempts)
				require.Equal(t, "try 3", failed.Err)
				require.WithinRange(t, failed.First, born, born.Add(time.Second))
				require.WithinRange(t, failed.Last, born.Add(3*time.Second), born.Add(4*time.Second))
				rejected := dead["rejected"].Dead
				require.Equal(t, queue.ReasonRejected, rejected.Reason)
				require.Equal(t, 1, rejected.Attempts)
				require.Equal(t, "no such campaign", rejected.Err)
				require.Equal(t, rejected.First, rejected.Last)
				require.Zero(t, b.depth("jobs"))
			})
		})
	}
}

func TestDeadLetterOfCrashes(t *testing.T) {
	for _, name := range []string{"full", "like SQS", "flag only", "flag with state", "drops after 5"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, brokers()[name])
				b.publish(full("a"))
				var starts atomic.Int64
				for range 8 { // the first start fails, each of the others is a process that dies
					kill := make(chan struct{}, 1)
					w := b.work(queue.WorkerConfig{}, func(ctx context.Context, d *queue.Delivery) error {
						if starts.Add(1) == 1 {
							return errBroken
						}
						kill <- struct{}{}
						<-ctx.Done()
						return context.Cause(ctx)
					})
					select {
					case <-kill:
						w.backend.Kill()
					case <-time.After(time.Minute):
					}
					time.Sleep(31 * time.Second)
					_ = w.end()
				}
				require.EqualValues(t, 6, starts.Load(), "one failure and five crashes")
				dead := b.deadLetters()
				require.Len(t, dead, 1)
				requireFull(t, full("a"), dead[0])
				require.Equal(t, queue.ReasonCrashes, dead[0].Dead.Reason)
				require.Equal(t, 5, dead[0].Dead.Crashes)
				require.Equal(t, 1, dead[0].Dead.Attempts)
				require.Equal(t, errBroken.Error(), dead[0].Dead.Err)
				require.Zero(t, b.depth("jobs"))
			})
		})
	}
}

// What a newer Holdfast published is kept as it came, and comes back as it came.
func TestUnreadableEnvelopeIsDeadLetteredAsItCame(t *testing.T) {
	for name, header := range map[string]map[string]string{
		"newer":   {"hf-v": "2", "hf-id": "n", "hf-new": "thing", "hf-attempts": "1 of 3", "x": "y"},
		"damaged": {"hf-v": "1", "hf-id": "n", "hf-generation": "-", "x": "y"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, memory.Config{})
				backend := b.broker.Open()
				raw, err := backend.OpenProducer(t.Context(), "jobs")
				require.NoError(t, err)
				require.NoError(t, raw.Publish(t.Context(), []*driver.Message{{ID: "n", Header: header, Body: []byte("b")}}))
				b.publish(msg("readable"))
				w := b.work(queue.WorkerConfig{}, func(_ context.Context, d *queue.Delivery) error {
					require.Equal(t, "readable", d.ID)
					return nil
				})
				time.Sleep(time.Minute)
				require.EqualValues(t, 1, w.Stats().DeadLettered)
				require.NoError(t, w.end())
				seen, err := backend.Peek(t.Context(), "jobs.dead", 9)
				require.NoError(t, err)
				require.Len(t, seen, 1)
				for name, value := range header {
					require.Equal(t, value, seen[0].Header[name])
				}
				require.Equal(t, "envelope", seen[0].Header["hf-dead-reason"])
				require.Equal(t, "jobs", seen[0].Header["hf-dead-origin"])

				n, err := queue.Redrive(t.Context(), backend, "jobs.dead", queue.RedriveConfig{})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				back, err := backend.Peek(t.Context(), "jobs", 9)
				require.NoError(t, err)
				require.Len(t, back, 1)
				require.Equal(t, header, back[0].Header)
				require.NoError(t, backend.Close(t.Context()))
			})
		})
	}
}

// A state that does not decode is damage too; what the headers say is still good. It must not need any headers.
func TestDamagedStateIsDeadLettered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		backend := b.broker.Open()
		raw, err := backend.OpenProducer(t.Context(), "jobs")
		require.NoError(t, err)
		require.NoError(t, raw.Publish(t.Context(), []*driver.Message{{ID: "foreign", Body: []byte("b")}}))
		c, err := backend.OpenConsumer(t.Context(), "jobs", driver.ConsumerConfig{})
		require.NoError(t, err)
		ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, 0)
		require.NoError(t, err)
		require.NoError(t, c.Nack(t.Context(), []driver.Return{{D: ds[0], State: "{"}}))
		require.NoError(t, backend.Close(t.Context()))

		w := b.work(queue.WorkerConfig{}, func(context.Context, *queue.Delivery) error { return errors.New("must not run") })
		time.Sleep(time.Minute)
		require.NoError(t, w.end())
		dead := b.deadLetters()
		require.Len(t, dead, 1)
		require.Equal(t, queue.ReasonEnvelope, dead[0].Dead.Reason)
		require.Equal(t, "foreign", dead[0].ID)
		require.True(t, dead[0].Foreign)
	})
}

// While the dead letter cannot be stored the original stays, and once it can it is stored once.
func TestOriginalStaysUntilItsDeadLetterIsStored(t *testing.T) {
	for _, k := range []driver.Kind{driver.Unavailable, driver.Ambiguous, driver.NotFound, driver.Denied, driver.TooLarge, driver.Unknown} {
		t.Run(string(k), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, memory.Config{})
				b.publish(full("a"))
				var mended atomic.Bool
				backend := b.broker.Open()
				r := &refusing{Backend: backend, queue: "jobs.dead", broken: func() error {
					if mended.Load() {
						return nil
					}
					return kind(k)
				}}
				w, err := queue.NewWorker(r, "jobs", queue.WorkerConfig{Logger: quiet, Retry: queue.Retry{MaxAttempts: 1}})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- w.Run(ctx, func(context.Context, *queue.Delivery) error { return errBroken }) }()
				for range 40 {
					time.Sleep(9 * time.Second)
					require.Equal(t, 1, b.depth("jobs"))
				}
				require.Zero(t, b.depth("jobs.dead"))
				mended.Store(true)
				time.Sleep(2 * time.Minute)
				stop()
				require.NoError(t, <-done)
				require.Zero(t, b.depth("jobs"))
				dead := b.deadLetters()
				require.Len(t, dead, 1)
				requireFull(t, full("a"), dead[0])
				require.Equal(t, errBroken.Error(), dead[0].Dead.Err)
				require.NoError(t, backend.Close(t.Context()))
			})
		})
	}
}

// What becomes of a message whose dead letter is refused is not what its holder asked for: the hooks tell of that alone.
func TestRefusedDeadLetterSettlesAsItWasSaid(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				b.publish(msg("a"))
				backend := b.broker.Open()
				var calls atomic.Int64
				r := &refusing{Backend: backend, queue: "jobs.dead", broken: func() error {
					if calls.Add(1) == 1 {
						return kind(driver.Denied)
					}
					return nil
				}}
				var said, was []queue.Settlement
				c, err := queue.NewConsumer(t.Context(), r, "jobs", queue.ConsumerConfig{
					Logger: quiet, Retry: queue.Retry{MaxAttempts: 1}, Hooks: queue.Hooks{
						Settling: func(_ *queue.Delivery, s queue.Settlement) { said = append(said, s) },
						Settled:  func(_ *queue.Delivery, s queue.Settlement, _ error) { was = append(was, s) },
					},
				})
				require.NoError(t, err)
				for i := range 2 {
					ds, err := c.Receive(t.Context(), 1)
					require.NoError(t, err)
					require.Len(t, ds, 1)
					require.Equal(t, i == 0, ds[0].Retry(t.Context(), errBroken) != nil)
				}
				require.Len(t, said, 2)
				require.Equal(t, said, was)
				require.Equal(t, queue.ReasonAttempts, was[0].Dead)
				require.EqualValues(t, 1, c.Stats().DeadLettered)
				require.EqualValues(t, 1, c.Stats().Unsettled)
				require.NoError(t, c.Close(t.Context()))
				require.NoError(t, backend.Close(t.Context()))
			})
		})
	}
}

// Deleting the dead-letter queue under a worker that has used it must not stop dead letters for ever.
func TestDeadLetterQueueIsMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		w := b.work(queue.WorkerConfig{}, func(context.Context, *queue.Delivery) error { return queue.Reject(errBroken) })
		b.publish(msg("a"))
		time.Sleep(time.Second)
		require.NoError(t, w.backend.DeleteQueue(t.Context(), "jobs.dead"))
		b.publish(msg("b"))
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, b.depth("jobs.dead"))
		require.Zero(t, b.depth("jobs"))
		require.NoError(t, w.end())
	})
}

// Whatever a producer may store can be retried, and dead-lettered with a long reason.
func TestLargestMessageCanDie(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for name, cfg := range brokers() {
			cfg.MaxBytes = 128 << 10
			b := newBench(t, cfg)
			backend := b.broker.Open()
			p := newProducer(t, backend, queue.ProducerConfig{})
			n := cfg.MaxBytes
			for ; ; n-- {
				err := p.Publish(t.Context(), &queue.Message{ID: "big", Body: make([]byte, n)})
				if err == nil {
					break
				}
				require.ErrorIs(t, err, queue.ErrTooLarge)
			}
			require.Greater(t, n, cfg.MaxBytes-(3<<10))
			w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 2}}, func(context.Context, *queue.Delivery) error {
				return errors.New(strings.Repeat("long ", 1000))
			})
			time.Sleep(time.Minute)
			require.NoError(t, w.end(), name)
			dead := b.deadLetters()
			require.Len(t, dead, 1, name)
			require.Len(t, dead[0].Body, n)
			require.NoError(t, backend.Close(t.Context()))
		}
	})
}

// A worker on a dead-letter queue: its own attempts, its own dead letters, and the origin is not forgotten.
func TestDeadLetterQueueHasItsOwnLimits(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				b.publish(full("a"))
				fail := func(context.Context, *queue.Delivery) error { return errBroken }
				w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 4}}, fail)
				time.Sleep(time.Minute)
				require.NoError(t, w.end())

				backend := b.broker.Open()
				var attempts []int
				var deaths []queue.Death
				again, err := queue.NewWorker(backend, "jobs.dead", queue.WorkerConfig{Logger: quiet, Retry: queue.Retry{MaxAttempts: 2}})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- again.Run(ctx, func(_ context.Context, d *queue.Delivery) error {
						attempts, deaths = append(attempts, d.Attempt), append(deaths, *d.Dead)
						return errors.New("not here either")
					})
				}()
				time.Sleep(time.Minute)
				stop()
				require.NoError(t, <-done)
				require.Equal(t, []int{1, 2}, attempts)
				require.Equal(t, deaths[0], deaths[1], "how it died does not change")
				require.Equal(t, 4, deaths[0].Attempts)

				n, err := queue.Redrive(t.Context(), backend, "jobs.dead.dead", queue.RedriveConfig{})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.Equal(t, 1, b.depth("jobs"), "back where it was published to")
				require.NoError(t, backend.Close(t.Context()))
			})
		})
	}
}

// A delay beyond the broker's longest is kept by holding the message again and again, by nobody's wall clock, and that
// does not look like a crash.
func TestLongDelays(t *testing.T) {
	for name, cfg := range brokers() {
		for _, published := range []bool{true, false} {
			if published && cfg.NoDelay {
				continue
			}
			t.Run(fmt.Sprintf("%s/published=%v", name, published), func(t *testing.T) {
				cfg.MaxDelay, cfg.MaxRedelay = 15*time.Minute, 10*time.Minute
				bubble(t, func(t *testing.T) { longDelay(t, cfg, published) })
			})
		}
	}
}

func longDelay(t *testing.T, cfg memory.Config, published bool) {
	const delay = 3*time.Hour + 7*time.Minute
	b := newBench(t, cfg)
	m := full("a")
	if published {
		m.Delay = delay
	}
	b.publish(m)
	began := time.Now()
	var at []time.Duration
	w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 3}}, func(_ context.Context, d *queue.Delivery) error {
		at = append(at, time.Since(began))
		require.Zero(t, d.Crashes)
		requireFull(t, full("a"), d)
		if !published && len(at) == 1 {
			return queue.RetryAfter(errBroken, delay)
		}
		require.Equal(t, len(at), d.Attempt)
		return nil
	})
	time.Sleep(5 * time.Hour)
	require.NoError(t, w.end())
	require.GreaterOrEqual(t, at[len(at)-1], delay)
	require.Less(t, at[len(at)-1], delay+time.Second)
	if !published {
		require.Len(t, at, 2)
	}
	require.Zero(t, b.depth("jobs"))
	require.Empty(t, b.deadLetters())
}

// A broker that loses what a return carries and counts nothing cannot tell a first release from the hundredth.
func TestReleaseDoesNotLoopHot(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				b.publish(msg("a"))
				n := 0
				w := b.work(queue.WorkerConfig{}, func(context.Context, *queue.Delivery) error {
					n++
					return queue.Release(errors.New("dependency is away"))
				})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				require.LessOrEqual(t, n, 51, "at most five a second")
				require.Greater(t, n, 5)
				require.NoError(t, w.end())
				require.Equal(t, 1, b.depth("jobs"))
			})
		})
	}
}

func TestNoWayToHoldAMessageBackIsRefused(t *testing.T) {
	var unsupported *queue.UnsupportedError
	for _, cfg := range []memory.Config{{NoDelay: true, NoRedelay: true}, {NoDelay: true, NoCarry: true}} {
		_, err := queue.NewWorker(memory.Open(cfg), "jobs", queue.WorkerConfig{Logger: quiet})
		require.ErrorAs(t, err, &unsupported)
	}
}
