package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Env is what a rule works with: a broker, a queue of its own, workers, and the journals of what happened.
type Env struct {
	Ctx   context.Context // the rule's lifetime
	Queue string
	Lease time.Duration // of workers, unless a rule says otherwise
	Tier  Tier
	Seed  uint64
	Setting

	h      *Harness
	broker Broker
	dir    string
	self   *history.Writer // the rule's own journal: publishes, faults
	crew   *crew.Crew
	tail   *history.Tailer
	memory *memoryJournal // of virtual rules
	log    *slog.Logger
	over   atomic.Bool // the rule is being cleaned up

	mu       sync.Mutex
	events   []history.Event
	timeline *history.Timeline
	measured map[string]string
	cleanups []func() error
	names    map[string]int
}

// broken ends a rule: Env's failing methods panic with it, and the runner catches it.
type broken struct{ detail string }

// Failf ends the rule as a FAIL.
func (e *Env) Failf(format string, args ...any) { panic(broken{fmt.Sprintf(format, args...)}) }

// Check ends the rule as a FAIL unless ok.
func (e *Env) Check(ok bool, format string, args ...any) {
	if !ok {
		e.Failf(format, args...)
	}
}

// Must ends the rule as a FAIL if err is not nil.
func (e *Env) Must(err error, doing string) {
	if err != nil {
		e.Failf("%s: %v", doing, err)
	}
}

// Note records a measured value for the sheet.
func (e *Env) Note(name, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.measured[name] = fmt.Sprintf(format, args...)
}

// Sleep waits, in virtual time where the rule runs in it.
func (e *Env) Sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.Ctx.Done():
		e.Failf("the rule's time is over")
	}
}

// Cleanup runs f when the rule has ended, the last one first.
func (e *Env) Cleanup(f func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cleanups = append(e.cleanups, f)
}

// Open opens a connection of the rule's own to the broker. It is closed when the rule ends.
func (e *Env) Open() driver.Backend {
	b, err := e.open(e.Ctx, nil)
	e.Must(err, "open the backend")
	return b
}

// OpenThrough is Open with every connection going through p.
func (e *Env) OpenThrough(p *proxy.Proxy) (driver.Backend, error) {
	return e.open(e.Ctx, proxy.Dialer(p.Addr()))
}

func (e *Env) open(ctx context.Context, dial Dial) (b driver.Backend, err error) {
	if c, inside := e.broker.(Connector); inside {
		b, _, err = c.Connect(ctx)
	} else {
		b, err = e.h.Open(ctx, e.broker.URL(), dial)
	}
	if err == nil {
		e.Cleanup(func() error {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := b.Close(closing); err != nil && driver.KindOf(err) == driver.Unknown {
				return err
			}
			return nil
		})
	}
	return b, err
}

// Proxy starts a proxy for this rule.
func (e *Env) Proxy() *proxy.Proxy {
	p, err := proxy.Start()
	e.Must(err, "start a proxy")
	e.Cleanup(p.Close)
	return p
}

// Restarter is the broker's power switch.
func (e *Env) Restarter() Restarter {
	r, _ := powerOf(e.broker)
	return r
}

// Quiet is a logger for what a rule provokes on purpose.
func (e *Env) Quiet() *slog.Logger { return e.log }

// Producer opens a producer on the rule's queue.
func (e *Env) Producer(cfg queue.ProducerConfig) *queue.Producer {
	cfg.Logger = e.log
	p, err := queue.NewProducer(e.Ctx, e.Open(), e.Queue, cfg)
	e.Must(err, "open a producer")
	return p
}

// Consumer opens a consumer on a queue of the rule's.
func (e *Env) Consumer(name string, cfg queue.ConsumerConfig) *queue.Consumer {
	return e.ConsumerOn(e.Open(), name, cfg)
}

// ConsumerOn is Consumer over connection b.
func (e *Env) ConsumerOn(b driver.Backend, name string, cfg queue.ConsumerConfig) *queue.Consumer {
	if cfg.Lease == 0 {
		cfg.Lease = e.Lease
	}
	cfg.Logger = e.log
	c, err := queue.NewConsumer(e.Ctx, b, name, cfg)
	e.Must(err, "open a consumer")
	e.Cleanup(func() error {
		closing, cancel := context.WithTimeout(context.WithoutCancel(e.Ctx), 5*time.Second)
		defer cancel()
		_ = c.Close(closing) // a rule may have taken the broker away
		return nil
	})
	return c
}

// Receive receives exactly n deliveries within the time.
func (e *Env) Receive(c *queue.Consumer, n int, within time.Duration) []*queue.Delivery {
	ctx, cancel := context.WithTimeout(e.Ctx, within)
	defer cancel()
	var all []*queue.Delivery
	for len(all) < n {
		ds, err := c.Receive(ctx, n-len(all))
		if err != nil {
			e.Failf("received %d of %d messages within %v: %v", len(all), n, within, err)
		}
		all = append(all, ds...)
	}
	return all
}

// Quietly checks that nothing is received for so long.
func (e *Env) Quietly(c *queue.Consumer, most time.Duration, why string) {
	ctx, cancel := context.WithTimeout(e.Ctx, most)
	defer cancel()
	ds, err := c.Receive(ctx, 1)
	if len(ds) > 0 {
		e.Failf("message %s was delivered (delivery %d): %s", ds[0].ID, ds[0].DeliveryCount, why)
	}
	if err != nil && ctx.Err() == nil {
		e.Failf("receive: %v", err)
	}
}

// Job is one message of a rule: what is published, and what its handler does.
type Job struct {
	ID       string // empty: one is made
	Tenant   string
	Key      string
	Priority int
	Delay    time.Duration
	Header   map[string]string
	Bytes    int // size of the body at least
	workload.Order
}

// Jobs makes n jobs of the given run time, changed by each (which may be nil).
func (e *Env) Jobs(n int, run time.Duration, each func(i int, j *Job)) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = Job{ID: fmt.Sprintf("%s-%d", e.Queue, i), Order: workload.Order{Seq: i, Run: run}}
		if each != nil {
			each(i, &jobs[i])
		}
	}
	return jobs
}

// Message is the job as it is published.
func (e *Env) Message(j Job) *queue.Message {
	body, err := j.Order.Encode(j.Bytes)
	e.Must(err, "encode an order")
	return &queue.Message{
		ID: j.ID, Tenant: j.Tenant, Key: j.Key, Priority: j.Priority, Delay: j.Delay, Header: j.Header, Body: body,
	}
}

// Publish publishes jobs on the rule's queue and journals them. All must be confirmed.
func (e *Env) Publish(lanes queue.Lanes, jobs ...Job) {
	p := e.Producer(queue.ProducerConfig{Lanes: lanes, Hooks: e.Published()})
	for len(jobs) > 0 {
		n := min(len(jobs), 500)
		ms := make([]*queue.Message, n)
		for i, j := range jobs[:n] {
			ms[i] = e.Message(j)
			e.Publishing(ms[i])
		}
		e.Must(p.Publish(e.Ctx, ms...), "publish")
		jobs = jobs[n:]
	}
	e.Must(p.Close(e.Ctx), "close the producer")
}

// Publishing journals that a message is about to be published.
func (e *Env) Publishing(m *queue.Message) {
	e.write(history.Event{
		Kind: history.PublishInvoke, Msg: m.ID, Queue: e.Queue, Tenant: m.Tenant, Key: m.Key, Priority: m.Priority, Delay: int64(m.Delay),
	})
}

// Published are the hooks that journal the outcomes of publishing.
func (e *Env) Published() queue.Hooks {
	return queue.Hooks{Published: func(m *queue.Message, err error) {
		ev := history.Event{Kind: history.PublishOK, Msg: m.ID, Queue: e.Queue, Delay: int64(m.Delay)}
		if err != nil {
			ev.Kind, ev.Err, ev.Definite = history.PublishErr, err.Error(), !errors.Is(err, queue.ErrAmbiguous)
		}
		e.write(ev)
	}}
}

func (e *Env) write(ev history.Event) {
	// What a failed rule has left behind may go on for a moment.
	if err := e.self.Write(ev); err != nil && !e.over.Load() {
		e.Failf("write the journal: %v", err)
	}
}

// Timeline is what happened so far.
func (e *Env) Timeline() *history.Timeline {
	e.mu.Lock()
	defer e.mu.Unlock()
	var fresh []history.Event
	var err error
	if e.memory != nil {
		fresh, err = e.memory.poll()
	} else {
		fresh, err = e.tail.Poll()
	}
	if err != nil {
		panic(broken{"read the journals: " + err.Error()})
	}
	e.events = append(e.events, fresh...)
	if len(fresh) > 0 || e.timeline == nil {
		e.timeline = history.Index(e.events)
	}
	return e.timeline
}

// Await waits until cond holds of the timeline.
func (e *Env) Await(what string, within time.Duration, cond func(*history.Timeline) bool) {
	over := time.Now().Add(within)
	for !cond(e.Timeline()) {
		if time.Now().After(over) {
			e.Failf("not within %v: %s", within, what)
		}
		e.Sleep(20 * time.Millisecond)
	}
}

// Judge runs the checker over what happened; what the broker's capabilities imply is set in o.
func (e *Env) Judge(o history.Options) history.Verdict {
	o.DeathFrees = e.Caps.DeathDetected > 0
	o.SettleUnconfirmed = !e.Caps.SettleConfirmed
	return history.Judge(e.Timeline(), o)
}

// Valid ends the rule as a FAIL unless the checker finds the whole history valid.
func (e *Env) Valid(o history.Options) history.Verdict {
	v := e.Judge(o)
	e.Check(v.Valid, "the history is not valid: %v", v.InvalidReasons)
	return v
}

func newLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func journalPath(dir, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("conformance: %w", err)
	}
	return filepath.Join(dir, name+".jsonl"), nil
}
