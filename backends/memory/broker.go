package memory

import (
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Broker is the shared state: queues, messages, leases. It needs no Close; when nothing refers to it, it is gone.
// All methods are safe for concurrent use.
type Broker struct {
	cfg  Config
	caps driver.Capabilities

	mu       sync.Mutex
	down     bool
	queues   map[string]*queue
	backends map[*Backend]struct{}            // neither closed nor killed
	watchers map[string]map[*watcher]struct{} // by queue, which need not exist
}

// New makes a broker without queues.
func New(c Config) *Broker {
	c = c.withDefaults()
	return &Broker{
		cfg:      c,
		caps:     c.capabilities(),
		queues:   map[string]*queue{},
		backends: map[*Backend]struct{}{},
		watchers: map[string]map[*watcher]struct{}{},
	}
}

// Open makes a connection. It succeeds during an outage too, as the connections of most clients do; only its calls
// fail then.
func (b *Broker) Open() *Backend {
	c := &Backend{
		broker:    b,
		consumers: map[*consumer]struct{}{},
		calls:     map[string]int64{},
		done:      make(chan struct{}),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends[c] = struct{}{}
	return c
}

// Outage makes the broker unreachable, or reachable again. While it is down, every call of every connection returns
// driver.Unavailable and has changed nothing; calls of Receive under way return so at once. Messages stay, leases and
// delays go on running by the clock. A Close frees what is local and returns driver.Unavailable if there was something
// that it could not give back.
func (b *Broker) Outage(down bool) {
	b.mu.Lock()
	b.down = down
	var over []*session
	if down {
		for _, q := range b.queues {
			q.fail(unavailable("receive"), func(*waiter) bool { return true })
		}
		for c := range b.backends {
			over = append(over, c.endSessions()...)
		}
	}
	b.mu.Unlock()
	for _, s := range over {
		s.cancel(fail("session", driver.Unavailable, errOutage))
	}
}

var (
	errOutage = errors.New("the broker cannot be reached")
	errKilled = errors.New("the connection was dropped")
)

func unavailable(op string) error { return fail(op, driver.Unavailable, errOutage) }

// queue finds or makes a queue. The caller holds mu.
func (b *Broker) queue(name string) *queue {
	q := b.queues[name]
	if q == nil {
		q = newQueue(b, name)
		b.queues[name] = q
	}
	return q
}

// existing finds a queue. The caller holds mu.
func (b *Broker) existing(op, name string) (*queue, error) {
	if q := b.queues[name]; q != nil {
		return q, nil
	}
	return nil, fail(op, driver.NotFound, fmt.Errorf("queue %q", name))
}

// announce tells those who watch a queue that it has a lane. The caller holds mu.
func (b *Broker) announce(queue, lane string) {
	for w := range b.watchers[queue] {
		w.add(lane)
	}
}

func fail(op string, k driver.Kind, err error) error {
	return &driver.Error{Op: op, Kind: k, Err: err}
}
