package nats

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-queue/holdfast/backends/nats/embedded"
	"github.com/holdfast-queue/holdfast/conformance"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Harness{
		Name: "nats", Lease: 2 * time.Second, Open: openThrough, Expected: conformance.Declared(),
		Start: func(_ context.Context, dir string) (conformance.Broker, error) {
			b := &restartable{cfg: embedded.Config{Dir: dir}}
			return b, b.Start()
		},
		Apart: func(_ context.Context, dir string) (conformance.Broker, error) {
			b := &apart{dir: dir}
			return b, b.Start()
		},
	})
}

// openThrough opens the backend for the suite and its worker processes.
func openThrough(ctx context.Context, url string, dial conformance.Dial) (driver.Backend, error) {
	return Open(ctx, Config{URL: url, Dial: dial, Timeout: 2 * time.Second})
}

// restartable is an embedded server that can be restarted with what it stored, on the same address.
type restartable struct {
	cfg embedded.Config
	*embedded.Server
}

func (b *restartable) Start() error {
	s, err := embedded.Start(b.cfg)
	if err != nil {
		return err
	}
	b.Server = s
	b.cfg.Addr = strings.TrimPrefix(s.URL(), "nats://")
	return nil
}

func (b *restartable) Stop() error     { b.Shutdown(); return nil }
func (b *restartable) Forgetful() bool { return false }
func (b *restartable) Version() string { return "NATS " + b.Server.Version() }
func (b *restartable) Close() error    { b.Shutdown(); return nil }

// apart is a server in a process of its own, which can be killed and started again with what it stored, on the same
// address. It ends when this process does.
type apart struct {
	dir, addr string
	cmd       *exec.Cmd
	life      io.Closer // its standard input
}

func (b *apart) Start() error {
	b.cmd = exec.Command(os.Args[0])
	b.cmd.Env = append(os.Environ(), serveDir+"="+b.dir, serveAddr+"="+b.addr)
	b.cmd.Stderr = os.Stderr
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if b.life, err = b.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := b.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return errors.Join(err, b.Stop())
	}
	b.addr = strings.TrimSpace(line)
	return nil
}

// Stop kills it.
func (b *apart) Stop() error {
	if b.cmd.ProcessState != nil {
		return nil
	}
	err := b.cmd.Process.Kill()
	_ = b.cmd.Wait() // says that it was killed
	return err
}

func (b *apart) Forgetful() bool { return false }
func (b *apart) URL() string     { return "nats://" + b.addr }
func (b *apart) Version() string { return "NATS in a process of its own" }
func (b *apart) Close() error    { return b.Stop() }
