package queue

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Header names that Holdfast adds to a message. All begin with headerPrefix; a message without headerVersion was
// published by somebody else and is delivered as it is.
const (
	headerPrefix     = "hf-"
	headerVersion    = "hf-v"
	headerID         = "hf-id"
	headerKey        = "hf-key"
	headerTenant     = "hf-tenant"
	headerPriority   = "hf-priority"
	headerPublished  = "hf-published"
	headerGeneration = "hf-generation"
	headerAttempts   = "hf-attempts"
	headerReleases   = "hf-releases"
	headerCrashes    = "hf-crashes"
	headerFirst      = "hf-first-failure"
	headerLast       = "hf-last-failure"
	headerError      = "hf-error"
	headerDue        = "hf-due"
	headerReason     = "hf-dead-reason"
	headerOrigin     = "hf-origin"

	envelopeVersion = "1"
	// maxErrorText is what is kept of a failure's text, in bytes: it travels in a header.
	maxErrorText = 500
)

// envelope is what Holdfast knows about a message beside its body: written as headers when the message is stored.
type envelope struct {
	foreign    bool // no headers of ours
	id         string
	key        string
	tenant     string
	priority   int
	published  time.Time
	generation int       // copies so far
	due        time.Time // not to be delivered before; zero: now
	reason     Reason    // set on dead letters
	origin     string    // set on dead letters: the queue they came from
	record
}

// record is what has happened to a message so far: in the headers of a copy, or in the State of a return.
type record struct {
	Attempts int       `json:"a,omitempty"`
	Releases int       `json:"r,omitempty"`
	Returns  int       `json:"n,omitempty"` // deliveries of this generation that ended in a return; never in headers
	Crashes  int       `json:"c,omitempty"` // of earlier generations
	First    time.Time `json:"f,omitzero"`  // first failure
	Last     time.Time `json:"l,omitzero"`  // last failure
	Err      string    `json:"e,omitempty"` // text of the last failure
	Due      time.Time `json:"d,omitzero"`  // for a delay longer than the broker can hold
}

func (r record) state() string {
	b, err := json.Marshal(r)
	if err != nil { // a struct of numbers, times and text always encodes, but for years beyond 9999
		return ""
	}
	return string(b)
}

func (r record) failed(err error, now time.Time) record {
	r.Attempts++
	r.Last, r.Err = now.UTC().Truncate(time.Microsecond), clip(err.Error())
	if r.First.IsZero() {
		r.First = r.Last
	}
	return r
}

// clip keeps the start of s: valid UTF-8 in one line, at most maxErrorText bytes.
func clip(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= maxErrorText {
		return s
	}
	return strings.ToValidUTF8(s[:maxErrorText], "") + "…"
}

// headers returns user's headers with the envelope's added.
func (e *envelope) headers(user map[string]string) map[string]string {
	h := make(map[string]string, len(user)+4)
	maps.Copy(h, user)
	h[headerVersion] = envelopeVersion
	text := func(name, value string) {
		if value != "" {
			h[name] = value
		}
	}
	number := func(name string, n int) {
		if n != 0 {
			h[name] = strconv.Itoa(n)
		}
	}
	instant := func(name string, t time.Time) {
		if !t.IsZero() {
			h[name] = strconv.FormatInt(t.UnixMicro(), 10)
		}
	}
	text(headerID, e.id)
	text(headerKey, e.key)
	text(headerTenant, e.tenant)
	number(headerPriority, e.priority)
	instant(headerPublished, e.published)
	number(headerGeneration, e.generation)
	number(headerAttempts, e.Attempts)
	number(headerReleases, e.Releases)
	number(headerCrashes, e.Crashes)
	instant(headerFirst, e.First)
	instant(headerLast, e.Last)
	text(headerError, e.Err)
	instant(headerDue, e.due)
	text(headerReason, string(e.reason))
	text(headerOrigin, e.origin)
	return h
}

// openEnvelope reads the headers of a delivered message and returns them without ours. An error means that the message
// was published by a newer Holdfast, or that somebody damaged its headers; the envelope then holds what could be read.
func openEnvelope(dm *driver.Message) (envelope, map[string]string, error) {
	version, ours := dm.Header[headerVersion]
	if !ours {
		return envelope{foreign: true, id: dm.ID, key: dm.Key, tenant: dm.Tenant, priority: dm.Priority}, dm.Header, nil
	}
	var bad error
	number := func(name string) int64 {
		text, found := dm.Header[name]
		if !found {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			bad = fmt.Errorf("header %s is not a number: %.40q", name, text)
		}
		return n
	}
	count := func(name string) int { return int(min(max(number(name), 0), 1<<30)) }
	instant := func(name string) time.Time {
		if n := number(name); n != 0 {
			return time.UnixMicro(n).UTC()
		}
		return time.Time{}
	}
	h := dm.Header
	e := envelope{
		id: h[headerID], key: h[headerKey], tenant: h[headerTenant], priority: int(number(headerPriority)),
		published: instant(headerPublished), generation: count(headerGeneration), due: instant(headerDue),
		reason: Reason(h[headerReason]), origin: h[headerOrigin],
		record: record{
			Attempts: count(headerAttempts), Releases: count(headerReleases), Crashes: count(headerCrashes),
			First: instant(headerFirst), Last: instant(headerLast), Err: h[headerError],
		},
	}
	if e.id == "" {
		e.id = dm.ID
	}
	if version != envelopeVersion {
		bad = fmt.Errorf("envelope version %.20q: this Holdfast reads version %s; was it published by a newer one?", version, envelopeVersion)
	}
	return e, userHeaders(h), bad
}

func userHeaders(h map[string]string) map[string]string {
	user := make(map[string]string, len(h))
	for name, value := range h {
		if !strings.HasPrefix(name, headerPrefix) {
			user[name] = value
		}
	}
	return user
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
	e.record, e.due = r, r.Due
	return nil
}

// copyID is the deduplication id of the copy that e describes. It must differ from the id of every other stored copy of
// the message: brokers with deduplication answer "success" to an id they have seen, drop the message, and the ack of
// the original would then lose it. The publish time keeps two messages of the same ID apart.
func (e *envelope) copyID(sentAt time.Time) string {
	born := e.published
	if born.IsZero() {
		born = sentAt
	}
	if born.IsZero() {
		return "" // nothing to tell two lives of one id apart: rather twice than never
	}
	return e.id + "/" + strconv.FormatInt(born.UnixMicro(), 36) + "/" + strconv.Itoa(e.generation)
}
