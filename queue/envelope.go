package queue

import (
	"crypto/sha256"
	"encoding/hex"
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

	// What has happened to it since it was published, or since it became a dead letter.
	headerAttempts = "hf-attempts"
	headerReleases = "hf-releases"
	headerCrashes  = "hf-crashes"
	headerFirst    = "hf-first-failure"
	headerLast     = "hf-last-failure"
	headerError    = "hf-error"
	headerHold     = "hf-hold"

	// How a dead letter died.
	headerDead         = "hf-dead-"
	headerReason       = headerDead + "reason"
	headerOrigin       = headerDead + "origin"
	headerDeadAttempts = headerDead + "attempts"
	headerDeadCrashes  = headerDead + "crashes"
	headerDeadFirst    = headerDead + "first-failure"
	headerDeadLast     = headerDead + "last-failure"
	headerDeadError    = headerDead + "error"

	envelopeVersion = "1"
	// maxInstant is the end of the year 9999 in microseconds: what lies beyond is no time that anybody wrote down.
	maxInstant = 253402300799999999
)

// envelope is what Holdfast knows about a message beside its body: written as headers when the message is stored.
type envelope struct {
	foreign    bool // published without headers of ours
	unread     bool // not all of our headers could be read: they are passed on as they came
	id         string
	key        string
	tenant     string
	priority   int
	published  time.Time
	generation int    // copies so far
	death      *Death // of dead letters
	record
}

// headers returns user's headers with the envelope's added. Names of ours that a foreign producer used are left out: on
// a message of ours they would mean something.
func (e *envelope) headers(user map[string]string) map[string]string {
	h := make(headers, len(user)+4)
	for name, value := range user {
		if !strings.HasPrefix(name, headerPrefix) {
			h[name] = value
		}
	}
	h[headerVersion] = envelopeVersion
	h.text(headerID, e.id)
	h.text(headerKey, e.key)
	h.text(headerTenant, e.tenant)
	h.number(headerPriority, int64(e.priority))
	h.instant(headerPublished, e.published)
	h.number(headerGeneration, int64(e.generation))
	e.record.write(h)
	e.death.write(h)
	return h
}

// again returns the headers of a copy of in. What could not be read is passed on as it came, for those who can, with
// only the counts and the death replaced.
func (e *envelope) again(in *driver.Message, user map[string]string) map[string]string {
	if !e.unread {
		return e.headers(user)
	}
	h := headers(maps.Clone(in.Header))
	maps.DeleteFunc(h, func(name, _ string) bool { return strings.HasPrefix(name, headerDead) })
	e.record.write(h)
	e.death.write(h)
	return h
}

func (r *record) write(h headers) {
	h.number(headerAttempts, int64(r.Attempts))
	h.number(headerReleases, int64(r.Releases))
	h.number(headerCrashes, int64(r.Crashes))
	h.instant(headerFirst, r.First)
	h.instant(headerLast, r.Last)
	h.text(headerError, r.Err)
	h.number(headerHold, r.Hold.Microseconds())
}

func (d *Death) write(h headers) {
	if d == nil {
		return
	}
	h.text(headerReason, string(d.Reason))
	h.text(headerOrigin, d.Origin)
	h.number(headerDeadAttempts, int64(d.Attempts))
	h.number(headerDeadCrashes, int64(d.Crashes))
	h.instant(headerDeadFirst, d.First)
	h.instant(headerDeadLast, d.Last)
	h.text(headerDeadError, d.Err)
}

// headers are written without zero values.
type headers map[string]string

func (h headers) text(name, value string) {
	if value != "" {
		h[name] = value
	}
}

func (h headers) number(name string, n int64) {
	if n != 0 {
		h[name] = strconv.FormatInt(n, 10)
	}
}

func (h headers) instant(name string, t time.Time) {
	if !t.IsZero() {
		h[name] = strconv.FormatInt(t.UnixMicro(), 10)
	}
}

// openEnvelope reads the headers of a delivered message and returns them without ours. An error means that the message
// was published by a newer Holdfast, or that somebody damaged its headers; the envelope then holds what could be read.
func openEnvelope(dm *driver.Message) (envelope, map[string]string, error) {
	version, ours := dm.Header[headerVersion]
	if !ours {
		return envelope{foreign: true, id: dm.ID, key: dm.Key, tenant: dm.Tenant, priority: dm.Priority}, dm.Header, nil
	}
	r := reader{h: dm.Header}
	e := envelope{
		id: r.h[headerID], key: r.h[headerKey], tenant: r.h[headerTenant], priority: int(r.number(headerPriority)),
		published: r.instant(headerPublished), generation: r.count(headerGeneration),
		record: record{
			Attempts: r.count(headerAttempts), Releases: r.count(headerReleases), Crashes: r.count(headerCrashes),
			First: r.instant(headerFirst), Last: r.instant(headerLast), Err: r.h[headerError],
			Hold: time.Duration(min(max(r.number(headerHold), 0), maxHold.Microseconds())) * time.Microsecond,
		},
	}
	if reason := Reason(r.h[headerReason]); reason != "" {
		e.death = &Death{
			Reason: reason, Err: r.h[headerDeadError], Origin: r.h[headerOrigin],
			Attempts: r.count(headerDeadAttempts), Crashes: r.count(headerDeadCrashes),
			First: r.instant(headerDeadFirst), Last: r.instant(headerDeadLast),
		}
	}
	if e.id == "" {
		e.id = dm.ID
	}
	if version != envelopeVersion {
		r.bad = fmt.Errorf("envelope version %.20q: this Holdfast reads version %s; was it published by a newer one?", version, envelopeVersion)
	}
	e.unread = r.bad != nil
	e.foreign = !e.unread && e.published.IsZero() // a copy of a message that was
	return e, userHeaders(r.h), r.bad
}

// reader reads headers and remembers what could not be read.
type reader struct {
	h   map[string]string
	bad error
}

func (r *reader) number(name string) int64 {
	text, found := r.h[name]
	if !found {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.bad = fmt.Errorf("header %s is not a number: %.40q", name, text)
	}
	return n
}

func (r *reader) count(name string) int { return int(min(max(r.number(name), 0), maxCount)) }

func (r *reader) instant(name string) time.Time {
	switch n := r.number(name); {
	case n == 0:
		return time.Time{}
	case n < 0 || n > maxInstant:
		r.bad = fmt.Errorf("header %s is not a time: %d", name, n)
		return time.Time{}
	default:
		return time.UnixMicro(n).UTC()
	}
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

// copyID names the copy that e describes. It must differ from the name of every other stored copy of the message:
// brokers with deduplication answer "success" to an id they have seen, drop the message, and the ack of the original
// would then lose it. The publish time keeps two messages of the same ID apart.
func (e *envelope) copyID(sentAt time.Time) string {
	born := e.published
	if born.IsZero() {
		born = sentAt
	}
	if born.IsZero() || e.unread {
		return "" // nothing to tell two lives of one id, or two copies, apart: rather twice than never
	}
	return e.id + "/" + strconv.FormatInt(born.UnixMicro(), 36) + "/" + strconv.Itoa(e.generation)
}

// dedupID is the deduplication id of what name names. Brokers take only some text for one: SQS 128 letters, digits and
// signs of ASCII, NATS what a header line can hold.
func dedupID(name string) string {
	plain := len(name) <= 128 && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' })
	if plain {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "sha256-" + hex.EncodeToString(sum[:])
}
