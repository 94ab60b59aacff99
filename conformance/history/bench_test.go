package history

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// big is a history of n events and some: eight a message, on eight workers with four slots each, some killed.
func big(n int) []Event {
	events := make([]Event, 0, n+16)
	for w := range 8 {
		events = append(events, Event{T: 1, Kind: ProcReady, Proc: fmt.Sprint("w", w), N: 4})
	}
	for i := 0; len(events) < n; i++ {
		at, w, id := int64(i)*ms+2, fmt.Sprint("w", i%8), fmt.Sprintf("run-17-%08d", i)
		put := func(after int64, e Event) {
			e.T, e.Msg, e.Queue, e.Key = at+after*ms, id, "main", fmt.Sprint("key", i%512)
			events = append(events, e)
		}
		put(0, Event{Kind: PublishInvoke, Proc: "p", Tenant: fmt.Sprint("tenant", i%10)})
		put(1, Event{Kind: PublishOK, Proc: "p"})
		put(9, Event{Kind: Deliver, Proc: w, Until: at + 1000*ms, Attempt: 1, Token: 1})
		put(10, Event{Kind: Start, Proc: w, Attempt: 1})
		put(20, Event{Kind: Extend, Proc: w, Until: at + 1500*ms})
		put(30, Event{Kind: End, Proc: w})
		put(31, Event{Kind: SettleSent, Proc: w, Verdict: VerdictAck})
		put(32, Event{Kind: SettleOK, Proc: w, Verdict: VerdictAck})
	}
	return events
}

func BenchmarkCheck100k(b *testing.B) {
	events := big(100_000)
	o := Options{Drained: true, Fencing: true, KeyOrder: true, FaultFree: true}
	b.ReportAllocs()
	for b.Loop() {
		if v := Check(events, o); !v.Valid {
			b.Fatal(v.InvalidReasons)
		}
	}
}

// One message that comes back again and again, all leases at once: nothing may be quadratic.
func BenchmarkCheckOneMessage100k(b *testing.B) {
	var events []Event
	for i := range int64(33_000) {
		w := fmt.Sprint("w", i)
		events = append(events,
			Event{T: 1 + 10*i, Kind: Deliver, Proc: w, Msg: "a", Until: 1 << 40},
			Event{T: 2 + 10*i, Kind: Start, Proc: w, Msg: "a"},
			Event{T: 3 + 10*i, Kind: Kill, Proc: w})
	}
	for b.Loop() {
		if v := Check(events, Options{Drained: true}); v.Overlaps != 32_999 {
			b.Fatal(v.Overlaps)
		}
	}
}

func BenchmarkIdle100k(b *testing.B) {
	x := Index(big(100_000))
	for b.Loop() {
		if got := x.Idle(IdleOptions{}); got.Live == 0 {
			b.Fatal("no slot was live")
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	w, err := Open(filepath.Join(b.TempDir(), "w.jsonl"), "w1")
	if err != nil {
		b.Fatal(err)
	}
	e := Event{
		Kind: Deliver, Msg: "run-17-00000042", Queue: "main", Tenant: "tenant-17", Priority: 3,
		Delivery: 1042, Attempt: 1, Deliveries: 1, Token: 1 << 32, Until: Now() + int64(time.Minute),
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Write(e); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkRead100k(b *testing.B) {
	var journal bytes.Buffer
	w := NewWriter(&journal, "w1", nil)
	for _, e := range big(100_000) {
		if err := w.Write(e); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(journal.Len()))
	for b.Loop() {
		if _, err := Read(bytes.NewReader(journal.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
