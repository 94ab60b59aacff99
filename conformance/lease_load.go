package conformance

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// extensionsSpread holds a thousand messages that were received in one go. Extensions every third of a lease, at a
// steady rate, are a tenth of the messages in a thirtieth of a lease, which is a second of the library's own lease.
// After a while of jitter no such second shall see more than twice that.
//
// A busy machine stalls now and then, and makes up for it all at once. So what counts is the median over thirds of a
// lease of the worst second in each: jitter that is missing shows in every one of them.
func extensionsSpread(e *Env) {
	const n = 1000
	mixing, watching := 5*e.Lease, 2*e.Lease
	switch {
	case e.Virtual:
		mixing, watching = 5*e.Lease, 20*e.Lease
	case e.Tier == Full:
		mixing, watching = 5*e.Lease, 10*e.Lease
	}
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, nil)...)
	var mu sync.Mutex
	var times []time.Time
	b := e.Open()
	c := e.ConsumerOn(b, e.Queue, queue.ConsumerConfig{Window: n, Hooks: queue.Hooks{
		Extended: func(*queue.Delivery, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Now())
		},
	}})
	ds := e.Receive(c, n, 4*late)
	e.Sleep(mixing)
	from, before := time.Now(), extendCalls(b)
	e.Sleep(watching)
	to, calls := time.Now(), extendCalls(b)-before
	mu.Lock()
	seen := slices.DeleteFunc(slices.Clone(times), func(t time.Time) bool { return t.Before(from) || !t.Before(to) })
	mu.Unlock()
	e.Check(c.Stats().LeasesLost == 0, "%d leases were lost", c.Stats().LeasesLost)
	for _, d := range ds {
		e.Must(d.Ack(e.Ctx), "ack")
	}
	worst := worstSeconds(seen, from, to, e.Lease)
	median := worst[len(worst)/2]
	mean := float64(len(seen)) / (float64(to.Sub(from)) / float64(e.Lease/30))
	e.Note("peak", "%.1f times the mean of %.0f extensions", median/mean, mean)
	if calls > 0 {
		e.Note("extensions per request", "%.0f", float64(len(seen))/float64(calls))
	}
	e.Check(median <= 2*mean, "a thirtieth of a lease sees %.0f extensions, %.1f times the mean", median, median/mean)
}

// worstSeconds is the largest number of extensions in a thirtieth of a lease, for each third of a lease, sorted.
func worstSeconds(times []time.Time, from, to time.Time, lease time.Duration) []float64 {
	second := lease / 30
	bins := make([]float64, to.Sub(from)/second+1)
	for _, t := range times {
		bins[t.Sub(from)/second]++
	}
	var worst []float64
	for third := range slices.Chunk(bins[:len(bins)-len(bins)%10], 10) {
		worst = append(worst, slices.Max(third))
	}
	slices.Sort(worst)
	return worst
}

// extendCalls is how many requests to extend the connection has sent, where it counts them.
func extendCalls(b driver.Backend) int64 {
	if m, can := b.(driver.Meter); can {
		return m.Calls()["extend"]
	}
	return 0
}
