package embedded

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStartAndShutdown(t *testing.T) {
	began := time.Now()
	s, err := Start(Config{})
	require.NoError(t, err)
	require.Less(t, time.Since(began), 5*time.Second)
	require.DirExists(t, s.Dir())
	require.NotEmpty(t, s.Version())
	nc, err := natsgo.Connect(s.URL())
	require.NoError(t, err)
	require.Equal(t, s.Version(), nc.ConnectedServerVersion())
	require.Equal(t, int64(MaxPayload), nc.MaxPayload())
	nc.Close()
	s.Shutdown()
	s.Shutdown()
	require.NoDirExists(t, s.Dir())
	_, err = natsgo.Connect(s.URL())
	require.Error(t, err)
}

func TestRestartOnTheSamePlace(t *testing.T) {
	dir := t.TempDir()
	for _, sync := range []bool{false, true} {
		s, err := Start(Config{Dir: dir, SyncAlways: sync})
		require.NoError(t, err)
		addr := s.Addr()
		count := func() uint64 {
			nc, err := natsgo.Connect(s.URL())
			require.NoError(t, err)
			defer nc.Close()
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			st, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
			require.NoError(t, err)
			_, err = js.Publish(ctx, "s", []byte("x"))
			require.NoError(t, err)
			info, err := st.Info(ctx)
			require.NoError(t, err)
			return info.State.Msgs
		}
		before := count()
		for range 2 {
			s.Shutdown()
			s, err = Start(Config{Dir: dir, Addr: addr, SyncAlways: sync})
			require.NoError(t, err)
			require.Equal(t, addr, s.Addr())
		}
		require.Equal(t, before+1, count())
		s.Shutdown()
		require.DirExists(t, dir)
	}
}

func TestStartFailsForAReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = Start(Config{Addr: l.Addr().String()})
	require.ErrorContains(t, err, "address already in use")

	_, err = Start(Config{Addr: "nonsense"})
	require.ErrorContains(t, err, "address")
	_, err = Start(Config{Addr: "127.0.0.1:99999"})
	require.ErrorContains(t, err, "port")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Start(Config{Dir: file})
	require.ErrorContains(t, err, file)

	dir := t.TempDir()
	s, err := Start(Config{Dir: dir})
	require.NoError(t, err)
	_, err = Start(Config{Dir: dir})
	require.ErrorContains(t, err, "in use by another server")
	s.Shutdown()
	s, err = Start(Config{Dir: dir})
	require.NoError(t, err)
	s.Shutdown()

	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "jetstream"), nil, 0o600))
	_, err = Start(Config{Dir: broken})
	require.ErrorContains(t, err, "JetStream")
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestLogger(t *testing.T) {
	var out lockedBuffer
	s, err := Start(Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	require.NoError(t, err)
	s.Shutdown()
	require.Contains(t, out.String(), "Listening for client connections")
	require.NotContains(t, out.String(), "level=DEBUG")
}
