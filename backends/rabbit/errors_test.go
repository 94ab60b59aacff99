package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func brokerError(code int, reason string) *amqp.Error {
	return &amqp.Error{Code: code, Reason: reason, Server: true}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want driver.Kind
	}{
		{brokerError(403, "ACCESS_REFUSED - write access to exchange 'q' refused for user 'u'"), driver.Denied},
		{brokerError(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."), driver.Denied},
		{amqp.ErrCredentials, driver.Unavailable},
		{amqp.ErrSASL, driver.Denied},
		{amqp.ErrVhost, driver.Unavailable},
		{brokerError(404, "NOT_FOUND - no queue 'q' in vhost '/'"), driver.NotFound},
		{brokerError(404, "NOT_FOUND - home node 'r@a' of durable queue 'q' in vhost '/' is down or inaccessible"), driver.Unavailable},
		{brokerError(404, "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout"), driver.Unavailable},
		{brokerError(404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor"), driver.Unavailable},
		{brokerError(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'"), driver.Invalid},
		{brokerError(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'"), driver.Invalid},
		{brokerError(406, "PRECONDITION_FAILED - message size 20 is larger than configured max size 10"), driver.TooLarge},
		{brokerError(406, "PRECONDITION_FAILED - message size 20 is larger than max size 10"), driver.TooLarge},
		{brokerError(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms"), driver.LeaseLost},
		{brokerError(406, "PRECONDITION_FAILED - unknown delivery tag 82"), driver.LeaseLost},
		{brokerError(406, "PRECONDITION_FAILED - cannot declare queue 'q' in vhost '/': queue limit (1) is reached"), driver.Throttled},
		{brokerError(311, "CONTENT_TOO_LARGE"), driver.TooLarge},
		{brokerError(313, "NO_CONSUMERS"), driver.Unknown},
		{brokerError(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"), driver.Unavailable},
		{brokerError(501, "FRAME_ERROR"), driver.Unavailable},
		{brokerError(502, "SYNTAX_ERROR"), driver.Unavailable},
		{brokerError(503, "COMMAND_INVALID"), driver.Unavailable},
		{brokerError(505, "UNEXPECTED_FRAME"), driver.Unavailable},
		{brokerError(506, "RESOURCE_ERROR"), driver.Unavailable},
		{brokerError(530, "NOT_ALLOWED - vhost v not found"), driver.NotFound},
		{brokerError(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'"), driver.Denied},
		{brokerError(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (5) is reached"), driver.Throttled},
		{brokerError(530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'"), driver.Unknown},
		{brokerError(540, "NOT_IMPLEMENTED"), driver.Unavailable},
		{brokerError(541, "INTERNAL_ERROR"), driver.Unavailable},
		{amqp.ErrClosed, driver.Unavailable},
		{fmt.Errorf("deeper: %w", amqp.ErrClosed), driver.Unavailable},
		{io.EOF, driver.Unavailable},
		{io.ErrUnexpectedEOF, driver.Unavailable},
		{net.ErrClosed, driver.Unavailable},
		{os.ErrDeadlineExceeded, driver.Unavailable},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, driver.Unavailable},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, driver.Unavailable},
		{&net.DNSError{Err: "no such host", Name: "h"}, driver.Unavailable},
		{syscall.EPIPE, driver.Unavailable},
		{context.Canceled, driver.Unknown},
		{context.DeadlineExceeded, driver.Unknown},
		{&driver.Error{Kind: driver.Throttled}, driver.Throttled},
		{errors.New("something"), driver.Unknown},
		{nil, driver.Unknown},
	} {
		require.Equal(t, c.want, classify(c.err), "%v", c.err)
	}
}

// The network's own timeout of a dial also says that it is a context's; only a real one shows how.
func TestDialTimeoutIsUnavailable(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, fail("open", err), driver.Unavailable)
	require.ErrorIs(t, fail("open", err), context.DeadlineExceeded)
}

func TestFailWrapsOnce(t *testing.T) {
	require.NoError(t, fail("ack", nil))
	require.NoError(t, sent("ack", nil))

	cause := brokerError(404, "NOT_FOUND - no queue 'q' in vhost '/'")
	err := fail("ack", cause)
	require.Equal(t, &driver.Error{Op: "ack", Kind: driver.NotFound, Err: cause}, err)
	require.Same(t, err, fail("other", err))
	require.Equal(t, err, sent("ack", cause))

	for _, same := range []error{
		driver.BatchError{nil, err}, context.Canceled, context.DeadlineExceeded, fmt.Errorf("waiting: %w", context.Canceled),
	} {
		require.Equal(t, same, fail("ack", same))
		require.Equal(t, same, sent("ack", same))
	}
	require.Equal(t, &driver.Error{Op: "ack", Kind: driver.Closed}, fail("ack", driver.Closed))
	wrapped := fmt.Errorf("backend: %w", driver.Closed)
	require.Equal(t, &driver.Error{Op: "ack", Kind: driver.Closed, Err: wrapped}, fail("ack", wrapped))
	require.Equal(t, &driver.Error{Op: "ack", Kind: driver.Unknown, Err: io.ErrNoProgress}, fail("ack", io.ErrNoProgress))
}

func TestSentIsAmbiguous(t *testing.T) {
	require.Equal(t, &driver.Error{Op: "ack", Kind: driver.Ambiguous, Err: io.EOF}, sent("ack", io.EOF))
	err := sent("ack", fail("write", io.EOF))
	require.Equal(t, &driver.Error{Op: "write", Kind: driver.Ambiguous, Err: io.EOF}, err)
	require.NotErrorIs(t, err, driver.Unavailable)
	require.Same(t, err, sent("ack", err))
	require.ErrorIs(t, sent("publish", brokerError(403, "ACCESS_REFUSED")), driver.Denied)
}

func TestExplain(t *testing.T) {
	const prefix = "PRECONDITION_FAILED - inequivalent arg "
	for _, c := range []struct{ reason, want string }{
		{"'x-consumer-timeout' for queue 't1' in vhost '/': received '9000' but current is '3000'",
			"queue 't1' in vhost '/' exists with other arguments: x-consumer-timeout is 3000 and would be 9000."},
		{"'x-consumer-timeout' for queue 't1' in vhost '/': received none but current is the value '3000' of type 'long'",
			"queue 't1' in vhost '/' exists with other arguments: x-consumer-timeout is 3000 and would be none."},
		{"'x-delivery-limit' for queue 't1' in vhost '/': received the value '-1' of type 'long' but current is none",
			"queue 't1' in vhost '/' exists with other arguments: x-delivery-limit is none and would be -1."},
		{"'x-queue-type' for queue 'it's: received' in vhost '/': received 'quorum' but current is 'classic'",
			"queue 'it's: received' in vhost '/' exists with other arguments: x-queue-type is classic and would be quorum."},
		{"'type' for exchange 'e' in vhost '/': received 'direct' but current is 'fanout'",
			"exchange 'e' in vhost '/' exists with other arguments: type is fanout and would be direct."},
		{"'x-max-priority' for queue 'q' in vhost '/': received the value '9' of type 'signedint' but current is none",
			"queue 'q' in vhost '/' exists with other arguments: x-max-priority is none and would be 9."},
	} {
		cause := brokerError(406, prefix+c.reason)
		err := explain(fmt.Errorf("declare: %w", cause))
		require.True(t, strings.HasPrefix(err.Error(), c.want), err.Error())
		require.ErrorContains(t, err, "existing=true")
		require.ErrorContains(t, err, "Delete")
		require.ErrorIs(t, err, error(cause))
		require.ErrorIs(t, fail("open", err), driver.Invalid)
		require.Equal(t, strings.Contains(c.reason, "x-queue-type"), strings.Contains(err.Error(), "type=classic"))
		require.Equal(t, strings.Contains(c.reason, "x-max-priority"), strings.Contains(err.Error(), "max_priority"))
	}
}

// The broker cuts its text at 255 bytes; a name may leave no room for the values.
func TestExplainCutOff(t *testing.T) {
	whole := "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue '" + strings.Repeat("q", 120) +
		"' in vhost '/': received 'quorum' but current is 'classic'"
	for n := len(whole) - 1; n > 0; n-- {
		cause := brokerError(406, whole[:n])
		err := explain(cause)
		if n < strings.Index(whole, "queue '")+len("queue '") {
			require.Equal(t, error(cause), err)
			continue
		}
		require.ErrorContains(t, err, "x-queue-type is")
		require.ErrorContains(t, err, "existing=true")
		require.Equal(t, n >= strings.Index(whole, "classic")+len("classic"), strings.Contains(err.Error(), "type=classic"))
	}
}

func TestExplainLeavesOthers(t *testing.T) {
	for _, err := range []error{
		nil, io.EOF, brokerError(406, "PRECONDITION_FAILED - unknown delivery tag 1"),
		brokerError(404, "inequivalent arg 'x' for queue 'q'"),
	} {
		require.Equal(t, err, explain(err))
	}
}
