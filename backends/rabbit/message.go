package rabbit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// A header goes out as it is, a string in the table, for plain clients to read. Only names that a table cannot hold, or
// that the broker reads, adds or overwrites, are packed into one header.
const (
	packedHeader = "hf-packed"
	tagHeader    = "hf-tag" // set by the producer on each publishing to match returns; never shown

	// A broker that stamps incoming messages sets this, its time in milliseconds, and the timestamp property.
	receivedHeader = "timestamp_in_ms"

	maxShort = 255 // bytes of a name in a table, and of a property

	// Properties have to fit one frame, of 128 KiB with RabbitMQ's defaults, also with what the broker adds on the way.
	maxHeaderBytes = 120 << 10
)

// plainHeader reports whether a header can travel as it is.
func plainHeader(name, value string) bool {
	if name == "" || len(name) > maxShort || !plainText(name) || !utf8.ValidString(value) {
		return false
	}
	return !reserved(name)
}

func plainText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// reserved reports whether a name means something to the broker or to this package.
func reserved(name string) bool {
	switch strings.ToLower(name) {
	case "cc", "bcc", packedHeader, tagHeader, beforeHeader, backHeader, receivedHeader:
		return true
	}
	return len(name) >= 2 && strings.EqualFold(name[:2], "x-")
}

// packed is the content of packedHeader, as JSON. Text holds what JSON brings back exactly, Bytes the rest in base64.
type packed struct {
	Text  map[string]string `json:"text,omitempty"`
	Bytes map[string]string `json:"bytes,omitempty"`
}

func (p *packed) add(name, value string) {
	if utf8.ValidString(name) && utf8.ValidString(value) {
		if p.Text == nil {
			p.Text = make(map[string]string)
		}
		p.Text[name] = value
		return
	}
	if p.Bytes == nil {
		p.Bytes = make(map[string]string)
	}
	b64 := base64.RawStdEncoding
	p.Bytes[b64.EncodeToString([]byte(name))] = b64.EncodeToString([]byte(value))
}

func (p *packed) empty() bool { return len(p.Text) == 0 && len(p.Bytes) == 0 }

// unpack reads packedHeader. What this package cannot have written is an error.
func unpack(text string) (map[string]string, error) {
	var p packed
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("%s: %w", packedHeader, err)
	}
	if d.More() || p.empty() {
		return nil, errors.New(packedHeader + ": not one object with content")
	}
	header := make(map[string]string, len(p.Text)+len(p.Bytes))
	maps.Copy(header, p.Text)
	for n, v := range p.Bytes {
		name, err := base64.RawStdEncoding.DecodeString(n)
		value, err2 := base64.RawStdEncoding.DecodeString(v)
		if err = errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("%s: %w", packedHeader, err)
		}
		header[string(name)] = string(value)
	}
	return header, nil
}

// encode is a message as AMQP has it. The body is shared, the headers are never nil.
func encode(m *driver.Message, priority uint8) (amqp.Publishing, error) {
	headers := make(amqp.Table, len(m.Header)+2)
	var rest packed
	for name, value := range m.Header {
		if plainHeader(name, value) {
			headers[name] = value
		} else {
			rest.add(name, value)
		}
	}
	if !rest.empty() {
		text, err := marshal(rest)
		if err != nil {
			return amqp.Publishing{}, invalid("publish", err)
		}
		headers[packedHeader] = text
	}
	if n := tableBytes(headers); n > maxHeaderBytes {
		return amqp.Publishing{}, &driver.Error{Op: "publish", Kind: driver.TooLarge, Err: fmt.Errorf(
			"headers take %d bytes, of at most %d: they have to fit one AMQP frame; put large values into the body",
			n, maxHeaderBytes)}
	}
	p := amqp.Publishing{
		Headers:      headers,
		DeliveryMode: amqp.Persistent,
		Priority:     priority,
		Timestamp:    time.Now(),
		Body:         m.Body,
	}
	if len(m.ID) <= maxShort { // a longer one does not fit the property; what needs it finds it in the headers
		p.MessageId = m.ID
	}
	return p, nil
}

// tableBytes is how long a table of strings is on the wire.
func tableBytes(t amqp.Table) int {
	n := 4
	for name, value := range t {
		s, _ := value.(string)
		n += 1 + len(name) + 1 + 4 + len(s)
	}
	return n
}

// size is what of a message counts against a limit of its size.
func size(m *driver.Message) int {
	n := len(m.Body)
	for name, value := range m.Header {
		n += len(name) + len(value)
	}
	return n
}

// decode is the reverse of encode. The headers of other producers come as text; what the broker adds is left out.
func decode(d *amqp.Delivery) driver.Message {
	m := driver.Message{
		ID:     strings.ToValidUTF8(d.MessageId, "\uFFFD"),
		Header: make(map[string]string, len(d.Headers)),
		Body:   d.Body,
	}
	fromBroker := addedByBroker
	rest, err := ownPacked(d.Headers)
	if _, tagged := d.Headers[tagHeader]; tagged || rest != nil {
		fromBroker = func(name string, _ any) bool { return reserved(name) } // encode sends no such name
	}
	for name, value := range d.Headers {
		switch {
		case name == tagHeader, name == beforeHeader, name == backHeader, name == packedHeader && rest != nil:
		case name == packedHeader && err != nil: // it only looks like ours
			m.Header[name] = text(value)
		case !fromBroker(name, value):
			m.Header[strings.ToValidUTF8(name, "\uFFFD")] = text(value)
		}
	}
	maps.Copy(m.Header, rest)
	return m
}

// ownPacked is the content of packedHeader; nil with or without an error if there is none that this package wrote.
func ownPacked(headers amqp.Table) (map[string]string, error) {
	value, ok := headers[packedHeader]
	if !ok {
		return nil, nil
	}
	s, ok := value.(string)
	if !ok {
		return nil, errors.New(packedHeader + ": no string")
	}
	return unpack(s)
}

// addedByBroker reports whether a header of another producer's message comes from the broker: dead-lettering, quorum
// queues, streams, interceptors, federation, shovels, and x-delay, which the plugin for delays rewrites.
func addedByBroker(name string, value any) bool {
	switch name {
	case "x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset", "x-delay", "x-received-from",
		"x-shovelled", "x-shovelled-timestamp", "x-routed-by":
		return true
	case receivedHeader:
		_, stamped := value.(int64)
		return stamped
	}
	for _, prefix := range []string{"x-first-death-", "x-last-death-", "x-opt-", "x-amqp-1.0-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// sentAt is when the message was stored: by the broker's clock if it stamps messages, else what the producer wrote, in
// whole seconds; zero where nobody did.
func sentAt(d *amqp.Delivery) time.Time {
	if ms, ok := d.Headers[receivedHeader].(int64); ok && ms > 0 {
		return time.UnixMilli(ms)
	}
	return d.Timestamp
}

// text is a value of a table as a header's value.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case amqp.Table, []any:
		if s, err := marshal(plainValueOf(v)); err == nil {
			return s
		}
		return ""
	default:
		return scalar(v)
	}
}

func scalar(value any) string {
	switch v := value.(type) {
	case string:
		return strings.ToValidUTF8(v, "\uFFFD")
	case []byte:
		return strings.ToValidUTF8(string(v), "\uFFFD")
	case bool:
		return strconv.FormatBool(v)
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Decimal:
		return decimal(v)
	default: // the whole numbers
		return fmt.Sprint(v)
	}
}

// decimal writes the value with Scale digits behind the point.
func decimal(d amqp.Decimal) string {
	digits, sign, scale := strconv.FormatInt(int64(d.Value), 10), "", int(d.Scale)
	if d.Value < 0 {
		digits, sign = digits[1:], "-"
	}
	if scale == 0 {
		return sign + digits
	}
	if missing := scale + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - scale
	return sign + digits[:point] + "." + digits[point:]
}

// plainValueOf is a value of a table with nothing in it that JSON has no form for.
func plainValueOf(value any) any {
	switch v := value.(type) {
	case amqp.Table:
		object := make(map[string]any, len(v))
		for name, inner := range v {
			object[name] = plainValueOf(inner)
		}
		return object
	case []any:
		array := make([]any, len(v))
		for i, inner := range v {
			array[i] = plainValueOf(inner)
		}
		return array
	case nil, bool:
		return v
	case string, []byte, time.Time:
		return scalar(v)
	case float32:
		return finite(float64(v), v)
	case float64:
		return finite(v, v)
	default: // numbers, with all their digits
		return json.Number(scalar(v))
	}
}

func finite(f float64, value any) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return scalar(value)
	}
	return value
}

// marshal is v as JSON, as short as it can be read.
func marshal(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", fmt.Errorf("headers as JSON: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
