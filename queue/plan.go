package queue

import (
	"errors"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var errNoReason = errors.New("no reason given")

// plan turns a verdict into what is sent: an ack, a return in place, or a copy that carries the counts and then an ack.
func (c *Consumer) plan(d *Delivery, r ruling) *op {
	now := time.Now()
	if r.err == nil {
		r.err = errNoReason
	}
	switch r.verdict {
	case VerdictAck:
		return &op{d: d, Settlement: Settlement{Verdict: r.verdict}}
	case VerdictReject:
		if r.reason == "" {
			r.reason = ReasonRejected
		}
		return c.planDead(d, r, now)
	case VerdictRecount:
		if r.delay > 0 {
			return c.planReturn(d, r.verdict, d.env.record, r.delay)
		}
		var delay time.Duration
		if c.caps.Delay.By != driver.Nobody {
			delay = minRedelay // so that the original is acked before a copy that kills this process can start
		}
		return c.planCopy(d, r.verdict, d.env.record, delay)
	case VerdictRelease:
		rec := d.env.record
		delay := max(r.delay, releaseDelay(rec.Releases))
		if r.chosen && c.forgets() {
			delay = max(delay, minRedelay) // it may be the hundredth time
		}
		rec.Releases++
		return c.planReturn(d, r.verdict, rec, delay)
	default:
		rec := d.env.failed(r.err, now)
		if rec.Attempts >= c.cfg.Retry.MaxAttempts {
			r.reason = ReasonAttempts
			return c.planDead(d, r, now)
		}
		delay := max(r.delay, minRedelay)
		if !r.chosen {
			delay = c.cfg.Retry.delay(rec.Attempts)
		}
		return c.planReturn(d, r.verdict, rec, delay)
	}
}

// forgets: a release in place leaves no trace that the next delivery could show.
func (c *Consumer) forgets() bool {
	return !c.caps.Carries && (c.caps.Counting == driver.Uncounted || c.caps.Counting == driver.CountedApart)
}

// inPlace: a return with a verdict can leave the message where it is, and the next delivery shows the right counts.
func (c *Consumer) inPlace(d *Delivery, v Verdict, delay time.Duration) bool {
	switch {
	case delay > 0 && c.caps.Redelay.By == driver.Nobody, c.nearDrop(d):
		return false
	case !c.caps.Carries:
		return v == VerdictRelease && c.forgets() // nothing that a release would spoil
	case c.caps.Counting == driver.Flagged:
		// The flag of a return would hide that a later delivery crashed. A copy comes without, but loses its place.
		return c.cfg.Needs.KeyOrder || c.caps.Delay.By == driver.Nobody
	default:
		return true
	}
}

// planReturn gives a message back: in place where the broker keeps the counts with it, and else as a copy.
func (c *Consumer) planReturn(d *Delivery, v Verdict, rec record, delay time.Duration) *op {
	if !c.inPlace(d, v, delay) {
		return c.planCopy(d, v, rec, delay)
	}
	asked := delay
	delay, rec.Hold = split(delay, c.caps.Redelay.Max)
	rec.Returns++
	return &op{
		d: d, Settlement: Settlement{Verdict: v, Delay: asked}, ret: &driver.Return{D: d.in, Delay: delay, State: rec.state()},
	}
}

func (c *Consumer) planCopy(d *Delivery, v Verdict, rec record, delay time.Duration) *op {
	e := d.env
	e.record = rec
	e.Crashes, e.Returns, e.Hold = d.Crashes, 0, 0
	e.generation++
	var held time.Duration
	if c.caps.Delay.By == driver.Nobody {
		e.Hold = delay // its next delivery is returned with the delay
	} else {
		held, e.Hold = split(delay, c.caps.Delay.Max)
	}
	m := c.copyMessage(d, &e)
	m.Lane, m.Delay = d.in.Lane, held
	return &op{d: d, Settlement: Settlement{Verdict: v, Delay: delay, Copied: true}, copy: m}
}

// split divides a delay into what the broker holds at once, at most top (0: no limit), and the rest.
func split(delay, top time.Duration) (first, rest time.Duration) {
	if top > 0 && delay > top {
		return top, delay - top
	}
	return delay, 0
}

// planDead makes the dead letter: body and headers as they were, with how it died, and its counts at zero for its life
// in the dead-letter queue.
func (c *Consumer) planDead(d *Delivery, r ruling, now time.Time) *op {
	rec := d.env.record
	if r.reason == ReasonAttempts || r.reason == ReasonRejected {
		rec = rec.failed(r.err, now)
	} else {
		rec.Err = clip(r.err.Error())
	}
	e := d.env
	e.death = &Death{
		Reason: r.reason, Err: rec.Err, Attempts: rec.Attempts, Crashes: d.Crashes, Origin: c.name, First: rec.First, Last: rec.Last,
	}
	if d.env.death != nil { // it died again, as a dead letter
		e.death.Origin = d.env.death.Origin
	}
	e.record = record{}
	e.generation++
	return &op{d: d, Settlement: Settlement{Verdict: r.verdict, Dead: r.reason}, copy: c.copyMessage(d, &e)}
}

// stay gives a message back whose dead letter the broker refuses for good: it comes again after a while, at no cost, and
// dies when it can. Where a return in place would look like a crash, or be the one at which the broker drops it, it
// stays as a copy.
func (c *Consumer) stay(o *op) {
	back := c.planReturn(o.d, o.Verdict, o.d.env.record, c.cfg.Retry.delay(o.d.env.Attempts+1))
	o.Settlement, o.copy, o.ret = back.Settlement, back.copy, back.ret
}

// copyMessage is a copy of d with the envelope e, without a lane.
func (c *Consumer) copyMessage(d *Delivery, e *envelope) *driver.Message {
	return &driver.Message{
		ID: e.id, DedupID: dedupID(e.copyID(d.in.SentAt)), Key: e.key, Tenant: e.tenant, Priority: e.priority,
		Header: e.again(&d.in.Message, d.Header), Body: d.Body,
	}
}
