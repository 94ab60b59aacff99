package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
)

var errBroken = errors.New("broken")

func TestWorkerRunsAndAcks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 100 {
			b.publish(msg(fmt.Sprint(i)))
		}
		var ran atomic.Int64
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4}}, func(ctx context.Context, d *queue.Delivery) error {
			ran.Add(1)
			return work(ctx, time.Second)
		})
		time.Sleep(26 * time.Second)
		require.NoError(t, w.end())
		require.EqualValues(t, 100, ran.Load())
		require.Zero(t, b.depth("jobs"))
		require.EqualValues(t, 100, w.Stats().Acked)
	})
}

// A job of half an hour keeps a lease of half a minute, and the broker is away for twenty seconds in minute 12.
func TestLongJobOutlivesShortLeaseAndOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("long"))
		var starts, ends atomic.Int64
		h := func(ctx context.Context, d *queue.Delivery) error {
			starts.Add(1)
			err := work(ctx, 30*time.Minute)
			ends.Add(1)
			return err
		}
		one, two := b.work(queue.WorkerConfig{}, h), b.work(queue.WorkerConfig{}, h)
		time.Sleep(12 * time.Minute)
		b.broker.Outage(true)
		time.Sleep(15 * time.Second)
		b.broker.Outage(false)
		time.Sleep(18 * time.Minute)
		require.EqualValues(t, 1, starts.Load())
		require.EqualValues(t, 1, ends.Load())
		require.NoError(t, errors.Join(one.end(), two.end()))
		require.Zero(t, b.depth("jobs"))
	})
}

// An outage longer than the lease: the handler is told before the broker could give the message away.
func TestLeaseLostInOutageCancelsBeforeExpiry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		var lost time.Time
		var until time.Time
		var cause error
		starts := 0
		h := func(ctx context.Context, d *queue.Delivery) error {
			if starts++; starts > 1 {
				return nil
			}
			<-ctx.Done()
			lost, cause, until = time.Now(), context.Cause(ctx), d.LeaseUntil()
			return nil
		}
		w := b.work(queue.WorkerConfig{}, h)
		time.Sleep(time.Minute)
		b.broker.Outage(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.ErrorIs(t, cause, queue.ErrLeaseLost)
		require.True(t, lost.Before(until), "told at %v, the lease ended at %v", lost, until)
		require.Error(t, w.Health())
		b.broker.Outage(false)
		time.Sleep(time.Minute)
		require.NoError(t, w.Health())
		require.NoError(t, w.end())
		require.Equal(t, 2, starts)
		require.EqualValues(t, 1, w.Stats().LeasesLost)
		require.Zero(t, b.depth("jobs"))
	})
}

func TestKilledWorkersMessageRunsElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		var crashes, attempt atomic.Int64
		h := func(ctx context.Context, d *queue.Delivery) error {
			crashes.Store(int64(d.Crashes))
			attempt.Store(int64(d.Attempt))
			return work(ctx, 40*time.Second)
		}
		one := b.work(queue.WorkerConfig{}, h)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		two := b.work(queue.WorkerConfig{}, h)
		one.backend.Kill()
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1, crashes.Load())
		require.EqualValues(t, 1, attempt.Load(), "a crash is not a failed attempt")
		require.NoError(t, two.end())
		_ = one.end()
		require.Zero(t, b.depth("jobs"))
	})
}

func TestRetryThenDeadLetter(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				b.publish(&queue.Message{ID: "p", Tenant: "acme", Priority: 3, Body: []byte{0, 255}, Header: map[string]string{"x": "y"}})
				var attempts []int
				w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 4}}, func(_ context.Context, d *queue.Delivery) error {
					attempts = append(attempts, d.Attempt)
					return fmt.Errorf("try %d: %w", d.Attempt, errBroken)
				})
				time.Sleep(time.Minute)
				require.NoError(t, w.end())
				require.Equal(t, []int{1, 2, 3, 4}, attempts)
				dead := b.deadLetters()
				require.Len(t, dead, 1)
				d := dead[0]
				require.Equal(t, "p", d.ID)
				require.Equal(t, "acme", d.Tenant)
				require.Equal(t, 3, d.Priority)
				require.Equal(t, []byte{0, 255}, d.Body)
				require.Equal(t, map[string]string{"x": "y"}, d.Header)
				require.Equal(t, queue.ReasonAttempts, d.Dead.Reason)
				require.Equal(t, 4, d.Dead.Attempts)
				require.Equal(t, "jobs", d.Dead.Origin)
				require.Contains(t, d.Dead.Err, "try 4")
				require.True(t, d.Dead.First.Before(d.Dead.Last))
			})
		})
	}
}

// brokers are the memory model as the brokers of the world: what one cannot do, package queue makes good.
func brokers() map[string]memory.Config {
	return map[string]memory.Config{
		"full":             {},
		"like SQS":         {NoCarry: true, MaxDelay: 15 * time.Minute},
		"like a log":       {NoCarry: true, Counting: memory.Uncounted},
		"flag only":        {NoCarry: true, Counting: memory.Flagged},
		"flag with state":  {Counting: memory.Flagged},
		"drops after 5":    {BrokerDropsAfter: 5},
		"drops after 2":    {BrokerDropsAfter: 2},
		"drops at once":    {BrokerDropsAfter: 1},
		"no publish delay": {NoDelay: true},
	}
}

func TestReleaseCostsNoAttempt(t *testing.T) {
	for name, cfg := range brokers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				b.publish(msg("a"))
				n := 0
				w := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 3}}, func(_ context.Context, d *queue.Delivery) error {
					n++
					require.Equal(t, 1, d.Attempt)
					require.Zero(t, d.Crashes)
					if n <= 10 {
						return queue.Release(errors.New("dependency is away"))
					}
					return nil
				})
				time.Sleep(time.Minute)
				require.NoError(t, w.end())
				require.Equal(t, 11, n)
				require.Zero(t, b.depth("jobs"))
				require.Empty(t, b.deadLetters())
			})
		})
	}
}

// A message whose process dies each time is dead-lettered after MaxCrashes starts; from the third on it runs alone.
func TestPoisonThatKillsItsProcess(t *testing.T) {
	for _, name := range []string{"full", "like SQS", "flag only", "drops after 5"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, brokers()[name])
				b.publish(msg("killer"), msg("bystander"))
				var l log
				for range 7 {
					var w *running
					kill := make(chan struct{}, 1)
					w = b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}}, func(ctx context.Context, d *queue.Delivery) error {
						if d.ID == "killer" {
							l.add(fmt.Sprintf("killer crashes=%d alone=%v", d.Crashes, d.RunAlone))
							kill <- struct{}{}
							<-ctx.Done()
							return context.Cause(ctx)
						}
						return work(ctx, 40*time.Second)
					})
					select {
					case <-kill:
						time.Sleep(time.Second)
						w.backend.Kill()
					case <-time.After(2 * time.Minute):
					}
					w.end()
					time.Sleep(time.Minute)
				}
				require.Len(t, l.all(), 5, "%v", l.all())
				dead := b.deadLetters()
				require.Len(t, dead, 1)
				require.Equal(t, "killer", dead[0].ID)
				require.Equal(t, queue.ReasonCrashes, dead[0].Dead.Reason)
				require.Zero(t, b.depth("jobs"), "the bystander was done")
			})
		})
	}
}

func TestPanicIsAFailedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"), msg("b"))
		var done atomic.Int64
		w := b.work(queue.WorkerConfig{}, func(_ context.Context, d *queue.Delivery) error {
			if d.Attempt == 1 {
				panic("oh")
			}
			done.Add(1)
			return nil
		})
		time.Sleep(10 * time.Second)
		require.NoError(t, w.end())
		require.EqualValues(t, 2, done.Load())
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"), msg("b"))
		w := b.work(queue.WorkerConfig{}, func(ctx context.Context, d *queue.Delivery) error {
			return work(ctx, 2*time.Minute)
		})
		synctest.Wait()
		w.stop()
		err := <-w.done // default drain of 20 s is too short for 2 minutes
		require.ErrorIs(t, err, queue.ErrReleased)
		require.NoError(t, w.backend.Close(t.Context()))
		require.Equal(t, 2, b.depth("jobs"))

		var attempts []int
		patient := b.work(queue.WorkerConfig{Drain: 10 * time.Minute}, func(ctx context.Context, d *queue.Delivery) error {
			attempts = append(attempts, d.Attempt, d.Crashes)
			return work(ctx, 2*time.Minute)
		})
		synctest.Wait()
		time.Sleep(time.Second)
		require.NoError(t, patient.end())
		require.Equal(t, []int{1, 0}, attempts, "released at no cost, and nothing started during the drain")
		require.Equal(t, 1, b.depth("jobs"))
	})
}

func TestHandlerThatIgnoresItsContextIsNotGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		free := make(chan struct{})
		w := b.work(queue.WorkerConfig{Drain: time.Second}, func(context.Context, *queue.Delivery) error {
			<-free
			return nil
		})
		synctest.Wait()
		w.stop()
		require.ErrorIs(t, <-w.done, queue.ErrStuck)
		var starts atomic.Int64
		other := b.work(queue.WorkerConfig{}, func(context.Context, *queue.Delivery) error { starts.Add(1); return nil })
		time.Sleep(5 * time.Second)
		require.Zero(t, starts.Load(), "its lease still holds")
		time.Sleep(30 * time.Second)
		require.EqualValues(t, 1, starts.Load())
		require.NoError(t, other.end())
		close(free)
		synctest.Wait()
		_ = w.backend.Close(t.Context())
	})
}

func TestTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		var causes []error
		w := b.work(queue.WorkerConfig{Timeout: time.Minute, Retry: queue.Retry{MaxAttempts: 2}}, func(ctx context.Context, _ *queue.Delivery) error {
			<-ctx.Done()
			causes = append(causes, context.Cause(ctx))
			return context.Cause(ctx)
		})
		time.Sleep(5 * time.Minute)
		require.NoError(t, w.end())
		require.Len(t, causes, 2)
		require.ErrorIs(t, causes[0], queue.ErrTimeout)
		require.Len(t, b.deadLetters(), 1)
	})
}

func TestStuckAfterTimeoutIsAbandonedAndReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"), msg("b"))
		free := make(chan struct{})
		var l log
		w := b.work(queue.WorkerConfig{
			Timeout: time.Minute,
			Hooks:   queue.Hooks{Stuck: func(d *queue.Delivery, _ time.Duration) { l.add(d.ID) }},
		}, func(_ context.Context, d *queue.Delivery) error {
			if d.ID == "a" && d.DeliveryCount == 1 {
				<-free
			}
			return nil
		})
		time.Sleep(5 * time.Minute)
		require.Equal(t, []string{"a"}, l.all())
		require.Zero(t, b.depth("jobs"), "the slot was free again, and the message ran once more")
		close(free)
		synctest.Wait() // an abandoned handler counts until it has returned
		require.NoError(t, w.end())
	})
}

func TestSetLimitsPauseResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 50 {
			b.publish(msg(fmt.Sprint(i)))
		}
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 1}}, func(ctx context.Context, _ *queue.Delivery) error {
			return work(ctx, 10*time.Second)
		})
		time.Sleep(time.Second)
		require.Equal(t, 1, w.Running())
		require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 5}))
		synctest.Wait()
		require.Equal(t, 5, w.Running())
		w.Pause()
		time.Sleep(time.Minute)
		require.Zero(t, w.Running())
		w.Resume()
		synctest.Wait()
		require.Equal(t, 5, w.Running())
		require.Error(t, w.SetLimits(queue.Limits{Concurrency: 1000}))
		require.NoError(t, w.end())
	})
}
