package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// classify is the kind of an error of the client library, the network or the broker.
func classify(err error) driver.Kind {
	if k := driver.KindOf(err); k != driver.Unknown {
		return k
	}
	var broker *amqp.Error
	switch {
	case err == nil:
		return driver.Unknown
	case errors.Is(err, amqp.ErrCredentials), errors.Is(err, amqp.ErrVhost):
		return driver.Unavailable // what the library guesses of a server that hung up; one that refuses says so itself (login)
	case errors.As(err, &broker):
		return brokerKind(broker)
	case isBareContext(err):
		return driver.Unknown
	case isNetwork(err):
		return driver.Unavailable
	default:
		return driver.Unknown
	}
}

// brokerKind classifies by code, and by the broker's text where one code stands for several things.
func brokerKind(e *amqp.Error) driver.Kind {
	switch e.Code {
	case amqp.ContentTooLarge:
		return driver.TooLarge
	case amqp.AccessRefused:
		return driver.Denied
	case amqp.NotFound:
		return notFoundKind(e.Reason)
	case amqp.ResourceLocked:
		return driver.Invalid
	case amqp.PreconditionFailed:
		return preconditionKind(e.Reason)
	case amqp.NotAllowed:
		return notAllowedKind(e.Reason)
	case amqp.ConnectionForced, amqp.FrameError, amqp.SyntaxError, amqp.CommandInvalid, amqp.ChannelError,
		amqp.UnexpectedFrame, amqp.ResourceError, amqp.NotImplemented, amqp.InternalError:
		return driver.Unavailable // these end the connection, and so reach calls that did not cause them
	default:
		return driver.Unknown
	}
}

// notFoundKind tells a queue that is away with its node from one that does not exist.
func notFoundKind(reason string) driver.Kind {
	for _, away := range []string{
		"down or inaccessible", "due to timeout", "stopped by supervisor", "crashed and failed to restart",
		"may be stopping",
	} {
		if strings.Contains(reason, away) {
			return driver.Unavailable
		}
	}
	return driver.NotFound
}

// preconditionKind tells what the broker refuses for good from what it calls by the same code.
func preconditionKind(reason string) driver.Kind {
	switch {
	case strings.Contains(reason, "message size") && strings.Contains(reason, "is larger than"):
		return driver.TooLarge
	case strings.Contains(reason, "delivery acknowledgement") && strings.Contains(reason, "timed out"),
		strings.Contains(reason, "unknown delivery tag"):
		return driver.LeaseLost // ended by the consumer timeout, or settled before
	case isLimit(reason):
		return driver.Throttled
	default:
		return driver.Invalid
	}
}

func notAllowedKind(reason string) driver.Kind {
	switch {
	case isLimit(reason): // of connections of a user or virtual host
		return driver.Throttled
	case strings.Contains(reason, "refused for user"):
		return driver.Denied
	case strings.Contains(reason, "vhost"):
		return driver.NotFound
	default:
		return driver.Unknown
	}
}

func isLimit(reason string) bool {
	return strings.Contains(reason, "limit (") && strings.Contains(reason, "is reached")
}

func isNetwork(err error) bool {
	var (
		network net.Error
		errno   syscall.Errno
	)
	return errors.As(err, &network) || errors.As(err, &errno) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}

// isBareContext reports whether err says that a context ended. A dial that took too long says so as well, but is an
// error of the network: which context it was, its caller knows.
func isBareContext(err error) bool {
	if errors.Is(err, context.Canceled) {
		return true
	}
	var op *net.OpError
	return errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &op)
}

// fail adds operation and kind to an error, once. Errors of a context stay as they are.
func fail(op string, err error) error {
	var (
		classified *driver.Error
		batch      driver.BatchError
		kind       driver.Kind
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &classified), errors.As(err, &batch), isBareContext(err):
		return err
	case errors.As(err, &kind) && err.Error() == kind.Error():
		return &driver.Error{Op: op, Kind: kind}
	default:
		return &driver.Error{Op: op, Kind: classify(err), Err: err}
	}
}

// sent is fail for what has begun to leave: a broker that is away may have got it.
func sent(op string, err error) error {
	err = fail(op, err)
	var (
		classified *driver.Error
		batch      driver.BatchError
	)
	if errors.As(err, &batch) || !errors.As(err, &classified) || classified.Kind != driver.Unavailable {
		return err
	}
	return &driver.Error{Op: classified.Op, Kind: driver.Ambiguous, Err: classified.Err}
}

func invalid(op string, err error) error {
	return &driver.Error{Op: op, Kind: driver.Invalid, Err: err}
}

// explained is an error of the broker in words that say what to do.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.cause }

// explain rewords the refusal of a declaration that does not match what exists. Other errors stay as they are.
func explain(err error) error {
	var broker *amqp.Error
	if !errors.As(err, &broker) || broker.Code != amqp.PreconditionFailed {
		return err
	}
	m, ok := parseMismatch(broker.Reason)
	if !ok {
		return err
	}
	text := fmt.Sprintf("%s exists with other arguments: %s is %s and would be %s. Delete the %s while it is empty, "+
		"set Config.Existing (existing=true in the URL) to use it as it is, or choose another queue name",
		m.object, m.arg, m.current, m.wanted, m.kind)
	switch m.arg {
	case amqp.QueueTypeArg:
		if m.current == string(Quorum) || m.current == string(Classic) {
			text += fmt.Sprintf(", or set Config.Type (type=%s in the URL)", m.current)
		}
	case "x-max-priority":
		text += ", or set Config.MaxPriority (max_priority in the URL) to what it is"
	}
	return &explained{text: text, cause: err}
}

// mismatch is what the broker says of an argument of a declaration.
type mismatch struct{ kind, object, arg, wanted, current string }

// parseMismatch reads "inequivalent arg 'x' for queue 'q' in vhost '/': received 1 but current is 2". The broker cuts
// its text at 255 bytes, so with long names the end is missing.
func parseMismatch(reason string) (mismatch, bool) {
	const unknown = "different (the broker's text ends before)"
	_, rest, ok := strings.Cut(reason, "inequivalent arg '")
	if !ok {
		return mismatch{}, false
	}
	m := mismatch{kind: "queue", wanted: unknown, current: unknown}
	var object, values string
	m.arg, object, _ = strings.Cut(rest, "' for ")
	switch {
	case strings.HasPrefix(object, "queue '"):
	case strings.HasPrefix(object, "exchange '"):
		m.kind = "exchange"
	default:
		return mismatch{}, false
	}
	// A name may hold anything, the values do not hold this.
	if i := strings.LastIndex(object, "': received "); i >= 0 {
		object, values = object[:i+1], object[i+len("': received "):]
	}
	m.object = object
	wanted, current, ok := strings.Cut(values, " but current is ")
	if values != "" {
		m.wanted = plainValue(wanted)
	}
	if ok {
		m.current = plainValue(current)
	}
	return m, true
}

// plainValue takes the value out of "'9000'" and "the value '9000' of type 'long'". The absent one is "none".
func plainValue(text string) string {
	_, quoted, ok := strings.Cut(text, "'")
	if !ok {
		return strings.TrimSpace(text)
	}
	value, _, ok := strings.Cut(quoted, "'")
	if !ok { // cut off
		return quoted
	}
	return value
}
