package queue_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// tapped is a backend whose consumers' calls a test can bend.
type tapped struct {
	driver.Backend
	receive func(in []*driver.Delivery)
	ack     func(ctx context.Context, next func() error) error
	nack    func(ctx context.Context, rs []driver.Return, next func() error) error
	extend  func(ctx context.Context, next func() ([]driver.Lease, error)) ([]driver.Lease, error)
}

func (b *tapped) OpenConsumer(ctx context.Context, name string, c driver.ConsumerConfig) (driver.Consumer, error) {
	in, err := b.Backend.OpenConsumer(ctx, name, c)
	return &tappedConsumer{in, b}, err
}

type tappedConsumer struct {
	driver.Consumer
	b *tapped
}

func (c *tappedConsumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	in, err := c.Consumer.Receive(ctx, w, wait)
	if c.b.receive != nil {
		c.b.receive(in)
	}
	return in, err
}

func (c *tappedConsumer) Ack(ctx context.Context, ds []*driver.Delivery) error {
	next := func() error { return c.Consumer.Ack(ctx, ds) }
	if c.b.ack != nil {
		return c.b.ack(ctx, next)
	}
	return next()
}

func (c *tappedConsumer) Nack(ctx context.Context, rs []driver.Return) error {
	next := func() error { return c.Consumer.Nack(ctx, rs) }
	if c.b.nack != nil {
		return c.b.nack(ctx, rs, next)
	}
	return next()
}

func (c *tappedConsumer) Extend(ctx context.Context, ds []*driver.Delivery, term time.Duration) ([]driver.Lease, error) {
	next := func() ([]driver.Lease, error) { return c.Consumer.Extend(ctx, ds, term) }
	if c.b.extend != nil {
		return c.b.extend(ctx, next)
	}
	return next()
}

// H1: dead letters refused for good + a broker with a limit of its own.
func TestRefusedDeadLetterIsNotDroppedByTheBroker(t *testing.T) {
	for name, cfg := range map[string]memory.Config{
		"rejected": {NoCarry: true, BrokerDropsAfter: 20}, // as quorum queues
		"damaged":  {BrokerDropsAfter: 5},                 // as share groups
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				backend := &refusing{Backend: b.broker.Open(), queue: "jobs.dead", broken: func() error { return kind(driver.Denied) }}
				defer backend.Close(t.Context())
				m := &driver.Message{ID: "a", Header: map[string]string{}}
				if name == "damaged" {
					m.Header["hf-v"] = "2" // a newer producer's
				}
				p, err := backend.OpenProducer(t.Context(), "jobs")
				require.NoError(t, err)
				require.NoError(t, p.Publish(t.Context(), []*driver.Message{m}))
				w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet})
				require.NoError(t, err)
				ctx, stop := context.WithTimeout(t.Context(), 2*time.Hour)
				defer stop()
				_ = w.Run(ctx, func(context.Context, *queue.Delivery) error { return queue.Reject(errTest) })
				require.Equal(t, 1, b.depth("jobs")+b.depth("jobs.dead"), "the message is gone")
			})
		})
	}
}

// H1b: MaxCrashes reached, dead letters denied, broker with limit, carries.
func TestCrashedMessageWithRefusedDeadLetterSurvives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{BrokerDropsAfter: 20})
		b.publish(msg("a"))
		for range 5 { // five processes die with it
			backend := b.broker.Open()
			c, err := backend.OpenConsumer(t.Context(), "jobs", driver.ConsumerConfig{})
			require.NoError(t, err)
			ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, time.Minute)
			require.NoError(t, err)
			require.Len(t, ds, 1)
			backend.Kill()
			require.NoError(t, backend.Close(t.Context()))
		}
		backend := &refusing{Backend: b.broker.Open(), queue: "jobs.dead", broken: func() error { return kind(driver.Denied) }}
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx, func(context.Context, *queue.Delivery) error { return nil }) }()
		time.Sleep(10 * time.Minute)
		stop()
		<-done
		_ = backend.Close(t.Context())
		require.Equal(t, 1, b.depth("jobs")+b.depth("jobs.dead"), "the message is gone")
	})
}

// crashed publishes one message and lets n processes die with it.
func (b *bench) crashed(n int, m *queue.Message) {
	b.t.Helper()
	b.publish(m)
	for range n {
		backend := b.broker.Open()
		c, err := backend.OpenConsumer(b.t.Context(), "jobs", driver.ConsumerConfig{Term: time.Second})
		require.NoError(b.t, err)
		ds, err := c.Receive(b.t.Context(), driver.Want{Max: 1}, time.Minute)
		require.NoError(b.t, err)
		require.Len(b.t, ds, 1)
		backend.Kill()
		require.NoError(b.t, backend.Close(b.t.Context()))
		time.Sleep(2 * time.Second)
	}
}

// H2: a parked suspect whose lease is lost while it waits is started all the same.
func TestSuspectThatLostItsLeaseIsNotStarted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("long"))
		var down atomic.Bool
		backend := &tapped{Backend: b.broker.Open(), extend: func(_ context.Context, next func() ([]driver.Lease, error)) ([]driver.Lease, error) {
			if down.Load() {
				return nil, kind(driver.Unavailable)
			}
			return next()
		}}
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet, Limits: queue.Limits{Concurrency: 2}})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done, long := make(chan error, 1), make(chan struct{})
		var late atomic.Int32
		go func() {
			done <- w.Run(ctx, func(ctx context.Context, d *queue.Delivery) error {
				if ctx.Err() != nil {
					late.Add(1)
				}
				if d.ID == "long" {
					<-long // a job that does not mind its context
				}
				return nil
			})
		}()
		synctest.Wait()
		w.Pause()
		b.crashed(2, msg("suspect"))
		w.Resume()
		synctest.Wait() // parked beside "long"
		down.Store(true)
		time.Sleep(40 * time.Second) // both leases are lost
		down.Store(false)
		close(long)
		synctest.Wait()
		stop()
		<-done
		_ = backend.Close(t.Context())
		require.Zero(t, late.Load(), "a handler was started with a lease that was lost before")
	})
}

func (b *bench) ready(t *testing.T) int {
	backend := b.broker.Open()
	defer backend.Close(t.Context())
	g, err := backend.Gauge(t.Context(), "jobs")
	require.NoError(t, err)
	return g.Ready
}

// H3: a handler abandoned after its Timeout still runs; the drain gives its message back at once.
func TestAbandonedHandlersMessageIsNotGivenBackByTheDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		free := make(chan struct{})
		r := b.work(queue.WorkerConfig{Timeout: time.Second, StuckAfter: time.Second, Retry: queue.Retry{MaxAttempts: 1}},
			func(context.Context, *queue.Delivery) error { <-free; return nil })
		time.Sleep(3 * time.Second) // abandoned: its lease, last extended not at all, lasts 30 s from the receive
		require.Zero(t, r.Running())
		r.stop()
		<-r.done // the process would end here, or not: the handler still runs
		again := b.ready(t)
		close(free)
		_ = r.backend.Close(t.Context())
		require.Zero(t, again, "its message was given back while its handler runs")
	})
}

// H4: Consumer.Close gives back what somebody works on before it tells him.
func TestCloseTellsTheHolderBeforeItGivesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		var held *queue.Delivery
		var told bool
		backend := &tapped{Backend: b.broker.Open(), nack: func(_ context.Context, _ []driver.Return, next func() error) error {
			synctest.Wait()
			told = held.Context().Err() != nil
			return next()
		}}
		defer backend.Close(t.Context())
		c, err := queue.NewConsumer(t.Context(), backend, "jobs", queue.ConsumerConfig{Logger: quiet})
		require.NoError(t, err)
		ds, err := c.Receive(t.Context(), 1)
		require.NoError(t, err)
		held = ds[0]
		require.NoError(t, c.Close(t.Context()))
		require.True(t, told, "the message was given back while its holder's context still lived")
	})
}

// H4b: a Receive that returns while Close flushes.
func TestReceiveDuringCloseLeavesNoDeliveryWithoutAnEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		slow := make(chan struct{})
		backend := &tapped{Backend: b.broker.Open(), ack: func(_ context.Context, next func() error) error { <-slow; return next() }}
		defer backend.Close(t.Context())
		c, err := queue.NewConsumer(t.Context(), backend, "jobs", queue.ConsumerConfig{Logger: quiet})
		require.NoError(t, err)
		ds, err := c.Receive(t.Context(), 1)
		require.NoError(t, err)
		go ds[0].Ack(t.Context()) // takes a moment
		got := make(chan []*queue.Delivery, 1)
		go func() { ds, _ := c.Receive(t.Context(), 1); got <- ds }()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- c.Close(t.Context()) }()
		synctest.Wait()
		b.publish(msg("b")) // goes to the receive that is parked
		synctest.Wait()
		close(slow)
		<-closed
		var late []*queue.Delivery
		select {
		case late = <-got:
		case <-time.After(time.Minute):
		}
		for _, d := range late {
			require.Error(t, d.Context().Err(), "%s is back in the queue (%d ready), and its holder does not know", d.ID, b.ready(t))
		}
	})
}

// H5: an extension that the broker refuses because the ack under way has settled the message.
func TestConfirmedAckIsNotLostToAnExtensionThatCameAfterIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		backend := &tapped{Backend: b.broker.Open(), ack: func(_ context.Context, next func() error) error {
			err := next()
			time.Sleep(9 * time.Second) // the confirmation is on its way
			return err
		}}
		defer backend.Close(t.Context())
		c, err := queue.NewConsumer(t.Context(), backend, "jobs", queue.ConsumerConfig{Logger: quiet})
		require.NoError(t, err)
		defer c.Close(t.Context())
		ds, err := c.Receive(t.Context(), 1)
		require.NoError(t, err)
		time.Sleep(7 * time.Second) // the extension at about 10 s falls into the ack
		require.NoError(t, ds[0].Ack(t.Context()), "confirmed at second 7 of 30, answered at second 16")
		require.Zero(t, c.Stats().LeasesLost)
	})
}

// H6: Abort with a broker that does not answer.
func TestAbortLeavesAtOnceWithoutTheBroker(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, memory.Config{})
				b.publish(msg("a"), msg("b"))
				free := make(chan struct{})
				r := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}}, func(_ context.Context, d *queue.Delivery) error {
					if running && d.ID == "b" {
						<-free
					}
					return work(context.Background(), time.Second)
				})
				time.Sleep(500 * time.Millisecond)
				b.broker.Outage(true)
				time.Sleep(time.Second) // acks do not get through
				r.stop()
				synctest.Wait()
				began := time.Now()
				r.Abort()
				<-r.done
				took := time.Since(began)
				close(free)
				time.Sleep(2 * time.Second)
				_ = r.backend.Close(t.Context())
				require.Less(t, took, time.Second)
			})
		})
	}
}

// H7: a suspect waits beside a long job while another worker is idle.
func TestSuspectDoesNotWaitForHoursBesideAnIdleWorker(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused=%v", paused), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, memory.Config{})
				b.publish(msg("long"))
				var mu sync.Mutex
				ran := map[string]time.Time{}
				free := make(chan struct{})
				h := func(_ context.Context, d *queue.Delivery) error {
					mu.Lock()
					ran[d.ID] = time.Now()
					mu.Unlock()
					if d.ID == "long" {
						<-free
					}
					return nil
				}
				busy := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}}, h)
				synctest.Wait()
				busy.Pause()
				synctest.Wait()
				b.crashed(2, msg("suspect"))
				busy.Resume()
				synctest.Wait()
				if paused {
					busy.Pause()
				}
				idle := b.work(queue.WorkerConfig{}, h)
				b.publish(msg("next"))
				time.Sleep(time.Hour)
				mu.Lock()
				_, did := ran["suspect"]
				mu.Unlock()
				close(free)
				if paused {
					busy.Resume()
				}
				_ = idle.end()
				_ = busy.end()
				require.True(t, did, "after an hour the suspect has not started, though a worker was idle all the time")
			})
		})
	}
}

// H8: concurrent Receives and the window.
func TestConcurrentReceivesKeepTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 32 {
			b.publish(msg(fmt.Sprint(i)))
		}
		backend := &tapped{Backend: b.broker.Open(), receive: func([]*driver.Delivery) { time.Sleep(time.Millisecond) }}
		defer backend.Close(t.Context())
		c, err := queue.NewConsumer(t.Context(), backend, "jobs", queue.ConsumerConfig{Logger: quiet, Window: 4})
		require.NoError(t, err)
		defer c.Close(t.Context())
		var n atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				ds, _ := c.Receive(ctx, 4)
				n.Add(int32(len(ds)))
			})
		}
		synctest.Wait()
		wg.Wait()
		require.LessOrEqual(t, n.Load(), int32(4))
	})
}

// H9: a broker that fixes the term of a queue, shorter than what was asked for.
func TestShortFixedTermIsKept(t *testing.T) {
	for asked, given := range map[time.Duration]time.Duration{30 * time.Second: 5 * time.Second, 10 * time.Minute: 30 * time.Second} {
		t.Run(asked.String(), func(t *testing.T) { shortFixedTerm(t, asked, given) })
	}
}

func shortFixedTerm(t *testing.T, asked, given time.Duration) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		backend := &tapped{Backend: b.broker.Open()}
		backend.receive = func(in []*driver.Delivery) {
			for _, d := range in {
				d.Granted.Until = time.Now().Add(given)
			}
		}
		backend.extend = func(_ context.Context, next func() ([]driver.Lease, error)) ([]driver.Lease, error) {
			ls, err := next()
			for i := range ls {
				ls[i].Until = time.Now().Add(given)
			}
			return ls, err
		}
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet, Lease: asked})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		var cause error
		go func() {
			done <- w.Run(ctx, func(ctx context.Context, _ *queue.Delivery) error {
				err := work(ctx, time.Minute)
				cause = context.Cause(ctx)
				return err
			})
		}()
		time.Sleep(61 * time.Second)
		stop()
		<-done
		_ = backend.Close(t.Context())
		require.NoError(t, cause)
	})
}

// H10: order of a key over a recount.
func TestKeyOrderHoldsOverTheBrokersLimit(t *testing.T) {
	for name, cfg := range map[string]memory.Config{
		"limit": {KeyOrder: true, BrokerDropsAfter: 5},
		"flag":  {KeyOrder: true, Counting: memory.Flagged},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, cfg)
				backend := b.broker.Open()
				w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet, Needs: queue.Needs{KeyOrder: true}, Retry: queue.Retry{Factor: 1}})
				var no *queue.UnsupportedError
				if errors.As(err, &no) {
					_ = backend.Close(t.Context())
					return // refused at start: fine
				}
				require.NoError(t, err)
				if name == "flag" {
					b.crashed(1, &queue.Message{ID: "a1", Key: "k"})
				} else {
					b.publish(&queue.Message{ID: "a1", Key: "k"})
				}
				b.publish(&queue.Message{ID: "a2", Key: "k"})
				var l log
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- w.Run(ctx, func(_ context.Context, d *queue.Delivery) error {
						if d.ID == "a1" && d.Attempt < 6 && name == "limit" {
							return errTest
						}
						l.add(d.ID)
						return nil
					})
				}()
				time.Sleep(time.Minute)
				stop()
				<-done
				_ = backend.Close(t.Context())
				require.Equal(t, "a1 a2", strings.Join(l.all(), " "))
			})
		})
	}
}

// H11: an error after ErrDraining releases, whatever its wrapping asks.
func TestRetryAfterDuringDrainCostsNoAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		for range 2 {
			r := b.work(queue.WorkerConfig{Drain: -1, Retry: queue.Retry{MaxAttempts: 2}}, func(ctx context.Context, _ *queue.Delivery) error {
				if err := work(ctx, time.Hour); err != nil {
					return queue.RetryAfter(err, time.Second)
				}
				return nil
			})
			time.Sleep(5 * time.Second)
			_ = r.end()
		}
		require.Zero(t, b.depth("jobs.dead"), "two deploys dead-lettered it")
	})
}

// H12: Goexit.
func TestHandlerThatExitsItsGoroutineFreesItsSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		r := b.work(queue.WorkerConfig{Retry: queue.Retry{MaxAttempts: 1}}, func(context.Context, *queue.Delivery) error { runtime.Goexit(); return nil })
		time.Sleep(time.Minute)
		running := r.Running()
		_ = r.end()
		require.Zero(t, running)
	})
}

// H13: a later message of a key that is refused does not hold up the earlier ones.
func TestEarlierMessagesOfAKeyAreSent(t *testing.T) {
	b := memory.Open(memory.Config{KeyOrder: true, MaxBytes: 100_000})
	defer b.Close(t.Context())
	p, err := queue.NewProducer(t.Context(), b, "jobs", queue.ProducerConfig{Logger: quiet, Needs: queue.Needs{KeyOrder: true}})
	require.NoError(t, err)
	err = p.Publish(t.Context(), &queue.Message{ID: "1", Key: "k"}, &queue.Message{ID: "2", Key: "k", Body: make([]byte, 200_000)}, &queue.Message{ID: "3", Key: "k"})
	var each queue.BatchError
	require.ErrorAs(t, err, &each)
	require.NoError(t, each[0])
	require.ErrorIs(t, each[1], queue.ErrTooLarge)
	require.ErrorIs(t, each[2], queue.ErrUnsent)
}

// H14: RunUntil without signals.
func TestRunUntilWithoutSignalsIgnoresThem(t *testing.T) {
	b := memory.Open(memory.Config{})
	defer b.Close(t.Context())
	w, err := queue.NewWorker(b, "jobs", queue.WorkerConfig{Logger: quiet})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.RunUntil(ctx, func(context.Context, *queue.Delivery) error { return nil }) }()
	for w.Health() != nil {
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGWINCH))
	select {
	case err := <-done:
		require.Fail(t, "a SIGWINCH ended Run", "%v", err)
	case <-time.After(300 * time.Millisecond):
	}
	stop()
	<-done
}

// H15: Health after a verdict that was settled at its second try.
func TestHealthIsGoodAgainAfterAVerdictGotThrough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{NoExtend: true})
		b.publish(msg("a"), msg("b"))
		var failed atomic.Bool
		backend := &tapped{Backend: b.broker.Open(), ack: func(_ context.Context, next func() error) error {
			if !failed.Swap(true) {
				return kind(driver.Throttled)
			}
			return next()
		}}
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet, Lease: time.Hour, Limits: queue.Limits{Concurrency: 2}})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- w.Run(ctx, func(ctx context.Context, d *queue.Delivery) error {
				if d.ID == "a" {
					return work(ctx, time.Second)
				}
				return work(ctx, 30*time.Minute)
			})
		}()
		time.Sleep(10 * time.Second)
		require.Equal(t, int64(1), w.Stats().Acked)
		health := w.Health()
		stop()
		<-done
		_ = backend.Close(t.Context())
		require.NoError(t, health)
	})
}

// H17: ErrReleased although everything was acked.
func TestNoErrReleasedWhenAllWasAcked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(msg("a"))
		r := b.work(queue.WorkerConfig{Drain: time.Second}, func(ctx context.Context, _ *queue.Delivery) error { <-ctx.Done(); return nil })
		synctest.Wait()
		err := r.end()
		require.Zero(t, b.depth("jobs"))
		require.NoError(t, err)
	})
}

// H18: a worker that was aborted once runs again.
func TestAbortedWorkerDrainsProperlyNextTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		backend := b.broker.Open()
		defer backend.Close(t.Context())
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Logger: quiet})
		require.NoError(t, err)
		h := func(ctx context.Context, _ *queue.Delivery) error { return work(ctx, 5*time.Second) }
		run := func() (context.CancelFunc, chan error) {
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Run(ctx, h) }()
			return stop, done
		}
		stop, done := run()
		synctest.Wait()
		stop()
		w.Abort()
		<-done
		b.publish(msg("a"))
		stop, done = run()
		time.Sleep(time.Second)
		stop()
		require.NoError(t, <-done)
	})
}
