package queue

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// ProducerConfig configures a Producer. The zero value works.
type ProducerConfig struct {
	// Lanes says how messages are spread over lanes; the workers of the queue must use the same.
	Lanes Lanes
	// Needs is what the application cannot do without.
	Needs Needs
	// OnAmbiguous says what to do when the confirmation of a message is lost.
	OnAmbiguous OnAmbiguous
	// Patience bounds how long Publish tries again, without storing anything meanwhile, while the broker is unavailable or
	// throttles. Zero: 30 s. Negative: one try.
	Patience time.Duration
	// Hooks: Published and Failed are called.
	Hooks Hooks
	// Logger gets a line for each ambiguous message. Nil: slog.Default.
	Logger *slog.Logger
}

// OnAmbiguous says what a Producer does with a message that was sent and not confirmed.
type OnAmbiguous int

// What a Producer does with a message that was sent and not confirmed.
const (
	Report OnAmbiguous = iota // return ErrAmbiguous for it: it may or may not be stored
	Resend                    // send it again with the same ID: it is stored, perhaps twice where the broker does not deduplicate
)

var errPatience = errors.New("nothing got through for as long as ProducerConfig.Patience")

// Producer publishes messages to one queue. It is safe for concurrent use.
type Producer struct {
	name string
	caps driver.Capabilities
	cfg  ProducerConfig
	out  driver.Producer
}

// NewProducer opens a queue for publishing. It returns an UnsupportedError if the broker cannot do what cfg asks for.
func NewProducer(ctx context.Context, b driver.Backend, queue string, cfg ProducerConfig) (*Producer, error) {
	setDefault(&cfg.Patience, 30*time.Second)
	setDefault(&cfg.Logger, slog.Default())
	p := &Producer{name: queue, caps: b.Capabilities(), cfg: cfg}
	err := errors.Join(cfg.Needs.unmet(p.caps), cfg.Lanes.unmet(p.caps))
	if err == nil {
		p.out, err = b.OpenProducer(ctx, queue)
	}
	if err != nil {
		return nil, &Error{Op: "open producer", Queue: queue, Err: err}
	}
	return p, nil
}

// Publish stores messages and returns when the broker has confirmed all of them. It sets the ID of those that have none.
//
// If only some are stored, the error holds a BatchError aligned with ms. A message whose error matches ErrAmbiguous may
// or may not be stored; one with any other error is not. Publish tries again while the broker is unavailable, until
// ProducerConfig.Patience or ctx ends. With Needs.KeyOrder, the messages of a key are stored in order, and after one
// that failed the later ones of its key are reported with ErrUnsent.
func (p *Producer) Publish(ctx context.Context, ms ...*Message) error {
	outcome := make(driver.BatchError, len(ms))
	var waiting []int
	now := time.Now()
	wire := make([]*driver.Message, len(ms))
	for i, m := range ms {
		if m.ID == "" {
			m.ID = newID()
		}
		if outcome[i] = p.refuse(m); outcome[i] != nil {
			continue
		}
		wire[i] = m.wire(p.cfg.Lanes, p.caps, now)
		if outcome[i] = tooLarge(wire[i], p.caps); outcome[i] == nil {
			waiting = append(waiting, i)
		}
	}
	try := &tries{p: p, ctx: ctx, wire: wire, outcome: outcome}
	for len(waiting) > 0 {
		var wave []int
		wave, waiting = p.wave(ms, waiting, outcome)
		try.send(wave)
	}
	for i, m := range ms {
		call2(p.cfg.Hooks.Published, m, outcome[i])
		if errors.Is(outcome[i], ErrAmbiguous) {
			p.cfg.Logger.Warn("published without confirmation", "queue", p.name, "id", m.ID, "err", outcome[i])
		}
	}
	return p.result(ms, outcome)
}

func (p *Producer) refuse(m *Message) error {
	if err := m.validate(); err != nil {
		return err
	}
	if m.Delay > 0 && p.caps.Delay.By == driver.Nobody {
		return &UnsupportedError{Broker: brokerName(p.caps), Wanted: "a Message.Delay", Has: "no delay on publishing"}
	}
	return nil
}

// wave picks what is sent together: with KeyOrder, one message of a key at a time, and none of a key that has failed.
func (p *Producer) wave(ms []*Message, waiting []int, outcome driver.BatchError) (wave, rest []int) {
	if !p.cfg.Needs.KeyOrder {
		n := len(waiting)
		if most := p.caps.MaxBatch; most > 0 {
			n = min(n, most)
		}
		return waiting[:n], waiting[n:]
	}
	failed := map[string]int{} // the first of each key
	for i, m := range slices.Backward(ms) {
		if m.Key != "" && outcome[i] != nil {
			failed[m.Key] = i
		}
	}
	taken := map[string]bool{}
	for _, i := range waiting {
		key := ms[i].Key
		first, bad := failed[key]
		switch {
		case bad && first < i:
			outcome[i] = ErrUnsent
		case taken[key] || p.caps.MaxBatch > 0 && len(wave) == p.caps.MaxBatch:
			rest = append(rest, i)
		default:
			wave = append(wave, i)
			taken[key] = key != ""
		}
	}
	return wave, rest
}

// tries is the sending of one Publish.
type tries struct {
	p       *Producer
	ctx     context.Context // of the call
	wire    []*driver.Message
	outcome driver.BatchError
	giveUp  time.Time // Patience after the last message got through
	spent   error     // why there are no more tries
}

// send publishes the messages of wave and tries again those that may be tried again.
func (t *tries) send(wave []int) {
	pause := backoff{first: 20 * time.Millisecond, top: 2 * time.Second}
	for len(wave) > 0 {
		if t.spent != nil {
			for _, i := range wave {
				t.note(i, t.spent)
			}
			return
		}
		batch := make([]*driver.Message, len(wave))
		for k, i := range wave {
			batch[k] = t.wire[i]
		}
		err := t.p.out.Publish(t.ctx, batch)
		var again []int
		for k, i := range wave {
			one := driver.Outcome(err, k)
			t.note(i, one)
			if t.p.tryAgain(one) {
				again = append(again, i)
			}
		}
		t.progress(len(again) < len(wave))
		if wave = again; len(wave) == 0 {
			return
		}
		call2(t.p.cfg.Hooks.Failed, "publish", err)
		if err := t.rest(pause.pause()); err != nil {
			return
		}
	}
}

// rest waits before another try, unless there shall be none.
func (t *tries) rest(wait time.Duration) error {
	switch {
	case t.p.cfg.Patience < 0:
		return errPatience // the messages not tried yet still have their one try
	case time.Now().Add(wait).After(t.giveUp):
		t.spent = &driver.Error{Kind: driver.Unavailable, Err: errPatience}
	case !sleep(t.ctx, wait):
		t.spent = &driver.Error{Kind: driver.Unavailable, Err: context.Cause(t.ctx)}
	}
	return t.spent
}

// note keeps the outcome of a try. An unconfirmed message stays ambiguous until a later try is confirmed: it may have
// been stored at the first.
func (t *tries) note(i int, err error) {
	if !(errors.Is(t.outcome[i], ErrAmbiguous) && err != nil) {
		t.outcome[i] = err
	}
}

// progress winds up the clock of Patience: it runs while nothing gets through.
func (t *tries) progress(made bool) {
	if made || t.giveUp.IsZero() {
		t.giveUp = time.Now().Add(t.p.cfg.Patience)
	}
}

func (p *Producer) tryAgain(err error) bool {
	switch driver.KindOf(err) {
	case driver.Unavailable, driver.Throttled:
		return true
	case driver.Ambiguous:
		return p.cfg.OnAmbiguous == Resend
	default:
		return false
	}
}

// sleep waits for d and returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Producer) result(ms []*Message, outcome driver.BatchError) error {
	if len(ms) == 1 && outcome[0] != nil {
		return &Error{Op: "publish", Queue: p.name, ID: ms[0].ID, Err: outcome[0]}
	}
	if err := outcome.OrNil(); err != nil {
		return &Error{Op: "publish", Queue: p.name, Err: err}
	}
	return nil
}

// Close waits for calls under way, bounded by ctx.
func (p *Producer) Close(ctx context.Context) error {
	if err := p.out.Close(ctx); err != nil {
		return &Error{Op: "close", Queue: p.name, Err: err}
	}
	return nil
}
