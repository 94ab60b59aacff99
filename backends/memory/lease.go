package memory

import (
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// take leases what w wants and the queue has.
func (q *queue) take(c *consumer, w driver.Want, now time.Time) []*driver.Delivery {
	room := w.Max
	if most := q.b.cfg.MaxReceive; most > 0 {
		room = min(room, most)
	}
	var ds []*driver.Delivery
	if w.Lanes == nil {
		for len(ds) < room && q.order.len() > 0 {
			ds = append(ds, q.lease(q.order.top(), c, now))
		}
		return ds
	}
	for _, want := range w.Lanes {
		l, most := q.lanes[want.Lane], room-len(ds)
		if want.Max > 0 {
			most = min(most, want.Max)
		}
		for ; l != nil && most > 0 && l.ready.len() > 0; most-- {
			ds = append(ds, q.lease(l, c, now))
		}
	}
	return ds
}

// lease hands the first ready message of a lane to c. The delivery shares its header and body with the stored message:
// whoever passes it on clones them, after the lock is released.
func (q *queue) lease(l *lane, c *consumer, now time.Time) *driver.Delivery {
	m := l.ready.remove(0)
	q.reorder(l)
	q.become(m, leased)
	m.handed++
	m.grant++
	m.grantedAt, m.holder, m.due = now, c, now.Add(c.term)
	q.clock.push(m)
	c.held[m] = struct{}{}

	r := &receipt{m: m, grant: m.grant, holder: c, session: c.current()}
	d := &driver.Delivery{
		Message: *m.stored,
		State:   m.carried,
		SentAt:  m.sentAt,
		Granted: driver.Lease{Until: m.due, Session: r.session.context()},
		Receipt: r,
	}
	if q.b.cfg.Counting == Counted {
		d.DeliveryCount = m.handed
	}
	d.Redelivered = m.handed > 1 && q.b.cfg.Counting != Uncounted
	return d
}

// giveBack ends a lease without settling the message: it is deliverable again, in its old place, when due.
func (q *queue) giveBack(m *message, due, now time.Time) {
	if most := q.b.cfg.BrokerDropsAfter; most > 0 && m.handed >= most {
		q.remove(m, now)
		return
	}
	q.clock.remove(m.pos)
	q.free(m)
	q.place(m, due, now)
}

// takeBack undoes a lease that its consumer never saw.
func (q *queue) takeBack(m *message, now time.Time) {
	m.handed--
	q.giveBack(m, now, now)
}

func (q *queue) free(m *message) {
	delete(m.holder.held, m)
	m.holder = nil
}
