package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is one connection to a broker of its own, with a producer and a consumer of queue "q".
type fixture struct {
	t   *testing.T
	ctx context.Context
	b   *memory.Backend
	p   driver.Producer
	c   driver.Consumer
}

// bubble runs a test in virtual time and closes what it opened.
func bubble(t *testing.T, cfg memory.Config, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := connect(t, memory.New(cfg))
		test(f)
		require.NoError(t, f.b.Close(f.ctx))
	})
}

func connect(t *testing.T, broker *memory.Broker) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), b: broker.Open()}
	var err error
	f.p, err = f.b.OpenProducer(f.ctx, "q")
	require.NoError(t, err)
	f.c = f.consumer()
	return f
}

// another is one more connection to the same broker.
func (f *fixture) another() *fixture {
	f.t.Helper()
	o := connect(f.t, f.b.Broker())
	f.t.Cleanup(func() { _ = o.b.Close(context.Background()) })
	return o
}

func (f *fixture) consumer() driver.Consumer {
	f.t.Helper()
	c, err := f.b.OpenConsumer(f.ctx, "q", driver.ConsumerConfig{Term: term})
	require.NoError(f.t, err)
	return c
}

func (f *fixture) publish(ms ...*driver.Message) {
	f.t.Helper()
	require.NoError(f.t, f.p.Publish(f.ctx, ms))
}

// put publishes plain messages.
func (f *fixture) put(ids ...string) {
	f.t.Helper()
	for _, id := range ids {
		f.publish(&driver.Message{ID: id})
	}
}

func (f *fixture) get(most int, lanes ...driver.LaneWant) []*driver.Delivery {
	f.t.Helper()
	return f.await(driver.Want{Max: most, Lanes: lanes}, 0)
}

func (f *fixture) await(w driver.Want, wait time.Duration) []*driver.Delivery {
	f.t.Helper()
	ds, err := f.c.Receive(f.ctx, w, wait)
	require.NoError(f.t, err)
	return ds
}

// one is the next message, which must be there.
func (f *fixture) one() *driver.Delivery {
	f.t.Helper()
	ds := f.get(1)
	require.Len(f.t, ds, 1)
	return ds[0]
}

func (f *fixture) ack(ds ...*driver.Delivery) error { return f.c.Ack(f.ctx, ds) }

func (f *fixture) nack(d *driver.Delivery, delay time.Duration) error {
	return f.c.Nack(f.ctx, []driver.Return{{D: d, Delay: delay}})
}

func (f *fixture) extend(d *driver.Delivery, term time.Duration) (driver.Lease, error) {
	ls, err := f.c.Extend(f.ctx, []*driver.Delivery{d}, term)
	require.Len(f.t, ls, 1)
	return ls[0], err
}

func (f *fixture) gauge() driver.Gauge {
	f.t.Helper()
	g, err := f.b.Gauge(f.ctx, "q")
	require.NoError(f.t, err)
	return g
}

func ids(ds []*driver.Delivery) []string {
	var all []string
	for _, d := range ds {
		all = append(all, d.ID)
	}
	return all
}
