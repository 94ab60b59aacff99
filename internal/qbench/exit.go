package qbench

import (
	"errors"
	"fmt"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/internal/workload"
)

// Exit codes.
const (
	ExitOK          = 0   // the run is valid
	ExitInternal    = 1   // qbench itself failed
	ExitUsage       = 2   // bad flags or bad input
	ExitInvalid     = 3   // the verdict is invalid
	ExitBroker      = 4   // the broker cannot be reached, or cannot do what is asked for
	ExitThreshold   = 99  // valid, but a threshold of the workload was crossed
	ExitInterrupted = 130 // by a signal; what was measured so far was reported
)

const exitHelp = `Exit codes:
    0  the run is valid
    1  qbench itself failed
    2  bad flags or bad input
    3  the verdict is invalid: messages lost or unexpected, leases that overlap, no redelivery after a kill
    4  the broker cannot be reached, or refused
   99  valid, but a threshold of the workload was crossed
  130  interrupted; what was measured so far is reported, and no worker is left behind
`

// exitError ends the program with a code. An empty text prints nothing: the result said it all.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	switch {
	case e.err == nil:
		return ""
	case e.hint == "":
		return e.err.Error()
	default:
		return e.err.Error() + "; " + e.hint
	}
}

func (e *exitError) Unwrap() error { return e.err }

// badUsage is an error about flags or input, with what to write instead.
func badUsage(hint, format string, args ...any) error {
	return &exitError{code: ExitUsage, err: fmt.Errorf(format, args...), hint: hint}
}

// brokerFailed is an error of the broker, before there is anything to report.
func brokerFailed(err error) error {
	var url *backends.URLError
	if errors.As(err, &url) {
		return err
	}
	return &exitError{code: ExitBroker, err: err}
}

// explain returns the exit code for an error and what to print about it.
func explain(err error) (code int, text string) {
	var exit *exitError
	var input *workload.Error
	var url *backends.URLError
	switch {
	case errors.As(err, &exit):
		return exit.code, exit.Error()
	case errors.As(err, &input), errors.As(err, &url):
		return ExitUsage, err.Error()
	default:
		return ExitInternal, err.Error()
	}
}
