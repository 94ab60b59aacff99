package queue

import (
	"math"
	"math/rand/v2"
	"time"
)

// Retry says what happens to a message whose handler fails, or whose process dies.
type Retry struct {
	// MaxAttempts is the number of failed attempts after which a message is dead-lettered. Zero: 10. One: never tried again.
	MaxAttempts int
	// MaxCrashes is the number of starts without an end (the process died, the lease was lost) after which a message is
	// dead-lettered without another start. Zero: 5.
	MaxCrashes int
	// Base is the delay after the first failed attempt. Zero: 1 s.
	Base time.Duration
	// Factor is what the delay grows by with each further one. Zero: 2. One: a constant delay.
	Factor float64
	// Max bounds the delay. Zero: 10 min.
	Max time.Duration
	// Jitter is the share of a delay that is random: 0.2 spreads it over ±20 %. Zero: 0.2. Negative: none.
	Jitter float64
}

const (
	// minRedelay keeps a message that always fails from looping hot: at most five deliveries a second.
	minRedelay = 200 * time.Millisecond
	// maxReleaseDelay bounds the delay of a message that is given back again and again.
	maxReleaseDelay = 5 * time.Second
	// aloneFrom is how many crashes a message has behind it when it starts to run alone.
	aloneFrom = 2
)

func (r Retry) withDefaults() Retry {
	setDefault(&r.MaxAttempts, 10)
	setDefault(&r.MaxCrashes, 5)
	setDefault(&r.Base, time.Second)
	setDefault(&r.Factor, 2)
	setDefault(&r.Max, 10*time.Minute)
	setDefault(&r.Jitter, 0.2)
	return r
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// delay is how long a message waits after its n-th failed attempt, n counting from 1.
func (r Retry) delay(n int) time.Duration {
	d := float64(r.Base) * math.Pow(r.Factor, float64(max(n-1, 0)))
	d = min(d, float64(r.Max)) * jitter(r.Jitter)
	if d >= float64(r.Max) { // which may be more than a float can hold exactly
		return max(r.Max, minRedelay)
	}
	return max(time.Duration(d), minRedelay)
}

// releaseDelay is how long a message waits that was given back n times before.
func releaseDelay(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := float64(minRedelay) * math.Pow(2, float64(min(n-1, 10)))
	return time.Duration(min(d, float64(maxReleaseDelay)) * jitter(0.1))
}

func jitter(share float64) float64 {
	if share <= 0 {
		return 1
	}
	return 1 + share*(2*rand.Float64()-1)
}

// topPause bounds the pause between two calls to a broker that is away.
const topPause = 5 * time.Second

// backoff is the pause between tries of one call to the broker: it doubles from first to top, jittered by half but never
// above top, so that many workers do not come back at the same instant.
type backoff struct{ next, first, top time.Duration }

func (b *backoff) pause() time.Duration {
	if b.next == 0 {
		b.next = b.first
	}
	d := b.next
	b.next = min(2*b.next, b.top)
	return min(time.Duration(float64(d)*jitter(0.5)), b.top)
}

func (b *backoff) reset() { b.next = 0 }
