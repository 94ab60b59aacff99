package queue

import "sync/atomic"

// Stats counts what a Consumer or Worker has done since it was made.
type Stats struct {
	Received     int64 // deliveries
	Redelivered  int64 // of them, those handed over before
	Acked        int64 // confirmed
	Retried      int64 // failed attempts that come back
	Released     int64 // given back at no cost
	DeadLettered int64
	LeasesLost   int64
	Extended     int64 // extensions that the broker confirmed
	Unsettled    int64 // verdicts that failed; the message comes again
	Stuck        int64 // handlers reported as ignoring the end of their context
}

type counters struct {
	in, again, acked, retried, released, deadLettered, lost, extended, unsettled, stuck atomic.Int64
}

func (c *counters) received(d *Delivery) {
	c.in.Add(1)
	if d.DeliveryCount > 1 || d.in.Redelivered {
		c.again.Add(1)
	}
}

func (c *counters) settled(o *op, err error) {
	switch v := o.Verdict; {
	case err != nil:
		c.unsettled.Add(1)
	case o.Dead != "":
		c.deadLettered.Add(1)
	case v == VerdictAck:
		c.acked.Add(1)
	case v == VerdictRetry:
		c.retried.Add(1)
	case v == VerdictRelease:
		c.released.Add(1)
	}
}

func (c *counters) snapshot() Stats {
	return Stats{
		Received: c.in.Load(), Redelivered: c.again.Load(), Acked: c.acked.Load(), Retried: c.retried.Load(),
		Released: c.released.Load(), DeadLettered: c.deadLettered.Load(), LeasesLost: c.lost.Load(),
		Extended: c.extended.Load(), Unsettled: c.unsettled.Load(), Stuck: c.stuck.Load(),
	}
}

// Stats returns the counts so far.
func (c *Consumer) Stats() Stats { return c.stats.snapshot() }
