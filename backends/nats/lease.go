package nats

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// What a restart of the server can take away from a lease. It writes who holds what up to a tenth of a second late
// (we allow for a busy disk), so that a killed server may have forgotten what is younger. And it writes the times in
// whole seconds, so that after any restart a lease may end up to a second early.
const (
	forgets = 500 * time.Millisecond
	rounds  = time.Second
)

// receipt is the driver's handle of one delivery, and its lease.
//
// Walk through a broken connection. Until it is back nobody here knows whether the network broke or the server died.
// doubt therefore shortens the lease to what the server remembers at worst: extensions younger than forgets do not
// count (a delivery that is itself so young has no lease left), and rounds comes off. If the same server process
// answers again, nothing was forgotten and trust restores the lease. After another process the doubt stays until that
// one has confirmed an extension.
type receipt struct {
	c         *Consumer
	lane      *lane
	reply     string // subject of the settlement
	epoch     string // of the stream it came from
	sequence  uint64 // in the stream
	delivered uint64 // how often the server has sent it, this one included
	stamp     int64  // when it was stored, in ns: with sequence, its identity
	memory    memory // what the state stream holds for it

	mu     sync.Mutex
	phase  phase
	term   time.Duration // of the lease, from the send of the request
	grants []time.Time   // when the requests were sent: the last, those before it that doubt may need, oldest first
	broken time.Time     // when the connection broke; zero: no doubt
}

// phase is how far a delivery has come. A delivery leaves leased for settling by one call at a time.
type phase int

const (
	leased   phase = iota
	settling       // Ack or Nack is under way
	acked
	// returned is given back, or perhaps given back. No settlement may follow: the server looks a message up by
	// sequence alone, so that a second Nack could end the lease of whoever has the message by then.
	returned
)

// until is the end of the lease as it stands.
func (r *receipt) until() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.untilLocked()
}

func (r *receipt) untilLocked() time.Time {
	last := len(r.grants) - 1
	if r.broken.IsZero() {
		return r.grants[last].Add(r.term)
	}
	for i := last; i >= 0; i-- {
		if !r.grants[i].Add(forgets).After(r.broken) {
			return r.grants[i].Add(r.term - rounds)
		}
	}
	return r.broken
}

func (r *receipt) lease() driver.Lease { return driver.Lease{Until: r.until()} }

// extend replaces the lease by one from sent, unless the old one ended before now: then the server may have given the
// message away before it heard of the extension, and its answer, the same in both cases, proves nothing.
func (r *receipt) extend(sent, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !now.Before(r.untilLocked()) {
		return false
	}
	r.grants = append(r.grants, sent)
	slices.SortFunc(r.grants, time.Time.Compare) // calls may be answered out of order
	for len(r.grants) > 1 && !r.grants[1].Add(forgets).After(now) {
		r.grants = r.grants[1:]
	}
	if sent.After(r.broken) {
		r.broken = time.Time{}
	}
	return true
}

// doubt says that the connection broke at that time; leases from after it are in no doubt.
func (r *receipt) doubt(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken.IsZero() && r.grants[len(r.grants)-1].Before(at) {
		r.broken = at
	}
}

func (r *receipt) trust() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = time.Time{}
}

// begin enters settling, or says why not. A delivery that was acked before has nothing to do and no error.
func (r *receipt) begin() (nothing bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.phase == acked:
		return true, nil
	case r.phase == returned:
		return false, errSettled
	case r.phase == settling:
		return false, errSettling
	case !time.Now().Before(r.untilLocked()):
		return false, errLeaseOver
	}
	r.phase = settling
	return false, nil
}

// finish leaves settling.
func (r *receipt) finish(p phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = p
}

// extendable reports whether a settlement is under way, or why the delivery cannot be extended.
func (r *receipt) extendable() (busy bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.phase == acked || r.phase == returned:
		return false, errSettled
	case !time.Now().Before(r.untilLocked()):
		return false, errLeaseOver
	}
	return r.phase == settling, nil
}

// over reports whether there is nothing left to give back.
func (r *receipt) over(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase == acked || r.phase == returned || !now.Before(r.grants[len(r.grants)-1].Add(r.term))
}
