package queue

import (
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Needs is what an application cannot do without. It is checked against the connected broker when a Producer, Consumer
// or Worker is made, so that what a broker cannot do is an UnsupportedError at start and never a silence at night.
// Every zero field asks for nothing.
type Needs struct {
	Shared          bool          // any idle worker gets the next message, whatever ran before it
	KeyOrder        bool          // messages of a key run in order and one at a time, across all processes
	Fencing         bool          // Delivery.Token rises with every delivery
	Extend          bool          // leases can be prolonged
	SettleConfirmed bool          // an Ack that returned nil is confirmed by the broker
	Lease           time.Duration // a message may be held for so long, extensions included
	Delay           time.Duration // messages published with such a Delay
	Redelay         time.Duration // RetryAfter with such a delay
	Lanes           bool          // priorities or tenants kept apart by the queue
	TenantFairness  bool          // the broker itself is fair between tenants
	MessageBytes    int           // messages of this size, headers included
}

// unmet returns an UnsupportedError for the first need that caps does not meet, or nil.
func (n Needs) unmet(caps driver.Capabilities) error {
	held := caps.MaxTerm
	checks := []struct {
		missing     bool
		wanted, has string
	}{
		{n.Shared && caps.Sharing != driver.PerMessage, "Needs.Shared", "sharing " + caps.Sharing.String()},
		{n.KeyOrder && !(caps.KeyOrder && caps.Carries), "Needs.KeyOrder", "no order per key that holds over a retry"},
		{n.KeyOrder && (caps.BrokerDropsAfter > 0 || caps.Counting == driver.Flagged), "Needs.KeyOrder", "no order per key that holds over a crash: a copy that keeps the count loses the place"},
		{n.Fencing && !caps.Fencing, "Needs.Fencing", "no exact count of deliveries"},
		{n.Extend && !caps.Extend, "Needs.Extend", "leases that cannot be prolonged"},
		{n.SettleConfirmed && !caps.SettleConfirmed, "Needs.SettleConfirmed", "acks without a confirmation"},
		{held > 0 && n.Lease > held, fmt.Sprintf("Needs.Lease of %v", n.Lease), fmt.Sprintf("at most %v", held)},
		{n.Delay > 0 && caps.Delay.By == driver.Nobody, fmt.Sprintf("Needs.Delay of %v", n.Delay), "no delay on publishing"},
		{n.Redelay > 0 && noRedelay(caps), fmt.Sprintf("Needs.Redelay of %v", n.Redelay), "no delay on a return"},
		{n.Lanes && !caps.Lanes, "Needs.Lanes", "no lanes"},
		{n.TenantFairness && !caps.TenantFairness, "Needs.TenantFairness", "no fairness of its own (Lanes.Tenants has Holdfast's)"},
		{caps.MaxBytes > 0 && n.MessageBytes > maxBytes(caps), fmt.Sprintf("Needs.MessageBytes of %d", n.MessageBytes), fmt.Sprintf("at most %d bytes", maxBytes(caps))},
	}
	for _, c := range checks {
		if c.missing {
			return &UnsupportedError{Broker: brokerName(caps), Wanted: c.wanted, Has: c.has}
		}
	}
	return nil
}

// noRedelay: a failed message can be held back neither by a return that keeps its counts nor as a delayed copy.
func noRedelay(caps driver.Capabilities) bool {
	return caps.Delay.By == driver.Nobody && (caps.Redelay.By == driver.Nobody || !caps.Carries)
}

func brokerName(caps driver.Capabilities) string {
	if caps.Version == "" {
		return caps.Name
	}
	return caps.Name + " " + caps.Version
}
