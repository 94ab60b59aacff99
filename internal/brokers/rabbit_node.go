package brokers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A rabbitNode is one emulator: a process that may end and be started again.
type rabbitNode struct {
	settings *rabbitSettings
	nursery  *nursery
	name     string
	dir      string

	amqp, amqps, management, distribution int // ports

	turn chan struct{} // holds one: whoever puts it in has the node, and the process below
	proc *process      // nil until the first start

	frozen atomic.Bool // by pause
}

func newRabbitNode(s *rabbitSettings, i int, b *block, n *nursery) *rabbitNode {
	name := fmt.Sprintf("r%d@localhost", i+1) // the machine's name is never resolved
	node := &rabbitNode{settings: s, nursery: n, name: name, dir: filepath.Join(s.dir, fmt.Sprintf("r%d", i+1)), turn: make(chan struct{}, 1)}
	node.amqp, node.management, node.distribution = b.port(), b.port(), b.port()
	if s.options.TLS {
		node.amqps = b.port()
	}
	return node
}

func (n *rabbitNode) endpoints() endpoints {
	e := endpoints{amqp: "amqp://guest:guest@" + address(n.amqp) + "/", management: "http://guest:guest@" + address(n.management)}
	if n.amqps != 0 {
		e.amqps = "amqps://guest:guest@" + address(n.amqps) + "/"
	}
	return e
}

func (n *rabbitNode) start(ctx context.Context) error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.proc.running() {
		return nil
	}
	if err := n.write(); err != nil {
		return err
	}
	var err error
	if n.proc, err = n.launch(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	err = poll(ctx, func() (bool, error) {
		if !n.proc.running() {
			return false, n.died()
		}
		return n.ready(), nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", n.name, err)
	}
	return nil
}

// launch runs the emulator in the place of the start script, so that the process is the broker and a kill is a crash.
func (n *rabbitNode) launch() (*process, error) {
	out, err := os.Create(filepath.Join(n.dir, "stdout"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	errs, err := os.Create(filepath.Join(n.dir, "stderr"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = errs.Close() }()
	cmd := exec.Command(filepath.Join(n.settings.sbin(), "rabbitmq-server"))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = n.dir, n.environment(), out, errs
	return n.nursery.start(cmd, syscall.SIGKILL)
}

// ready: AMQP answers before the last phase of a boot is over, and the other listeners open later.
func (n *rabbitNode) ready() bool {
	text, err := os.ReadFile(filepath.Join(n.dir, "stdout"))
	if err != nil || !strings.Contains(string(text), "completed with") {
		return false
	}
	return greeted(n.amqp) && listening(n.management) && (n.amqps == 0 || listening(n.amqps))
}

func (n *rabbitNode) died() error {
	said := logTail(n.dir)
	if strings.Contains(said, "eaddrinuse") {
		return fmt.Errorf("%w:%s", errPortTaken, said)
	}
	return errors.New("it died:" + said)
}

func (n *rabbitNode) kill() error { return n.end(syscall.SIGKILL) }

func (n *rabbitNode) stop() error { return n.end(syscall.SIGTERM) }

func (n *rabbitNode) end(sig syscall.Signal) error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if !n.proc.running() {
		return nil
	}
	n.frozen.Store(false)
	if sig != syscall.SIGKILL { // a frozen process would not see it
		if err := n.proc.signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return n.proc.end(sig, 30*time.Second)
}

func (n *rabbitNode) up() bool {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	return n.proc.running()
}

func (n *rabbitNode) pause() error { return n.signal(syscall.SIGSTOP) }

func (n *rabbitNode) resume() error { return n.signal(syscall.SIGCONT) }

func (n *rabbitNode) signal(sig syscall.Signal) error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if !n.proc.running() {
		return fmt.Errorf("%s does not run", n.name)
	}
	n.frozen.Store(sig == syscall.SIGSTOP)
	return n.proc.signal(sig)
}

// write puts the node's configuration into its directory.
func (n *rabbitNode) write() error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	cookie := filepath.Join(n.dir, ".erlang.cookie")
	if err := os.Remove(cookie); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(cookie, []byte(n.settings.cookie), 0o400); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"rabbitmq.conf":   n.conf(),
		"advanced.config": advanced,
		"enabled_plugins": "[rabbitmq_management].\n",
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// How often quorum queues write their counts, in ms; rabbitmq.conf has no key for it.
const advanced = "[{rabbit, [{quorum_tick_interval, 200}]}].\n"

func (n *rabbitNode) conf() string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners.tcp.1 = %s\n", address(n.amqp))
	fmt.Fprintf(&b, "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n", n.management)
	if n.amqps != 0 {
		dir := filepath.Join(n.settings.dir, "tls")
		fmt.Fprintf(&b, "listeners.ssl.1 = %s\n", address(n.amqps))
		fmt.Fprintf(&b, "ssl_options.cacertfile = %s\n", filepath.Join(dir, "ca.pem"))
		fmt.Fprintf(&b, "ssl_options.certfile = %s\n", filepath.Join(dir, "cert.pem"))
		fmt.Fprintf(&b, "ssl_options.keyfile = %s\nssl_options.verify = verify_none\n", filepath.Join(dir, "key.pem"))
	}
	// The default watermark is a share of the machine's memory for each node.
	b.WriteString("vm_memory_high_watermark.absolute = 2GB\ndisk_free_limit.absolute = 200MB\n")
	b.WriteString("collect_statistics_interval = 200\nlog.file.level = info\nlog.console = false\n")
	if n.settings.options.Nodes > 1 {
		b.WriteString("cluster_formation.peer_discovery_backend = classic_config\nnet_ticktime = 10\n")
		fmt.Fprintf(&b, "cluster_formation.target_cluster_size_hint = %d\n", n.settings.options.Nodes)
		for i := range n.settings.options.Nodes {
			fmt.Fprintf(&b, "cluster_formation.classic_config.nodes.%d = r%d@localhost\n", i+1, i+1)
		}
	}
	return b.String() + n.settings.options.Conf + "\n"
}

func (n *rabbitNode) environment() []string {
	in := func(name string) string { return filepath.Join(n.dir, name) }
	return []string{
		"PATH=" + filepath.Join(n.settings.tree, "usr/lib/erlang/bin") + ":" + n.settings.sbin() + ":" + os.Getenv("PATH"),
		"HOME=" + n.dir, "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
		"ERL_EPMD_PORT=" + strconv.Itoa(n.settings.epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + n.name, "RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq.conf"), "RABBITMQ_ADVANCED_CONFIG_FILE=" + in("advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + in("mnesia"), "RABBITMQ_LOG_BASE=" + in("log"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + in("config"), "RABBITMQ_SCHEMA_DIR=" + in("schema"),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(n.distribution), "RABBITMQ_PID_FILE=" + in("pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"RUNNING_UNDER_SYSTEMD=true", // the script execs the emulator
	}
}
