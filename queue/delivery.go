package queue

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Delivery is one handing-over of a message, with the lease on it. Its exported fields do not change. Exactly one
// verdict counts: a second one returns ErrAlreadySettled, and one after the lease was lost returns ErrLeaseLost;
// neither reaches the broker.
type Delivery struct {
	Message
	Queue         string
	Lane          string    // the lane it came from
	Attempt       int       // 1 at first; failed attempts before this one, plus one
	DeliveryCount int       // times this copy was handed over; 0 where the broker does not count
	Releases      int       // times it was given back at no cost
	Crashes       int       // starts without an end, as far as the broker lets one tell
	Generation    int       // copies made of the message so far
	Token         uint64    // fencing token: rises with every delivery; 0 where Capabilities.Fencing is false
	PublishedAt   time.Time // when it was first published, by the producer's clock; zero if the producer was not ours
	Foreign       bool      // published without Holdfast's headers
	Dead          *Death    // how it died, on a delivery from a dead-letter queue; else nil
	RunAlone      bool      // it is suspected of killing its process: run nothing beside it (a Worker does not)

	c      *Consumer
	in     *driver.Delivery
	env    envelope
	ctx    context.Context // a delivery's lease is a context's lifetime
	cancel context.CancelCauseFunc
	unhook func() bool // forgets the session

	extended atomic.Pointer[driver.Lease] // by Extend; nil until the first

	mu        sync.Mutex
	state     deliveryState
	lapse     error         // why the lease was lost; nil while it holds
	parting   bool          // a return is about to be sent: extend no more
	acking    bool          // an ack has been sent: its answer says what became of the lease
	term      time.Duration // that the broker gave last
	extending chan struct{} // closed when the extension in flight is answered; nil: none is
	extendAt  time.Time     // of the next extension
}

// Death is how a message came to be a dead letter.
type Death struct {
	Reason      Reason
	Err         string    // text of the last failure, at most 500 bytes
	Attempts    int       // that failed
	Crashes     int       // starts without an end
	Origin      string    // the queue it was published to
	First, Last time.Time // failures; zero if it never failed
}

type deliveryState int

const (
	open deliveryState = iota
	settling
	settled
	lost
)

// Context ends when the lease is lost (its cause then is ErrLeaseLost with the reason) or when the delivery is settled.
func (d *Delivery) Context() context.Context { return d.ctx }

// LeaseUntil is when the broker may give the message to somebody else, as it stands now.
func (d *Delivery) LeaseUntil() time.Time { return d.lease().Until }

// Raw is the client library's own message, for what Holdfast does not cover. Settling it there breaks every promise.
func (d *Delivery) Raw() any { return d.in.Raw }

// Ack settles the delivery as done. It returns nil when the broker has confirmed it (Capabilities.SettleConfirmed): the
// message never runs again, though this process dies now. If ctx ends first the error matches ErrAmbiguous and the
// verdict stays on its way.
func (d *Delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, ruling{verdict: VerdictAck})
}

// Retry settles the delivery as a failed attempt: the message comes back after the retry policy's backoff, or goes to
// the dead letters at Retry.MaxAttempts.
func (d *Delivery) Retry(ctx context.Context, err error) error {
	return d.settle(ctx, ruling{verdict: VerdictRetry, err: err})
}

// RetryAfter is Retry with a delay of the caller's. Delays below 200 ms are raised to that.
func (d *Delivery) RetryAfter(ctx context.Context, err error, delay time.Duration) error {
	return d.settle(ctx, ruling{verdict: VerdictRetry, err: err, delay: delay, chosen: true})
}

// Release gives the message back at no cost. Given back again and again, it comes back after a growing delay.
func (d *Delivery) Release(ctx context.Context) error {
	return d.settle(ctx, ruling{verdict: VerdictRelease, chosen: true})
}

// Reject moves the message to the dead letters.
func (d *Delivery) Reject(ctx context.Context, err error) error {
	return d.settle(ctx, ruling{verdict: VerdictReject, err: err})
}

func (d *Delivery) settle(ctx context.Context, r ruling) error {
	done := make(chan error, 1)
	d.submit(r, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return d.c.wrap(r.verdict.String(), d.ID, &driver.Error{Kind: driver.Ambiguous, Err: context.Cause(ctx)})
	}
}

// submit claims the delivery for one verdict and sends it on its way; done is called once with the outcome.
func (d *Delivery) submit(r ruling, done func(error)) {
	d.mu.Lock()
	state, lapse := d.state, d.lapse
	if state == open {
		d.state = settling
	}
	d.mu.Unlock()
	switch state {
	case open:
		d.c.settler.submit(d, r, done)
	case lost:
		done(d.c.wrap(r.verdict.String(), d.ID, leaseLost(lapse)))
	default:
		done(d.c.wrap(r.verdict.String(), d.ID, ErrAlreadySettled))
	}
}

// revoke gives the message back if there is no verdict yet. Its holder is told before.
func (d *Delivery) revoke(why error) {
	d.mu.Lock()
	mine := d.state == open
	if mine {
		d.state = settling
	}
	d.mu.Unlock()
	if mine {
		d.cancel(why)
		d.c.settler.submit(d, ruling{verdict: VerdictRelease}, func(error) {})
	}
}

func (d *Delivery) lease() driver.Lease {
	if l := d.extended.Load(); l != nil {
		return *l
	}
	return d.in.Current()
}

// lose ends the lease locally. A verdict under way finds out before it is sent. It returns false if the delivery was
// settled or lost before.
func (d *Delivery) lose(why error) bool {
	d.mu.Lock()
	if d.lapse != nil || d.state == settled {
		d.mu.Unlock()
		return false
	}
	d.lapse = leaseLost(why)
	if d.state == open {
		d.state = lost
	}
	cause := d.lapse
	d.mu.Unlock()
	d.cancel(cause)
	return true
}

// lapsed returns why a verdict must not be sent any more, or nil.
func (d *Delivery) lapsed(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lapse != nil {
		return d.lapse
	}
	if until := d.lease().Until; !now.Before(until) {
		return leaseLost(errLeaseOver)
	}
	return nil
}

// part stops further extensions and returns the one in flight: a late extension would overwrite a return's delay.
func (d *Delivery) part() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parting = true
	return d.extending
}

// ack notes that an ack is about to be sent. From then on an extension may be refused because the ack has settled the
// message.
func (d *Delivery) ack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.acking = true
}

func (d *Delivery) fencing(caps driver.Capabilities) uint64 {
	if !caps.Fencing {
		return 0
	}
	return uint64(d.Generation)<<32 | uint64(uint32(d.DeliveryCount)) //nolint:gosec // both count from 0 and stay small
}
