// Package driver is the contract between package queue and a message broker: what a backend implements, and nothing
// that an application imports.
//
// A driver translates. It never retries, never counts attempts for a policy, never sleeps for a backoff and never
// starts a heartbeat: all of that lives once, in package queue. Every sentence below that says "must", "never" or
// "returns" is a rule that package conformance checks on the real broker.
//
// # Words
//
// A message is what a producer stored. A delivery is one handing-over of it. A lease is the right to work on a
// delivery: it ends at a time (Lease.Until), or when a session ends (Lease.Session), or when the delivery is settled
// by Ack or Nack. A lane is a named part of a queue that can be asked for by itself; the lane "" always exists.
//
// # Concurrency
//
// A Backend, a Producer and a Consumer must be safe for concurrent use by several goroutines. A call must return soon
// after its context ends; what it had already sent is then ambiguous, not undone.
package driver

import (
	"context"
	"time"
)

// Backend is a connection to one broker.
type Backend interface {
	// Capabilities says what the connected broker can do, not what the package could do with a newer one. The answer
	// does not change while the Backend is open.
	Capabilities() Capabilities
	// OpenProducer opens a queue for publishing and creates the queue if the broker has none of that name and the
	// backend's configuration does not forbid it.
	OpenProducer(ctx context.Context, queue string) (Producer, error)
	// OpenConsumer opens a queue for receiving, and creates it like OpenProducer. One consumer sees all lanes.
	OpenConsumer(ctx context.Context, queue string, c ConsumerConfig) (Consumer, error)
	// Close closes the connection. Producers and consumers still open are closed with it.
	Close(ctx context.Context) error
}

// Producer stores messages in one queue.
type Producer interface {
	// Publish returns nil when every message is durable as far as the broker's stated durability goes. If only some
	// are, it returns a BatchError aligned with ms. An element (or the error as a whole) matches
	//   - Ambiguous, if the message was sent and its confirmation is missing: it may or may not be there;
	//   - Unavailable or Throttled, only if nothing of the message was sent;
	//   - TooLarge, Invalid, Denied or NotFound, if the message is certainly not there and sending it again is of no use.
	// A message that is too large must be refused before anything of it is sent, and must not harm its neighbours.
	// Publish does not change ms and does not keep it after it returned.
	Publish(ctx context.Context, ms []*Message) error
	// Close waits for calls under way, bounded by ctx.
	Close(ctx context.Context) error
}

// Consumer leases messages of one queue.
type Consumer interface {
	// Receive leases at most w.Max messages: it returns as soon as it has at least one, or none and a nil error after
	// wait. Where Capabilities.Sharing is PerMessage, what it returns is all that it has leased, so that nothing waits
	// here that another consumer could work on. If ctx ends, Receive returns at once with ctx's error; whatever a call
	// under way still leases is given back in the background, without counting as a delivery where the broker lets
	// the driver tell, and Close waits for that.
	Receive(ctx context.Context, w Want, wait time.Duration) ([]*Delivery, error)
	// Ack settles deliveries for good. It returns nil when the broker has confirmed all of them (or, where
	// Capabilities.SettleConfirmed is false, when they were sent): gone, though this process dies now. Otherwise it
	// returns one error for all, or a BatchError aligned with ds. A second Ack of a confirmed delivery is harmless.
	// A delivery of an ended session is refused with LeaseLost, and nothing is sent for it.
	Ack(ctx context.Context, ds []*Delivery) error
	// Nack gives deliveries back: each becomes available again, to any consumer, not before its Delay. Where
	// Capabilities.Carries is true, Return.State is stored with the message before it becomes available and comes
	// with its next delivery. A Delay above Capabilities.Redelay.Max is refused with Invalid. Errors as for Ack. A
	// return whose outcome is unknown is sent again while the lease lasts, so a second Nack must not touch a message
	// that somebody else holds by then: it is refused with LeaseLost.
	Nack(ctx context.Context, rs []Return) error
	// Extend asks for term more, counted from the send of the request, and returns the leases as they stand now,
	// aligned with ds; it never writes into a Delivery. Where a broker fixes the term of a queue, the returned
	// Lease.Until says what was given. It must not report an extension that the broker has not confirmed. Errors as
	// for Ack, with the zero Lease in the place of each that failed. LeaseLost means that the broker refused.
	Extend(ctx context.Context, ds []*Delivery, term time.Duration) ([]Lease, error)
	// Close gives back what is leased and not settled where the broker allows it, and never acks.
	Close(ctx context.Context) error
}

// Want is the demand of one Receive.
type Want struct {
	Max   int        // how many messages at most; at least 1
	Lanes []LaneWant // in order of preference; a lane not listed is not touched; nil: any lane
}

// LaneWant is the demand for one lane.
type LaneWant struct {
	Lane string
	Max  int // at most this many of the lane; 0: as many as Want.Max
}

// Return is a delivery on its way back.
type Return struct {
	D     *Delivery
	Delay time.Duration // zero: at once
	State string        // what the next delivery's State shall be; at most 4 KiB; ignored unless Capabilities.Carries
}

// ConsumerConfig says what the application expects of its leases. Every field may be zero.
type ConsumerConfig struct {
	Window  int           // ceiling of deliveries unsettled at once; 0: 1000
	Term    time.Duration // lease to ask for, where leases have a clock of the broker's; 0: 30 s
	Longest time.Duration // longest job the application expects; 0: unknown
}

// Message is what a producer stores. The driver must bring back Header and Body as they were published, byte for byte
// (any bytes in Body; any UTF-8 text in header names and values, the empty value included). A nil Body may come back
// empty. The other fields steer the broker; package queue carries them in Header as well, so a driver need not bring
// them back, except ID for messages of foreign producers.
type Message struct {
	ID       string        // on a delivery: the broker's own id where Header has none of ours
	DedupID  string        // for brokers that drop a second message of the same id within a window; empty: no deduplication
	Key      string        // messages of one key stay in order where Capabilities.KeyOrder
	Tenant   string        // for brokers with fairness between tenants
	Lane     string        // the lane to publish to; on a delivery, the lane it came from
	Priority int           // for brokers with native priorities; higher goes first
	Delay    time.Duration // not to be delivered before; above Capabilities.Delay.Max it is refused with Invalid
	Header   map[string]string
	Body     []byte
}

// Delivery is one handing-over of a message. Its fields do not change after Receive returned it.
type Delivery struct {
	Message
	State         string       // what the last Nack stored; empty at first and where Capabilities.Carries is false
	DeliveryCount int          // times handed over, 1 at first; 0 where the broker does not count
	Unended       int          // times it was lost with its consumer, neither settled nor given back; where CountedApart
	Redelivered   bool         // known to have been handed over before
	SentAt        time.Time    // when the broker stored it, by the broker's clock; zero where unknown
	Granted       Lease        // the lease as it was given
	Live          func() Lease // where the driver infers the clock: the lease as it stands now; else nil
	Receipt       any          // the backend's handle, bound to its session
	Raw           any          // the client library's own message
}

// Lease is the right to work on a delivery.
type Lease struct {
	// Until is when the broker may give the message to somebody else, at the earliest: always set, with a monotonic
	// reading, counted from before the request was sent that obtained the lease.
	Until time.Time
	// Session ends when the broker can no longer be told about this delivery; its cause says why. Nil: there is none.
	Session context.Context
}

// Current is the lease as the driver knows it now. It is safe for concurrent use.
func (d *Delivery) Current() Lease {
	if d.Live != nil {
		return d.Live()
	}
	return d.Granted
}
