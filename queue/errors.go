package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Errors that a verdict, a handler's context or Run can match with errors.Is.
var (
	// ErrLeaseLost: the message may already run elsewhere. As a context's cause it wraps why; as the result of a verdict it
	// means that nothing was settled by it.
	ErrLeaseLost error = driver.LeaseLost
	// ErrAlreadySettled: a verdict was given before; this one was not sent.
	ErrAlreadySettled = errors.New("delivery already settled")
	// ErrDraining is the cause of a handler's context when the worker's drain time is over.
	ErrDraining = errors.New("worker is draining")
	// ErrTimeout is the cause of a handler's context when WorkerConfig.Timeout is over.
	ErrTimeout = errors.New("handler timeout")
	// ErrStuck: a handler has not returned after its context ended; its lease runs out.
	ErrStuck = errors.New("handler did not return")
	// ErrReleased: Run cancelled and released handlers that were not done at the end of the drain.
	ErrReleased = errors.New("running messages were released")
	// ErrUnsent: not sent, because an earlier message of the same key failed.
	ErrUnsent = errors.New("not sent: an earlier message of this key failed")
	// ErrPanic: the handler panicked.
	ErrPanic = errors.New("handler panicked")
)

var errExited = errors.New("handler ended its goroutine")

// Errors that classify what a broker answered.
var (
	ErrAmbiguous   error = driver.Ambiguous   // sent, not confirmed: it may or may not be there
	ErrUnavailable error = driver.Unavailable // nothing was sent
	ErrThrottled   error = driver.Throttled
	ErrNotFound    error = driver.NotFound
	ErrDenied      error = driver.Denied
	ErrInvalid     error = driver.Invalid
	ErrTooLarge    error = driver.TooLarge
	ErrClosed      error = driver.Closed
)

// BatchError reports the outcomes of a Publish with several messages: one element a message, nil where it is stored.
type BatchError = driver.BatchError

// Error says which operation on which queue failed. errors.As reaches the client library's own error behind it.
type Error struct {
	Op    string // "publish", "receive", "ack", …
	Queue string
	ID    string // of the message, where the error is about one
	Err   error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Queue)
	if e.ID != "" {
		fmt.Fprintf(&b, " (message %s)", e.ID)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Err }

// Kind is the driver's classification of the error.
func (e *Error) Kind() driver.Kind { return driver.KindOf(e.Err) }

// UnsupportedError: the connected broker cannot do what the configuration asks for. It is returned when a Producer,
// Consumer or Worker is made.
type UnsupportedError struct {
	Broker string // name and version
	Wanted string // what was asked for, and where
	Has    string // what the broker has instead
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s cannot do what is asked for: wanted %s, it has %s", e.Broker, e.Wanted, e.Has)
}

func invalid(text string) error { return &driver.Error{Kind: driver.Invalid, Err: errors.New(text)} }

// leaseLost is ErrLeaseLost with its reason.
func leaseLost(why error) error {
	if errors.Is(why, ErrLeaseLost) {
		return why
	}
	return &driver.Error{Kind: driver.LeaseLost, Err: why}
}

// retryable says whether the same call may succeed later.
func retryable(err error) bool {
	switch driver.KindOf(err) {
	case driver.Unavailable, driver.Throttled, driver.Ambiguous:
		return true
	case driver.Unknown:
		return errors.Is(err, context.DeadlineExceeded)
	default:
		return false
	}
}

// verdictError is how a handler says more than "failed".
type verdictError struct {
	verdict Verdict
	delay   time.Duration
	err     error
}

func (e *verdictError) Error() string {
	if e.err == nil {
		return e.verdict.String()
	}
	return e.err.Error()
}

func (e *verdictError) Unwrap() error { return e.err }

// RetryAfter, returned by a handler, is a failed attempt whose message comes back after delay instead of after the
// retry policy's backoff. Delays below 200 ms are raised to that.
func RetryAfter(err error, delay time.Duration) error {
	return &verdictError{verdict: VerdictRetry, delay: delay, err: err}
}

// Release, returned by a handler, gives the message back: it was not the message's fault. It costs no attempt. A
// message that is released again and again comes back after a growing delay, up to five seconds.
func Release(err error) error { return &verdictError{verdict: VerdictRelease, err: err} }

// Reject, returned by a handler, moves the message to the dead letters at once, with err as the reason.
func Reject(err error) error { return &verdictError{verdict: VerdictReject, err: err} }
