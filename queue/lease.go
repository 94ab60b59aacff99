package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var errNotExtended = errors.New("it could not be extended in time")

// keeper holds the leases of one consumer's deliveries, from receive to settle and through a drain: one loop extends
// what has used a third of its time, in batches, and ends what runs out before the broker gives it away.
type keeper struct {
	c      *Consumer
	margin time.Duration // how long before a lease's end its holder is told
	wake   chan struct{} // capacity 1
	calls  sync.WaitGroup

	mu   sync.Mutex
	held map[*Delivery]struct{}
	next time.Time // when the loop looks again
}

func newKeeper(c *Consumer, term time.Duration) *keeper {
	return &keeper{
		c: c, margin: min(term/10, 3*time.Second), wake: make(chan struct{}, 1), held: make(map[*Delivery]struct{}),
	}
}

// add begins to keep d's lease.
func (k *keeper) add(d *Delivery) {
	now := time.Now()
	lease := d.lease()
	d.mu.Lock()
	d.term = min(k.c.cfg.Lease, max(lease.Until.Sub(now), 0))
	d.extendAt = now.Add(max(third(lease.Until.Sub(now)), d.term/apart))
	first := d.extendAt
	d.mu.Unlock()
	k.mu.Lock()
	k.held[d] = struct{}{}
	early := k.next.IsZero() || first.Before(k.next)
	k.mu.Unlock()
	if early {
		k.poke()
	}
	if s := lease.Session; s != nil {
		unhook := context.AfterFunc(s, func() { k.lose(d, context.Cause(s)) })
		d.mu.Lock()
		d.unhook = unhook
		d.mu.Unlock()
	}
}

// third is when to extend a lease of which remaining is left: after a third of it, and up to a quarter of that
// earlier, so that leases obtained together spread out.
func third(remaining time.Duration) time.Duration {
	return time.Duration(float64(remaining) / 3 * (0.875 + 0.125*(jitter(1)-1)))
}

// Shares of a lease, of the one that was asked for or the one that the broker gave, whichever is shorter: apart is the
// least time between two extensions of a delivery, gather how far ahead of their time extensions are made together. The
// first is more, or a call that fails at once would be made again at once.
const (
	apart  = 10
	gather = 15
)

// times are the margin of d's lease and the two above.
func (k *keeper) times(d *Delivery) (margin, between, ahead time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return min(d.term/10, k.margin), max(d.term/apart, time.Millisecond), d.term / gather
}

// drop ends the keeping of d's lease.
func (k *keeper) drop(d *Delivery) {
	k.mu.Lock()
	_, was := k.held[d]
	delete(k.held, d)
	k.mu.Unlock()
	d.mu.Lock()
	unhook := d.unhook
	d.mu.Unlock()
	if was && unhook != nil {
		unhook()
	}
}

// count is the number of deliveries that are not settled.
func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.held)
}

func (k *keeper) all() []*Delivery {
	k.mu.Lock()
	defer k.mu.Unlock()
	ds := make([]*Delivery, 0, len(k.held))
	for d := range k.held {
		ds = append(ds, d)
	}
	return ds
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) run(ctx context.Context) {
	defer k.calls.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, over, next := k.look(time.Now())
		for _, d := range over {
			k.lose(d, errNotExtended)
		}
		for len(due) > 0 {
			n := min(len(due), k.batch())
			batch := due[:n]
			due = due[n:]
			k.calls.Go(func() { k.extend(ctx, batch) })
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-k.wake:
		case <-ctx.Done():
			return
		}
	}
}

// look sorts the held deliveries: those to extend now, those whose time is over, and when to look again. What is due
// within gather goes along as far as it fills a batch, the soonest first: so few deliveries come in batches, and many
// come in a steady flow.
func (k *keeper) look(now time.Time) (due, over []*Delivery, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next = now.Add(time.Hour)
	var soon []dueLater
	for d := range k.held {
		margin, _, ahead := k.times(d)
		ends := d.lease().Until.Add(-margin)
		if !now.Before(ends) {
			if d.running() {
				over = append(over, d)
			}
			continue
		}
		next = earlier(next, ends)
		if !k.c.caps.Extend {
			continue
		}
		if at, wanted := d.wantsExtension(now); wanted {
			due = append(due, d)
		} else if !at.IsZero() && at.Sub(now) <= ahead {
			soon = append(soon, dueLater{d, at})
		} else if !at.IsZero() {
			next = earlier(next, at)
		}
	}
	due, soon = k.fill(due, soon)
	if len(soon) > 0 {
		next = earlier(next, soon[0].at)
	}
	k.next = next
	return due, over, next
}

// dueLater is a delivery with the time of its extension.
type dueLater struct {
	d  *Delivery
	at time.Time
}

// fill takes along as many of soon as fill the last batch of due, and returns the rest with the soonest in front.
func (k *keeper) fill(due []*Delivery, soon []dueLater) (filled []*Delivery, rest []dueLater) {
	slices.SortFunc(soon, func(a, b dueLater) int { return a.at.Compare(b.at) })
	batch := k.batch()
	for room := (batch - len(due)%batch) % batch; room > 0 && len(soon) > 0; room-- {
		if _, wanted := soon[0].d.wantsExtension(soon[0].at); wanted {
			due = append(due, soon[0].d)
		}
		soon = soon[1:]
	}
	return due, soon
}

// batch is how many deliveries one call extends at most.
func (k *keeper) batch() int {
	if most := k.c.caps.MaxBatch; most > 0 {
		return min(most, enough)
	}
	return enough
}

// enough deliveries are worth a call, and no burst.
const enough = 64

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// running: its holder does not know yet that the lease is over.
func (d *Delivery) running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lapse == nil
}

// wantsExtension claims d for an extension if one is due by the given time; else it says when it will be, or never.
func (d *Delivery) wantsExtension(by time.Time) (at time.Time, wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parting || d.extending != nil || d.lapse != nil || d.state == settled {
		return time.Time{}, false
	}
	if d.extendAt.After(by) {
		return d.extendAt, false
	}
	d.extending = make(chan struct{})
	return time.Time{}, true
}

// answered: the answer to an ack that was sent will say what became of the lease.
func (d *Delivery) answered() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parting = d.parting || d.acking
	return d.acking
}

// extend asks for a batch of extensions. What fails for a reason that may pass is tried again until the lease's end.
func (k *keeper) extend(ctx context.Context, batch []*Delivery) {
	term := k.c.cfg.Lease
	ctx, cancel := context.WithTimeout(ctx, term/3)
	defer cancel()
	in := make([]*driver.Delivery, len(batch))
	for i, d := range batch {
		in[i] = d.in
	}
	leases, err := k.c.in.Extend(ctx, in, term)
	now := time.Now()
	for i, d := range batch {
		one := driver.Outcome(err, i)
		if one == nil {
			k.extended(d, leases[i], now)
			continue
		}
		_, between, _ := k.times(d)
		k.release(d, now.Add(between))
		switch {
		case ctx.Err() == nil && driver.KindOf(one) == driver.LeaseLost:
			if !d.answered() {
				k.lose(d, one)
			}
		default:
			k.c.trouble("extend", one)
		}
	}
	k.poke()
}

func (k *keeper) extended(d *Delivery, lease driver.Lease, now time.Time) {
	d.mu.Lock()
	gone := d.lapse != nil || d.state == settled
	if !gone {
		d.extended.Store(&lease)
		d.term = min(k.c.cfg.Lease, max(lease.Until.Sub(now), 0))
	}
	d.mu.Unlock()
	if !gone {
		k.c.stats.extended.Add(1)
		k.c.fine()
		call2(k.c.cfg.Hooks.Extended, d, lease.Until)
	}
	_, between, _ := k.times(d)
	k.release(d, now.Add(max(third(lease.Until.Sub(now)), between)))
}

// release ends an extension in flight and says when the next one is due.
func (k *keeper) release(d *Delivery, next time.Time) {
	d.mu.Lock()
	inFlight := d.extending
	d.extending, d.extendAt = nil, next
	d.mu.Unlock()
	if inFlight != nil {
		close(inFlight)
	}
}

// lose tells a delivery's holder that the lease is over, and reports it once.
func (k *keeper) lose(d *Delivery, why error) {
	if !d.lose(why) {
		return
	}
	k.c.stats.lost.Add(1)
	k.c.log.Warn("lease lost", "queue", k.c.name, "id", d.ID, "cause", why, "delivery", d.DeliveryCount)
	d.mu.Lock()
	cause, idle := d.lapse, d.state == lost
	d.mu.Unlock()
	call2(k.c.cfg.Hooks.LeaseLost, d, cause)
	if idle {
		k.drop(d)
		k.c.poke()
	}
}
