package conformance

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// contentRules are family W: what a message brings with it.
var contentRules = []Rule{
	{
		ID: "W01", Name: "binary_body", Tier: Smoke,
		Claim: "a body is brought back byte for byte, whatever it is, also after a retry and as a dead letter",
		Check: binaryBodies,
	},
	{
		ID: "W02", Name: "headers", Tier: Fast,
		Claim: "header names and values are any UTF-8 text, and come back as they were, also after a retry and as a dead letter",
		Check: anyHeaders,
	},
	{
		ID: "W03", Name: "size_limit", Tier: Fast,
		Claim: "a message up to the limit is stored, one above it is ErrTooLarge at once and harms no other",
		Needs: func(s Setting) string {
			if s.Caps.MaxBytes == 0 {
				return "no limit"
			}
			return ""
		},
		Check: sizeLimit,
	},
	{
		ID: "W04", Name: "empty_body", Tier: Fast,
		Claim: "empty and nil bodies come back empty",
		Check: func(e *Env) {
			e.roundTrip(&queue.Message{ID: "nil"}, &queue.Message{ID: "empty", Body: []byte{}}, &queue.Message{ID: "with a header", Header: map[string]string{"x": "y"}})
		},
	},
	{
		ID: "W05", Name: "identity", Tier: Fast,
		Claim: "id, key, tenant, priority, publish time, trace context and attempt come with every delivery, also after a retry and as a dead letter",
		Check: identity,
	},
	{
		ID: "W06", Name: "clock_skew", Tier: Fast,
		Claim: "a producer's clock that is wrong delays and hastens nothing, and its publish time is passed on as it was",
		Check: clockSkew,
	},
	{
		ID: "W07", Name: "deduplication", Tier: Fast,
		Claim: "two messages of one id within the window of deduplication are stored once",
		Needs: func(s Setting) string {
			if s.Caps.Dedup == 0 {
				return "no deduplication"
			}
			return ""
		},
		Check: deduplication,
	},
	{
		ID: "W09", Name: "unreadable_envelope", Tier: Fast,
		Claim: "a message with an envelope that cannot be read becomes a dead letter as it came, a foreign one without an envelope is delivered, and no worker is harmed",
		Check: unreadableEnvelope,
	},
}

// roundTrip publishes messages and looks at what comes back: at first, after a retry, and as dead letters.
func (e *Env) roundTrip(ms ...*queue.Message) {
	before := time.Now()
	e.Must(e.Producer(queue.ProducerConfig{}).Publish(e.Ctx, ms...), "publish")
	after := time.Now()
	want := map[string]*queue.Message{}
	for _, m := range ms {
		want[m.ID] = m
	}
	c := e.Consumer(e.Queue, queue.ConsumerConfig{Retry: often})
	dead := e.Consumer(e.Queue+".dead", queue.ConsumerConfig{})
	var published []time.Time
	look := func(ds []*queue.Delivery, attempt int, verdict func(d *queue.Delivery) error) {
		for _, d := range ds {
			e.Check(want[d.ID] != nil, "message %q was not published", d.ID)
			e.brings(d, want[d.ID])
			e.Check(d.Attempt == attempt, "message %q has attempt %d, not %d", d.ID, d.Attempt, attempt)
			e.Check(!d.Foreign, "message %q is taken for a foreign one", d.ID)
			e.Check(!d.PublishedAt.Before(before.Truncate(time.Microsecond)) && !d.PublishedAt.After(after),
				"message %q was published at %v, not between %v and %v", d.ID, d.PublishedAt, before, after)
			published = append(published, d.PublishedAt)
			e.Must(verdict(d), "settle")
		}
	}
	look(e.Receive(c, len(ms), late), 1, func(d *queue.Delivery) error { return d.RetryAfter(e.Ctx, errTold, 0) })
	look(e.Receive(c, len(ms), late), 2, func(d *queue.Delivery) error { return d.Reject(e.Ctx, errTold) })
	look(e.Receive(dead, len(ms), late), 1, func(d *queue.Delivery) error {
		e.died(d, queue.Death{Reason: queue.ReasonRejected, Attempts: 2})
		return d.Ack(e.Ctx)
	})
	first := map[time.Time]bool{}
	for i, at := range published {
		if i < len(ms) {
			first[at] = true
		}
		e.Check(first[at], "a publish time has changed to %v", at)
	}
	e.Must(c.Close(e.Ctx), "close")
	e.Must(dead.Close(e.Ctx), "close")
}

func binaryBodies(e *Env) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	noise := make([]byte, 64<<10)
	r := rand.New(rand.NewPCG(e.Seed, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	bodies := [][]byte{all, noise}
	for _, text := range []string{
		"\x00", "\x00\x00text\x00", "\xff\xfe", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "tail\xe2\x82", // NUL, no UTF-8
		" padded ", "\n", "\r\n", "\ufeffmark", "line\nline\r\nline\r", "\u0001\u000b\uffff\ufffe", // no XML
		"aGVsbG8=", "{}", `"text"`, "NATS/1.0\r\nA: b\r\n\r\n", "PUB a 3\r\nabc\r\n", "%00+%2B", strings.Repeat("long ", 20_000),
	} {
		bodies = append(bodies, []byte(text))
	}
	ms := make([]*queue.Message, len(bodies))
	for i, body := range bodies {
		ms[i] = &queue.Message{ID: fmt.Sprintf("body-%d", i), Body: body}
	}
	e.roundTrip(ms...)
}

func anyHeaders(e *Env) {
	many := map[string]string{}
	for i := range 40 { // SQS has ten attributes at most
		many[fmt.Sprintf("name-%d", i)] = fmt.Sprintf("value %d", i)
	}
	sets := []map[string]string{
		{"unicode": "zażółć gęślą jaźń 日本語 🚀", "日本語": "x", "ünïcode name": "y"},
		{"empty": "", "blank": " ", "padded": "  a b  ", "tab": "\t", "": "no name"},
		{"lines": "one\ntwo\r\nthree", "nul": "a\x00b", "quote": `"'\`, "colon": "a: b", "percent": "%25"},
		{"Case": "1", "case": "2", "CASE": "3"},
		{"with space": "1", "with:colon": "2", "with=sign": "3", "with\nline": "4", "with.dot": "5", "-": "6"},
		{"Nats-Msg-Id": "1", "Nats-TTL": "1s", "Status": "503", "Content-Type": "x", "content-length": "9", "x-delay": "1000", "AWS.trace": "1", "Hf": "no prefix of ours"},
		{"long": strings.Repeat("0123456789", 800), strings.Repeat("n", 200): "long name", "long unicode": strings.Repeat("ö", 2000)},
		many,
	}
	ms := make([]*queue.Message, len(sets))
	for i, h := range sets {
		ms[i] = &queue.Message{ID: fmt.Sprintf("headers-%d", i), Header: h, Body: []byte("body")}
	}
	e.roundTrip(ms...)
	p := e.Producer(queue.ProducerConfig{})
	for _, name := range []string{"hf-id", "HF-V", "Hf-anything"} {
		err := p.Publish(e.Ctx, &queue.Message{Header: map[string]string{name: "x"}})
		e.Check(driver.KindOf(err) == driver.Invalid, "header %s is Holdfast's own: %v", name, err)
	}
}

func identity(e *Env) {
	trace := map[string]string{
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1,b=2", "baggage": "k=v;p",
	}
	e.roundTrip(
		&queue.Message{ID: "plain", Tenant: "acme", Key: "acme/google", Priority: 10, Header: trace},
		&queue.Message{ID: "täglich 日本 / a b", Tenant: "Ümlaut & Söhne \"GmbH\"", Key: "k e y\n", Priority: -3},
		&queue.Message{ID: " padded ", Tenant: " ", Key: " ", Priority: 1 << 30},
		&queue.Message{ID: strings.Repeat("long-id/", 60), Tenant: strings.Repeat("t", 300), Key: strings.Repeat("k", 300), Priority: -1 << 30},
		&queue.Message{ID: "a.b*c>d", Tenant: "a.b*c>d", Key: "#", Priority: 0},
	)
}

func deduplication(e *Env) {
	first, second := e.Producer(queue.ProducerConfig{}), e.Producer(queue.ProducerConfig{})
	twice := func(p *queue.Producer) {
		e.Must(p.Publish(e.Ctx, &queue.Message{ID: "daily", Body: []byte("x")}, &queue.Message{ID: "täglich 日本"}), "publish")
	}
	twice(first)
	twice(first)
	twice(second)
	c := e.Consumer(e.Queue, queue.ConsumerConfig{Retry: often})
	take := func(attempt int, verdict func(d *queue.Delivery) error) {
		for _, d := range e.Receive(c, 2, late) {
			e.Check(d.Attempt == attempt, "message %s has attempt %d", d.ID, d.Attempt)
			e.Must(verdict(d), "settle")
		}
	}
	// A copy that a retry may need carries the id too, and must not be taken for the second message.
	take(1, func(d *queue.Delivery) error { return d.RetryAfter(e.Ctx, errTold, 0) })
	take(2, func(d *queue.Delivery) error { return d.Ack(e.Ctx) })
	e.Quietly(c, 2*time.Second, "two messages of its id were stored")
	if e.Virtual || e.Tier == Full && e.Caps.Dedup <= 3*time.Minute {
		e.Sleep(e.Caps.Dedup + time.Second)
		twice(second)
		take(1, func(d *queue.Delivery) error { return d.Ack(e.Ctx) })
	}
}
