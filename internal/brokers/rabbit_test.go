package brokers_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
)

// start returns a broker that runs until the test ends.
func start(t *testing.T, o brokers.RabbitOptions) *brokers.RabbitCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a broker")
	}
	begin := time.Now()
	c, err := brokers.StartRabbit(t.Context(), o)
	brokers.Need(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	t.Logf("rabbitmq %s (%s), %d node(s), started in %s", c.Version(), c.How(), len(c.URLs()), time.Since(begin).Round(100*time.Millisecond))
	return c
}

// ours skips a test that kills nodes of a broker which is not ours.
func ours(t *testing.T, err error) {
	t.Helper()
	brokers.Need(t, err)
}

func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	return ch
}

func declare(t *testing.T, ch *amqp.Channel, name, kind string) {
	t.Helper()
	_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": kind})
	require.NoError(t, err)
}

func publish(t *testing.T, ch *amqp.Channel, queue, body string) {
	t.Helper()
	require.NoError(t, ch.Confirm(false))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
	require.NoError(t, err)
	ok, err := done.WaitContext(ctx)
	require.NoError(t, err)
	require.True(t, ok, "the broker refuses the message")
}

// get settles the next message.
func get(t *testing.T, ch *amqp.Channel, queue string) string {
	t.Helper()
	var body string
	require.Eventually(t, func() bool {
		d, ok, err := ch.Get(queue, true)
		require.NoError(t, err)
		body = string(d.Body)
		return ok
	}, 20*time.Second, 50*time.Millisecond, "no message in %s", queue)
	return body
}

func TestNodeKeepsMessagesOverAKill(t *testing.T) {
	for _, version := range []string{"4.3", "4.0"} {
		t.Run(version, func(t *testing.T) {
			c := start(t, brokers.RabbitOptions{Version: version, Fast: true})
			require.True(t, strings.HasPrefix(c.Version(), version+"."), "%s is not %s", c.Version(), version)
			url, err := c.CreateVhost(t.Context(), "kill/1")
			require.NoError(t, err)
			for _, kind := range []string{"classic", "quorum"} {
				ch := channel(t, url)
				declare(t, ch, kind, kind)
				publish(t, ch, kind, "of "+kind)
			}
			require.NoError(t, c.Registered(t.Context(), "kill/1", "quorum"))
			ours(t, c.Kill(0))
			_, err = amqp.Dial(url)
			require.Error(t, err, "a killed broker answers")
			require.NoError(t, c.Start(t.Context(), 0))
			for _, kind := range []string{"classic", "quorum"} {
				require.Equal(t, "of "+kind, get(t, channel(t, url), kind))
			}
			require.NoError(t, c.Stop(0))
			require.NoError(t, c.Stop(0), "of one that is down")
			require.NoError(t, c.Start(t.Context(), 0))
			require.NoError(t, c.Start(t.Context(), 0), "of one that is up")
			require.NoError(t, c.DeleteVhost(t.Context(), "kill/1"))
			require.NoError(t, c.DeleteVhost(t.Context(), "kill/1"), "of one that is gone")
			_, err = amqp.Dial(url)
			require.Error(t, err, "the vhost is still there")
		})
	}
}

func TestClusterSurvivesAKill(t *testing.T) {
	c := start(t, brokers.RabbitOptions{Nodes: 3, Fast: true})
	require.Len(t, c.URLs(), 3)
	_, err := c.CreateVhost(t.Context(), "ha")
	require.NoError(t, err)
	ch := channel(t, c.VhostURLs("ha")[0])
	declare(t, ch, "q", "quorum")
	publish(t, ch, "q", "one")
	q, err := c.Queue(t.Context(), "ha", "q")
	require.NoError(t, err)
	var leader int
	_, err = fmt.Sscanf(q.Leader, "r%d@localhost", &leader)
	require.NoError(t, err, "leader %q", q.Leader)
	leader-- // nodes count from 0
	ours(t, c.Kill(leader))

	ch = channel(t, c.VhostURLs("ha")[(leader+1)%3])
	publish(t, ch, "q", "two")
	require.Equal(t, "one", get(t, ch, "q"))
	_, err = c.Queue(t.Context(), "ha", "q") // by a node that is up
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), leader))
	require.Equal(t, "two", get(t, channel(t, c.VhostURLs("ha")[leader]), "q"))
	require.NoError(t, c.Registered(t.Context(), "ha", "q"))

	declare(t, channel(t, c.URLs()[1]), "second", "classic")
	require.NoError(t, c.Pause(0))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	second, err := c.Queue(ctx, "/", "second")
	require.NoError(t, err, "asked of the paused node")
	require.Equal(t, "r2@localhost", second.Node)
	require.NoError(t, c.Resume(0))
}

// Options and observations that need no crash share a node.
func TestNode(t *testing.T) {
	dir := t.TempDir()
	c := start(t, brokers.RabbitOptions{Dir: dir, TLS: true, Conf: "heartbeat = 17"})
	if c.How() != brokers.Native {
		t.Skip("options are those of processes")
	}
	t.Run("settings", func(t *testing.T) {
		conn, err := amqp.DialConfig(c.URL(), amqp.Config{Heartbeat: 60 * time.Second})
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.Equal(t, 17*time.Second, conn.Config.Heartbeat)
	})
	t.Run("tls", func(t *testing.T) {
		conn, err := amqp.DialTLS(c.TLSURL(), c.TLSConfig())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		_, err = amqp.DialTLS(c.TLSURL(), nil)
		require.ErrorContains(t, err, "certificate", "an authority that nobody trusts")
	})
	t.Run("unacked", func(t *testing.T) { unacked(t, c) })
	t.Run("pause", func(t *testing.T) { pause(t, c) })
	t.Run("from outside", func(t *testing.T) { fromOutside(t, c) })
	t.Run("in a container", func(t *testing.T) { inDocker(t, c) })
}

func unacked(t *testing.T, c *brokers.RabbitCluster) {
	for _, kind := range []string{"classic", "quorum"} {
		ch := channel(t, c.URL())
		declare(t, ch, kind, kind)
		for i := range 3 {
			publish(t, ch, kind, fmt.Sprint(i))
		}
		var last amqp.Delivery
		for range 2 {
			d, ok, err := ch.Get(kind, false)
			require.NoError(t, err)
			require.True(t, ok)
			last = d
		}
		sees := func(want int) {
			begin := time.Now()
			require.Eventually(t, func() bool {
				n, err := c.Unacked(t.Context(), "/", kind)
				return err == nil && n == want
			}, 3*time.Second, 10*time.Millisecond, "%s: %d unacked", kind, want)
			t.Logf("%s: %d unacked seen after %s", kind, want, time.Since(begin).Round(time.Millisecond))
		}
		sees(2)
		require.NoError(t, last.Ack(true))
		sees(0)
	}
}

func pause(t *testing.T, c *brokers.RabbitCluster) {
	ch := channel(t, c.URL())
	declare(t, ch, "pause", "classic")
	require.NoError(t, c.Pause(0))
	declared := make(chan error, 1)
	go func() {
		_, err := ch.QueueDeclarePassive("pause", true, false, false, false, nil)
		declared <- err
	}()
	select {
	case err := <-declared:
		t.Errorf("a paused broker answers: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	require.NoError(t, c.Resume(0))
	require.NoError(t, <-declared)
}

func fromOutside(t *testing.T, c *brokers.RabbitCluster) {
	t.Setenv("HOLDFAST_RABBIT_43", c.URL())
	t.Setenv("HOLDFAST_RABBIT_43_MANAGEMENT", c.Management())
	out, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{})
	require.NoError(t, err)
	require.Equal(t, brokers.External, out.How())
	require.Equal(t, c.Version(), out.Version())
	require.Equal(t, c.URL(), out.URL())
	url, err := out.CreateVhost(t.Context(), "outside")
	require.NoError(t, err)
	declare(t, channel(t, url), "q", "classic")
	for _, err := range []error{out.Kill(0), out.Stop(0), out.Start(t.Context(), 0), out.Pause(0), out.Resume(0)} {
		require.ErrorIs(t, err, brokers.ErrFixed)
	}
	_, err = brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Nodes: 3})
	require.ErrorIs(t, err, brokers.ErrFixed)
	require.NoError(t, out.Close())
	declare(t, channel(t, url), "q", "classic") // it still runs
}

// inDocker puts a program in docker's place, behind which is the node of this test.
func inDocker(t *testing.T, c *brokers.RabbitCluster) {
	dir := t.TempDir()
	port := func(url string) string {
		_, at, _ := strings.Cut(url, "@")
		return strings.TrimSuffix(at, "/")
	}
	script := fmt.Sprintf(`#!/bin/bash
case "$1 $3" in
"run --name")
  trap 'echo stopped >>%[1]s/log; exit 0' TERM
  echo "$@" >>%[1]s/log
  for a; do case $a in *.conf:ro) cat "${a%%%%:*}" >>%[1]s/log; echo "${a%%%%:*}" >%[1]s/conf ;; esac; done
  while sleep 0.05; do :; done ;;
"port 5672/tcp") echo %[2]s ;;
"port 15672/tcp") echo %[3]s ;;
esac
`, dir, port(c.URL()), port(c.Management()))
	require.NoError(t, os.WriteFile(dir+"/docker", []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HOLDFAST_BROKERS_HOW", brokers.Container)
	box, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Conf: "heartbeat = 17"})
	require.NoError(t, err)
	require.Equal(t, brokers.Container, box.How())
	require.Equal(t, c.Version(), box.Version())
	require.ErrorIs(t, box.Kill(0), brokers.ErrFixed)
	require.NoError(t, box.Close())
	log, err := os.ReadFile(dir + "/log")
	require.NoError(t, err)
	require.Regexp(t, `^run --rm --name holdfast-\w+ .* rabbitmq:4\.3\.\d+-management\nheartbeat = 17\n+stopped\n$`, string(log))
	conf, err := os.ReadFile(dir + "/conf")
	require.NoError(t, err)
	require.NoFileExists(t, strings.TrimSpace(string(conf)))
}

func TestDataOfAnotherVersionAreRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("may install a broker")
	}
	t.Setenv("HOLDFAST_RABBIT_43", "")
	t.Setenv("HOLDFAST_BROKERS_HOW", brokers.Native)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/version", []byte("4.0"), 0o600))
	_, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Version: "4.3", Dir: dir})
	if err != nil && !strings.Contains(err.Error(), "holds data") {
		brokers.Need(t, err)
	}
	require.ErrorContains(t, err, "holds data of rabbitmq 4.0, not 4.3")
}

func TestUnknownVersion(t *testing.T) {
	_, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Version: "3.13"})
	require.ErrorContains(t, err, "only 4.3 and 4.0")
	_, err = brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Nodes: 2})
	require.ErrorContains(t, err, "1 or 3 nodes")
	_, err = brokers.InstallRabbit(t.Context(), "3.13")
	require.ErrorContains(t, err, "only 4.3 and 4.0")
}

func TestAddressThatIsNone(t *testing.T) {
	t.Setenv("HOLDFAST_RABBIT_40", "http://localhost")
	_, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Version: "4.0"})
	require.ErrorContains(t, err, "no amqp:// URL")
}
