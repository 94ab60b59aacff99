package nats

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	fewLanes   = 8                      // up to here a sweep asks each lane, beyond it asks which lanes hold anything
	sweepFew   = 250 * time.Millisecond // a redelivery gives no hint: this is how late it can be noticed
	sweepMany  = time.Second            // also how often the server is asked for new lanes
	hintSettle = 5 * time.Millisecond   // see lane.empty
	maxWaiting = 1 << 16                // pulls that may wait at one lane, from all processes
)

// lane is a lane as one consumer knows it.
type lane struct {
	name    string
	subject string
	place   int // in lanes.order

	mu       sync.Mutex
	epoch    string // of the stream in which durable exists; empty: not known to exist
	durable  string
	term     time.Duration // what a lease of this lane lasts
	signs    uint64        // that the lane may hold something: hints and sweeps
	seen     uint64        // signs when a pull last found it empty
	recheck  uint64        // signs when a pull last found it empty right after a hint
	lastHint time.Time
	swept    time.Time
}

// sign notes that the lane may hold something.
func (l *lane) sign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signs++
}

// sweep gives a sign if none came that way for a while.
func (l *lane) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) >= sweepFew {
		l.swept = now
		l.signs++
	}
}

// expire makes the next sweep give a sign.
func (l *lane) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.swept = time.Time{}
}

func (l *lane) hint() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signs++
	l.lastHint = time.Now()
}

// ready reports whether the lane may hold something, and the number of signs for it, for empty.
func (l *lane) ready() (signs uint64, ready bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signs, l.signs != l.seen
}

// empty notes that a pull found nothing. Signs that came after the pull began stay. It reports whether the lane must
// be asked again shortly: the server sends the hint a moment before the consumer counts the message, so that a pull
// right after it can be told that there is none.
func (l *lane) empty(signs uint64) (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.lastHint) < 4*hintSettle && l.recheck != signs {
		l.recheck = signs
		return true
	}
	l.seen = max(l.seen, signs)
	return false
}

// consumer is the name of the lane's durable in the stream of that epoch, if it is known to exist.
func (l *lane) consumer(epoch string) (durable string, term time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable, l.term, l.epoch == epoch && l.epoch != ""
}

func (l *lane) created(epoch, durable string, term time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch, l.durable, l.term = epoch, durable, term
}

func (l *lane) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = ""
}

// lanes is the registry of a consumer's lanes. The default lane is always in it.
type lanes struct {
	names names

	mu     sync.Mutex
	byName map[string]*lane
	order  []*lane   // as found
	next   int       // where the next Receive that wants any lane begins
	asked  time.Time // when the server was last asked which lanes hold anything
}

func newLanes(n names) *lanes {
	r := &lanes{names: n, byName: make(map[string]*lane)}
	r.add("", emptyLane)
	return r
}

func (r *lanes) add(name, token string) *lane {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.byName[name]
	if l == nil {
		l = &lane{name: name, subject: r.names.lanes + token, place: len(r.order)}
		r.byName[name] = l
		r.order = append(r.order, l)
	}
	return l
}

// get finds a lane, or adds it.
func (r *lanes) get(name string) (*lane, error) {
	r.mu.Lock()
	l := r.byName[name]
	r.mu.Unlock()
	if l != nil {
		return l, nil
	}
	token, err := laneToken(name)
	if err != nil {
		return nil, invalid("", err)
	}
	return r.add(name, token), nil
}

// demand is what one Receive wants of one lane.
type demand struct {
	lane *lane
	max  int
}

// demands is w as lanes in the order in which they are asked. For any lane each Receive begins behind the lane that
// was served last, and takes an even share of each that may hold something, so that no lane waits for the others to run
// dry.
func (r *lanes) demands(w driver.Want) ([]demand, error) {
	if w.Lanes == nil {
		return r.all(w.Max), nil
	}
	before := r.count()
	all := make([]demand, 0, len(w.Lanes))
	listed := make(map[*lane]bool, len(w.Lanes))
	for _, lw := range w.Lanes {
		l, err := r.get(lw.Lane)
		if err != nil {
			return nil, err
		}
		most := w.Max
		if lw.Max > 0 {
			most = min(most, lw.Max)
		}
		if !listed[l] {
			listed[l] = true
			all = append(all, demand{l, most})
		}
	}
	if r.count() > before {
		r.expire(nil) // nothing is known of the new ones
	}
	return all, nil
}

func (r *lanes) all(most int) []demand {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]demand, 0, len(r.order))
	for i := range r.order {
		all = append(all, demand{r.order[(r.next+i)%len(r.order)], most})
	}
	return all
}

// served notes that l was served last.
func (r *lanes) served(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = l.place + 1
}

// askDue reports whether the server is to be asked again, and takes that on if so.
func (r *lanes) askDue() bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.asked) < sweepMany {
		return false
	}
	r.asked = now
	return true
}

// expire makes the next sweep give new signs: what is known of the lanes of ds is old.
func (r *lanes) expire(ds []demand) {
	for _, d := range ds {
		d.lane.expire()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = time.Time{}
}

func sweepEvery(n int) time.Duration {
	if n <= fewLanes {
		return sweepFew
	}
	return sweepMany
}

// jittered keeps consumers that started together from sweeping together.
func jittered(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }

// sweep gives a sign to the lanes of ds that may hold something, when that is due: to each of a few, of many to those
// that the server says hold messages. For any lane it also looks for new ones.
func (c *Consumer) sweep(ctx context.Context, w driver.Want, ds []demand) error {
	if len(ds) <= fewLanes {
		now := time.Now()
		for _, d := range ds {
			d.lane.sweep(now)
		}
	}
	if (len(ds) > fewLanes || w.Lanes == nil) && c.lanes.askDue() {
		return c.discover(ctx)
	}
	return nil
}

// discover asks which lanes hold messages, leased ones included, and gives each a sign.
func (c *Consumer) discover(ctx context.Context) error {
	info, err := c.b.info(ctx, c.names.stream, c.names.lanes+">")
	if err != nil {
		return err
	}
	c.setEpoch(epochOf(info))
	for subject := range info.State.Subjects {
		if name, ok := laneOfSubject(subject, c.names.lanes); ok {
			if l, err := c.lanes.get(name); err == nil {
				l.sign()
			}
		}
	}
	return nil
}

func (r *lanes) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.order)
}

// ensureLane makes sure that the lane's durable consumer exists, and returns its name and its leases' length. Whoever
// makes one looks at the stream first: it may be another than the one this consumer knows.
func (c *Consumer) ensureLane(ctx context.Context, l *lane) (string, time.Duration, error) {
	if durable, term, ok := l.consumer(c.currentEpoch()); ok {
		return durable, term, nil
	}
	info, err := c.b.info(ctx, c.names.stream, "")
	if err != nil {
		return "", 0, err
	}
	epoch := epochOf(info)
	c.setEpoch(epoch)
	durable, term, err := c.b.ensureConsumer(ctx, c.names.stream, jetstream.ConsumerConfig{
		Durable:       l.subject[len(c.names.lanes):] + "-" + epoch,
		Description:   "Holdfast lane " + l.name,
		FilterSubject: l.subject,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       c.term,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    maxWaiting,
	})
	if err != nil {
		return "", 0, err
	}
	l.created(epoch, durable, term)
	return durable, term, nil
}
