package workload

import (
	"fmt"
	"strings"
)

// Error is what is wrong with a workload file, a trace or an option, where, and what to write instead.
type Error struct {
	File    string // empty: not from a file
	Line    int    // 1 for the first; 0: the file as a whole
	Problem string
	Hint    string // what to do about it; may be empty
	Err     error  // the cause, if there is one; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
		if e.Line > 0 {
			fmt.Fprintf(&b, "%d:", e.Line)
		}
		b.WriteString(" ")
	}
	b.WriteString(e.Problem)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
