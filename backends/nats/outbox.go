package nats

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
)

// outbox writes requests to the connection, in order. nats.go writes under one lock, and keeps it while a stuck
// socket takes nothing: only the outbox's goroutine may wait there, so that every caller can leave when its context
// ends.
type outbox struct {
	conn    *natsgo.Conn
	parcels chan *parcel
	down    chan struct{} // closed by close
	once    sync.Once
	done    chan struct{} // the goroutine has ended
}

// parcel is the messages of one call. Whoever claims it first decides: the outbox to write it, or the caller that
// gives up, and then nothing of it is ever sent.
type parcel struct {
	first   func() // runs before the messages are written; may be nil
	msgs    []*natsgo.Msg
	unsent  func(i int, err error) // told of each message that was not written; may be nil
	claimed atomic.Bool
}

const outboxQueue = 256 // parcels; more callers wait

func newOutbox(conn *natsgo.Conn) *outbox {
	o := &outbox{
		conn:    conn,
		parcels: make(chan *parcel, outboxQueue),
		down:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	go o.run()
	return o
}

// put hands a parcel over. An error means that nothing of it will be sent.
func (o *outbox) put(ctx context.Context, p *parcel) error {
	select {
	case <-o.down:
		return errBackendDown
	default:
	}
	select {
	case o.parcels <- p:
		return nil
	case <-ctx.Done():
		return &unsentError{causeOf(ctx)}
	case <-o.down:
		return errBackendDown
	}
}

// post hands over a parcel that the caller can do without: it is not sent if the connection is stuck.
func (o *outbox) post(p *parcel) bool {
	select {
	case <-o.down:
		return false
	default:
	}
	select {
	case o.parcels <- p:
		return true
	default:
		return false
	}
}

// withdraw takes a parcel back and reports whether nothing of it was sent.
func (p *parcel) withdraw() bool { return p.claimed.CompareAndSwap(false, true) }

func (o *outbox) run() {
	defer close(o.done)
	for {
		select {
		case p := <-o.parcels:
			o.write(p)
		case <-o.down:
			for {
				select {
				case p := <-o.parcels:
					o.refuse(p)
				default:
					return
				}
			}
		}
	}
}

func (o *outbox) write(p *parcel) {
	if !p.claimed.CompareAndSwap(false, true) {
		return
	}
	if p.first != nil {
		p.first()
	}
	for i, m := range p.msgs {
		if err := o.conn.PublishMsg(m); err != nil && p.unsent != nil {
			p.unsent(i, sendError(err))
		}
	}
}

func (o *outbox) refuse(p *parcel) {
	if !p.claimed.CompareAndSwap(false, true) {
		return
	}
	for i := range p.msgs {
		if p.unsent != nil {
			p.unsent(i, errBackendDown)
		}
	}
}

// sendError tells errors that nats.go returns before it has written anything from those of the socket, after which a
// part of the message, or all of it, may be on its way.
func sendError(err error) error {
	for _, before := range []error{
		natsgo.ErrReconnectBufExceeded, natsgo.ErrConnectionClosed, natsgo.ErrConnectionDraining,
		natsgo.ErrHeadersNotSupported, natsgo.ErrBadSubject, natsgo.ErrBadHeaderMsg, natsgo.ErrMaxPayload,
	} {
		if errors.Is(err, before) {
			return &unsentError{err}
		}
	}
	return &lostError{err}
}

// close stops the goroutine and waits for it; a write that is stuck ends when the connection is closed, which the
// caller does first.
func (o *outbox) close() {
	o.once.Do(func() { close(o.down) })
	<-o.done
}
