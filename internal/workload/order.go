package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Order is the body of a message: what its handler is told to do.
type Order struct {
	Seq    int
	Run    time.Duration // whole microseconds
	Fail   int           // attempts that fail before one succeeds
	Poison bool          // every attempt fails
	Crash  bool          // every attempt ends its process
	Do     Deed          // what else the handler does; a benchmark's does nothing
	Times  int           // how often it does that, for a Deed that counts
	After  time.Duration // a failing attempt asks to be tried again after this; 0: the retry policy decides
}

// Deed is something that a handler of the conformance suite is told to do.
type Deed string

// The deeds.
const (
	Busy    Deed = "busy"    // use the processor instead of sleeping
	Deaf    Deed = "deaf"    // do not honour the context
	Panic   Deed = "panic"   // in the first Times attempts, at least one
	Reject  Deed = "reject"  // return Reject
	Release Deed = "release" // return Release until it has been released Times times
)

// orderBody is an Order on the wire. Seq and RunUS are pointers to tell a missing one from zero.
type orderBody struct {
	Seq    *int   `json:"seq"`
	RunUS  *int64 `json:"run_us"`
	Fail   int    `json:"fail,omitempty"`
	Poison bool   `json:"poison,omitempty"`
	Crash  bool   `json:"crash,omitempty"`
	Do     Deed   `json:"do,omitempty"`
	Times  int    `json:"times,omitempty"`
	After  int64  `json:"after_us,omitempty"`
	Pad    string `json:"pad,omitempty"`
}

// Order returns what the handler of j is told.
func (j Job) Order() Order {
	return Order{Seq: j.Seq, Run: j.Run, Fail: j.Fail, Poison: j.Poison, Crash: j.Crash}
}

// Fails reports whether an attempt that follows the given number of failures fails as well.
func (o Order) Fails(failures int) bool { return o.Poison || failures < o.Fail }

// Body returns the body of the message of j: its order, in BodyBytes bytes where that is enough.
func (j Job) Body() ([]byte, error) { return j.Order().Encode(j.BodyBytes) }

// Encode returns o as JSON of the given size, or larger if o needs more. Padding is text that hardly compresses, so
// that a client that compresses gains nothing by it, and depends on Seq alone.
func (o Order) Encode(size int) ([]byte, error) {
	us := o.Run.Microseconds()
	body, err := json.Marshal(orderBody{
		Seq: &o.Seq, RunUS: &us, Fail: o.Fail, Poison: o.Poison, Crash: o.Crash,
		Do: o.Do, Times: o.Times, After: o.After.Microseconds(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode order %d: %w", o.Seq, err)
	}
	const frame = `,"pad":""`
	missing := size - len(body)
	switch {
	case missing <= 0:
		return body, nil
	case missing <= len(frame):
		return append(body, bytes.Repeat([]byte(" "), missing)...), nil
	}
	out := make([]byte, 0, size)
	out = append(out, body[:len(body)-1]...)
	out = append(out, frame[:len(frame)-1]...)
	out = appendPadding(out, newStream(uint64(o.Seq), forPadding), missing-len(frame))
	return append(out, '"', '}'), nil
}

func appendPadding(out []byte, s stream, n int) []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for n > 0 {
		for word, k := s.pcg.Uint64(), 0; k < 10 && n > 0; k, n = k+1, n-1 {
			out = append(out, alphabet[word&63])
			word >>= 6
		}
	}
	return out
}

// DecodeOrder reads a body that Encode made. Any other body is an error: it is not a message of this benchmark.
func DecodeOrder(body []byte) (Order, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	var b orderBody
	if err := dec.Decode(&b); err != nil {
		return Order{}, fmt.Errorf("decode order: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Order{}, errors.New("decode order: text after the order")
	}
	switch {
	case b.Times < 0 || b.After < 0 || b.After > math.MaxInt64/int64(time.Microsecond):
		return Order{}, errors.New("decode order: times or after_us is out of range")
	case b.Seq == nil || b.RunUS == nil:
		return Order{}, errors.New("decode order: seq or run_us is missing")
	case *b.Seq < 0 || b.Fail < 0:
		return Order{}, errors.New("decode order: negative seq or fail")
	case *b.RunUS < 0 || *b.RunUS > math.MaxInt64/int64(time.Microsecond):
		return Order{}, fmt.Errorf("decode order: run_us %d is not a run time", *b.RunUS)
	}
	run := time.Duration(*b.RunUS) * time.Microsecond
	return Order{
		Seq: *b.Seq, Run: run, Fail: b.Fail, Poison: b.Poison, Crash: b.Crash,
		Do: b.Do, Times: b.Times, After: time.Duration(b.After) * time.Microsecond,
	}, nil
}
