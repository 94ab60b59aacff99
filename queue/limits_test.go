package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// gauge counts what runs at once, by name.
type gauge struct {
	mu   sync.Mutex
	now  map[string]int
	peak map[string]int
	runs map[string]int
}

func newGauge() *gauge {
	return &gauge{now: map[string]int{}, peak: map[string]int{}, runs: map[string]int{}}
}

func (g *gauge) enter(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now[name]++
	g.runs[name]++
	g.peak[name] = max(g.peak[name], g.now[name])
}

func (g *gauge) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now[name]--
}

func (g *gauge) read(of map[string]int, name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return of[name]
}

// handler counts by what name returns, and takes so long.
func (g *gauge) handler(took time.Duration, name func(d *queue.Delivery) string) queue.Handler {
	return func(ctx context.Context, d *queue.Delivery) error {
		g.enter(name(d))
		defer g.leave(name(d))
		return work(ctx, took)
	}
}

func byTenant(d *queue.Delivery) string { return d.Tenant }
func byKey(d *queue.Delivery) string    { return d.Key }

func many(n int, each func(m *queue.Message)) []*queue.Message {
	ms := make([]*queue.Message, n)
	for i := range ms {
		ms[i] = &queue.Message{}
		each(ms[i])
	}
	return ms
}

func ofTenant(who string) func(*queue.Message) {
	return func(m *queue.Message) { m.Tenant = who }
}

var tenantLanes = queue.Lanes{Tenants: true}

func TestCapOfATenantIsExactAndIdlesCheaply(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publishTo(tenantLanes, many(100, ofTenant("a"))...)
		b.publishTo(tenantLanes, many(10, ofTenant("b"))...)
		g := newGauge()
		w := b.work(queue.WorkerConfig{
			Limits: queue.Limits{Concurrency: 8, PerTenant: 2}, Lanes: tenantLanes,
		}, g.handler(time.Minute, byTenant))
		time.Sleep(5*time.Minute + 30*time.Second)
		require.Equal(t, 2, g.read(g.peak, "a"))
		require.Equal(t, 2, g.read(g.peak, "b"))
		require.Equal(t, 10, g.read(g.runs, "b"), "not held up by the one at its cap")
		calls := w.backend.Calls()["receive"]
		time.Sleep(10 * time.Minute)
		require.Equal(t, 2, w.Running())
		require.LessOrEqual(t, w.backend.Calls()["receive"]-calls, int64(80), "ten minutes at the cap, twenty jobs")
		require.Zero(t, w.Stats().Released, "nothing was leased that could not start")
		require.ErrorIs(t, w.end(), queue.ErrReleased)
	})
}

// The moment a job of a tenant at its cap ends, its next one starts, though a receive without its lane is under way.
func TestCapOpensAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publishTo(tenantLanes, many(5, ofTenant("a"))...)
		w := b.work(queue.WorkerConfig{
			Limits: queue.Limits{Concurrency: 8, PerTenant: 1}, Lanes: tenantLanes,
		}, func(ctx context.Context, _ *queue.Delivery) error { return work(ctx, 10*time.Second) })
		time.Sleep(5*10*time.Second + time.Second)
		require.Zero(t, w.Running())
		require.Zero(t, b.depth("jobs"))
		require.NoError(t, w.end())
	})
}

func TestSetLimitsOpensAndClosesCaps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publishTo(tenantLanes, many(100, ofTenant("a"))...)
		b.publishTo(tenantLanes, many(100, ofTenant("b"))...)
		g := newGauge()
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 8, PerTenant: 1}, Lanes: tenantLanes}, g.handler(time.Minute, byTenant))
		time.Sleep(time.Second)
		require.Equal(t, 2, w.Running())
		caps := map[string]int{"a": 3}
		require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 8, PerTenant: 1, Tenants: caps}))
		caps["a"] = 100 // the worker has its own copy
		synctest.Wait()
		require.Equal(t, 3, g.read(g.now, "a"))
		require.Equal(t, 1, g.read(g.now, "b"))
		require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 8}))
		synctest.Wait()
		require.Equal(t, 8, w.Running())
		require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 2, PerTenant: 1}))
		time.Sleep(90 * time.Second)
		require.Equal(t, 2, w.Running())
		require.Equal(t, 1, g.read(g.now, "a"))
		require.ErrorIs(t, w.end(), queue.ErrReleased)
	})
}

func TestLimitsRefuseWhatMeansNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		backend := memory.Open(memory.Config{})
		for name, l := range map[string]queue.Limits{
			"negative concurrency": {Concurrency: -1},
			"negative key":         {PerKey: -1},
			"negative tenant":      {PerTenant: -1},
			"negative of one":      {Tenants: map[string]int{"a": -1}},
			"above the window":     {Concurrency: 1000},
		} {
			_, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Limits: l, Lanes: tenantLanes, Window: 64})
			require.ErrorIs(t, err, driver.Invalid, name)
		}
		_, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Limits: queue.Limits{PerTenant: 1}})
		require.ErrorIs(t, err, driver.Invalid, "a cap of tenants without their lanes")
		w, err := queue.NewWorker(backend, "jobs", queue.WorkerConfig{Lanes: tenantLanes})
		require.NoError(t, err)
		require.ErrorIs(t, w.SetLimits(queue.Limits{Tenants: map[string]int{"a": -1}}), driver.Invalid)
		require.NoError(t, backend.Close(t.Context()))

		none := memory.Open(memory.Config{NoLanes: true})
		_, err = queue.NewWorker(none, "jobs", queue.WorkerConfig{Lanes: tenantLanes, Limits: queue.Limits{PerTenant: 1}})
		var unsupported *queue.UnsupportedError
		require.ErrorAs(t, err, &unsupported)
		require.NoError(t, none.Close(t.Context()))
	})
}

func TestPerKeyIsExactAndDoesNotLoopHot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		b.publish(many(30, func(m *queue.Message) { m.Key = "one" })...)
		b.publish(many(30, func(m *queue.Message) { m.Key = fmt.Sprint(rand.N(1000)) })...)
		b.publish(many(30, func(*queue.Message) {})...)
		g := newGauge()
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4, PerKey: 1}}, g.handler(time.Second, byKey))
		time.Sleep(10 * time.Second)
		before := w.Stats().Released
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, w.Stats().Released-before, int64(10*10), "thirty messages of a key at its bound, in ten seconds")
		time.Sleep(3 * time.Minute)
		require.Equal(t, 1, g.read(g.peak, "one"))
		require.Equal(t, 30, g.read(g.peak, "one")*g.read(g.runs, "one"))
		require.Greater(t, g.read(g.peak, ""), 1)
		require.Zero(t, b.depth("jobs"))
		require.NoError(t, w.end())
	})
}

// A message that arrives in the receive under way while the worker is paused, or after its limits were lowered, must go
// back: the demand was made for slots that are gone.
func TestReceiveUnderWayDoesNotOutrunPauseOrLimits(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			b := newBench(t, memory.Config{})
			w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 8}}, func(ctx context.Context, _ *queue.Delivery) error {
				return work(ctx, time.Hour)
			})
			synctest.Wait()
			var wg sync.WaitGroup
			wg.Go(func() { b.publish(many(8, func(*queue.Message) {})...) })
			require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 2}))
			before := w.Running() // started while the old limits held
			wg.Wait()
			synctest.Wait()
			require.LessOrEqual(t, w.Running(), max(before, 2))

			w.Pause()
			running := w.Running()
			require.NoError(t, w.SetLimits(queue.Limits{Concurrency: 16}))
			b.publish(many(8, func(*queue.Message) {})...)
			time.Sleep(time.Minute)
			require.Equal(t, running, w.Running())
			w.Resume()
			synctest.Wait()
			require.Equal(t, 16, w.Running())
			_ = w.end()
		})
	}
}

// laggard is a backend whose Receive hands over what it has although its context has ended meanwhile, as one does whose
// answer was on its way.
type laggard struct {
	driver.Backend
	hold chan struct{} // Receive waits for it when it has something
}

func (l *laggard) OpenConsumer(ctx context.Context, name string, c driver.ConsumerConfig) (driver.Consumer, error) {
	in, err := l.Backend.OpenConsumer(ctx, name, c)
	return &laggardConsumer{in, l}, err
}

type laggardConsumer struct {
	driver.Consumer
	l *laggard
}

func (c *laggardConsumer) Receive(ctx context.Context, w driver.Want, wait time.Duration) ([]*driver.Delivery, error) {
	ds, err := c.Consumer.Receive(context.WithoutCancel(ctx), w, min(wait, time.Second))
	if len(ds) > 0 {
		<-c.l.hold
	}
	return ds, err
}

func TestWhatComesAfterAPauseOrBeyondLoweredLimitsGoesBack(t *testing.T) {
	for name, change := range map[string]func(w *queue.Worker) (running int){
		"pause":  func(w *queue.Worker) int { w.Pause(); return 0 },
		"limits": func(w *queue.Worker) int { _ = w.SetLimits(queue.Limits{Concurrency: 1}); return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, memory.Config{})
				b.publish(many(4, func(*queue.Message) {})...)
				l := &laggard{b.broker.Open(), make(chan struct{})}
				w, err := queue.NewWorker(l, "jobs", queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4}, Logger: quiet})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- w.Run(ctx, func(ctx context.Context, _ *queue.Delivery) error { return work(ctx, time.Hour) })
				}()
				synctest.Wait()
				want := change(w)
				close(l.hold)
				synctest.Wait()
				require.Equal(t, want, w.Running())
				require.EqualValues(t, 4-want, w.Stats().Released, "given back, at no cost")
				stop()
				<-done
				require.NoError(t, l.Close(t.Context()))
			})
		})
	}
}

// A lane that appears at the very moment at which the worker makes up its demand is either in it or recalls it.
func TestNewLaneIsNeverOverlooked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		g := newGauge()
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 2}, Lanes: tenantLanes}, g.handler(time.Second, byTenant))
		backend := b.broker.Open()
		p, err := queue.NewProducer(t.Context(), backend, "jobs", queue.ProducerConfig{Lanes: tenantLanes, Logger: quiet})
		require.NoError(t, err)
		for i := range 2000 { // so that a demand takes its time to make
			require.NoError(t, p.Publish(t.Context(), &queue.Message{Tenant: fmt.Sprint("old", i)}))
		}
		time.Sleep(2000 * time.Second)
		for i := range 300 {
			// The job of the round before ends now, so that the loop comes round.
			require.NoError(t, p.Publish(t.Context(), &queue.Message{Tenant: fmt.Sprint("new", i)}))
			time.Sleep(time.Second)
			require.Equal(t, 1, g.read(g.runs, fmt.Sprint("new", i)), "lane %d", i)
		}
		require.NoError(t, backend.Close(t.Context()))
		require.NoError(t, w.end())
	})
}

// A worker that starts on a backlog knows the lanes before it fills its slots: the first jobs are the highest priority's,
// and of different tenants.
func TestFirstDemandKnowsTheLanes(t *testing.T) {
	for range 20 {
		bubble(t, func(t *testing.T) {
			lanes := queue.Lanes{Tenants: true, Priorities: true}
			b := newBench(t, memory.Config{})
			for _, priority := range []int{0, 5} {
				for who := range 6 {
					b.publishTo(lanes, many(20, func(m *queue.Message) { m.Tenant, m.Priority = fmt.Sprint(who), priority })...)
				}
				b.publishTo(lanes, many(20, func(m *queue.Message) {})...)
			}
			g := newGauge()
			w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 6}, Lanes: lanes},
				g.handler(time.Hour, func(d *queue.Delivery) string { return fmt.Sprint(d.Priority, "/", d.Tenant) }))
			synctest.Wait()
			for who := range 6 {
				require.Equal(t, 1, g.read(g.now, fmt.Sprint("5/", who)), "%v", g.now)
			}
			_ = w.end()
		})
	}
}

// One idle slot and 300 tenants with work: what is leased is what runs.
func TestOneSlotLeasesOneMessageOfHundredsOfLanes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{})
		for i := range 300 {
			b.publishTo(tenantLanes, many(2, ofTenant(fmt.Sprint(i)))...)
		}
		w := b.work(queue.WorkerConfig{Lanes: tenantLanes}, func(ctx context.Context, _ *queue.Delivery) error {
			return work(ctx, time.Minute)
		})
		backend := b.broker.Open()
		for range 10 {
			time.Sleep(30 * time.Second)
			g, err := backend.Gauge(t.Context(), "jobs")
			require.NoError(t, err)
			require.Equal(t, 1, g.InFlight)
			time.Sleep(30 * time.Second)
		}
		require.NoError(t, backend.Close(t.Context()))
		_ = w.end()
	})
}

func TestSeveralLanesOfATenantShareItsCap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lanes := queue.Lanes{Tenants: true, Priorities: true}
		b := newBench(t, memory.Config{})
		for i := range 40 {
			b.publishTo(lanes, &queue.Message{Tenant: "a", Priority: i % 4})
		}
		g := newGauge()
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 8, PerTenant: 3}, Lanes: lanes}, g.handler(time.Minute, byTenant))
		time.Sleep(13*time.Minute + 5*time.Second)
		require.Equal(t, 3, g.read(g.peak, "a"))
		require.Equal(t, 40, g.read(g.runs, "a"), "none waited though there was room")
		time.Sleep(time.Minute)
		require.LessOrEqual(t, w.Stats().Released, int64(4), "leased beyond the cap at most when a lane turns out to have something")
		require.NoError(t, w.end())
	})
}

// A broker that gives one message at a time does not say with it that the other lanes are empty.
func TestWeightsHoldThoughFewerComeThanWereAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, memory.Config{MaxReceive: 1})
		lanes := queue.Lanes{Tenants: true, Weights: map[string]float64{"c": 4, "b": 2}}
		for who, n := range map[string]int{"a": 300, "b": 600, "c": 1200} {
			b.publishTo(tenantLanes, many(n, ofTenant(who))...)
		}
		g := newGauge()
		w := b.work(queue.WorkerConfig{Limits: queue.Limits{Concurrency: 8}, Lanes: lanes}, func(ctx context.Context, d *queue.Delivery) error {
			g.enter(d.Tenant)
			defer g.leave(d.Tenant)
			return work(ctx, time.Second) // all slots come free at once
		})
		time.Sleep(150 * time.Second)
		total := float64(g.read(g.runs, "a") + g.read(g.runs, "b") + g.read(g.runs, "c"))
		require.InEpsilon(t, 1.0/7, float64(g.read(g.runs, "a"))/total, 0.1, "%v", g.runs)
		require.InEpsilon(t, 4.0/7, float64(g.read(g.runs, "c"))/total, 0.1, "%v", g.runs)
		require.NoError(t, w.end())
	})
}
