package conformance

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// extensionsSpread holds a thousand messages that were received in one go. Extended every third of a lease at a steady
// rate, they come to a tenth of them in a thirtieth of a lease, which is a second of the library's own lease. After a
// while of jitter no such second shall see more than twice its share.
//
// A busy machine stalls now and then, and makes up for it all at once. So in real time a "second" is not shorter than
// spreadUnit, and what counts is the worst second of a quiet third of a lease, quieter than three quarters of them:
// jitter that is missing shows in every third.
func extensionsSpread(e *Env) {
	const n = 1000
	mixing, watching := 4*e.Lease, 3*e.Lease
	switch {
	case e.Virtual:
		mixing, watching = 5*e.Lease, 10*e.Lease
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
	e.Check(len(seen) >= n, "%d extensions of %d messages in %v", len(seen), n, watching)
	second := max(e.Lease/30, spreadUnit)
	worst := worstSeconds(seen, from, second, max(1, int(e.Lease/3/second)))
	quiet := worst[len(worst)/4]
	mean := float64(len(seen)) / (float64(to.Sub(from)) / float64(second))
	e.Note("peak", "%.1f times the mean of %.0f extensions", quiet/mean, mean)
	if calls > 0 {
		e.Note("extensions per request", "%.0f", float64(len(seen))/float64(calls))
	}
	e.Check(quiet <= 2*mean, "%v of a lease of %v see %.0f extensions, %.1f times the mean", second, e.Lease, quiet, quiet/mean)
}

// spreadUnit is the shortest time for which a busy machine can be expected to do things evenly.
const spreadUnit = 200 * time.Millisecond

// worstSeconds is the largest number of extensions in a second, for each so many seconds from then on, sorted.
func worstSeconds(times []time.Time, from time.Time, second time.Duration, each int) []float64 {
	var bins []float64
	for _, t := range times {
		at := int(t.Sub(from) / second)
		bins = append(bins, make([]float64, max(0, at+1-len(bins)))...)
		bins[at]++
	}
	var worst []float64
	for third := range slices.Chunk(bins[:len(bins)-len(bins)%each], each) {
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
