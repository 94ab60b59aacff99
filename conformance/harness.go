package conformance

import (
	"context"
	"net"
	"net/url"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Dial is how a backend reaches an address. Faults of the network are put there.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Opener opens a backend by URL, in the test process and in workers. It must use dial for every connection, if not nil.
type Opener func(ctx context.Context, url string, dial Dial) (driver.Backend, error)

// Harness is what the suite needs to know about a backend.
type Harness struct {
	Name string // the backend mode, as in Expected: "nats", "rabbit-quorum"
	// Start starts a broker that keeps its data in dir. It is called once for each rule, unless Shared.
	Start func(ctx context.Context, dir string) (Broker, error)
	Open  Opener
	// Powered starts a broker that is a Restarter, for rules that turn it off and on. Nil: the one of Start is.
	Powered func(ctx context.Context, dir string) (Broker, error)
	// Apart starts a broker in a process of its own, which its Restarter's Stop kills: SIGKILL. Nil: there is no such.
	Apart func(ctx context.Context, dir string) (Broker, error)
	// Shared: one broker for all rules, each with queues of its own; rules that break brokers then run alone.
	Shared bool
	// Lease is the shortest lease that is practical. Zero: 2 s.
	Lease time.Duration
	// Virtual: the backend has no I/O, so rules run in virtual time and its broker lives in this process.
	Virtual bool
	// Expected is the file that declares what the backend may decline or emulate.
	Expected []byte
}

// Broker is a running broker.
type Broker interface {
	URL() string
	Version() string // "NATS 2.15.2"
	Close() error    // stops it and removes what it stored
}

// Restarter is a Broker that can be stopped and started again with what it stored.
type Restarter interface {
	Stop() error
	Start() error
	Forgetful() bool // nothing survives a restart
}

// Connector is a Broker that lives in this process: workers are goroutines, each on a connection of its own.
type Connector interface {
	// Connect opens a connection, and kill drops it as if its process had died.
	Connect(ctx context.Context) (b driver.Backend, kill func(), err error)
	// Outage makes the broker unreachable for everybody, or reachable again. Leases run on.
	Outage(down bool)
}

// powerOf is the power switch of a broker. One that lives in this process is away for a while instead.
func powerOf(b Broker) (r Restarter, has bool) {
	if c, inside := b.(Connector); inside {
		return outages{c}, true
	}
	r, has = b.(Restarter)
	return r, has
}

type outages struct{ Connector }

func (o outages) Stop() error     { o.Outage(true); return nil }
func (o outages) Start() error    { o.Outage(false); return nil }
func (o outages) Forgetful() bool { return false }

// Main turns the process into a worker, and does not return, if it was started as one. Call it first in TestMain.
func Main(open Opener) {
	crew.Main(func(ctx context.Context, raw string) (driver.Backend, error) {
		u, err := url.Parse(raw)
		if err != nil {
			return nil, err
		}
		through := u.Fragment
		u.Fragment = ""
		if through == "" {
			return open(ctx, u.String(), nil)
		}
		return open(ctx, u.String(), proxy.Dialer(through))
	})
}

// proxied is the URL that makes a worker's Opener dial through a proxy.
func proxied(raw, through string) string {
	if through == "" {
		return raw
	}
	return raw + "#" + through
}

// VirtualLease is the lease of rules in virtual time, where it costs nothing: the library's own.
const VirtualLease = 30 * time.Second
