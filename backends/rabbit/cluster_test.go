package rabbit

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/internal/brokers"
	"github.com/holdfast-queue/holdfast/queue"
)

const (
	clusterWorkers = 8
	clusterJob     = 20 * time.Millisecond
	clusterLimit   = 3 * time.Minute
)

// TestCluster is of the full tier: it takes two minutes.
func TestCluster(t *testing.T) {
	if testing.Short() || os.Getenv("HOLDFAST_TIER") != "full" {
		t.Skip("of the full tier: HOLDFAST_TIER=full")
	}
	// A quorum queue of 4.3 keeps for so long what it has handed to consumers at a node that is gone, in case it comes back:
	// without this setting (or a policy with consumer-disconnected-timeout) for a minute.
	c, err := brokers.StartRabbit(t.Context(), brokers.RabbitOptions{Nodes: 3, Fast: true, Conf: "consumer_disconnected_timeout = 5000"})
	brokers.Need(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	if c.How() != brokers.Native {
		t.Skip("nodes that are killed are processes")
	}
	t.Run("killed", func(t *testing.T) {
		r := newClusterRun(t, c, "killed")
		r.publish(6000)
		r.begin()
		r.until(1500)
		leader := r.leader()
		began := time.Now()
		require.NoError(t, c.Kill(leader))
		done := r.acked.Load()
		require.Eventually(t, func() bool { return r.acked.Load() > done+200 }, clusterLimit, 10*time.Millisecond, "nothing goes on")
		t.Logf("node %d, the queue's leader, killed at message %d; the next 200 were done after %v", leader, done, time.Since(began).Round(10*time.Millisecond))
		r.publish(500) // to what is left of the cluster
		r.verdict()
		require.NoError(t, c.Start(t.Context(), leader))
	})
	t.Run("rolling restart", func(t *testing.T) {
		r := newClusterRun(t, c, "rolling")
		r.publish(1000)
		r.begin()
		r.until(100)
		rolled := make(chan struct{})
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for {
				select {
				case <-rolled:
					return
				default:
				}
				r.publish(50)
				pause(t, 100*time.Millisecond)
			}
		})
		for i := range 3 {
			require.NoError(t, c.Stop(i))
			pause(t, time.Second)
			require.NoError(t, c.Start(t.Context(), i))
			t.Logf("node %d restarted: %d of %d are done", i, r.acked.Load(), r.count())
		}
		close(rolled)
		publishing.Wait()
		r.verdict()
	})
}

// clusterRun is a queue with a backlog, and eight workers, each with connections of its own.
type clusterRun struct {
	field
	c     *brokers.RabbitCluster
	hosts []*url.URL
	p     *queue.Producer

	starts, acked atomic.Int64

	mu        sync.Mutex
	confirmed map[string]bool
	settled   map[string]int // acks that the broker confirmed
}

func newClusterRun(t *testing.T, c *brokers.RabbitCluster, name string) *clusterRun {
	r := &clusterRun{c: c, confirmed: map[string]bool{}, settled: map[string]int{}}
	r.t, r.v = t, &vhost{c: c, name: name}
	_, err := c.CreateVhost(t.Context(), name)
	require.NoError(t, err)
	for _, at := range c.VhostURLs(name) {
		u, err := url.Parse(at)
		require.NoError(t, err)
		r.hosts = append(r.hosts, u)
	}
	r.p, err = queue.NewProducer(t.Context(), r.open(0), "q", queue.ProducerConfig{OnAmbiguous: queue.Resend})
	require.NoError(t, err)
	require.NoError(t, c.Registered(t.Context(), name, "q"))
	return r
}

// open opens a backend that knows all nodes and begins with one of them.
func (r *clusterRun) open(first int) *Backend {
	var hosts []string
	for i := range r.hosts {
		hosts = append(hosts, r.hosts[(first+i)%len(r.hosts)].Host)
	}
	u := *r.hosts[0]
	u.Host = strings.Join(hosts, ",")
	return r.backend(func(c *Config) { c.URL = u.String() })
}

// publish publishes and goes on until it is confirmed, as one does who must not lose anything.
func (r *clusterRun) publish(n int) {
	r.mu.Lock()
	from := len(r.confirmed)
	r.mu.Unlock()
	ms := make([]*queue.Message, n)
	for i := range ms {
		ms[i] = &queue.Message{ID: strconv.Itoa(from + i)}
	}
	for deadline := time.Now().Add(clusterLimit); ; {
		ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
		err := r.p.Publish(ctx, ms...)
		cancel()
		if err == nil {
			break
		}
		require.True(r.t, time.Now().Before(deadline), "nothing can be published: %v", err)
		pause(r.t, 200*time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range ms {
		r.confirmed[m.ID] = true
	}
}

func (r *clusterRun) begin() {
	for i := range clusterWorkers {
		r.work(r.open(i), "q", queue.WorkerConfig{
			Limits: queue.Limits{Concurrency: 2}, Retry: queue.Retry{MaxCrashes: 50},
			Hooks: queue.Hooks{Settled: func(d *queue.Delivery, s queue.Settlement, err error) {
				if err != nil || s.Verdict != queue.VerdictAck {
					return
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				r.settled[d.ID]++
				r.acked.Store(int64(len(r.settled)))
			}},
		}, func(ctx context.Context, _ *queue.Delivery) error {
			r.starts.Add(1)
			work := time.NewTimer(clusterJob)
			defer work.Stop()
			select {
			case <-work.C:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}
}

func (r *clusterRun) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.confirmed)
}

func (r *clusterRun) until(acked int64) {
	require.Eventually(r.t, func() bool { return r.acked.Load() >= acked }, clusterLimit, 5*time.Millisecond, "no progress")
}

func (r *clusterRun) leader() int {
	q, err := r.c.Queue(r.t.Context(), r.v.name, "q")
	require.NoError(r.t, err)
	var n int
	_, err = fmt.Sscanf(q.Leader, "r%d@localhost", &n)
	require.NoError(r.t, err, "leader %q", q.Leader)
	return n - 1
}

// verdict waits until the run ends: every confirmed message is acked, and the queue is empty.
func (r *clusterRun) verdict() {
	began := time.Now()
	require.Eventually(r.t, func() bool { return len(r.missing()) == 0 }, clusterLimit, 20*time.Millisecond, "lost")
	require.Eventually(r.t, func() bool {
		q, err := r.c.Queue(r.t.Context(), r.v.name, "q")
		return err == nil && q.Ready == 0 && q.Unacked == 0
	}, clusterLimit, 100*time.Millisecond, "something is left")
	r.mu.Lock()
	defer r.mu.Unlock()
	twice := 0
	for _, n := range r.settled {
		if n > 1 {
			twice++
		}
	}
	r.t.Logf("%d messages, lost 0, started %d times, %d acked more than once, the last %v after the disturbance's end",
		len(r.confirmed), r.starts.Load(), twice, time.Since(began).Round(10*time.Millisecond))
}

func (r *clusterRun) missing() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.confirmed {
		if r.settled[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
