package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Backend is a pair of connections to a RabbitMQ server or cluster: one to publish, one to receive. It is safe for
// concurrent use.
type Backend struct {
	config   Config
	caps     driver.Capabilities
	timeouts bool // consumers can have a timeout of their own
	meter    meter
	out, in  *link

	life context.Context // ends when Close begins
	end  context.CancelCauseFunc
	work sync.WaitGroup // watchers
	late sync.WaitGroup // what goes on after a Close that ran out of time

	mu     sync.Mutex
	closed bool
	gone   bool // the connections have ended
	open   map[closer]struct{}
}

type closer interface {
	Close(ctx context.Context) error
}

var (
	_ driver.Backend     = (*Backend)(nil)
	_ driver.LaneWatcher = (*Backend)(nil)
	_ driver.Admin       = (*Backend)(nil)
	_ driver.Gauger      = (*Backend)(nil)
	_ driver.Meter       = (*Backend)(nil)
	_ driver.Pinger      = (*Backend)(nil)
)

// levels is how many priorities a quorum queue has that Holdfast uses: 4 is the server's default, for messages without a
// priority, and Holdfast's 0; 31 is the highest (https://www.rabbitmq.com/docs/priority).
const (
	quorumDefault = 4
	quorumHighest = 31
	levels        = quorumHighest - quorumDefault + 1
)

// timeoutMargin: the server counts its consumer timeout from when it sent the message, we from when it came.
const timeoutMargin = 5 * time.Second

// deathDetected: the server hears of a process's end from the kernel, at once, and requeues.
const deathDetected = 50 * time.Millisecond

// Open connects. An address where nobody listens is Unavailable at once, a server older than 4.0 is Invalid, credentials
// that the server refuses are Denied, and a virtual host that is not there is NotFound.
func Open(ctx context.Context, c Config) (*Backend, error) {
	const op = "open"
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	b := &Backend{config: c, open: map[closer]struct{}{}}
	b.life, b.end = context.WithCancelCause(context.Background())
	b.out, b.in = newLink(b, "publish"), newLink(b, "receive")
	b.out.after = b.in
	for _, l := range []*link{b.out, b.in} {
		if err := l.open(ctx); err != nil {
			b.shutdown()
			return nil, fail(op, err)
		}
	}
	if err := b.inspect(); err != nil {
		b.shutdown()
		return nil, fail(op, err)
	}
	return b, nil
}

// inspect learns what the server can do.
func (b *Backend) inspect() error {
	s := b.in.now()
	if s == nil { // it was lost again
		return &driver.Error{Kind: driver.Unavailable, Err: errDisconnected}
	}
	product, _ := s.conn.Properties["product"].(string)
	version, _ := s.conn.Properties["version"].(string)
	if product != "RabbitMQ" || !atLeast4(version, 0) {
		return invalid("", fmt.Errorf("server %s %s: Holdfast needs RabbitMQ 4.0 or newer", product, version))
	}
	b.caps = capabilities(&b.config, version, s.beat)
	b.timeouts = b.config.Type == Quorum && atLeast4(version, 3)
	return nil
}

// capabilities is what a server of that version promises with this configuration and heartbeat.
func capabilities(c *Config, version string, beat time.Duration) driver.Capabilities {
	caps := driver.Capabilities{
		Name:            "RabbitMQ " + string(c.Type),
		Version:         version,
		Sharing:         driver.PerMessage,
		Session:         true,
		Extend:          true,
		SettleConfirmed: true,
		Lanes:           !c.Existing,
		Delay:           driver.Delaying{By: driver.Emulated, Max: maxDelay},
		MaxBytes:        c.MaxBytes,
		DeathDetected:   deathDetected,
		SilenceDetected: 3 * beat,
	}
	if c.Existing {
		caps.Delay = driver.Delaying{}
	}
	switch {
	case c.Type == Classic:
		caps.Counting, caps.Priorities = driver.Flagged, c.MaxPriority+1
	case atLeast4(version, 3):
		caps.Counting, caps.Fencing, caps.Priorities = driver.CountedApart, true, levels
	default: // priorities are two classes there, mixed two to one: lanes keep them apart better
		caps.Counting, caps.Fencing = driver.Counted, true
	}
	if !atLeast4(version, 3) {
		caps.MaxTerm = c.ConsumerTimeout - timeoutMargin
	}
	return caps
}

// wirePriority is a priority as the server has it; what is out of its range is the nearest in it.
func (b *Backend) wirePriority(p int) uint8 {
	switch {
	case b.caps.Priorities == 0:
		return 0
	case b.config.Type == Classic:
		return uint8(min(max(p, 0), b.config.MaxPriority)) //nolint:gosec // at most 255
	default: // the client library cannot send 0
		return uint8(min(max(p, 1-quorumDefault), quorumHighest-quorumDefault) + quorumDefault) //nolint:gosec // at most 31
	}
}

// fromWire is the reverse. A message without a priority has 0.
func (b *Backend) fromWire(p uint8) int {
	if b.caps.Priorities > 0 && b.config.Type == Quorum && p > 0 {
		return int(p) - quorumDefault
	}
	return int(p)
}

// Capabilities implements driver.Backend.
func (b *Backend) Capabilities() driver.Capabilities { return b.caps }

// Conn is the connection that receives, for what Holdfast does not offer, or nil while there is none. It is closed with the
// Backend, and replaced when it breaks.
func (b *Backend) Conn() *amqp.Connection {
	if s := b.in.now(); s != nil {
		return s.conn
	}
	return nil
}

// Ping implements driver.Pinger.
func (b *Backend) Ping(ctx context.Context) error {
	for _, l := range []*link{b.in, b.out} {
		s, err := l.session(ctx, 0)
		if err == nil && l == b.out && !s.isClear() {
			continue // the server reads nothing there for now, and has said so
		}
		if err == nil {
			_, err = s.ping(ctx)
		}
		if err != nil {
			return fail("ping", err)
		}
	}
	return nil
}

// Close closes producers and consumers that are still open, and the connections, whose end gives back what is leased.
func (b *Backend) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	all := make([]closer, 0, len(b.open))
	for c := range b.open {
		all = append(all, c)
	}
	b.mu.Unlock()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for i, c := range all {
		closing.Go(func() { errs[i] = c.Close(ctx) })
	}
	closing.Wait()
	b.shutdown()
	return errors.Join(errs...)
}

func (b *Backend) shutdown() {
	b.end(driver.Closed)
	b.work.Wait()
	b.in.close()
	b.out.close()
	b.mu.Lock()
	b.gone = true
	b.mu.Unlock()
	b.late.Wait()
}

// outlast runs f, which ends with the connections at the latest, and waits for it until ctx ends; then shutdown does.
func (b *Backend) outlast(ctx context.Context, f func()) error {
	done := make(chan struct{})
	run := func() {
		defer close(done)
		f()
	}
	b.mu.Lock()
	gone := b.gone
	if !gone {
		b.late.Go(run)
	}
	b.mu.Unlock()
	if gone {
		run()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// register adds a producer or consumer.
func (b *Backend) register(op string, c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	b.open[c] = struct{}{}
	return nil
}

func (b *Backend) forget(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}
