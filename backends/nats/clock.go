package nats

import (
	"sync"
	"time"
)

// serverClock estimates the server's time. A delay is counted on its clock, so that a wrong one here shifts nothing.
//
// The server noted stamp after the request was sent. So at any later moment its clock shows at most
// stamp + (time since the send): the estimate is late by at most a round trip, never early, and early is what a
// delay must not be.
type serverClock struct {
	mu    sync.Mutex
	sent  time.Time // monotonic
	stamp time.Time
}

const clockAge = time.Minute // after which drift and steps of the server's clock call for another look

func (c *serverClock) set(sent, stamp time.Time) {
	if stamp.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent, c.stamp = sent, stamp
}

// now is the server's time, and whether the estimate is fresh.
func (c *serverClock) now() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	age := time.Since(c.sent)
	return c.stamp.Add(age), !c.sent.IsZero() && age < clockAge
}
