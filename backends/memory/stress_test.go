package memory_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// ledger is what the workers of the stress test say about themselves.
type ledger struct {
	mu     sync.Mutex
	acked  map[string]int
	tokens map[string]int
	wrong  []string
}

func (l *ledger) started(d *driver.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.DeliveryCount <= l.tokens[d.ID] {
		l.wrong = append(l.wrong, fmt.Sprintf("%s: count %d after %d", d.ID, d.DeliveryCount, l.tokens[d.ID]))
	}
	l.tokens[d.ID] = d.DeliveryCount
	if l.acked[d.ID] > 0 {
		l.wrong = append(l.wrong, d.ID+": delivered after its ack")
	}
}

func (l *ledger) done(d *driver.Delivery) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[d.ID]++
	return len(l.acked)
}

// TestWorkers_that_die_lose_nothing runs workers side by side, some of which are killed or closed again and again:
// each message is acked once, and its count rises with every delivery.
func TestWorkers_that_die_lose_nothing(t *testing.T) {
	const messages, workers = 2000, 8
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			broker := memory.New(memory.Config{KeyOrder: seed%2 == 0})
			l := &ledger{acked: map[string]int{}, tokens: map[string]int{}}
			ctx, finished := context.WithCancel(context.Background())
			defer finished()
			var group sync.WaitGroup
			for w := range uint64(workers) {
				group.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, w))
					for ctx.Err() == nil {
						work(ctx, broker, l, rnd, func(n int) {
							if n == messages {
								finished()
							}
						})
					}
				})
			}
			f := connect(t, broker)
			for i := range messages {
				f.publish(&driver.Message{ID: fmt.Sprint(i), Lane: fmt.Sprint(i % 50), Key: fmt.Sprint(i % 300)})
			}
			group.Wait()
			require.Empty(t, l.wrong)
			require.Len(t, l.acked, messages)
			require.Zero(t, f.gauge())
			require.NoError(t, f.b.Close(f.ctx))
		})
	}
}

// work is the life of one worker, until it dies.
func work(ctx context.Context, broker *memory.Broker, l *ledger, rnd *rand.Rand, acked func(int)) {
	background, b := context.Background(), broker.Open()
	defer func() { _ = b.Close(background) }()
	c, err := b.OpenConsumer(background, "q", driver.ConsumerConfig{Term: term})
	if err != nil {
		return
	}
	for {
		ds, err := c.Receive(ctx, driver.Want{Max: 1 + rnd.IntN(3)}, time.Minute)
		if err != nil {
			return
		}
		if len(ds) == 0 {
			continue
		}
		for _, d := range ds {
			l.started(d)
		}
		switch rnd.IntN(20) {
		case 0:
			b.Kill()
			return
		case 1:
			return // Close gives back
		case 2:
			time.Sleep(term) // a zombie
		case 3, 4:
			_ = c.Nack(background, []driver.Return{{D: ds[0], Delay: time.Duration(rnd.IntN(3)) * time.Second}})
			ds = ds[1:]
		default:
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		}
		for _, d := range ds {
			if err := c.Ack(background, []*driver.Delivery{d}); err == nil {
				acked(l.done(d))
			}
		}
	}
}
