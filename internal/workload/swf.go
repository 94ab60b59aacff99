package workload

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// swfFields are the fields of the Standard Workload Format, version 2.2, in their order.
var swfFields = [...]string{
	"job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time", "used memory",
	"requested processors", "requested time", "requested memory", "status", "user", "group", "executable", "queue",
	"partition", "preceding job", "think time",
}

// The positions of the fields that are used.
const (
	swfSubmit = 1
	swfRun    = 3
	swfUser   = 11
)

// SWFOptions limits what is taken from a trace. Every field may be zero.
type SWFOptions struct {
	Limit int           // read this many jobs; 0: all
	Cap   time.Duration // cut run times to it; 0: do not
}

// Trace is the log of a machine: who asked for what, when, and how long it took.
type Trace struct {
	Name   string     // of the file
	Label  string     // installation and computer, as the header has them; may be empty
	Header []string   // its comment lines, without the semicolons
	Jobs   []TraceJob // in order of submission
	Capped int        // run times that were cut to SWFOptions.Cap
}

// TraceJob is one job of a trace.
type TraceJob struct {
	Line   int           // where the file has it, 1 for the first
	Submit time.Duration // from the submission of the first job
	Run    time.Duration // may be zero
	User   string        // "user-3"; "user-unknown" where the log does not say
}

// ReadSWF reads a trace in the Standard Workload Format of the Parallel Workloads Archive, plain or compressed with
// gzip; name stands for the file in errors, which are of type *Error. A job is taken as work for one slot, whatever the
// number of its processors. A run time of zero is kept; a negative one, which is how the format says "unknown", is
// refused with its line, and so is a line that has not 18 numbers. A file that ends too early is refused, unless
// SWFOptions.Limit was reached before.
func ReadSWF(r io.Reader, name string, o SWFOptions) (*Trace, error) {
	if o.Limit < 0 || o.Cap < 0 {
		return nil, &Error{File: name, Problem: fmt.Sprintf("limit %d or cap %v is negative", o.Limit, o.Cap)}
	}
	buffered := bufio.NewReader(r)
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, &Error{File: name, Problem: "cannot unpack the trace", Err: err, Hint: gzipHint}
		}
		buffered = bufio.NewReader(unzipped)
	}
	t := &Trace{Name: name}
	if err := t.read(buffered, o); err != nil {
		return nil, err
	}
	if len(t.Jobs) == 0 {
		return nil, &Error{File: name, Problem: "the trace has no jobs", Hint: "is it the right file?"}
	}
	return t, t.settle()
}

const gzipHint = "the file is damaged or was cut short: fetch it again"

func (t *Trace) read(r io.Reader, o SWFOptions) error {
	lines := bufio.NewScanner(r)
	line := 0
	for (o.Limit == 0 || len(t.Jobs) < o.Limit) && lines.Scan() {
		line++
		text := strings.TrimSpace(lines.Text())
		if comment, ok := strings.CutPrefix(text, ";"); ok {
			t.comment(strings.TrimSpace(comment))
			continue
		}
		if text == "" {
			continue
		}
		job, err := parseSWF(text)
		switch {
		case err != nil && lines.Err() != nil: // the line is what was left when the file broke off
			return t.broken(line, lines.Err())
		case err != nil:
			err.File, err.Line = t.Name, line
			return err
		}
		job.Line = line
		if o.Cap > 0 && job.Run > o.Cap {
			job.Run = o.Cap
			t.Capped++
		}
		t.Jobs = append(t.Jobs, job)
	}
	if err := lines.Err(); err != nil && (o.Limit == 0 || len(t.Jobs) < o.Limit) {
		return t.broken(line+1, err)
	}
	return nil
}

func (t *Trace) broken(line int, err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return &Error{File: t.Name, Line: line, Problem: "the line is too long", Hint: "is it a trace in SWF?"}
	}
	return &Error{File: t.Name, Line: line, Problem: "cannot read on", Err: err, Hint: gzipHint}
}

// comment keeps a line of the header, and of those that have a name, who ran what.
func (t *Trace) comment(text string) {
	if len(t.Header) < 200 {
		t.Header = append(t.Header, text)
	}
	for _, key := range []string{"Installation:", "Computer:"} {
		if value, ok := strings.CutPrefix(text, key); ok {
			t.Label = strings.TrimPrefix(t.Label+", "+strings.TrimSpace(value), ", ")
		}
	}
}

func parseSWF(text string) (TraceJob, *Error) {
	fields := strings.Fields(text)
	if len(fields) != len(swfFields) {
		return TraceJob{}, &Error{
			Problem: fmt.Sprintf("%d fields, a job in SWF has %d", len(fields), len(swfFields)),
			Hint:    "is the file complete, and a trace in SWF?",
		}
	}
	var values [len(swfFields)]float64
	for i, f := range fields {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return TraceJob{}, swfError(i, f, "is not a number", "correct the line or remove it")
		}
		values[i] = v
	}
	const limit = 1e10 // seconds: beyond any clock, and exact in a float64
	switch user := values[swfUser]; {
	case values[swfRun] < 0:
		return TraceJob{}, swfError(swfRun, fields[swfRun], "is negative",
			"-1 means unknown: remove the line, or use the cleaned version of the trace")
	case values[swfRun] > longest.Seconds():
		return TraceJob{}, swfError(swfRun, fields[swfRun], "is longer than a year", "the field is in seconds")
	case values[swfSubmit] < 0 || values[swfSubmit] > limit:
		return TraceJob{}, swfError(swfSubmit, fields[swfSubmit], "is not a time in seconds", "correct the line or remove it")
	case user != math.Trunc(user) || user < -1 || user > limit:
		return TraceJob{}, swfError(swfUser, fields[swfUser], "is not the number of a user", "write -1 for unknown")
	}
	user := "user-unknown"
	if values[swfUser] >= 0 {
		user = "user-" + strconv.FormatInt(int64(values[swfUser]), 10)
	}
	return TraceJob{User: user, Submit: seconds(values[swfSubmit]), Run: seconds(values[swfRun])}, nil
}

func swfError(field int, value, problem, hint string) *Error {
	return &Error{
		Problem: fmt.Sprintf("field %d (%s) is %q, which %s", field+1, swfFields[field], value, problem), Hint: hint,
	}
}
