package queue

import (
	"errors"
	"maps"
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
		return c.planCopy(d, r.verdict, d.env.record, 0)
	case VerdictRelease:
		rec := d.env.record
		delay := max(r.delay, releaseDelay(rec.Releases))
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

// planReturn gives a message back: in place where the broker keeps the counts with it (or counts nothing that a
// release would spoil), and else as a copy.
func (c *Consumer) planReturn(d *Delivery, v Verdict, rec record, delay time.Duration) *op {
	canHold := delay == 0 || c.caps.Redelay.By != driver.Nobody
	uncounted := v == VerdictRelease && c.caps.Counting == driver.Uncounted
	if !canHold || !(c.caps.Carries || uncounted) {
		return c.planCopy(d, v, rec, delay)
	}
	asked := delay
	rec.Due = time.Time{}
	if top := c.caps.Redelay.Max; top > 0 && delay > top {
		rec.Due, delay = time.Now().Add(delay), top
	}
	rec.Returns++
	return &op{
		d: d, Settlement: Settlement{Verdict: v, Delay: asked}, ret: &driver.Return{D: d.in, Delay: delay, State: rec.state()},
	}
}

func (c *Consumer) planCopy(d *Delivery, v Verdict, rec record, delay time.Duration) *op {
	e := d.env
	e.record = rec
	e.Crashes, e.Returns, e.due, e.Due = d.Crashes, 0, time.Time{}, time.Time{}
	e.generation++
	m := c.copyMessage(d, &e)
	m.Lane = d.in.Lane
	switch top := c.caps.Delay.Max; {
	case delay == 0:
	case c.caps.Delay.By == driver.Nobody:
		e.due = time.Now().Add(delay)
	case top > 0 && delay > top:
		e.due, m.Delay = time.Now().Add(delay), top
	default:
		m.Delay = delay
	}
	m.Header = e.headers(d.Header)
	return &op{d: d, Settlement: Settlement{Verdict: v, Delay: delay, Copied: true}, copy: m}
}

// planDead makes the dead letter: body, headers and counts as they were, with the reason and the queue of origin.
func (c *Consumer) planDead(d *Delivery, r ruling, now time.Time) *op {
	e := d.env
	if r.reason == ReasonAttempts || r.reason == ReasonRejected {
		e.record = e.failed(r.err, now)
	} else {
		e.Err = clip(r.err.Error())
	}
	e.Crashes, e.Returns, e.due, e.Due = d.Crashes, 0, time.Time{}, time.Time{}
	e.generation++
	e.reason = r.reason
	if e.origin == "" {
		e.origin = c.name
	}
	m := c.copyMessage(d, &e)
	if r.reason == ReasonEnvelope { // what cannot be read is kept as it came, for those who can
		m.DedupID = "" // its generation may be one that was not read
		m.Header = maps.Clone(d.in.Header)
		m.Header[headerReason], m.Header[headerOrigin], m.Header[headerError] = string(e.reason), e.origin, e.Err
	} else {
		m.Header = e.headers(d.Header)
	}
	return &op{d: d, Settlement: Settlement{Verdict: r.verdict, Dead: r.reason}, copy: m}
}

func (c *Consumer) copyMessage(d *Delivery, e *envelope) *driver.Message {
	return &driver.Message{
		ID: e.id, DedupID: e.copyID(d.in.SentAt), Key: e.key, Tenant: e.tenant, Priority: e.priority, Body: d.Body,
	}
}
