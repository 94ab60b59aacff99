package rabbit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-queue/holdfast/conformance"
	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// testBeat is the shortest heartbeat that a busy machine can keep; the lease of the suite fits in it.
const testBeat = 2 * time.Second

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts brokers: run it with make conformance BACKEND=rabbit")
	}
	for _, mode := range []struct{ name, version, kind string }{
		{"rabbit-quorum", "4.3", "quorum"},
		{"rabbit-classic", "4.3", "classic"},
		{"rabbit-quorum-4.0", "4.0", "quorum"},
		{"rabbit-classic-4.0", "4.0", "classic"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			node := shared(t, mode.version)
			conformance.Test(t, conformance.Harness{
				Name: mode.name, Lease: testBeat, Open: openThrough, Expected: conformance.Declared(),
				Start: func(ctx context.Context, _ string) (conformance.Broker, error) { return newVhost(ctx, node, mode.kind) },
				Powered: func(ctx context.Context, dir string) (conformance.Broker, error) {
					return newNode(ctx, mode.version, mode.kind, dir, (*brokers.RabbitCluster).Stop)
				},
				Apart: func(ctx context.Context, dir string) (conformance.Broker, error) {
					return newNode(ctx, mode.version, mode.kind, dir, crash)
				},
			})
		})
	}
}

// openThrough opens the backend for the suite and its worker processes.
func openThrough(ctx context.Context, url string, dial conformance.Dial) (driver.Backend, error) {
	return Open(ctx, Config{URL: url, Dial: dial, Heartbeat: testBeat, Timeout: 2 * time.Second})
}

// nodes are the brokers of this test binary, one a version.
var nodes struct {
	mu  sync.Mutex
	all map[string]*brokers.RabbitCluster
}

func shared(t *testing.T, version string) *brokers.RabbitCluster {
	t.Helper()
	nodes.mu.Lock()
	defer nodes.mu.Unlock()
	if nodes.all == nil {
		nodes.all = map[string]*brokers.RabbitCluster{}
	}
	if c := nodes.all[version]; c != nil {
		return c
	}
	c, err := brokers.StartRabbit(context.Background(), brokers.RabbitOptions{Version: version, Fast: true})
	brokers.Need(t, err)
	nodes.all[version] = c
	return c
}

func stopBrokers() error {
	nodes.mu.Lock()
	defer nodes.mu.Unlock()
	var errs []error
	for _, c := range nodes.all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// crash kills a node. One that is killed within half a second of the declaration of a queue forgets the queue, and with it
// what it has confirmed: that is the server's, and not what the suite is about (see doc.go).
func crash(c *brokers.RabbitCluster, node int) error {
	return errors.Join(c.RegisteredAll(context.Background()), c.Kill(node))
}

// vhost is a virtual host of a shared broker.
type vhost struct {
	c         *brokers.RabbitCluster
	name, url string
}

var vhosts atomic.Int64

func newVhost(ctx context.Context, c *brokers.RabbitCluster, kind string) (*vhost, error) {
	v := &vhost{c: c, name: fmt.Sprintf("rule-%d-%d", os.Getpid(), vhosts.Add(1))}
	at, err := c.CreateVhost(ctx, v.name)
	if err != nil {
		return nil, err
	}
	v.url = with(at, kind, c.Management())
	return v, nil
}

func with(at, kind, management string) string {
	sep := "?"
	if strings.Contains(at, "?") {
		sep = "&"
	}
	return at + sep + url.Values{"type": {kind}, "management": {management}}.Encode()
}

func (v *vhost) URL() string     { return v.url }
func (v *vhost) Version() string { return "RabbitMQ " + v.c.Version() + " (" + v.c.How() + ")" }

func (v *vhost) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return v.c.DeleteVhost(ctx, v.name)
}

// node is a broker of a rule's own.
type node struct {
	*brokers.RabbitCluster
	kind string
	end  func(*brokers.RabbitCluster, int) error
}

func newNode(ctx context.Context, version, kind, dir string, end func(*brokers.RabbitCluster, int) error) (*node, error) {
	c, err := brokers.StartRabbit(ctx, brokers.RabbitOptions{Version: version, Dir: dir})
	if err != nil {
		return nil, err
	}
	return &node{RabbitCluster: c, kind: kind, end: end}, nil
}

func (n *node) Stop() error     { return n.end(n.RabbitCluster, 0) }
func (n *node) Start() error    { return n.RabbitCluster.Start(context.Background(), 0) }
func (n *node) Forgetful() bool { return false }
func (n *node) URL() string     { return with(n.RabbitCluster.URL(), n.kind, n.Management()) }
func (n *node) Version() string { return "RabbitMQ " + n.RabbitCluster.Version() }
