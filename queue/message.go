package queue

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Message is a unit of work as an application publishes it.
type Message struct {
	// ID names the message in logs, dead letters and deduplication. Publish sets a random one if it is empty. Publishing
	// two messages of one ID within the broker's deduplication window (Capabilities.Dedup) stores one.
	ID string
	// Key orders messages where the broker can (Needs.KeyOrder), and is what Limits.PerKey counts.
	Key string
	// Tenant is who the work is for: what Lanes.Tenants keeps apart and Limits.PerTenant caps.
	Tenant string
	// Priority: higher goes first, if Lanes.Priorities is set or the broker has priorities of its own. Zero is the default.
	Priority int
	// Delay holds the message back for at least so long after it was published. Zero: deliverable at once.
	Delay time.Duration
	// Header is free for the application, trace context included. Names that begin with "hf-" are refused.
	Header map[string]string
	// Body is handed to the handler byte for byte. A handler must not change it, nor Header: what is tried again elsewhere, or
	// dead-lettered, may be made of them.
	Body []byte
}

func (m *Message) validate() error {
	if m.Delay < 0 {
		return invalid("Delay is negative: use zero for a message that is deliverable at once")
	}
	for name, text := range map[string]string{"ID": m.ID, "Key": m.Key, "Tenant": m.Tenant} {
		if !utf8.ValidString(text) {
			return invalid(name + " is not valid UTF-8")
		}
	}
	for name, value := range m.Header {
		if strings.HasPrefix(strings.ToLower(name), headerPrefix) {
			return invalid("header " + name + ": names that begin with " + headerPrefix + " are Holdfast's own")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return invalid("header " + name + " is not valid UTF-8: put binary data into the body")
		}
	}
	return nil
}

// wire is the driver's form of m, as it is published for the first time.
func (m *Message) wire(lanes Lanes, caps driver.Capabilities, now time.Time) *driver.Message {
	e := envelope{id: m.ID, key: m.Key, tenant: m.Tenant, priority: m.Priority, published: now}
	out := &driver.Message{
		ID: m.ID, DedupID: dedupID(m.ID), Key: m.Key, Tenant: m.Tenant, Priority: m.Priority,
		Lane: lanes.lane(m.Tenant, m.Priority, caps), Body: m.Body,
	}
	out.Delay, e.Hold = split(m.Delay, caps.Delay.Max)
	out.Header = e.headers(m.Header)
	return out
}

// copyRoom is what the counts, the failure's text, the origin and the reason add to a message at most.
const copyRoom = 2 << 10

// maxBytes is the largest message that can be stored again with its counts and its death added; 0: no limit. What a
// queue takes it must be able to retry and to dead-letter.
func maxBytes(caps driver.Capabilities) int {
	return caps.MaxBytes - min(copyRoom, caps.MaxBytes/16)
}

// tooLarge refuses a message before anything of it is sent.
func tooLarge(m *driver.Message, caps driver.Capabilities) error {
	if most := maxBytes(caps); most > 0 && size(m) > most {
		return &driver.Error{Kind: driver.TooLarge, Err: fmt.Errorf("%d bytes with headers, of at most %d", size(m), most)}
	}
	return nil
}

// size is what a message counts against Capabilities.MaxBytes.
func size(m *driver.Message) int {
	n := len(m.Body)
	for name, value := range m.Header {
		n += len(name) + len(value)
	}
	return n
}

func newID() string { return rand.Text() }
