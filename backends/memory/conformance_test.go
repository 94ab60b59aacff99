package memory_test

import (
	"context"
	"testing"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/conformance"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Harness{
		Name: "memory", Virtual: true, Lease: conformance.VirtualLease, Expected: conformance.Declared(),
		Start: func(context.Context, string) (conformance.Broker, error) {
			return &broker{memory.New(memory.Config{KeyOrder: true})}, nil
		},
	})
}

// broker is the model as the suite sees a broker.
type broker struct{ *memory.Broker }

func (b *broker) URL() string     { return "memory://" }
func (b *broker) Version() string { return "memory model" }
func (b *broker) Close() error    { return nil }

func (b *broker) Connect(context.Context) (driver.Backend, func(), error) {
	backend := b.Broker.Open()
	return backend, backend.Kill, nil
}
