package driver

import "time"

// Capabilities is what the connected broker, in its version and configuration, promises through this driver. Each
// field is a promise with a check in package conformance, and so is its absence: what a broker cannot do is an error,
// never a silence.
type Capabilities struct {
	Name    string // of the broker: "NATS JetStream"
	Version string // of the connected server

	Sharing         Sharing       // how a queue's messages are spread over consumers
	Session         bool          // leases end with a session (Lease.Session)
	Extend          bool          // a lease can be prolonged
	KeyOrder        bool          // the next message of a key is not delivered before the one ahead of it is settled by Ack
	Fencing         bool          // DeliveryCount is exact and rises with every delivery of a message
	Carries         bool          // Return.State is kept
	SettleConfirmed bool          // Ack and Nack return after the broker's confirmation
	Lanes           bool          // Message.Lane and Want.Lanes are honoured
	MaxTerm         time.Duration // longest lease in all, extensions included; 0: no limit
	Delay           Delaying      // Message.Delay
	Redelay         Delaying      // Return.Delay
	Counting        Counting      // what Delivery.DeliveryCount, Unended and Redelivered are worth
	Priorities      int           // native levels of Message.Priority; 0: none
	// BrokerDropsAfter is the number of deliveries after which the broker itself drops or moves a message; 0: never.
	BrokerDropsAfter int
	MaxReceive       int           // most messages that one Receive returns; 0: no limit
	MaxBatch         int           // most items of one Publish, Ack, Nack or Extend call; 0: no limit
	MaxBytes         int           // largest message: body, header names and values together; 0: no limit
	Dedup            time.Duration // how long a DedupID is remembered; 0: no deduplication
	TenantFairness   bool          // the broker itself is fair between tenants
	// DeathDetected is how long after a consumer process died the broker gives its messages away; 0: when their leases
	// run out.
	DeathDetected time.Duration
	// SilenceDetected is how long after a consumer process fell silent (frozen, cut off from the network) the broker gives
	// its messages away at the latest; 0: when their leases run out.
	SilenceDetected time.Duration
}

// Sharing is how a queue's messages are spread over its consumers.
type Sharing int

// The ways of sharing.
const (
	PerMessage   Sharing = iota // any free consumer gets the next message
	PerPartition                // a partition's messages go to the consumer it is assigned to
)

func (s Sharing) String() string {
	if s == PerPartition {
		return "per partition"
	}
	return "per message"
}

// Counting is what a broker knows about earlier deliveries of a message.
type Counting int

// The ways of counting.
const (
	Uncounted Counting = iota // nothing
	Flagged                   // whether it was delivered before (Delivery.Redelivered)
	Counted                   // how often (Delivery.DeliveryCount)
	// CountedApart: how often, and how often it came to nothing because its consumer was lost (Delivery.Unended). What is
	// given back, by Nack or by the driver, does not count there.
	CountedApart
)

func (c Counting) String() string {
	switch c {
	case Flagged:
		return "flag"
	case Counted:
		return "count"
	case CountedApart:
		return "count, losses apart"
	default:
		return "none"
	}
}

// Delaying says who can hold a message back, and for how long.
type Delaying struct {
	By  DelayedBy
	Max time.Duration // longest delay in one call; 0: no limit; without meaning for Nobody
}

// DelayedBy says who holds a delayed message back.
type DelayedBy int

// Who holds a delayed message back.
const (
	Nobody   DelayedBy = iota // a delay above zero is refused with Invalid
	Emulated                  // the driver, with other means of the broker
	Native                    // the broker
)

func (d DelayedBy) String() string {
	switch d {
	case Emulated:
		return "emulated"
	case Native:
		return "native"
	default:
		return "nobody"
	}
}
