package rabbit

import (
	"context"
	"crypto/rand"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ear is who listens to hints.
type ear struct {
	heard  func(lane string) // a lane may hold something
	unsure func()            // any lane may: hints begin to be heard, or a worker has died
}

const (
	// echo is when the lanes are looked at again after a worker's death: its messages come back one by one.
	echo     = 100 * time.Millisecond
	lastEcho = 1600 * time.Millisecond
	// wills end with who left them, at the latest after so long.
	willExpires = time.Minute
	willType    = "hf-will"
)

// listen reports hints until ctx or the session ends.
func (b *Backend) listen(ctx context.Context, s *session, n names, e *ear) error {
	if _, err := b.unblockedOut(); err != nil { // no will can be left
		return err
	}
	ch, err := s.open()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }()
	hints, err := b.subscribe(ch, n)
	if err != nil {
		return err
	}
	will, err := b.leaveWill(ctx, s, n)
	if err != nil {
		return err
	}
	defer will.withdraw()
	e.unsure()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	again := time.Duration(0)
	for {
		select {
		case m, open := <-hints:
			switch {
			case !open:
				return amqp.ErrClosed
			case m.Type == willType:
				e.unsure()
				again = echo
				timer.Reset(again)
			default:
				e.heard(string(m.Body))
			}
		case <-timer.C:
			e.unsure()
			if again *= 2; again <= lastEcho {
				timer.Reset(again)
			}
		case err := <-will.gone: // the server's consumer timeout, say
			if err != nil {
				return err
			}
			return amqp.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// subscribe makes a queue of this connection's for hints.
func (b *Backend) subscribe(ch *amqp.Channel, n names) (<-chan amqp.Delivery, error) {
	if err := b.declareHints(ch, n); err != nil {
		return nil, err
	}
	b.meter.count(callDeclare)
	q, err := ch.QueueDeclare("", false, true, true, false, amqp.Table{
		"x-max-length": int64(hintBuffer), "x-message-ttl": hintAge.Milliseconds(),
	})
	if err != nil {
		return nil, err
	}
	if err := ch.QueueBind(q.Name, "", n.hints(), false, nil); err != nil {
		return nil, err
	}
	b.meter.count(callConsume)
	return ch.Consume(q.Name, "", true, true, false, false, nil)
}

// will is a message that its own sender holds, unsettled, in a queue where nothing may wait: when the sender dies, or falls
// silent, the server takes the message back, finds that its time is over, and dead-letters it to everybody who listens
// to hints. So the others learn at once that what the dead worker held is back in some lane.
type will struct {
	b    *Backend
	ch   *amqp.Channel
	held amqp.Delivery
	name string
	gone chan *amqp.Error
}

// It is published through the other connection: a server that is short of memory or disk reads nothing more from one that
// publishes, no ack and no extension.
func (b *Backend) leaveWill(ctx context.Context, s *session, n names) (w *will, err error) {
	out, err := b.unblockedOut()
	if err != nil {
		return nil, err
	}
	ch, err := s.open()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = ch.Close()
		}
	}()
	w = &will{b: b, ch: ch, name: n.will(rand.Text()), gone: ch.NotifyClose(make(chan *amqp.Error, 1))}
	b.meter.count(callDeclare)
	_, err = ch.QueueDeclare(w.name, true, false, false, false, amqp.Table{
		amqp.QueueTypeArg: amqp.QueueTypeClassic, "x-message-ttl": int64(0), "x-expires": willExpires.Milliseconds(),
		"x-dead-letter-exchange": n.hints(),
	})
	if err != nil {
		return nil, explain(err)
	}
	b.meter.count(callConsume)
	got, err := ch.Consume(w.name, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	b.meter.count(callPublish)
	err = out.call(ctx, func(ch *amqp.Channel) error {
		return ch.Publish("", w.name, false, false, amqp.Publishing{Type: willType})
	})
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(b.config.Timeout) // a message that cannot be delivered at once is gone
	defer timer.Stop()
	select {
	case m, open := <-got:
		if !open {
			return nil, amqp.ErrClosed
		}
		w.held = m
		return w, nil
	case <-timer.C:
		return nil, errDisconnected
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// unblockedOut is the connection that publishes, if it may now.
func (b *Backend) unblockedOut() (*session, error) {
	switch out := b.out.now(); {
	case out == nil || out.ctx.Err() != nil:
		return nil, errDisconnected
	case !out.isClear():
		return nil, errBlocked
	default:
		return out, nil
	}
}

// withdraw ends a will without executing it, if it can.
func (w *will) withdraw() {
	if w.ch.IsClosed() {
		return
	}
	_ = w.held.Ack(false)
	w.b.meter.count(callDeclare)
	_, _ = w.ch.QueueDelete(w.name, false, false, false)
	_ = w.ch.Close()
}
