package history

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Never is a moment that did not come.
const Never int64 = math.MaxInt64

// Kind says what happened.
type Kind string

// Events of messages. The package comment says when each is written.
const (
	PublishInvoke Kind = "publish_invoke"
	PublishOK     Kind = "publish_ok"
	PublishErr    Kind = "publish_err" // ambiguous, unless Definite
	Deliver       Kind = "deliver"     // leased until Until
	Start         Kind = "start"       // the handler begins
	Extend        Kind = "extend"      // the lease is now until Until
	LeaseLost     Kind = "lease_lost"  // noticed; why is in Cause
	SideEffect    Kind = "side_effect"
	End           Kind = "end"         // the handler returned, with Err if it failed
	SettleSent    Kind = "settle_sent" // with Verdict, and Delay for a retry or a release
	SettleOK      Kind = "settle_ok"
	SettleErr     Kind = "settle_err" // may have reached the broker, unless Definite
	Dead          Kind = "dead"       // confirmed in the dead-letter queue; the reason is in Cause
	Copy          Kind = "copy"       // confirmed as a copy of Generation + 1
	Redrive       Kind = "redrive"    // back from the dead-letter queue
)

// Events of processes.
const (
	ProcStart Kind = "proc_start"
	ProcReady Kind = "proc_ready" // receives with N slots; may be repeated when N changes
	ProcDrain Kind = "proc_drain" // receives no more
	ProcExit  Kind = "proc_exit"
	Kill      Kind = "kill" // with Signal
	Stop      Kind = "stop" // SIGSTOP or another pause
	Cont      Kind = "cont"
	Join      Kind = "join"  // the supervisor asked for this process
	Fault     Kind = "fault" // of the network or the broker; which is in Cause
	Heal      Kind = "heal"
	// Torn is not written but read: it stands for a line that its process did not finish. Its T is that of the line
	// before it.
	Torn Kind = "torn"
)

// What a settle says to the broker, in Event.Verdict.
const (
	VerdictAck     = "ack"
	VerdictRetry   = "retry"   // failed, run it again
	VerdictRelease = "release" // not this message's fault, run it again
	VerdictReject  = "reject"  // never again: dead letter
	VerdictDead    = "dead"    // too many failures: dead letter
	VerdictRecount = "recount" // back with its crashes counted, before it runs
)

// Event is one line of a journal. Which fields have a meaning depends on Kind; those that are zero are not written.
type Event struct {
	T    int64 `json:"t"` // CLOCK_MONOTONIC nanoseconds; Write fills in a zero
	Kind Kind  `json:"k"`
	// Proc is the process that the event is about: the writer's own name if it is empty, the target's on kill, stop,
	// cont and join.
	Proc string `json:"p,omitempty"`

	Msg      string `json:"m,omitempty"` // message id; bytes that are not UTF-8 are replaced
	Queue    string `json:"q,omitempty"`
	Tenant   string `json:"ten,omitempty"`
	Lane     string `json:"lane,omitempty"`
	Key      string `json:"key,omitempty"`
	Priority int    `json:"pri,omitempty"`
	Due      int64  `json:"due,omitempty"`   // when it was meant to be published, or run if that is later
	Delay    int64  `json:"delay,omitempty"` // nanoseconds; of a publish or of a settle
	RunMS    int64  `json:"run,omitempty"`   // how long the job is meant to take, milliseconds

	// Delivery numbers the deliveries of a process. Zero means the process's latest delivery of Msg.
	Delivery   int64  `json:"d,omitempty"`
	Attempt    int    `json:"a,omitempty"`  // failures so far + 1; zero is unknown
	Deliveries int    `json:"dc,omitempty"` // the broker's count; zero is unknown
	Generation int    `json:"g,omitempty"`  // copies so far
	Token      uint64 `json:"tok,omitempty"`
	Until      int64  `json:"u,omitempty"` // end of the lease; zero: it has no clock

	Verdict  string `json:"v,omitempty"`
	Definite bool   `json:"def,omitempty"` // of publish_err and settle_err: it certainly did not happen
	Ignores  bool   `json:"ign,omitempty"` // of start: this handler does not honour its context
	Err      string `json:"err,omitempty"`
	Cause    string `json:"cause,omitempty"`
	Signal   string `json:"sig,omitempty"` // of kill: "KILL" (so is the empty string), "TERM"
	N        int    `json:"n,omitempty"`
}

// fatal reports whether a kill event ends its process at once.
func (e *Event) fatal() bool {
	switch strings.TrimPrefix(strings.ToUpper(e.Signal), "SIG") {
	case "", "KILL", "9":
		return true
	default:
		return false
	}
}

// Now is the present moment of the journals' clock in nanoseconds.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("history: no monotonic clock: " + err.Error()) // no supported system lacks it
	}
	return ts.Nano()
}

// At converts a time with a monotonic reading to the journals' clock. It is exact to about a microsecond, or as long as
// the process is not scheduled between the two readings.
func At(t time.Time) int64 { return Now() + int64(time.Until(t)) }

// appendEvent appends e as a line. It is written by hand because it runs in the path that a benchmark measures; the
// field names are those of the struct tags, and a fuzz target holds the two together.
func appendEvent(b []byte, e *Event) []byte {
	b = strconv.AppendInt(append(b, `{"t":`...), e.T, 10)
	b = appendString(b, "k", string(e.Kind))
	b = appendString(b, "p", e.Proc)
	b = appendString(b, "m", e.Msg)
	b = appendString(b, "q", e.Queue)
	b = appendString(b, "ten", e.Tenant)
	b = appendString(b, "lane", e.Lane)
	b = appendString(b, "key", e.Key)
	b = appendInt(b, "pri", int64(e.Priority))
	b = appendInt(b, "due", e.Due)
	b = appendInt(b, "delay", e.Delay)
	b = appendInt(b, "run", e.RunMS)
	b = appendInt(b, "d", e.Delivery)
	b = appendInt(b, "a", int64(e.Attempt))
	b = appendInt(b, "dc", int64(e.Deliveries))
	b = appendInt(b, "g", int64(e.Generation))
	if e.Token != 0 {
		b = strconv.AppendUint(append(b, `,"tok":`...), e.Token, 10)
	}
	b = appendInt(b, "u", e.Until)
	b = appendString(b, "v", e.Verdict)
	b = appendBool(b, "def", e.Definite)
	b = appendBool(b, "ign", e.Ignores)
	b = appendString(b, "err", e.Err)
	b = appendString(b, "cause", e.Cause)
	b = appendString(b, "sig", e.Signal)
	b = appendInt(b, "n", int64(e.N))
	return append(b, "}\n"...)
}

func appendName(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

func appendInt(b []byte, name string, v int64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendInt(appendName(b, name), v, 10)
}

func appendBool(b []byte, name string, v bool) []byte {
	if !v {
		return b
	}
	return append(appendName(b, name), "true"...)
}

func appendString(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	b = appendName(b, name)
	for i := range len(v) {
		if c := v[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			quoted, err := json.Marshal(v)
			if err != nil {
				panic("history: a string that is no JSON: " + err.Error()) // Marshal replaces invalid UTF-8
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, v...)
	return append(b, '"')
}
