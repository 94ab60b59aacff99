package workload

import (
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Summary is what is worth knowing about a workload before it runs.
type Summary struct {
	Messages, Tenants    int
	Transient            int           // messages that fail and then succeed
	Poison, Crash        int           // messages that always fail, and that end their process
	Span                 time.Duration // from the first arrival to the last
	Work                 time.Duration // run times of all messages
	SlotTime             time.Duration // the same with the attempts that fail
	Median, P99, Longest time.Duration // of run times; percentiles to three digits
	Instant              int           // run times of zero
	Short                int           // run times above zero and below 1 ms: timers and brokers drown them
	Capped               int           // run times that were cut to the cap
	Scale                float64
}

// Summary counts and measures the messages of w.
func (w *Workload) Summary() Summary {
	s := Summary{Messages: len(w.Messages), Capped: w.Capped, Scale: w.Scale}
	tenants := make(map[string]bool)
	for _, j := range w.Messages {
		tenants[j.Tenant] = true
		s.Work += j.Run
		s.SlotTime += j.SlotTime(w.Retry)
		s.Longest = max(s.Longest, j.Run)
		switch {
		case j.Run == 0:
			s.Instant++
		case j.Run < time.Millisecond:
			s.Short++
		}
		switch {
		case j.Crash:
			s.Crash++
		case j.Poison:
			s.Poison++
		case j.Fail > 0:
			s.Transient++
		}
	}
	s.Tenants = len(tenants)
	if len(w.Messages) == 0 {
		return s
	}
	s.Span = w.Messages[len(w.Messages)-1].At - w.Messages[0].At
	h := hdrhistogram.New(1, max(2, s.Longest.Microseconds()), 3)
	for _, j := range w.Messages {
		// Longest is the bound of the histogram, so that no value can be refused.
		_ = h.RecordValue(j.Run.Microseconds())
	}
	s.Median = time.Duration(h.ValueAtPercentile(50)) * time.Microsecond
	s.P99 = min(s.Longest, time.Duration(h.ValueAtPercentile(99))*time.Microsecond)
	return s
}

// String describes the workload in a few lines.
func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages of %d tenants over %v; %d fail once or more, %d always, %d crash\n",
		s.Messages, s.Tenants, brief(s.Span), s.Transient, s.Poison, s.Crash)
	fmt.Fprintf(&b, "run times at scale %v: median %v, p99 %v, longest %v; %v in all, %v with failing attempts\n",
		s.Scale, brief(s.Median), brief(s.P99), brief(s.Longest), brief(s.Work), brief(s.SlotTime))
	fmt.Fprintf(&b, "%d take no time, %d less than 1 ms, %d were cut to the cap", s.Instant, s.Short, s.Capped)
	return b.String()
}

// brief rounds d to what is worth reading.
func brief(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	default:
		return d
	}
}
