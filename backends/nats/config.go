package nats

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of Config.
const (
	DefaultPrefix  = "hf"
	DefaultTimeout = 5 * time.Second

	defaultTerm = 30 * time.Second
	dedupWindow = 2 * time.Minute
	maxPrefix   = 16

	pingInterval  = 5 * time.Second // a silent server is noticed after two to three of these
	pingsOut      = 2
	writeDeadline = 10 * time.Second
)

// Config says how to reach the servers and how queues are kept there. The zero value is a server on this machine's
// port 4222 without credentials.
type Config struct {
	// URL is one server or several, separated by commas: nats://host:port or tls://host:port, with or without
	// user:password@. Empty: nats://127.0.0.1:4222.
	URL string
	// Dial opens every connection, to addresses that the servers advertise too. Nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Name is what the server shows of this client. Empty: "holdfast".
	Name string
	// TLS secures connections. Nil: as the URL says, with the system's certificates.
	TLS *tls.Config
	// User and Password, Token, or a CredentialsFile (JWT and seed, in the format of the nsc tool) identify this
	// client; those of the URL hold otherwise.
	User, Password, Token, CredentialsFile string
	// Domain is the JetStream domain. Empty: the server's own.
	Domain string

	// Prefix begins all names on the server: lower-case letters and digits, at most 16. Empty: DefaultPrefix.
	Prefix string
	// Replicas is how many servers of a cluster keep each new queue. Zero: 1.
	Replicas int
	// Storage keeps the messages of new queues on disk or in memory. The zero value is on disk.
	Storage jetstream.StorageType
	// NoCreate makes opening a queue that does not exist fail with NotFound.
	NoCreate bool

	// Timeout is how long a request may go unanswered. Zero: DefaultTimeout.
	Timeout time.Duration
	// Logger gets what no call can return, such as a lost connection. Nil: nothing is logged.
	Logger *slog.Logger
	// Options are applied after all others.
	Options []natsgo.Option
}

func (c *Config) setDefaults() error {
	if c.URL == "" {
		c.URL = natsgo.DefaultURL
	}
	if c.Name == "" {
		c.Name = "holdfast"
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Replicas < 0 {
		return invalid("open", fmt.Errorf("replicas: %d", c.Replicas))
	}
	if len(c.Prefix) > maxPrefix || strings.Trim(c.Prefix, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return invalid("open", fmt.Errorf("prefix %q: only a-z and 0-9, at most %d", c.Prefix, maxPrefix))
	}
	return nil
}

// options are those of the connection; dial is Config.Dial bound to the contexts of its time.
func (c *Config) options(dial natsgo.CustomDialer) []natsgo.Option {
	o := []natsgo.Option{
		natsgo.Name(c.Name),
		natsgo.SetCustomDialer(dial),
		natsgo.SkipHostLookup(), // Dial resolves names, so that a proxy can
		natsgo.Timeout(c.Timeout),
		natsgo.MaxReconnects(-1),
		natsgo.CustomReconnectDelay(reconnectDelay),
		natsgo.ReconnectOnFlusherError(),
		natsgo.IgnoreAuthErrorAbort(),
		// Nothing is kept for a later connection: a stale settlement could hit somebody else's delivery.
		natsgo.ReconnectBufSize(-1),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(pingsOut),
		natsgo.FlusherTimeout(writeDeadline),
	}
	if c.TLS != nil {
		o = append(o, natsgo.Secure(c.TLS))
	}
	if c.User != "" {
		o = append(o, natsgo.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		o = append(o, natsgo.Token(c.Token))
	}
	if c.CredentialsFile != "" {
		o = append(o, natsgo.UserCredentials(c.CredentialsFile))
	}
	return append(o, c.Options...)
}

// reconnectDelay is the wait before the nth round of dials. It is under five seconds, so that a client is never away for
// five seconds after its server came back, and so long that twelve dials take a minute, the first one included: therefore
// not even that one is at once. The first wait also spreads clients that lost their connections together.
func reconnectDelay(attempt int) time.Duration {
	if attempt == 1 {
		return 400*time.Millisecond + rand.N(time.Second)
	}
	return 4970*time.Millisecond + rand.N(20*time.Millisecond)
}

// dialer is Config.Dial in the form that nats.go wants. While the first connection is made, both the dial and the
// handshake end with the context of Open.
type dialer struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	timeout time.Duration

	mu      sync.Mutex
	last    net.Conn        // the one that Dial returned last
	ctx     context.Context // of Open, then of the backend's life
	opening bool
	release []func() bool
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	d.mu.Lock()
	parent, last := d.ctx, d.last
	d.mu.Unlock()
	if last != nil { // nats.go uses one at a time, and forgets to close one that broke in the handshake of a reconnect
		_ = last.Close()
	}
	ctx, cancel := context.WithTimeout(parent, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = conn
	if d.opening {
		d.release = append(d.release, context.AfterFunc(parent, func() { _ = conn.Close() }))
	}
	return conn, nil
}

// opened ends the time of Open: from now on life bounds the dials.
func (d *dialer) opened(life context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, stop := range d.release {
		stop()
	}
	d.release, d.opening, d.ctx = nil, false, life
}
