package driver

import (
	"context"
	"time"
)

// LaneWatcher is implemented by backends whose queues have lanes (Capabilities.Lanes).
type LaneWatcher interface {
	// Watch reports the lanes that a queue has now and those that appear later, until ctx ends; then the channel is
	// closed. Events are hints: they may repeat, and may be lost, but a lane that holds messages is reported at the
	// latest five seconds after its first message was stored.
	Watch(ctx context.Context, queue string) (<-chan LaneEvent, error)
}

// LaneEvent says that a lane exists.
type LaneEvent struct {
	Lane string
	// Listed: with this event at the latest, every lane that was there when Watch was called has been reported. It is set
	// on the event that completes the list and on all later ones.
	Listed bool
}

// Admin is implemented by backends that can manage queues.
type Admin interface {
	// CreateQueue makes a queue; one that exists with the same settings is no error.
	CreateQueue(ctx context.Context, queue string) error
	// DeleteQueue removes a queue with its messages; one that does not exist is NotFound.
	DeleteQueue(ctx context.Context, queue string) error
	// PurgeQueue removes the messages of a queue, leased ones included.
	PurgeQueue(ctx context.Context, queue string) error
}

// Gauger is implemented by backends that can say how much waits in a queue.
type Gauger interface {
	Gauge(ctx context.Context, queue string) (Gauge, error)
}

// Gauge is the depth of a queue at one moment.
type Gauge struct {
	Ready    int           // waiting and deliverable
	Delayed  int           // waiting for their time; -1 where unknown, or counted under Ready or InFlight
	InFlight int           // leased and not settled; -1 where unknown
	Oldest   time.Duration // age of the oldest message that is not settled; 0 when empty, -1 where unknown
}

// Inspector is implemented by backends that can look at messages without leasing them.
type Inspector interface {
	// Peek returns up to n messages, oldest first, and leases none.
	Peek(ctx context.Context, queue string, n int) ([]*Message, error)
}

// Meter is implemented by backends that count the requests they send.
type Meter interface {
	// Calls returns how many requests of each kind this Backend has sent since it was opened.
	Calls() map[string]int64
}

// Pinger is implemented by backends that can tell whether the broker answers.
type Pinger interface {
	// Ping returns nil when the broker answered after the call began.
	Ping(ctx context.Context) error
}
