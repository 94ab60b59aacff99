package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const (
	// maxErrorText is what is kept of a failure's text, in bytes: it travels in a header.
	maxErrorText = 500
	// maxCount and maxHold bound what is believed of a header or a state.
	maxCount = 1 << 30
	maxHold  = 100 * 365 * 24 * time.Hour
)

// record is what has happened to a message so far: in the headers of a copy, or in the State of a return.
type record struct {
	Attempts int       `json:"a,omitempty"`
	Releases int       `json:"r,omitempty"`
	Returns  int       `json:"n,omitempty"` // deliveries of this generation that ended in a return; never in headers
	Crashes  int       `json:"c,omitempty"` // of earlier generations
	First    time.Time `json:"f,omitzero"`  // first failure
	Last     time.Time `json:"l,omitzero"`  // last failure
	Err      string    `json:"e,omitempty"` // text of the last failure
	// Hold is what is left of a delay longer than the broker can hold. It counts from the delivery, not from a moment:
	// the clocks of producers and workers may disagree.
	Hold time.Duration `json:"h,omitempty"`
}

func (r record) state() string {
	b, err := json.Marshal(r)
	if err != nil { // a struct of numbers, text and times of this age always encodes
		return ""
	}
	return string(b)
}

// resume takes over what the last return stored. State wins over headers: it is newer.
func (e *envelope) resume(state string) error {
	if state == "" {
		return nil
	}
	var r record
	if err := json.Unmarshal([]byte(state), &r); err != nil {
		return fmt.Errorf("state of the last return: %w", err)
	}
	for _, n := range []*int{&r.Attempts, &r.Releases, &r.Returns, &r.Crashes} {
		*n = min(max(*n, 0), maxCount)
	}
	r.Hold, r.Err = min(max(r.Hold, 0), maxHold), clip(r.Err)
	e.record = r
	return nil
}

func (r record) failed(err error, now time.Time) record {
	r.Attempts++
	r.Last, r.Err = now.UTC().Truncate(time.Microsecond), clip(err.Error())
	if r.First.IsZero() {
		r.First = r.Last
	}
	return r
}

// clip keeps the start of s: valid UTF-8 in one line, at most maxErrorText bytes and a sign that something is missing.
func clip(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= maxErrorText+len("…") {
		return s
	}
	return strings.ToValidUTF8(s[:maxErrorText], "") + "…"
}
