package queue

import (
	"context"
	"errors"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// admit takes a delivery over from the driver: from here on its lease is kept. It returns nil if the message is settled
// without being shown to anybody, because it is not due yet, has crashed too often, must be counted first or cannot be
// read.
func (c *Consumer) admit(base context.Context, in *driver.Delivery) *Delivery {
	env, user, damage := openEnvelope(&in.Message)
	if err := env.resume(in.State); err != nil && damage == nil {
		damage = err
	}
	d := c.delivery(base, in, env, user)
	c.keeper.add(d)
	c.stats.received(d)
	call(c.cfg.Hooks.Received, d)
	r, aside := c.sift(d, damage)
	if !aside {
		return d
	}
	d.submit(r, func(error) {})
	return nil
}

func (c *Consumer) delivery(base context.Context, in *driver.Delivery, env envelope, user map[string]string) *Delivery {
	d := &Delivery{
		Message: Message{ID: env.id, Key: env.key, Tenant: env.tenant, Priority: env.priority, Header: user, Body: in.Body},
		Queue:   c.name, Lane: in.Lane, Attempt: env.Attempts + 1, DeliveryCount: in.DeliveryCount, Releases: env.Releases,
		Crashes: env.Crashes + c.unended(in, env.record), Generation: env.generation, PublishedAt: env.published,
		Foreign: env.foreign, Dead: env.death, c: c, in: in, env: env,
	}
	d.Token = d.fencing(c.caps)
	d.RunAlone = d.Crashes >= aloneFrom
	d.ctx, d.cancel = context.WithCancelCause(base)
	return d
}

// unended counts the starts of this copy that ended in nothing: handed over before, and neither returned nor settled.
func (c *Consumer) unended(in *driver.Delivery, rec record) int {
	switch {
	case c.caps.Counting == driver.Counted:
		return max(in.DeliveryCount-1-rec.Returns, 0)
	case c.caps.Counting == driver.CountedApart:
		return max(in.Unended, 0)
	case c.caps.Counting == driver.Flagged && in.Redelivered && rec.Returns == 0:
		return 1
	default:
		return 0
	}
}

// sift says what becomes of a delivery that no handler shall see.
func (c *Consumer) sift(d *Delivery, damage error) (ruling, bool) {
	if damage != nil && d.Dead == nil {
		return ruling{verdict: VerdictReject, reason: ReasonEnvelope, err: damage}, true
	}
	if d.env.Hold > 0 {
		return ruling{verdict: VerdictRecount, delay: d.env.Hold}, true
	}
	if d.Crashes >= c.cfg.Retry.MaxCrashes {
		err := errors.New("its handler never returned: the process died or lost its lease each time")
		if d.env.Err != "" {
			err = errors.New(d.env.Err)
		}
		return ruling{verdict: VerdictReject, reason: ReasonCrashes, err: err}, true
	}
	flagged := c.caps.Counting == driver.Flagged && c.unended(d.in, d.env.record) > 0
	// A first delivery runs, however soon the broker drops: its copy would be one as well.
	if (flagged || c.nearDrop(d) && d.DeliveryCount > 1) && c.copyFits(d) {
		return ruling{verdict: VerdictRecount}, true
	}
	return ruling{}, false
}

// copyFits: a foreign message may fill the broker's limit. Rather uncounted than never.
func (c *Consumer) copyFits(d *Delivery) bool {
	return c.caps.MaxBytes == 0 || size(c.planCopy(d, VerdictRecount, d.env.record, 0).copy) <= c.caps.MaxBytes
}

// nearDrop: the broker itself drops the message, for having been handed over too often, at the next return or the one
// after it.
func (c *Consumer) nearDrop(d *Delivery) bool {
	limit := c.caps.BrokerDropsAfter
	return limit > 0 && d.DeliveryCount >= limit-1
}
