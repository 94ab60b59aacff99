package nats

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counted is a connection that tells when it is closed.
type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// A handshake that breaks while nats.go reconnects must not leave its connection open.
func TestReconnectClosesWhatBreaksInTheHandshake(t *testing.T) {
	var open, dials atomic.Int64
	var broken atomic.Bool
	var first atomic.Pointer[counted]
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		var conn net.Conn
		if broken.Load() {
			ours, theirs := net.Pipe()
			conn = ours
			_ = theirs.Close()
		} else {
			var err error
			if conn, err = new(net.Dialer).DialContext(ctx, network, addr); err != nil {
				return nil, err
			}
		}
		open.Add(1)
		c := &counted{Conn: conn, open: &open}
		first.CompareAndSwap(nil, c)
		return c, nil
	}
	port := shared.URL()[strings.LastIndex(shared.URL(), ":"):]
	b := openBackend(t, Config{Dial: dial, URL: "nats://127.0.0.1" + port + ",nats://127.0.0.2" + port + ",nats://127.0.0.3" + port})
	broken.Store(true)
	before := dials.Load()
	require.NoError(t, first.Load().Conn.Close())
	require.Eventually(t, func() bool { return dials.Load() >= before+3 }, patience, time.Millisecond)
	require.LessOrEqual(t, open.Load(), int64(1), "of three")
	broken.Store(false)
	require.Eventually(t, func() bool { return b.Ping(testContext(t)) == nil }, patience, 10*time.Millisecond)
	require.EqualValues(t, 1, open.Load())
}
