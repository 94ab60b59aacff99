package rabbit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var (
	errDisconnected = errors.New("not connected")
	errSilent       = errors.New("the server has not answered for too long")
	errBlocked      = errors.New("the server has blocked publishing (connection.blocked): it is short of memory or disk")
)

// link is a connection that comes back: to any of the hosts, with a pause that grows. A Backend has two, so that a
// server that blocks publishing does not stop acks.
type link struct {
	b     *Backend
	role  string
	after *link // when both are away, that one is dialed first; nil: this one is

	life context.Context
	end  context.CancelCauseFunc
	work sync.WaitGroup

	mu   sync.Mutex
	cur  *session
	back chan struct{} // closed when cur is alive; made anew when it ends
	next int           // endpoint to try first
}

// A broker that is away is dialed at most twelve times a minute by a process, and is found within five seconds when it is
// back: at once, for what was only a break, and then in steps.
const (
	redialSoon = 250 * time.Millisecond
	redialStep = 4200 * time.Millisecond
	redialBlur = 600 * time.Millisecond
)

func newLink(b *Backend, role string) *link {
	l := &link{b: b, role: role, back: make(chan struct{})}
	l.life, l.end = context.WithCancelCause(context.Background())
	return l
}

// open connects for the first time: without a retry, so that a wrong password or a dead host is told at once.
func (l *link) open(ctx context.Context) error {
	s, err := l.dialAny(ctx)
	if err != nil {
		return err
	}
	l.set(s)
	l.work.Go(l.keep)
	return nil
}

// keep replaces each session that ends, until the link does.
func (l *link) keep() {
	for {
		s := l.now()
		select {
		case <-s.ctx.Done():
		case <-l.life.Done(): // close may have come before this session was there to be ended
			s.end(driver.Closed)
		}
		l.mu.Lock()
		l.back = make(chan struct{})
		l.cur = nil
		l.mu.Unlock()
		close(s.replaced)
		s.close()
		if l.life.Err() != nil {
			return
		}
		l.b.config.Logger.Warn("rabbitmq: connection lost", slog.String("role", l.role), slog.Any("error", context.Cause(s.ctx)))
		if s = l.redial(); s == nil {
			return
		}
		l.set(s)
		l.b.config.Logger.Info("rabbitmq: connected again", slog.String("role", l.role))
	}
}

func (l *link) redial() *session {
	for pause := rand.N(redialSoon); ; pause = redialStep + rand.N(redialBlur) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.life.Done():
			timer.Stop()
			return nil
		}
		if l.after != nil { // one of the two looks for the broker
			if _, err := l.after.session(l.life, time.Hour); err != nil {
				continue
			}
		}
		if s, err := l.dialAny(l.life); err == nil {
			return s
		}
	}
}

func (l *link) now() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur
}

func (l *link) set(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cur = s
	close(l.back)
}

// session returns the connection, and waits for one at most that long.
func (l *link) session(ctx context.Context, wait time.Duration) (*session, error) {
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	for {
		l.mu.Lock()
		s, back := l.cur, l.back
		l.mu.Unlock()
		if s != nil && s.ctx.Err() == nil {
			return s, nil
		}
		if s != nil { // it ended a moment ago
			back = s.replaced
		}
		select {
		case <-back:
		case <-timer.C:
			return nil, &driver.Error{Kind: driver.Unavailable, Err: errDisconnected}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-l.life.Done():
			return nil, driver.Closed
		}
	}
}

// close ends the link and waits for what belongs to it.
func (l *link) close() {
	l.end(driver.Closed)
	if s := l.now(); s != nil {
		s.end(driver.Closed)
	}
	l.work.Wait()
}

func (l *link) dialAny(ctx context.Context) (*session, error) {
	var errs []error
	ends := l.b.config.endpoints
	for range ends {
		l.mu.Lock()
		e := ends[l.next%len(ends)]
		l.next++
		l.mu.Unlock()
		s, err := l.dial(ctx, e)
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", e.addr, err))
		if k := classify(err); k == driver.Denied || ctx.Err() != nil { // the others would say the same
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (l *link) dial(ctx context.Context, e endpoint) (*session, error) {
	c := &l.b.config
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var wire net.Conn
	unhook := func() bool { return true }
	properties := amqp.Table{"connection_name": c.Name + " " + l.role, "product": "Holdfast"}
	config := amqp.Config{
		Vhost: c.vhost, Heartbeat: c.Heartbeat, Locale: "en_US", Properties: properties,
		SASL: []amqp.Authentication{&login{amqp.PlainAuth{Username: c.user, Password: c.password}, properties}},
		Dial: func(network, addr string) (net.Conn, error) {
			raw, err := c.Dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			wire = &bounded{Conn: raw, most: c.Timeout}
			unhook = context.AfterFunc(ctx, func() { _ = raw.Close() }) // the library's handshake knows no context
			deadline, _ := ctx.Deadline()
			return wire, wire.SetDeadline(deadline) // of the handshake; heartbeats move it later
		},
	}
	scheme := "amqp"
	if e.tls {
		scheme = "amqps"
		config.TLSClientConfig = tlsFor(c.tlsConfig, e.host)
	}
	conn, err := amqp.DialConfig((&url.URL{Scheme: scheme, Host: e.addr, Path: "/"}).String(), config)
	if !unhook() && err == nil { // closed under it
		err = context.Cause(ctx)
	}
	if err != nil {
		if wire != nil {
			_ = wire.Close()
		}
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
			return nil, cause
		}
		return nil, err
	}
	return newSession(l, conn, wire), nil
}

// login has the server say at once that it refuses the credentials. To a client that does not declare that it understands
// this the server says nothing for three seconds and hangs up, like one that dies; the client library does not, and
// overwrites what its caller declares, just before it asks for the response.
type login struct {
	amqp.PlainAuth
	properties amqp.Table
}

// Response implements amqp.Authentication.
func (l *login) Response() string {
	if can, is := l.properties["capabilities"].(amqp.Table); is {
		can["authentication_failure_close"] = true
	}
	return l.PlainAuth.Response()
}

func tlsFor(c *tls.Config, host string) *tls.Config {
	if c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c = c.Clone()
	if c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

// bounded is a connection whose writes fail instead of waiting for ever: the client library holds locks while it writes.
type bounded struct {
	net.Conn
	most time.Duration
}

func (c *bounded) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.most)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// session is one life of a connection.
type session struct {
	b        *Backend
	conn     *amqp.Connection
	wire     net.Conn
	ctx      context.Context // ends with the connection, its cause says why
	end      context.CancelCauseFunc
	replaced chan struct{} // closed when the link knows that the session has ended

	mu   sync.Mutex
	over bool // no goroutine may be added to work
	work sync.WaitGroup

	beat  time.Duration // heartbeat as negotiated
	proof atomic.Int64  // when the last answered request was sent, in ns since born
	born  time.Time

	control rpc
	clear   atomic.Pointer[chan struct{}] // closed while publishing is not blocked
}

// rpc is a channel for calls that are answered, one after the other.
type rpc struct {
	mu sync.Mutex
	ch *amqp.Channel
}

func newSession(l *link, conn *amqp.Connection, wire net.Conn) *session {
	s := &session{
		b: l.b, conn: conn, wire: wire, replaced: make(chan struct{}), beat: conn.Config.Heartbeat, born: time.Now(),
	}
	if s.beat <= 0 {
		s.beat = l.b.config.Heartbeat
	}
	open := make(chan struct{})
	close(open)
	s.clear.Store(&open)
	s.ctx, s.end = context.WithCancelCause(context.Background())
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	s.work.Go(func() { s.watch(closes, blocks) })
	return s
}

// watch ends the session when the connection has ended, and follows what blocks it.
func (s *session) watch(closes <-chan *amqp.Error, blocks <-chan amqp.Blocking) {
	for {
		select {
		case err, told := <-closes:
			if told && err != nil {
				s.end(err)
			}
			s.end(errDisconnected)
			return
		case b, open := <-blocks:
			switch {
			case !open:
				blocks = nil
			case b.Active:
				s.b.config.Logger.Warn("rabbitmq: publishing is blocked", slog.String("reason", b.Reason))
				if s.isClear() {
					wait := make(chan struct{})
					s.clear.Store(&wait)
				}
			case !s.isClear():
				close(*s.clear.Load())
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// close cleans up after the session has ended.
func (s *session) close() {
	s.end(errDisconnected)
	// A close by the book waits for the server's answer; a server that does not answer must not hold us up.
	stop := time.AfterFunc(closeWait, func() { _ = s.wire.Close() })
	_ = s.conn.Close()
	stop.Stop()
	_ = s.wire.Close()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.work.Wait()
}

// spawn runs f in a goroutine that close waits for. It returns false if the session was closed.
func (s *session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.work.Go(f)
	return true
}

const closeWait = 500 * time.Millisecond

// isClear reports whether the server lets us publish.
func (s *session) isClear() bool {
	select {
	case <-*s.clear.Load():
		return true
	default:
		return false
	}
}

// unblocked waits while the server blocks publishing.
func (s *session) unblocked(ctx context.Context) error {
	if s.isClear() {
		return nil
	}
	select {
	case <-*s.clear.Load():
		return nil
	case <-ctx.Done():
		return &driver.Error{Kind: driver.Throttled, Err: errors.Join(errBlocked, context.Cause(ctx))}
	case <-s.ctx.Done():
		return &driver.Error{Kind: driver.Unavailable, Err: context.Cause(s.ctx)}
	}
}

// do runs a call of the client library, which knows no context, and returns when it is done or ctx ends. What goes on
// after that ends with the session.
func (s *session) do(ctx context.Context, call func() error) error {
	done := make(chan error, 1)
	if !s.spawn(func() { done <- call() }) {
		return amqp.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open opens a channel.
func (s *session) open() (*amqp.Channel, error) {
	s.b.meter.count(callChannel)
	return s.conn.Channel()
}

// call runs f on the control channel.
func (s *session) call(ctx context.Context, f func(*amqp.Channel) error) error {
	return s.do(ctx, func() error {
		s.control.mu.Lock()
		defer s.control.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.control.ch == nil || s.control.ch.IsClosed() {
			ch, err := s.open()
			if err != nil {
				return err
			}
			s.control.ch = ch
		}
		began := time.Now()
		err := f(s.control.ch)
		if err == nil {
			s.answered(began)
		}
		return err
	})
}

// answered notes that a request sent then was answered.
func (s *session) answered(sent time.Time) {
	at := int64(sent.Sub(s.born))
	for old := s.proof.Load(); at > old && !s.proof.CompareAndSwap(old, at); old = s.proof.Load() {
	}
}

// proven is when the server last heard of us, as far as we know.
func (s *session) proven() time.Time { return s.born.Add(time.Duration(s.proof.Load())) }

// patience is how long after it last heard of us the server keeps what we hold, at least. It drops a silent client after
// two to three heartbeat intervals (https://www.rabbitmq.com/docs/heartbeats).
func (s *session) patience() time.Duration { return s.beat * 3 / 2 }

// ping asks the server for any answer and returns when the question was sent.
func (s *session) ping(ctx context.Context) (time.Time, error) {
	var sent time.Time
	err := s.call(ctx, func(ch *amqp.Channel) error {
		s.b.meter.count(callPing)
		sent = time.Now()
		return ch.Qos(1, 0, false)
	})
	if err != nil { // the call may go on, and writes sent
		return time.Time{}, err
	}
	return sent, nil
}

// drop ends a connection that does not answer.
func (s *session) drop(cause error) {
	s.end(cause)
	_ = s.wire.Close()
}
