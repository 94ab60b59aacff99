package nats

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var (
	errNoAnswer     = errors.New("no answer in time")
	errDisconnected = errors.New("connection lost")
	errNoResponder  = errors.New("nobody answers on the server: queue or consumer missing, or JetStream not ready")
	errBackendDown  = errors.New("backend is closed")
	errLeaseOver    = errors.New("lease has ended by the local clock")
	errSettled      = errors.New("delivery was given back before")
	errSettling     = errors.New("delivery is being settled by another call")
	errOldQueue     = errors.New("queue was deleted and created again since the delivery")
	errForeign      = errors.New("delivery is not of this consumer")
)

// unsentError and lostError say what is known of a request that has no answer.
type unsentError struct{ cause error }
type lostError struct{ cause error }

func (e *unsentError) Error() string { return e.cause.Error() }
func (e *unsentError) Unwrap() error { return e.cause }
func (e *lostError) Error() string   { return e.cause.Error() }
func (e *lostError) Unwrap() error   { return e.cause }

// fail classifies an error of any layer below once, with the operation. Errors that are classified keep their kind.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if k := driver.KindOf(err); k != driver.Unknown {
		var de *driver.Error
		if !errors.As(err, &de) {
			return &driver.Error{Op: op, Kind: k}
		}
		if de.Op == "" {
			return &driver.Error{Op: op, Kind: de.Kind, Err: de.Err}
		}
		return err
	}
	return &driver.Error{Op: op, Kind: kindOf(err), Err: err}
}

func kindOf(err error) driver.Kind {
	var (
		api    *jetstream.APIError
		lost   *lostError
		unsent *unsentError
	)
	switch {
	case errors.As(err, &api):
		return apiKind(api)
	case isDenied(err):
		return driver.Denied
	case errors.As(err, &lost):
		return driver.Ambiguous
	case errors.Is(err, errBackendDown):
		return driver.Closed
	case errors.Is(err, natsgo.ErrMaxPayload):
		return driver.TooLarge
	case errors.Is(err, errLeaseOver), errors.Is(err, errSettled), errors.Is(err, errOldQueue):
		return driver.LeaseLost
	case errors.Is(err, errSettling), errors.Is(err, errForeign):
		return driver.Invalid
	case errors.As(err, &unsent), errors.Is(err, errNoResponder), errors.Is(err, errDisconnected):
		return driver.Unavailable
	default:
		return driver.Unknown
	}
}

func isDenied(err error) bool {
	for _, denied := range []error{
		natsgo.ErrPermissionViolation, natsgo.ErrAuthorization, natsgo.ErrAuthExpired, natsgo.ErrAuthRevoked,
		natsgo.ErrAccountAuthExpired,
	} {
		if errors.Is(err, denied) {
			return true
		}
	}
	return false
}

// Error codes of the server that package jetstream has no name for (the server's errors.json).
const (
	codeAccountLimits   jetstream.ErrorCode = 10002
	codeNoResources     jetstream.ErrorCode = 10023
	codeNoMemory        jetstream.ErrorCode = 10028
	codeNoStorage       jetstream.ErrorCode = 10047
	codeCreateFailed    jetstream.ErrorCode = 10049 // such as while an earlier stream of the name is still being removed
	codeStoreFailed     jetstream.ErrorCode = 10077 // the stream's own limits
	codeHeaderTooLarge  jetstream.ErrorCode = 10097
	codeLaneHasConsumer jetstream.ErrorCode = 10100 // a work queue's subject can have one consumer
	codeTooManyRequests jetstream.ErrorCode = 10167
)

// apiKind classifies what JetStream refused. A refusal is certain: nothing of the request took effect.
func apiKind(e *jetstream.APIError) driver.Kind {
	switch e.ErrorCode {
	case jetstream.JSErrCodeStreamNotFound, jetstream.JSErrCodeConsumerNotFound, jetstream.JSErrCodeConsumerDoesNotExist:
		return driver.NotFound
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return driver.LeaseLost // only the state of a returned message expects a sequence
	case jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderTooLarge:
		return driver.TooLarge
	case codeAccountLimits, codeNoResources, codeNoMemory, codeNoStorage, codeStoreFailed, codeTooManyRequests,
		jetstream.JSErrCodeMaximumConsumersLimit:
		return driver.Throttled
	case codeCreateFailed:
		return driver.Unavailable
	case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return driver.Invalid
	}
	switch e.Code {
	case 403:
		return driver.Denied
	case 404:
		return driver.NotFound
	case 408, 503:
		return driver.Unavailable
	case 429:
		return driver.Throttled
	case 400:
		return driver.Invalid
	default:
		return driver.Unknown
	}
}

func isAPIError(err error, codes ...jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if api.ErrorCode == code {
			return true
		}
	}
	return false
}

// harmless makes the loss of a request that can be sent again at will no more than a broker that is away.
func harmless(err error) error {
	var lost *lostError
	if !errors.As(err, &lost) || driver.KindOf(err) != driver.Unknown {
		return err
	}
	return &driver.Error{Kind: driver.Unavailable, Err: err}
}

func isKind(err error, kind driver.Kind) bool { return driver.KindOf(err) == kind }

func invalid(op string, err error) error {
	return &driver.Error{Op: op, Kind: driver.Invalid, Err: err}
}

// hostsOf names the servers of a URL list without credentials.
func hostsOf(urls string) string {
	var hosts []string
	for s := range strings.SplitSeq(urls, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			hosts = append(hosts, u.Host)
		} else {
			hosts = append(hosts, "(unreadable URL)")
		}
	}
	return strings.Join(hosts, ", ")
}

// causeOf is why ctx ended, as an error that still matches ctx.Err(); if it ended with a Close, that is all.
func causeOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case cause == nil, cause == err: //nolint:errorlint // the very same error adds nothing
		return err
	case errors.Is(cause, driver.Closed):
		return driver.Closed
	default:
		return fmt.Errorf("%w: %w", err, cause)
	}
}
