package nats

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// ledger checks what the driver promises of each message: one holder at a time, counts that rise, and nothing after a
// confirmed Ack.
type ledger struct {
	mu      sync.Mutex
	holders map[string]*driver.Delivery
	counts  map[string]int
	sent    map[string]bool // an Ack was tried: it may have arrived though its answer was lost
	acked   map[string]bool
	faults  []string
}

func (l *ledger) start(d *driver.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := string(d.Body)
	if l.acked[id] {
		l.faults = append(l.faults, id+" delivered after its Ack")
	}
	if h := l.holders[id]; h != nil && time.Now().Before(h.Current().Until) {
		early := time.Until(h.Current().Until)
		l.faults = append(l.faults, fmt.Sprintf("%s delivered %v before the end of another lease", id, early))
	}
	if d.DeliveryCount <= l.counts[id] {
		l.faults = append(l.faults, fmt.Sprintf("%s: count %d after %d", id, d.DeliveryCount, l.counts[id]))
	}
	if by, _ := strconv.Atoi(d.State); by >= d.DeliveryCount { // the count of the delivery that left the state
		l.faults = append(l.faults, fmt.Sprintf("%s: delivery %d with the state of %d", id, d.DeliveryCount, by))
	}
	l.counts[id] = d.DeliveryCount
	l.holders[id] = d
}

// end is called before a settlement is sent: from then on the message can be somebody else's.
func (l *ledger) end(d *driver.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders[string(d.Body)] == d {
		delete(l.holders, string(d.Body))
	}
}

func (l *ledger) ack(d *driver.Delivery, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[string(d.Body)] = true
	if err == nil {
		l.acked[string(d.Body)] = true
	}
}

func TestNothingIsLostInChaos(t *testing.T) {
	const workers, term = 4, 1500 * time.Millisecond
	messages := 600
	if testing.Short() {
		messages = 150
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	queue := queueName(t)
	b := openBackend(t, Config{})
	p := openProducer(t, b, queue)
	lanes := []string{"", "a", "b"}
	for i := range messages {
		publish(t, p, inLane(lanes[i%len(lanes)], fmt.Sprintf("%04d", i)))
	}
	l := &ledger{
		holders: map[string]*driver.Delivery{}, counts: map[string]int{}, sent: map[string]bool{}, acked: map[string]bool{},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var wg sync.WaitGroup
	for w := range workers {
		wire := &cable{}
		c := openConsumer(t, openBackend(t, Config{Dial: wire.dial, Timeout: time.Second}), queue, term)
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for ctx.Err() == nil {
				chaosStep(ctx, c, l, r)
			}
		})
		wg.Go(func() { chaosWire(ctx, wire, rand.New(rand.NewPCG(seed, uint64(100+w)))) })
	}
	drained := func() bool {
		g, err := b.Gauge(testContext(t), queue)
		return err == nil && g.Ready == 0 && g.InFlight == 0
	}
	require.Eventually(t, drained, 2*patience, 100*time.Millisecond)
	cancel()
	wg.Wait()
	require.Empty(t, l.faults)
	require.Len(t, l.sent, messages, "none is gone that nobody acknowledged")
	require.Greater(t, len(l.acked), messages*9/10)
	t.Logf("%d confirmed, %d deliveries", len(l.acked), sum(l.counts))
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// chaosWire breaks a worker's connection now and then.
func chaosWire(ctx context.Context, wire *cable, r *rand.Rand) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(200+r.IntN(800))*time.Millisecond)
		switch r.IntN(3) {
		case 0:
			wire.cut(false)
		case 1:
			wire.cut(true)
			wait(ctx, time.Duration(r.IntN(300))*time.Millisecond)
		case 2:
			wire.swallow()
			wait(ctx, time.Duration(r.IntN(300))*time.Millisecond)
			wire.cut(false)
		}
		wire.mend()
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// chaosStep receives and settles in a random way.
func chaosStep(ctx context.Context, c *Consumer, l *ledger, r *rand.Rand) {
	rctx, cancel := context.WithTimeout(ctx, time.Duration(1+r.IntN(400))*time.Millisecond)
	defer cancel()
	ds, err := c.Receive(rctx, driver.Want{Max: 1 + r.IntN(10)}, time.Duration(r.IntN(300))*time.Millisecond)
	if err != nil {
		wait(ctx, 20*time.Millisecond)
		return
	}
	for _, d := range ds {
		l.start(d)
	}
	for _, d := range ds {
		switch one := []*driver.Delivery{d}; r.IntN(8) {
		case 0: // a worker that dies
		case 1:
			_, _ = c.Extend(ctx, one, 0)
		case 2, 3:
			l.end(d)
			_ = c.Nack(ctx, []driver.Return{{
				D: d, State: fmt.Sprint(d.DeliveryCount), Delay: time.Duration(r.IntN(3)) * 50 * time.Millisecond,
			}})
		default:
			l.end(d)
			l.ack(d, c.Ack(ctx, one))
		}
	}
}
