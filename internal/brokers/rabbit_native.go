package brokers

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A rabbitNative is a RabbitMQ of processes: an epmd, Erlang's name server, of its own, and one emulator for each node.
type rabbitNative struct {
	block   *block
	nursery *nursery
	epmd    *process
	nodes   []*rabbitNode
	keep    bool // the data are the caller's
}

var errPortTaken = errors.New("a port was taken by another program")

func startNative(ctx context.Context, o RabbitOptions) (*RabbitCluster, error) {
	tree, _, err := installRabbit(ctx, o.Version)
	if err != nil {
		return nil, err
	}
	for range 3 {
		var c *RabbitCluster
		if c, err = startIn(ctx, tree, o); !errors.Is(err, errPortTaken) {
			return c, err
		}
	}
	return nil, err
}

func startIn(ctx context.Context, tree string, o RabbitOptions) (c *RabbitCluster, err error) {
	home, err := Home()
	if err != nil {
		return nil, err
	}
	b, err := takeBlock(home)
	if err != nil {
		return nil, err
	}
	r := &rabbitNative{block: b, nursery: newNursery(), keep: o.Dir != ""}
	c = &RabbitCluster{how: Native, native: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	dir := o.Dir
	if dir == "" {
		dir = b.dir(o.Fast)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	s := &rabbitSettings{tree: tree, dir: dir, options: o, epmd: b.port()}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if o.TLS {
		if c.tls, err = writeCertificates(filepath.Join(dir, "tls")); err != nil {
			return nil, err
		}
	}
	if err := r.startEpmd(s); err != nil {
		return nil, err
	}
	for i := range o.Nodes {
		n := newRabbitNode(s, i, b, r.nursery)
		r.nodes = append(r.nodes, n)
		c.nodes = append(c.nodes, n.endpoints())
	}
	return c, r.startAll(ctx)
}

// startAll starts the nodes at the same time, as peers that wait for each other want it.
func (r *rabbitNative) startAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	results := make(chan error, len(r.nodes))
	for _, n := range r.nodes {
		go func() { results <- n.start(ctx) }()
	}
	var failed error
	for range r.nodes {
		if err := <-results; err != nil {
			failed = errors.Join(failed, err)
			cancel()
		}
	}
	return failed
}

// startEpmd does what the emulator would do by itself, but the one that the emulator starts outlives it.
func (r *rabbitNative) startEpmd(s *rabbitSettings) (err error) {
	cmd := exec.Command(filepath.Join(s.tree, "usr/lib/erlang/bin/epmd"), "-address", "127.0.0.1", "-port", strconv.Itoa(s.epmd))
	cmd.Dir = s.dir
	if r.epmd, err = r.nursery.start(cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("start epmd: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		if !r.epmd.running() {
			return false, fmt.Errorf("epmd: %w", errPortTaken)
		}
		return listening(s.epmd), nil
	})
}

func (r *rabbitNative) close() error {
	var failed error
	for _, n := range r.nodes {
		end := n.kill
		if r.keep {
			end = n.stop
		}
		failed = errors.Join(failed, end())
	}
	if r.epmd != nil {
		failed = errors.Join(failed, r.epmd.end(syscall.SIGKILL, time.Second))
	}
	r.nursery.close()
	r.block.close()
	return failed
}

// Registered waits until the nodes that are up would find a quorum queue again after a crash. They keep a register of their
// quorum queues beside the Raft log, and write it half a second after it has changed; a message that is confirmed before that
// is in the log of a queue which a restarted node does not know. Where nodes cannot be killed it returns at once; of a queue
// that is no quorum queue, an error after ten seconds.
func (c *RabbitCluster) Registered(ctx context.Context, vhost, queue string) error {
	if c.native == nil {
		return nil
	}
	if vhost == "/" {
		vhost = "%2F"
	}
	entry := []byte(vhost + "_" + queue)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, n := range c.native.nodes {
		register := filepath.Join(n.dir, "mnesia", n.name, "quorum", n.name, "names.dets")
		err := poll(ctx, func() (bool, error) {
			if !n.up() {
				return true, nil
			}
			text, err := os.ReadFile(register)
			return bytes.Contains(text, entry), err
		})
		if err != nil {
			return fmt.Errorf("quorum queue %s at %s: %w", queue, n.name, err)
		}
	}
	return nil
}

// RegisteredAll is Registered for every quorum queue that there is.
func (c *RabbitCluster) RegisteredAll(ctx context.Context) error {
	if c.native == nil {
		return nil
	}
	var queues []struct {
		Name  string `json:"name"`
		Vhost string `json:"vhost"`
		Type  string `json:"type"`
	}
	if err := c.api(ctx, http.MethodGet, "/api/queues?disable_stats=true", nil, &queues); err != nil {
		return fmt.Errorf("list the queues: %w", err)
	}
	for _, q := range queues {
		if q.Type != "quorum" {
			continue
		}
		if err := c.Registered(ctx, q.Vhost, q.Name); err != nil {
			return err
		}
	}
	return nil
}

// rabbitSettings are what the nodes of a cluster have in common.
type rabbitSettings struct {
	tree, dir string
	options   RabbitOptions
	epmd      int
	cookie    string
}

// prepare makes the directory. Data of another version are refused by the broker, with a riddle: better said here.
func (s *rabbitSettings) prepare() error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	version := filepath.Join(s.dir, "version")
	if old, err := os.ReadFile(version); err == nil && string(old) != s.options.Version {
		return fmt.Errorf("%s holds data of rabbitmq %s, not %s", s.dir, old, s.options.Version)
	}
	if err := os.WriteFile(version, []byte(s.options.Version), 0o644); err != nil {
		return err
	}
	cookie := filepath.Join(s.dir, "cookie")
	text, err := os.ReadFile(cookie)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte(rand.Text())
		err = os.WriteFile(cookie, text, 0o600)
	}
	s.cookie = string(text)
	return err
}

func (s *rabbitSettings) sbin() string {
	return filepath.Join(s.tree, "usr/lib/rabbitmq/lib/current/sbin")
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func listening(port int) bool {
	conn, err := net.DialTimeout("tcp4", address(port), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// greeted says whether the broker takes AMQP clients: it answers the protocol's header with a method frame, Connection.Start.
func greeted(port int) bool {
	conn, err := net.DialTimeout("tcp4", address(port), time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	var frame [1]byte
	_, err = conn.Read(frame[:])
	return err == nil && frame[0] == 1
}

func logTail(dir string) string {
	var b strings.Builder
	for _, name := range []string{"stdout", "stderr"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil && len(text) > 0 {
			fmt.Fprintf(&b, "\n%s: %s", name, tail(string(text), 20))
		}
	}
	return b.String()
}
