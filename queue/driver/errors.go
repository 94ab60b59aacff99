package driver

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error by what a caller can do about it. A Kind is an error itself, so that
// errors.Is(err, driver.Throttled) holds for every error of that kind.
type Kind string

// The kinds. A driver classifies; package queue decides what follows.
const (
	Unknown     Kind = "unknown error"
	Unavailable Kind = "broker unavailable" // nothing was sent; trying again may help
	Throttled   Kind = "throttled"          // refused for now, nothing happened; trying again later may help
	Ambiguous   Kind = "outcome unknown"    // sent, not confirmed
	LeaseLost   Kind = "lease lost"         // the delivery is no longer ours
	NotFound    Kind = "queue not found"    // no such queue
	Denied      Kind = "access denied"      // credentials or permissions
	Invalid     Kind = "invalid argument"   // this call can never succeed
	TooLarge    Kind = "message too large"  // above Capabilities.MaxBytes
	Closed      Kind = "closed"             // the Backend, Producer or Consumer was closed
)

func (k Kind) Error() string { return string(k) }

// Error is an error of the client library or the broker with its classification. It must hold no credentials.
type Error struct {
	Op   string // what was being done: "publish", "ack"
	Kind Kind
	Err  error // the client library's own error; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	b.WriteString(string(e.Kind))
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap makes both the kind and the client library's error visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// BatchError reports the outcomes of a call with several items: one element an item, nil where it succeeded.
type BatchError []error

func (b BatchError) Error() string {
	failed, first := 0, error(nil)
	for _, err := range b {
		if err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	return fmt.Sprintf("%d of %d failed, the first: %v", failed, len(b), first)
}

// Unwrap returns the errors that are not nil.
func (b BatchError) Unwrap() []error {
	var errs []error
	for _, err := range b {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// OrNil returns b as an error, or nil if no item failed.
func (b BatchError) OrNil() error {
	for _, err := range b {
		if err != nil {
			return b
		}
	}
	return nil
}

// Outcome returns the error of item i of a call with several items that returned err.
func Outcome(err error, i int) error {
	var b BatchError
	if errors.As(err, &b) && i < len(b) {
		return b[i]
	}
	return err
}

// KindOf returns the kind of err: the first in its tree, or Unknown.
func KindOf(err error) Kind {
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Unknown
}
