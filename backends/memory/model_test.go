package memory_test

import (
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// model is the broker once more, as simply as it can be said: a list of messages that every question is answered from
// by looking at all of them.
type model struct {
	cfg  memory.Config
	now  time.Time
	all  []*entry // in the order of publishing; gone ones are taken out
	seen map[string]time.Time
}

type entry struct {
	id, lane, key string
	until         time.Time // deliverable, or lease over, from here on
	holder        *holding  // nil: not leased
	sentAt        time.Time
	handed        int
	state         string
}

// holding is a delivery as the model knows it.
type holding struct {
	e       *entry
	by      *client
	session int
	since   time.Time
	acked   bool
	d       *driver.Delivery // what the broker gave for it
}

func (m *model) publish(e *entry, dedup string, delay time.Duration) {
	m.step()
	if dedup != "" && m.cfg.Dedup >= 0 {
		if at, known := m.seen[dedup]; known && m.now.Sub(at) < m.dedup() {
			return
		}
		m.seen[dedup] = m.now
	}
	e.sentAt, e.until = m.now, m.now.Add(delay)
	m.all = append(m.all, e)
}

func (m *model) dedup() time.Duration {
	if m.cfg.Dedup == 0 {
		return memory.DefaultDedup
	}
	return m.cfg.Dedup
}

// step ends the leases that are over.
func (m *model) step() {
	for _, e := range slices.Clone(m.all) {
		if e.holder != nil && !m.now.Before(e.until) {
			m.back(e, e.until)
		}
	}
}

func (m *model) back(e *entry, due time.Time) {
	e.holder, e.until = nil, due
	if m.cfg.BrokerDropsAfter > 0 && e.handed >= m.cfg.BrokerDropsAfter {
		m.remove(e)
	}
}

func (m *model) remove(e *entry) {
	e.holder = nil
	m.all = slices.DeleteFunc(m.all, func(o *entry) bool { return o == e })
}

func (m *model) deliverable(e *entry) bool {
	if e.holder != nil || m.now.Before(e.until) {
		return false
	}
	for _, o := range m.all {
		if o == e {
			return true
		}
		if m.cfg.KeyOrder && e.key != "" && o.key == e.key {
			return false
		}
	}
	return false
}

func (m *model) take(by *client, w driver.Want, term time.Duration) []*holding {
	m.step()
	room := w.Max
	if m.cfg.MaxReceive > 0 {
		room = min(room, m.cfg.MaxReceive)
	}
	var hs []*holding
	grab := func(most int, any bool, lane string) {
		for _, e := range m.all {
			if most > 0 && (any || e.lane == lane) && m.deliverable(e) {
				h := &holding{e: e, by: by, session: by.session, since: m.now}
				e.holder, e.until = h, m.now.Add(term)
				e.handed++
				hs, most = append(hs, h), most-1
			}
		}
	}
	if w.Lanes == nil {
		grab(room, true, "")
	}
	for _, l := range w.Lanes {
		most := room - len(hs)
		if l.Max > 0 {
			most = min(most, l.Max)
		}
		grab(most, false, l.Lane)
	}
	return hs
}

// receive moves the model's clock to the moment at which a Receive returns.
func (m *model) receive(by *client, w driver.Want, wait, term time.Duration) []*holding {
	deadline := m.now.Add(wait)
	for {
		if hs := m.take(by, w, term); len(hs) > 0 || !m.now.Before(deadline) {
			return hs
		}
		next := deadline
		for _, e := range m.all {
			if e.until.After(m.now) && e.until.Before(next) {
				next = e.until
			}
		}
		m.now = next
	}
}

// refusal is the kind of error that a call for h must end with; empty: it must succeed.
func (m *model) refusal(h *holding, down bool) driver.Kind {
	m.step()
	switch {
	case h.by.closed:
		return driver.Closed
	case m.cfg.Session && h.session != h.by.session:
		return driver.LeaseLost
	case h.by.killed || down:
		return driver.Unavailable
	case h.e.holder != h:
		return driver.LeaseLost
	}
	return ""
}

func (m *model) gauge() driver.Gauge {
	m.step()
	var g driver.Gauge
	for _, e := range m.all {
		switch {
		case e.holder != nil:
			g.InFlight++
		case m.now.Before(e.until):
			g.Delayed++
		default:
			g.Ready++
		}
	}
	if len(m.all) > 0 {
		g.Oldest = m.now.Sub(m.all[0].sentAt)
	}
	return g
}
