package backends_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestOpenRefusesURLsThatNameNoBroker(t *testing.T) {
	for text, want := range map[string]string{
		"kafka9://host":            `unknown scheme "kafka9"`,
		"localhost:4222":           `unknown scheme "localhost"`,
		"":                         "no scheme",
		"/tmp/queue":               "no scheme",
		"nats://":                  "names no host",
		"nats://host:port":         "port is not a number",
		"nats+embedded://dir":      "three slashes",
		"nats+embedded:///x?a=b":   `unknown setting "a"`,
		"memory://here":            "memory has no address",
		"nats://u:sec%ret@h:4222/": "not a URL",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := backends.Open(t.Context(), text)
			var at *backends.URLError
			require.ErrorAs(t, err, &at)
			require.ErrorContains(t, err, want)
			require.NotEmpty(t, at.Hint)
			require.NotContains(t, err.Error(), "sec")
		})
	}
}

func TestOpenListsTheKnownSchemes(t *testing.T) {
	_, err := backends.Open(t.Context(), "rabbit://host")
	for _, form := range backends.Forms() {
		require.ErrorContains(t, err, form)
	}
}

func TestOpenMemory(t *testing.T) {
	b, err := backends.Open(t.Context(), "memory://")
	require.NoError(t, err)
	roundTrip(t, b)
	require.NoError(t, b.Close(t.Context()))
}

func TestOpenEmbeddedStopsItsServerOnClose(t *testing.T) {
	text := "nats+embedded://" + filepath.ToSlash(filepath.Join(t.TempDir(), "store")) + "?sync=always"
	for range 2 { // the second one needs the directory to be free again
		b, err := backends.Open(t.Context(), text)
		require.NoError(t, err)
		require.Implements(t, (*driver.Admin)(nil), b)
		require.Implements(t, (*driver.Meter)(nil), b)
		roundTrip(t, b)
		require.NoError(t, b.Close(t.Context()))
	}
}

func TestServeLeadsOtherConnectionsToTheServer(t *testing.T) {
	shared, stop, err := backends.Serve("nats+embedded://")
	require.NoError(t, err)
	defer stop()
	require.True(t, strings.HasPrefix(shared, "nats://127.0.0.1:"), shared)
	b, err := backends.Open(t.Context(), shared)
	require.NoError(t, err)
	roundTrip(t, b)
	require.NoError(t, b.Close(t.Context()))

	same, stopNothing, err := backends.Serve("nats://elsewhere:4222")
	require.NoError(t, err)
	stopNothing()
	require.Equal(t, "nats://elsewhere:4222", same)

	_, _, err = backends.Serve("memory://")
	require.ErrorContains(t, err, "one process")
}

func TestOpenDeadPortFailsSoonAndKeepsTheSecret(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	b, err := backends.Open(ctx, "nats://me:hunter2@127.0.0.1:1")
	require.Nil(t, b)
	require.ErrorIs(t, err, driver.Unavailable)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"nats://host:4222":             "nats://host:4222",
		"nats://me:hunter2@host:4222":  "nats://host:4222",
		"nats://token@host":            "nats://host",
		"nats://me:hun@ter/2@host/x":   "nats://host/x",
		"me:hunter2@host":              "host",
		"nats+embedded:///var/lib":     "nats+embedded:///var/lib",
		"nats://a:b@one:1,c:d@two:2/x": "nats://two:2/x",
	} {
		require.Equal(t, want, backends.Redact(text))
	}
}

func roundTrip(t *testing.T, b driver.Backend) {
	t.Helper()
	p, err := b.OpenProducer(t.Context(), "q")
	require.NoError(t, err)
	require.NoError(t, p.Publish(t.Context(), []*driver.Message{{ID: "1", Body: []byte("x")}}))
	c, err := b.OpenConsumer(t.Context(), "q", driver.ConsumerConfig{})
	require.NoError(t, err)
	ds, err := c.Receive(t.Context(), driver.Want{Max: 1}, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.NoError(t, c.Ack(t.Context(), ds))
}

func FuzzRedact(f *testing.F) {
	f.Add("nats", "me", "hunter2", "host:4222/x")
	f.Add("nats", "m/e", "hun@ter:2", "host")
	f.Fuzz(func(t *testing.T, scheme, user, secret, rest string) {
		const marker = "S3CR3T"
		if strings.Contains(rest, "@") || strings.Contains(scheme, "://") {
			return
		}
		shown := backends.Redact(scheme + "://" + user + ":" + marker + secret + marker + "@" + rest)
		require.NotContains(t, shown, marker)
		require.True(t, strings.HasSuffix(shown, rest))
	})
}
