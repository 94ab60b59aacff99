package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Backend is a connection to a NATS server or cluster. It is safe for concurrent use.
type Backend struct {
	config    Config
	caps      driver.Capabilities
	apiRoot   string
	payload   int64 // the server's limit, headers included
	schedules bool  // the server holds messages back until their time

	conn    *natsgo.Conn
	inbox   *natsgo.Subscription
	outbox  *outbox
	replies *replies
	slots   slots
	clock   serverClock
	meter   meter
	gone    chan struct{} // nats.go has ended

	life context.Context // ends when Close begins
	end  context.CancelCauseFunc
	work sync.WaitGroup // watchers

	mu        sync.Mutex
	closed    bool
	producers map[*Producer]struct{}
	consumers map[*Consumer]struct{}
	serverID  string
	back      chan struct{} // closed when the connection is there again; nil while it is there
}

var (
	_ driver.Backend     = (*Backend)(nil)
	_ driver.LaneWatcher = (*Backend)(nil)
	_ driver.Admin       = (*Backend)(nil)
	_ driver.Gauger      = (*Backend)(nil)
	_ driver.Inspector   = (*Backend)(nil)
	_ driver.Meter       = (*Backend)(nil)
	_ driver.Pinger      = (*Backend)(nil)
)

// Open connects. An address where nobody listens is Unavailable at once, a server without JetStream or older than
// 2.10 is Invalid, and credentials that the server refuses are Denied.
func Open(ctx context.Context, c Config) (*Backend, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	b := &Backend{
		config:    c,
		apiRoot:   "$JS.API.",
		gone:      make(chan struct{}),
		producers: make(map[*Producer]struct{}),
		consumers: make(map[*Consumer]struct{}),
	}
	if c.Domain != "" {
		b.apiRoot = "$JS." + c.Domain + ".API."
	}
	b.replies = newReplies()
	b.life, b.end = context.WithCancelCause(context.Background())
	if err := b.connect(ctx); err != nil {
		b.end(err)
		return nil, fail("open", fmt.Errorf("%s: %w", hostsOf(c.URL), err))
	}
	if err := b.inspect(ctx); err != nil {
		b.shutdown()
		return nil, fail("open", fmt.Errorf("%s: %w", hostsOf(c.URL), err))
	}
	return b, nil
}

func (b *Backend) connect(ctx context.Context) error {
	d := &dialer{dial: b.config.Dial, timeout: b.config.Timeout, ctx: ctx, opening: true}
	options := append(b.config.options(d),
		natsgo.ClosedHandler(func(*natsgo.Conn) { close(b.gone) }),
		natsgo.DisconnectErrHandler(b.disconnected),
		natsgo.ReconnectHandler(b.reconnected),
		natsgo.ErrorHandler(b.asyncError),
	)
	conn, err := natsgo.Connect(b.config.URL, options...)
	d.opened(b.life)
	if err != nil {
		if ctx.Err() != nil {
			err = causeOf(ctx)
		} else if !isDenied(err) {
			err = &unsentError{err}
		}
		return err
	}
	b.mu.Lock()
	b.conn, b.serverID = conn, conn.ConnectedServerId()
	b.mu.Unlock()
	b.outbox = newOutbox(conn)
	b.replies.inbox = conn.NewInbox() + "."
	b.inbox, err = conn.Subscribe(b.replies.inbox+">", b.replies.dispatch)
	if err == nil {
		// No limit: what arrives here was asked for, message by message, and dropping it would strand leases.
		err = b.inbox.SetPendingLimits(-1, -1)
	}
	if err != nil {
		b.shutdown()
	}
	return err
}

// inspect learns what the server can do.
func (b *Backend) inspect(ctx context.Context) error {
	version := b.conn.ConnectedServerVersion()
	if !atLeast2(10, version) {
		return invalid("", fmt.Errorf("server %s: %w", version, errOldServer))
	}
	if err := b.api(ctx, callInfo, "INFO", nil, nil); err != nil {
		if errors.Is(err, errNoResponder) {
			return invalid("", errors.New("JetStream is not enabled on the server"))
		}
		return err
	}
	b.schedules = atLeast2(12, version)
	b.payload = b.conn.MaxPayload()
	b.caps = driver.Capabilities{
		Name:            "NATS JetStream",
		Version:         version,
		Sharing:         driver.PerMessage,
		Extend:          true,
		Fencing:         true,
		Carries:         true,
		SettleConfirmed: true,
		Lanes:           true,
		Redelay:         driver.Delaying{By: driver.Native},
		Counting:        driver.Counted,
		MaxBytes:        maxBytes(b.payload),
		Dedup:           dedupWindow,
	}
	if b.schedules {
		b.caps.Delay.By = driver.Native
	}
	return nil
}

// maxBytes leaves room in the server's limit for what headers cost beyond their names and values: four bytes each, a
// third where they are packed, and the driver's own.
func maxBytes(payload int64) int {
	return int(payload - min(8<<10, payload/8))
}

// Capabilities implements driver.Backend.
func (b *Backend) Capabilities() driver.Capabilities { return b.caps }

// Conn is the connection, for what Holdfast does not offer. It is closed with the Backend.
func (b *Backend) Conn() *natsgo.Conn { return b.conn }

// disconnected runs when the connection broke: nothing more comes for what was sent over it.
func (b *Backend) disconnected(_ *natsgo.Conn, err error) {
	at := time.Now()
	b.mu.Lock()
	if b.back == nil {
		b.back = make(chan struct{})
	}
	b.mu.Unlock()
	if err == nil {
		err = errDisconnected
	} else {
		err = fmt.Errorf("%w: %w", errDisconnected, err)
	}
	for _, c := range b.openConsumers() {
		c.doubt(at)
	}
	b.replies.dropAll(err)
	b.slots.dropAll(err)
	if b.life.Err() == nil {
		b.config.Logger.Warn("nats: connection lost", slog.Any("error", err))
	}
}

func (b *Backend) reconnected(conn *natsgo.Conn) {
	id := conn.ConnectedServerId()
	b.mu.Lock()
	same := id == b.serverID
	b.serverID = id
	b.mu.Unlock()
	if same {
		for _, c := range b.openConsumers() {
			c.trust()
		}
	}
	b.mu.Lock()
	if b.back != nil {
		close(b.back)
		b.back = nil
	}
	b.mu.Unlock()
	b.config.Logger.Info("nats: connected again", slog.String("server", conn.ConnectedServerName()))
}

// connected waits until the connection is there, at most for wait, and returns an error if it is not.
func (b *Backend) connected(ctx context.Context, wait time.Duration) error {
	b.mu.Lock()
	back := b.back
	b.mu.Unlock()
	if back == nil {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-back:
		return nil
	case <-timer.C:
		return &unsentError{errDisconnected}
	case <-ctx.Done():
		return causeOf(ctx)
	}
}

func (b *Backend) openConsumers() []*Consumer {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*Consumer, 0, len(b.consumers))
	for c := range b.consumers {
		all = append(all, c)
	}
	return all
}

// asyncError gets what the server says about no request in particular. A message that it refused for want of a
// permission is answered only here.
func (b *Backend) asyncError(_ *natsgo.Conn, sub *natsgo.Subscription, err error) {
	switch {
	case errors.Is(err, natsgo.ErrSlowConsumer) && sub != b.inbox:
		return // hints may be lost
	case errors.Is(err, natsgo.ErrPermissionViolation):
		if subject := quoted(err.Error()); subject != "" {
			b.replies.deny(subject, err)
			b.slots.deny(subject, err)
		}
	}
	b.config.Logger.Warn("nats: server reports", slog.Any("error", err))
}

// quoted is the text between the first two quotes.
func quoted(s string) string {
	_, s, _ = strings.Cut(s, `"`)
	s, _, ok := strings.Cut(s, `"`)
	if !ok {
		return ""
	}
	return s
}

// Close closes producers and consumers that are still open, and the connection. If ctx ends first, leases are left to
// run out.
func (b *Backend) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		select {
		case <-b.gone:
			return nil
		case <-ctx.Done():
			return causeOf(ctx)
		}
	}
	b.closed = true
	var open []interface{ Close(context.Context) error }
	for p := range b.producers {
		open = append(open, p)
	}
	for c := range b.consumers {
		open = append(open, c)
	}
	b.mu.Unlock()

	errs := make([]error, len(open))
	var closing sync.WaitGroup
	for i, o := range open {
		closing.Go(func() { errs[i] = o.Close(ctx) })
	}
	closing.Wait()
	b.shutdown()
	return errors.Join(errs...)
}

// shutdown ends everything and waits for it. The connection goes first: it sets free what waits for it.
func (b *Backend) shutdown() {
	b.end(driver.Closed)
	b.conn.Close()
	<-b.gone
	b.outbox.close()
	b.replies.dropAll(errBackendDown)
	b.slots.dropAll(errBackendDown)
	b.work.Wait()
}

// register adds a producer or consumer under the lock that Close takes.
func (b *Backend) register(op string, add func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return &driver.Error{Op: op, Kind: driver.Closed}
	}
	add()
	return nil
}

func (b *Backend) forget(p *Producer, c *Consumer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.producers, p)
	delete(b.consumers, c)
}
