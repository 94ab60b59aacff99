package nats

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/nats/embedded"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	serveDir  = "HOLDFAST_TEST_NATS_DIR"
	serveAddr = "HOLDFAST_TEST_NATS_ADDR"
)

// serve is the process of a server that a test can kill.
func serve(dir, addr string) {
	s, err := embedded.Start(embedded.Config{Dir: dir, Addr: addr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // it ends with its parent
	os.Exit(0)
}

// killable starts a server in a process of its own.
func killable(t *testing.T, dir, addr string) (kill func(), at string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveDir+"="+dir, serveAddr+"="+addr)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = cmd.StdinPipe() // open until the process was waited for
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	dead := false
	kill = func() {
		if !dead {
			dead = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill, strings.TrimSpace(line)
}

// eventually calls f until it succeeds, as package queue does with a broker that is away.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		err = f()
		return err == nil
	}, patience, 20*time.Millisecond, "%v", &err)
}

// awaitAge waits until the server has written down for certain that it gave d away.
func awaitAge(t testing.TB, d *driver.Delivery, term time.Duration) {
	t.Helper()
	given := d.Granted.Until.Add(-term)
	require.Eventually(t, func() bool { return time.Since(given) > 2*forgets }, patience, time.Millisecond)
}

func TestCleanRestart(t *testing.T) {
	const term = 5 * time.Second
	dir := t.TempDir()
	s, err := embedded.Start(embedded.Config{Dir: dir})
	require.NoError(t, err)
	addr := s.Addr()
	b := openBackend(t, Config{URL: s.URL()})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	publish(t, p, text("leased"), text("returned"), text("waiting"),
		&driver.Message{Delay: 2 * time.Second, Header: oddHeader, Body: []byte("delayed")})
	ds := receive(t, c, 2, time.Second)
	require.Len(t, ds, 2)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: ds[1], State: "kept"}}))
	again := receive(t, c, 2, time.Second)
	require.Equal(t, []string{"returned", "waiting"}, bodies(again))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: again[0], State: "kept"}, {D: again[1]}}))

	// A lease that is younger could not be told from one that a killed server has forgotten.
	awaitAge(t, ds[0], term)
	s.Shutdown()
	_, err = c.Receive(testContext(t), driver.Want{Max: 1}, 50*time.Millisecond)
	require.ErrorIs(t, err, driver.Unavailable)
	require.ErrorIs(t, p.Publish(testContext(t), []*driver.Message{text("no")}), driver.Unavailable)
	s, err = embedded.Start(embedded.Config{Dir: dir, Addr: addr})
	require.NoError(t, err)
	defer s.Shutdown()

	eventually(t, func() error { return b.Ping(testContext(t)) })
	require.True(t, time.Now().Before(ds[0].Current().Until))
	require.True(t, ds[0].Current().Until.Before(ds[0].Granted.Until), "the server keeps whole seconds")
	_, err = c.Extend(testContext(t), ds[:1], term)
	require.NoError(t, err)
	require.False(t, ds[0].Current().Until.Before(ds[0].Granted.Until), "confirmed by the new server")
	// Messages that were given back and not handed out again when the server stopped wait for the end of their lease.
	got := map[string]*driver.Delivery{}
	for range 3 {
		d := receiveOne(t, c)
		got[string(d.Body)] = d
		ack(t, c, d)
	}
	require.Equal(t, "kept", got["returned"].State)
	require.Equal(t, 3, got["returned"].DeliveryCount)
	require.Equal(t, 2, got["waiting"].DeliveryCount)
	require.Equal(t, 1, got["delayed"].DeliveryCount)
	require.Equal(t, oddHeader, got["delayed"].Header)
	ack(t, c, ds[0])
	publish(t, p, text("after"))
	require.Equal(t, "after", string(receiveOne(t, c).Body))
}

// A killed server forgets whom it gave messages in its last moments. Their leases end when the connection breaks.
func TestKilledServer(t *testing.T) {
	const term = 20 * time.Second
	dir := t.TempDir()
	kill, addr := killable(t, dir, "")
	b := openBackend(t, Config{URL: "nats://" + addr})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, term)
	publish(t, p, text("old"), text("gone"))
	old := receiveOne(t, c)
	ack(t, c, receiveOne(t, c))
	awaitAge(t, old, term)
	confirmed := make([]*driver.Message, 500)
	for i := range confirmed {
		confirmed[i] = text(fmt.Sprint("stored-", i))
	}
	publish(t, p, confirmed...)
	young := receive(t, c, 100, time.Second, driver.LaneWant{})
	require.Len(t, young, 100)
	kill()
	require.Eventually(t, func() bool { return !time.Now().Before(young[0].Current().Until) }, patience, time.Millisecond)
	for _, d := range young {
		require.ErrorIs(t, c.Ack(testContext(t), []*driver.Delivery{d}), driver.LeaseLost)
	}
	require.True(t, time.Now().Before(old.Current().Until), "this one is on the disk")

	_, at := killable(t, dir, addr)
	require.Equal(t, addr, at)
	eventually(t, func() error { return b.Ping(testContext(t)) })
	seen := map[string]bool{}
	forgotten := 0
	for {
		ds := receive(t, c, 1000, 2*time.Second, driver.LaneWant{})
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			require.False(t, seen[string(d.Body)], "%s twice", d.Body)
			seen[string(d.Body)] = true
		}
	}
	for _, d := range young {
		if seen[string(d.Body)] {
			forgotten++
		}
	}
	t.Logf("the server had forgotten %d of %d", forgotten, len(young))
	require.False(t, seen["old"], "its lease goes on")
	require.False(t, seen["gone"], "acknowledged for good")
	require.GreaterOrEqual(t, len(seen), 400, "nothing confirmed is lost")
	ack(t, c, old)
}

func TestBlipKeepsLeases(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	wire.cut(true)
	require.Eventually(t, func() bool { return !time.Now().Before(d.Current().Until) }, patience, time.Millisecond,
		"nobody knows yet whether the server is alive")
	wire.mend()
	eventually(t, func() error { return b.Ping(testContext(t)) })
	require.Eventually(t, func() bool { return d.Current() == d.Granted }, patience, time.Millisecond, "it is the same server")
	ack(t, c, d)
}

func TestLeaseInDoubt(t *testing.T) {
	now := time.Now()
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	r := &receipt{term: 10 * time.Second, grants: []time.Time{at(0)}}
	r.doubt(at(400))
	require.Equal(t, at(400), r.until(), "the server may never have written it down")
	r.trust()
	require.Equal(t, at(10000), r.until())
	r.doubt(at(600))
	require.Equal(t, at(9000), r.until(), "written, in whole seconds")
	r.trust()
	for i := 1; i <= 20; i++ {
		require.True(t, r.extend(at(300*i), at(300*i+1)))
		require.LessOrEqual(t, len(r.grants), 4)
	}
	require.Equal(t, at(16000), r.until())
	r.doubt(at(6100))
	require.Equal(t, at(5400+9000), r.until(), "the last extension that is old enough")
	require.True(t, r.extend(at(6090), at(6150)), "sent before the connection broke")
	require.Equal(t, at(5400+9000), r.until())
	require.True(t, r.extend(at(6200), at(6250)), "confirmed by the new connection")
	require.Equal(t, at(16200), r.until())
}

func TestQueueDeletedWhileRunning(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	for i, lanes := range [][]driver.LaneWant{{{}}, nil, {{}, {Lane: "b"}}} {
		require.NoError(t, b.CreateQueue(testContext(t), queue))
		p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
		publish(t, p, text("in flight"))
		old := receiveOne(t, c, lanes...)
		require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: old, State: "of the old queue"}}))
		old = receiveOne(t, c, lanes...)
		waits := make(chan error, 1)
		go func() {
			_, err := c.Receive(testContext(t), driver.Want{Max: 1, Lanes: lanes}, patience)
			waits <- err
		}()
		require.Eventually(t, func() bool {
			consumers, err := b.listConsumers(testContext(t), c.names.stream)
			require.NoError(t, err)
			c.hints.mu.Lock()
			defer c.hints.mu.Unlock()
			return c.hints.users > 0 || consumers[0].NumWaiting > 0
		}, patience, time.Millisecond)
		require.NoError(t, b.DeleteQueue(testContext(t), queue))
		require.ErrorIs(t, <-waits, driver.NotFound)
		_, err := c.Receive(testContext(t), driver.Want{Max: 1, Lanes: lanes}, time.Second)
		require.ErrorIs(t, err, driver.NotFound)
		require.ErrorIs(t, p.Publish(testContext(t), []*driver.Message{text("x")}), driver.NotFound)
		require.ErrorIs(t, b.DeleteQueue(testContext(t), queue), driver.NotFound)

		require.NoError(t, b.CreateQueue(testContext(t), queue))
		publish(t, p, text("new"))
		d := receiveOne(t, c, lanes...)
		require.Equal(t, "new", string(d.Body))
		if i == 0 {
			require.Equal(t, old.ID, d.ID, "sequences start again")
		}
		require.Empty(t, d.State)
		// Late settlements of the old queue's message must not hit the new one's.
		require.ErrorIs(t, c.Ack(testContext(t), []*driver.Delivery{old}), driver.LeaseLost)
		_, err = c.Extend(testContext(t), []*driver.Delivery{old}, time.Second)
		require.ErrorIs(t, err, driver.LeaseLost)
		require.ErrorIs(t, c.Nack(testContext(t), []driver.Return{{D: old}}), driver.LeaseLost)
		require.Equal(t, 1, pending(t, b, queue))
		require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "of the new"}}))
		d = receiveOne(t, c, lanes...)
		require.Equal(t, "of the new", d.State)
		ack(t, c, d)
		require.NoError(t, c.Close(testContext(t)))
		require.NoError(t, b.DeleteQueue(testContext(t), queue))
	}
}

func TestStatesOfAnEarlierQueueAreIgnored(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: receiveOne(t, c), State: "old"}}))
	// Somebody removes the stream and leaves the states.
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.DELETE."+c.names.stream, nil, nil))
	require.NoError(t, b.CreateQueue(testContext(t), queue))
	publish(t, p, text("y"))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: receiveOne(t, c)}}))
	d := receiveOne(t, c)
	require.Equal(t, "y", string(d.Body))
	require.Empty(t, d.State)
	require.Equal(t, 2, d.DeliveryCount)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "new"}}))
	require.Equal(t, "new", receiveOne(t, c).State)
}

func TestOrphanedStatesAreRemoved(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: receiveOne(t, c), State: "s"}}))
	d := receiveOne(t, c)
	d.Receipt.(*receipt).memory.sequence = 0 // the process dies before it removes the entry
	ack(t, c, d)
	entries := func() uint64 {
		info, err := b.info(testContext(t), c.names.states, "")
		require.NoError(t, err)
		return info.State.Msgs
	}
	require.Equal(t, uint64(1), entries())
	openConsumer(t, b, queue, time.Minute)
	require.Equal(t, uint64(0), entries())
}

func TestConsumerRemovedByHand(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, time.Minute)
	publish(t, p, text("x"))
	d := receiveOne(t, c)
	remove := func() {
		consumers, err := b.listConsumers(testContext(t), c.names.stream)
		require.NoError(t, err)
		require.Len(t, consumers, 1)
		require.NoError(t, b.api(testContext(t), callAdmin, "CONSUMER.DELETE."+c.names.stream+"."+consumers[0].Name, nil, nil))
	}
	remove()
	err := c.Ack(testContext(t), []*driver.Delivery{d})
	require.ErrorIs(t, err, driver.Unavailable, "it was not processed")
	require.True(t, errors.Is(err, errNoResponder))
	d = receiveOne(t, c)
	require.Equal(t, "x", string(d.Body))
	ack(t, c, d)
	remove()
	publish(t, p, text("y"))
	require.Equal(t, "y", string(receiveOne(t, c, driver.LaneWant{}).Body))
}

func TestStateStreamRemovedByHand(t *testing.T) {
	b := openBackend(t, Config{})
	queue := queueName(t)
	p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 300*time.Millisecond)
	publish(t, p, text("x"))
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: receiveOne(t, c), State: "s"}}))
	require.NoError(t, b.api(testContext(t), callAdmin, "STREAM.DELETE."+c.names.states, nil, nil))
	d := receiveOne(t, c)
	require.Empty(t, d.State, "lost with the stream")
	require.Error(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "s"}}))
	require.NoError(t, b.CreateQueue(testContext(t), queue))
	d = receiveOne(t, c)
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "s"}}))
	require.Equal(t, "s", receiveOne(t, c).State)
}

func TestReconnectDelays(t *testing.T) {
	for range 1000 {
		dials, sum := 0, reconnectDelay(1)
		for ; sum <= time.Minute; dials++ {
			d := reconnectDelay(dials + 2)
			require.Less(t, d, 5*time.Second)
			sum += d
		}
		require.LessOrEqual(t, dials, 12)
	}
}

func TestReceiveWaitsForTheConnection(t *testing.T) {
	var wire cable
	b := openBackend(t, Config{Dial: wire.dial})
	queue := queueName(t)
	c := openConsumer(t, b, queue, time.Minute)
	wire.cut(true)
	eventually(t, func() error {
		if b.connected(testContext(t), 0) == nil {
			return errors.New("not noticed yet")
		}
		return nil
	})
	_, err := c.Receive(testContext(t), driver.Want{Max: 1}, 10*time.Millisecond)
	require.ErrorIs(t, err, driver.Unavailable, "no connection within the wait")
	publish(t, openProducer(t, openBackend(t, Config{}), queue), text("x"))
	wire.mend()
	require.Equal(t, "x", string(receiveOne(t, c).Body), "one call, which has waited")
	require.NoError(t, b.connected(testContext(t), 0))
}
