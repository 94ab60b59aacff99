package workload

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// longest bounds every single time, so that sums and products of a few of them stay within a time.Duration.
const longest = 365 * 24 * time.Hour

// stream is a sequence of random numbers. Each purpose draws from a stream of its own, so that a change of one setting
// leaves the draws of all others alone. Only PCG's raw output is used: its sequence is fixed for good, while the
// methods of rand.Rand on top of it may change.
type stream struct{ pcg *rand.PCG }

type purpose uint64

const (
	forArrivals purpose = iota + 1
	forTenants
	forRuns
	forPriorities
	forFailures
	forPadding
)

func newStream(seed uint64, p purpose) stream {
	a := mix(seed)
	return stream{rand.NewPCG(a, mix(a^uint64(p)))}
}

// mix is the output function of SplitMix64: seeds that differ by one give states that have nothing in common.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit returns a number above 0 and below 1. With 52 bits, the half that keeps it off zero is exact.
func (s stream) unit() float64 { return (float64(s.pcg.Uint64()>>12) + 0.5) / (1 << 52) }

// below returns a number from 0 to n-1.
func (s stream) below(n int) int {
	hi, _ := bits.Mul64(s.pcg.Uint64(), uint64(n))
	return int(hi)
}

// normal returns a draw of the standard normal distribution.
func (s stream) normal() float64 { return math.Sqrt2 * math.Erfinv(2*s.unit()-1) }

// exponential returns a draw with mean 1.
func (s stream) exponential() float64 { return -math.Log(s.unit()) }

// deal returns n numbers in random order, each the index of a share, in the proportions of the shares: counts are as
// exact as whole messages allow, so that seeds differ in order and not in the mix.
func (s stream) deal(shares []float64, n int) []int {
	dealt := make([]int, 0, n)
	for i, count := range apportion(shares, n) {
		for range count {
			dealt = append(dealt, i)
		}
	}
	for i := len(dealt) - 1; i > 0; i-- {
		k := s.below(i + 1)
		dealt[i], dealt[k] = dealt[k], dealt[i]
	}
	return dealt
}

// apportion splits n in the proportions of the shares by largest remainder; the first wins a tie.
func apportion(shares []float64, n int) []int {
	var sum float64
	for _, s := range shares {
		sum += s
	}
	counts, rest, left := make([]int, len(shares)), make([]float64, len(shares)), n
	order := make([]int, len(shares))
	for i, s := range shares {
		exact := float64(s/sum) * float64(n)
		counts[i] = min(int(exact), left)
		rest[i], order[i] = exact-float64(counts[i]), i
		left -= counts[i]
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case rest[a] > rest[b]:
			return -1
		case rest[a] < rest[b]:
			return 1
		default:
			return 0
		}
	})
	for i := range left {
		counts[order[i%len(order)]]++
	}
	return counts
}

// scaled returns d times f in whole microseconds, which is what an order can carry.
func scaled(d time.Duration, f float64) time.Duration {
	return micros(float64(d) / float64(time.Microsecond) * f)
}

func seconds(s float64) time.Duration { return micros(s * 1e6) }

func micros(us float64) time.Duration { return time.Duration(math.Round(us)) * time.Microsecond }

// short rounds f to four significant digits: a scale can be printed, and given back, as it was used.
func short(f float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 4, 64), 64)
	if err != nil {
		return f
	}
	return r
}
