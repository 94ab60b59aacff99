package nats

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/backends/nats/embedded"
	"github.com/holdfast-queue/holdfast/conformance"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// shared is the server of most tests; each uses queues of its own name.
var shared *embedded.Server

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveDir); dir != "" {
		serve(dir, os.Getenv(serveAddr))
	}
	conformance.Main(openThrough)
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	before := goleak.IgnoreCurrent()
	var err error
	if shared, err = embedded.Start(embedded.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	shared.Shutdown()
	if code == 0 {
		if err := goleak.Find(before); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

const patience = 20 * time.Second // of a test, for what must happen

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// queueName is unique in the server of all tests.
func queueName(t testing.TB) string {
	return fmt.Sprintf("%s-%d", strings.ToLower(t.Name()), time.Now().UnixNano())
}

func openBackend(t testing.TB, c Config) *Backend {
	t.Helper()
	if c.URL == "" {
		c.URL = shared.URL()
	}
	b, err := Open(testContext(t), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(testContext(t)) })
	return b
}

func openProducer(t testing.TB, b *Backend, queue string) driver.Producer {
	t.Helper()
	p, err := b.OpenProducer(testContext(t), queue)
	require.NoError(t, err)
	return p
}

func openConsumer(t testing.TB, b *Backend, queue string, term time.Duration) *Consumer {
	t.Helper()
	c, err := b.OpenConsumer(testContext(t), queue, driver.ConsumerConfig{Term: term})
	require.NoError(t, err)
	return c.(*Consumer)
}

func publish(t testing.TB, p driver.Producer, ms ...*driver.Message) {
	t.Helper()
	require.NoError(t, p.Publish(testContext(t), ms))
}

// receive returns what one Receive brings within wait.
func receive(t testing.TB, c driver.Consumer, most int, wait time.Duration, lanes ...driver.LaneWant) []*driver.Delivery {
	t.Helper()
	ds, err := c.Receive(testContext(t), driver.Want{Max: most, Lanes: lanes}, wait)
	require.NoError(t, err)
	return ds
}

// receiveOne waits for one delivery.
func receiveOne(t testing.TB, c driver.Consumer, lanes ...driver.LaneWant) *driver.Delivery {
	t.Helper()
	ds := receive(t, c, 1, patience/2, lanes...)
	require.Len(t, ds, 1)
	return ds[0]
}

func ack(t testing.TB, c driver.Consumer, ds ...*driver.Delivery) {
	t.Helper()
	require.NoError(t, c.Ack(testContext(t), ds))
}

func text(s string) *driver.Message { return &driver.Message{Body: []byte(s)} }

func inLane(lane, s string) *driver.Message { return &driver.Message{Lane: lane, Body: []byte(s)} }

func bodies(ds []*driver.Delivery) []string {
	all := make([]string, len(ds))
	for i, d := range ds {
		all[i] = string(d.Body)
	}
	return all
}

// cable is a Dial that can be cut, or be made to swallow everything.
type cable struct {
	mu    sync.Mutex
	conns []*cableConn
	dials int
	hole  bool
	down  bool
	clogs chan struct{} // writes wait until it is closed
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	c.dials++
	down := c.down
	c.mu.Unlock()
	if down {
		return nil, fmt.Errorf("cable is down")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cc := &cableConn{Conn: conn, cable: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, cc)
	return cc, nil
}

// cut closes all connections. While it stays down none can be made.
func (c *cable) cut(stayDown bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = stayDown
	for _, conn := range c.conns {
		_ = conn.Conn.Close()
	}
	c.conns = nil
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down, c.hole = false, false
}

// swallow makes the connections take everything and pass on nothing.
func (c *cable) swallow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hole = true
}

// clog makes the connections take nothing, as when the peer has stopped reading, until release is called.
func (c *cable) clog() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{})
	c.clogs = ch
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clogs = nil
		close(ch)
	}
}

func (c *cable) clogged() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clogs
}

func (c *cable) swallows() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hole
}

type cableConn struct {
	net.Conn
	cable *cable
}

func (c *cableConn) Write(b []byte) (int, error) {
	if ch := c.cable.clogged(); ch != nil {
		<-ch
	}
	if c.cable.swallows() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
