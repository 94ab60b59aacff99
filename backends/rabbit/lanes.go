package rabbit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	// A waiting worker looks at the lanes for what no hint told of: at the default lane, for which there are none, every
	// second, at the others every five seconds, and at 160 a second at most: that leaves room for 500.
	sweepEvery = 250 * time.Millisecond
	sweepLanes = 40
	sweepNone  = time.Second
	staleAfter = 5 * time.Second // how long it is believed that a lane is empty
	// relearn is how often somebody who serves any lane looks whether there are lanes.
	relearn = 2 * time.Second
)

// lanes is what a consumer knows of its queue's lanes. A lane is ready when there was a sign (a hint, a sweep) since it
// was last found empty, or when that is too long ago.
type lanes struct {
	once sync.Once // for the goroutine that learns of lanes
	ears sync.Once // for the one that listens to hints

	mu      sync.Mutex
	byName  map[string]*lane
	order   []string // as learned, for who wants any
	next    int      // where the next sweep, or who wants any, begins
	hearing bool
}

type lane struct {
	signs, seen uint64
	checked     time.Time
	absent      time.Time // when a consumer found no queue; zero: there is one, as far as is known
}

func newLanes() *lanes {
	l := &lanes{byName: map[string]*lane{}}
	l.add("")
	return l
}

func (l *lanes) get(name string) *lane {
	k := l.byName[name]
	if k == nil {
		k = &lane{signs: 1}
		l.byName[name] = k
	}
	return k
}

// add makes a lane known, and reports whether it was not.
func (l *lanes) add(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, known := range l.order {
		if known == name {
			return false
		}
	}
	l.get(name)
	l.order = append(l.order, name)
	return true
}

// all are the lanes that were learned of, another one in front each time.
func (l *lanes) all() []driver.LaneWant {
	l.mu.Lock()
	defer l.mu.Unlock()
	wants := make([]driver.LaneWant, 0, len(l.order))
	for i := range l.order {
		wants = append(wants, driver.LaneWant{Lane: l.order[(l.next+i)%len(l.order)]})
	}
	return wants
}

func (l *lanes) served(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, known := range l.order {
		if known == name {
			l.next = i + 1
		}
	}
}

func (l *lanes) listening() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hearing
}

// sign notes that a lane may hold something.
func (l *lanes) sign(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.get(name)
	k.signs++
	k.absent = time.Time{}
}

// missing notes that a lane has no queue yet, or none any more.
func (l *lanes) missing(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.get(name).absent = time.Now()
}

// again is how long not to look for the queue of a lane that has none.
func (l *lanes) again(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.get(name); !k.absent.IsZero() {
		return sweepNone - time.Since(k.absent)
	}
	return 0
}

// signAll notes that nothing is known.
func (l *lanes) signAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.byName {
		k.signs++
	}
	l.hearing = true
}

// ready reports whether a lane may hold something: told by a sign, or stale, since too long ago nobody looked. The number
// of signs is for empty.
func (l *lanes) ready(name string) (told, stale bool, signs uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.get(name)
	return k.signs != k.seen, time.Since(k.checked) > staleAfter, k.signs
}

// empty notes that a lane was found empty; signs that came since ready stay.
func (l *lanes) empty(name string, signs uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.get(name)
	k.seen, k.checked = signs, time.Now()
}

// due are the lanes that a sweep looks at now.
func (l *lanes) due(wants []driver.LaneWant) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var names []string
	for i := range wants {
		name := wants[(l.next+i)%len(wants)].Lane
		k := l.get(name)
		every := staleAfter
		if name == "" {
			every = sweepNone
		}
		if now.Sub(k.checked) < every*9/10 {
			continue
		}
		if len(names) == sweepLanes {
			break
		}
		k.checked = now
		names = append(names, name)
	}
	l.next += len(names)
	return names
}

// hear listens to hints until the consumer closes.
func (c *Consumer) hear() {
	c.each(func(s *session) error {
		return c.b.listen(c.life, s, c.names, &ear{
			unsure: func() {
				c.lanes.signAll()
				c.wakeUp()
			},
			heard: func(lane string) {
				c.lanes.sign(lane)
				c.wakeUp()
			},
		})
	})
}

func (c *Consumer) wakeUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rouse()
}

// learn follows the registry for a consumer that serves any lane.
func (c *Consumer) learn() {
	c.each(func(s *session) error {
		return c.b.follow(c.life, s, c.names, func(lane string, _ bool) {
			if c.lanes.add(lane) {
				c.wakeUp()
			}
		})
	})
}

// each runs f in one session after the other until the consumer closes.
func (c *Consumer) each(f func(*session) error) {
	for c.life.Err() == nil {
		s, err := c.b.in.session(c.life, time.Hour)
		if err != nil {
			continue
		}
		err = f(s)
		if c.life.Err() == nil && !isMissing(err) && !errors.Is(err, context.Cause(s.ctx)) {
			c.b.config.Logger.Debug("rabbitmq: side channel", slog.String("queue", c.names.queue), slog.Any("error", err))
		}
		timer := time.NewTimer(relearn)
		select {
		case <-timer.C:
		case <-c.life.Done():
			timer.Stop()
		}
	}
}
