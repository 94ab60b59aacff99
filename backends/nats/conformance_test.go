package nats

import (
	"context"
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
