package brokers

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// RabbitOptions say which RabbitMQ to start.
type RabbitOptions struct {
	Version string // "4.3" (also for "") or "4.0"
	Nodes   int    // 1 (also for 0) or 3: a cluster on loopback
	// Dir keeps the data after Close, and a start on old data of the same version goes on with it. "": a directory that is
	// removed.
	Dir  string
	Fast bool   // with Dir "": the data are in memory (/dev/shm) where the machine has that
	Conf string // more lines of rabbitmq.conf; ignored by a broker from outside
	TLS  bool   // also listen for TLS, with a certificate for localhost and 127.0.0.1 (see TLSURL and TLSConfig)
}

// A RabbitCluster is a RabbitMQ of one or three nodes that are ready for clients. Its methods may be called at the same time.
type RabbitCluster struct {
	how     string
	version string
	nodes   []endpoints
	tls     *tls.Config
	native  *rabbitNative   // nil unless How is Native
	box     *rabbitInDocker // nil unless How is Container
}

// endpoints are the addresses of one node.
type endpoints struct {
	amqp, amqps, management string
}

// StartRabbit takes the broker of HOLDFAST_RABBIT_43 or HOLDFAST_RABBIT_40 (an AMQP URL) when that is set. Else it starts one as
// processes, after installing it into Home if need be, or as a container where Debian's packages cannot be unpacked and
// `docker info` answers; HOLDFAST_BROKERS_HOW=native or =container decides instead. It returns when clients are served and a
// cluster has formed: after about ten seconds, or a minute when it has to install.
//
// The context bounds the start only. The broker runs until Close, or until this program ends. Errors that say that this
// machine cannot run the broker wrap ErrUnavailable; what a broker from outside or in a container cannot be asked for, ErrFixed.
func StartRabbit(ctx context.Context, o RabbitOptions) (*RabbitCluster, error) {
	if o.Version == "" {
		o.Version = "4.3"
	}
	o.Nodes = max(o.Nodes, 1)
	if _, known := rabbitSuites[o.Version]; !known || o.Nodes != 1 && o.Nodes != 3 {
		return nil, fmt.Errorf("rabbitmq %q with %d nodes: only 4.3 and 4.0, with 1 or 3 nodes, can be had", o.Version, o.Nodes)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	c, err := startRabbit(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start rabbitmq %s: %w", o.Version, err)
	}
	if c.version, err = c.serverVersion(ctx, o.Nodes); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("rabbitmq %s does not come up: %w", o.Version, err)
	}
	return c, nil
}

func startRabbit(ctx context.Context, o RabbitOptions) (*RabbitCluster, error) {
	name := "HOLDFAST_RABBIT_" + strings.ReplaceAll(o.Version, ".", "")
	if address := os.Getenv(name); address != "" {
		return externalRabbit(name, address, o)
	}
	switch forced := os.Getenv("HOLDFAST_BROKERS_HOW"); {
	case forced == Native:
		return startNative(ctx, o)
	case forced == Container:
		return startInDocker(ctx, o)
	case forced != "":
		return nil, fmt.Errorf("HOLDFAST_BROKERS_HOW=%s: either %s or %s", forced, Native, Container)
	case canInstall() != nil && exec.CommandContext(ctx, "docker", "info").Run() == nil:
		return startInDocker(ctx, o)
	default:
		return startNative(ctx, o)
	}
}

func externalRabbit(name, address string, o RabbitOptions) (*RabbitCluster, error) {
	if o.Nodes > 1 || o.TLS {
		return nil, fmt.Errorf("%w: %s names a single node, without TLS", ErrFixed, name)
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "amqp" || u.Hostname() == "" {
		return nil, fmt.Errorf("%s=%q is no amqp:// URL", name, address)
	}
	management := os.Getenv(name + "_MANAGEMENT")
	if management == "" {
		user := u.User
		if user == nil {
			user = url.UserPassword("guest", "guest")
		}
		management = (&url.URL{Scheme: "http", User: user, Host: u.Hostname() + ":15672"}).String()
	}
	return &RabbitCluster{how: External, nodes: []endpoints{{amqp: address, management: management}}}, nil
}

// How says where the broker came from: Native, Container or External.
func (c *RabbitCluster) How() string { return c.how }

// Version is what the server says it is, "4.3.6".
func (c *RabbitCluster) Version() string { return c.version }

// URL is the AMQP URL of the first node's virtual host "/".
func (c *RabbitCluster) URL() string { return c.nodes[0].amqp }

// URLs are those of all nodes, which keep their places and addresses when they are stopped and started.
func (c *RabbitCluster) URLs() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.amqp)
	}
	return all
}

// VhostURLs are the URLs of a virtual host at all nodes.
func (c *RabbitCluster) VhostURLs(vhost string) []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, inVhost(n.amqp, vhost))
	}
	return all
}

// Management is the URL of the first node's HTTP API, with user and password, without a slash at its end.
func (c *RabbitCluster) Management() string { return c.nodes[0].management }

// TLSURL is the amqps:// URL of the first node, or "" when TLS was not asked for.
func (c *RabbitCluster) TLSURL() string { return c.nodes[0].amqps }

// TLSConfig trusts the certificate of the nodes; it is nil when TLS was not asked for.
func (c *RabbitCluster) TLSConfig() *tls.Config { return c.tls.Clone() }

// Kill ends a node as a crash would (SIGKILL) and returns when it is gone. Nodes count from 0, in the order of URLs; to kill or
// stop one that is down is no error. Kill and the methods below it return ErrFixed where the node is not a process of ours.
//
// A single node forgets a quorum queue, with the messages that it has confirmed, when it is killed in the half second after the
// queue was declared: Registered waits that out.
func (c *RabbitCluster) Kill(node int) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	return n.kill()
}

// Stop ends a node in good order (SIGTERM) and returns when it is gone.
func (c *RabbitCluster) Stop(node int) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	return n.stop()
}

// Start starts a node again that was killed or stopped, on its old data and addresses, and returns when it serves clients. A
// node that runs is left as it is.
func (c *RabbitCluster) Start(ctx context.Context, node int) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return n.start(ctx)
}

// Pause freezes a node (SIGSTOP): its connections stay open and nobody answers. Resume lets it go on.
func (c *RabbitCluster) Pause(node int) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	return n.pause()
}

// Resume lets a paused node go on (SIGCONT).
func (c *RabbitCluster) Resume(node int) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	return n.resume()
}

func (c *RabbitCluster) node(i int) (*rabbitNode, error) {
	if c.native == nil {
		return nil, fmt.Errorf("rabbitmq %s (%s): nodes cannot be killed, stopped or frozen: %w", c.version, c.how, ErrFixed)
	}
	if i < 0 || i >= len(c.native.nodes) {
		return nil, fmt.Errorf("no node %d among %d", i, len(c.native.nodes))
	}
	return c.native.nodes[i], nil
}

// Close ends everything that StartRabbit started, and removes the data unless RabbitOptions.Dir was given. It leaves a broker
// from outside alone. It is called once.
func (c *RabbitCluster) Close() error {
	switch {
	case c.native != nil:
		return c.native.close()
	case c.box != nil:
		return c.box.close()
	}
	return nil
}
