package memory

import (
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// The values that stand in for zero fields.
const (
	DefaultMaxBytes = 16 << 20         // Config.MaxBytes
	DefaultDedup    = 2 * time.Minute  // Config.Dedup
	DefaultTerm     = 30 * time.Second // driver.ConsumerConfig.Term
	maxState        = 4 << 10          // bytes of driver.Return.State, as the contract has it
)

// Config says what a Broker can do. The zero value can do everything except KeyOrder and Session; the other fields take
// abilities away. What was taken away is refused with driver.Invalid, never ignored, so that a caller who did not look
// at the capabilities is found out. Session and NoCarry are the exceptions: the first adds something, and the contract
// says of Return.State that it is ignored where it cannot be kept.
type Config struct {
	// KeyOrder holds the next message of a key back until the one ahead of it was acked, over all lanes of the queue,
	// and also while that one is delayed. As SQS FIFO (message groups) and Kafka (partitions).
	KeyOrder bool
	// Session gives each lease a Lease.Session besides its clock. It ends, with a cause, on Kill, Close and Outage;
	// what was leased in it is refused with LeaseLost from then on. After an outage a consumer goes on in a new one.
	// As RabbitMQ (channels) and Kafka (assignments).
	Session bool

	// NoExtend refuses Extend. As Kafka group mode, where only the session is kept alive.
	NoExtend bool
	// NoCarry loses Return.State. As SQS, NATS, RabbitMQ over AMQP 0.9.1 and Kafka.
	NoCarry bool
	// NoLanes refuses any lane except "". As a driver that may not create queues of its own.
	NoLanes bool
	// NoDelay refuses a Message.Delay above zero. As RabbitMQ without plugins, and Kafka.
	NoDelay bool
	// NoRedelay refuses a Return.Delay above zero. As RabbitMQ over AMQP 0.9.1, and Kafka.
	NoRedelay bool
	// Counting is what a delivery says about earlier ones. Zero: all of it.
	Counting Counting

	// MaxDelay is the longest Message.Delay. Zero: no limit. SQS: 15 minutes.
	MaxDelay time.Duration
	// MaxRedelay is the longest Return.Delay. Zero: no limit. SQS: 12 hours.
	MaxRedelay time.Duration
	// MaxTerm is the longest lease in all. A first term above it is cut to it; an Extend that would lead beyond it is
	// refused with LeaseLost, and the lease stays as it was. Zero: no limit. SQS: 12 hours.
	MaxTerm time.Duration
	// BrokerDropsAfter is the number of deliveries after which a message that comes back is thrown away, whatever it
	// came back for. Zero: never. Kafka share groups: 5; RabbitMQ quorum queues: 20.
	BrokerDropsAfter int
	// MaxReceive is the most messages that one Receive returns. Zero: no limit. SQS: 10.
	MaxReceive int
	// MaxBatch is the most items of one Publish, Ack, Nack or Extend. Zero: no limit. SQS: 10.
	MaxBatch int
	// MaxBytes is the largest message: body, header names and header values together. Zero: 16 MiB, as RabbitMQ.
	MaxBytes int
	// Dedup is how long a Message.DedupID is remembered. A second message with it is dropped and Publish still returns
	// nil: that is what NATS (2 minutes) and SQS FIFO (5 minutes) do. Zero: 2 minutes. Negative: no deduplication.
	Dedup time.Duration
}

// Counting is what a delivery says about earlier deliveries of its message. It is driver.Counting with the best as the
// zero value.
type Counting int

// The ways of counting.
const (
	Counted   Counting = iota // Delivery.DeliveryCount is exact, and a fencing token
	Flagged                   // only Delivery.Redelivered; as RabbitMQ classic queues
	Uncounted                 // nothing; as Kafka group mode
)

func (c Counting) driver() driver.Counting {
	switch c {
	case Flagged:
		return driver.Flagged
	case Uncounted:
		return driver.Uncounted
	default:
		return driver.Counted
	}
}

// withDefaults replaces zero fields, and negative ones that mean "none", by what they stand for.
func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.Dedup == 0 {
		c.Dedup = DefaultDedup
	}
	c.Dedup = max(c.Dedup, 0)
	return c
}

func (c Config) capabilities() driver.Capabilities {
	return driver.Capabilities{
		Name:             "memory",
		Version:          "in process",
		Sharing:          driver.PerMessage,
		Session:          c.Session,
		Extend:           !c.NoExtend,
		KeyOrder:         c.KeyOrder,
		Fencing:          c.Counting == Counted,
		Carries:          !c.NoCarry,
		SettleConfirmed:  true,
		Lanes:            !c.NoLanes,
		MaxTerm:          c.MaxTerm,
		Delay:            delaying(c.NoDelay, c.MaxDelay),
		Redelay:          delaying(c.NoRedelay, c.MaxRedelay),
		Counting:         c.Counting.driver(),
		BrokerDropsAfter: c.BrokerDropsAfter,
		MaxReceive:       c.MaxReceive,
		MaxBatch:         c.MaxBatch,
		MaxBytes:         c.MaxBytes,
		Dedup:            c.Dedup,
	}
}

func delaying(none bool, longest time.Duration) driver.Delaying {
	if none {
		return driver.Delaying{By: driver.Nobody}
	}
	return driver.Delaying{By: driver.Native, Max: longest}
}
