package workload

import (
	"cmp"
	"fmt"
	"time"
)

// CollectorConfig sizes the built-in workload. Every field may be zero.
type CollectorConfig struct {
	Seed     uint64        // 0: 1
	Messages int           // 0: 2000
	Tenants  int           // 0: 60
	Slots    int           // how many messages are worked on at once; 0: 16
	Target   time.Duration // choose Scale so that all is done after about this time; 0: 40 s, unless Scale is set
	Scale    float64       // factor for all times; 0: from Target
}

// Collector returns the built-in workload: a service that collects reports for advertisers from slow interfaces of
// third parties publishes one message for each advertiser, channel and day, all at once.
//
// The volumes of tenants follow Zipf's law with exponent 1.1. Run times are log-normal with a median of 48 s and a 99th
// percentile of 30 min, where they are cut. 60 % of the messages are for paying customers (priority 10) and the rest
// for internal use (0): that is decided by message and not by tenant, so that differences between priorities are not
// differences between tenants. 5 % fail once, 0.5 % always. A message is given up after 3 failures; the first retry
// comes after 30 s, later ones after twice as long, 10 min at most.
func Collector(c CollectorConfig) (*Workload, error) {
	messages, tenants := cmp.Or(c.Messages, 2000), cmp.Or(c.Tenants, 60)
	if messages < 1 || tenants < 1 {
		return nil, &Error{
			Problem: fmt.Sprintf("%d messages of %d tenants", messages, tenants), Hint: "give at least one of each",
		}
	}
	o := Options{Seed: c.Seed, Scale: c.Scale, Slots: cmp.Or(c.Slots, 16), Target: c.Target}
	if o.Scale == 0 && o.Target == 0 {
		o.Target = 40 * time.Second
	}
	s := &Spec{
		Name:       "collector",
		Arrivals:   Arrivals{Model: Closed},
		Messages:   messages,
		Tenants:    zipf(tenants, 1.1),
		Priorities: []Level{{Level: 10, Share: 0.6}, {Level: 0, Share: 0.4}},
		Run:        RunTimes{Distribution: LogNormal, Median: 48 * time.Second, P99: 30 * time.Minute, Cap: 30 * time.Minute},
		Failures:   Failures{Transient: 0.05, Poison: 0.005},
		BodyBytes:  512,
		Lanes:      LanesPriority,
		Retry:      Retry{MaxAttempts: 3, Base: 30 * time.Second, Cap: 10 * time.Minute},
	}
	return s.Generate(o)
}
