package queue

import "time"

// Hooks are called as things happen, for metrics, traces and journals. Every field may be nil. A hook runs on the
// goroutine of the event and must return soon; it must not give a verdict.
type Hooks struct {
	Received     func(d *Delivery)                          // leased; LeaseUntil is set
	Started      func(d *Delivery)                          // its handler begins
	Ended        func(d *Delivery, err error)               // its handler returned
	Extended     func(d *Delivery, until time.Time)         // the broker confirmed a longer lease
	LeaseLost    func(d *Delivery, cause error)             // nobody may rely on it any more
	Settling     func(d *Delivery, s Settlement)            // before the first byte of a verdict is sent
	Settled      func(d *Delivery, s Settlement, err error) // the outcome; nil: confirmed
	Copied       func(d *Delivery, generation int)          // a counted copy is stored, the original is acked next
	DeadLettered func(d *Delivery, r Reason)                // the dead letter is stored, the original is acked next
	Stuck        func(d *Delivery, running time.Duration)   // its handler ignores the end of its context
	Published    func(m *Message, err error)                // the outcome of one message
	Failed       func(op string, err error)                 // a call to the broker that will be tried again
}

// Settlement is what a verdict comes to.
type Settlement struct {
	Verdict Verdict
	Delay   time.Duration // the message comes back not before; zero for an ack or a dead letter
	Dead    Reason        // it becomes a dead letter; empty: it does not
	Copied  bool          // it comes back as a copy, not in place
}

// Verdict is how a delivery ends.
type Verdict int

// The verdicts.
const (
	VerdictAck     Verdict = iota + 1 // done, for good
	VerdictRetry                      // failed: again later, or a dead letter at Retry.MaxAttempts
	VerdictRelease                    // given back, at no cost
	VerdictReject                     // never again: a dead letter
	VerdictRecount                    // replaced by a copy that carries its counts, without running
)

func (v Verdict) String() string {
	switch v {
	case VerdictAck:
		return "ack"
	case VerdictRetry:
		return "retry"
	case VerdictRelease:
		return "release"
	case VerdictReject:
		return "reject"
	case VerdictRecount:
		return "recount"
	default:
		return "none"
	}
}

// Reason is why a message was dead-lettered: the header hf-dead-reason.
type Reason string

// The reasons.
const (
	ReasonAttempts Reason = "attempts" // Retry.MaxAttempts failed attempts
	ReasonCrashes  Reason = "crashes"  // Retry.MaxCrashes starts without an end
	ReasonRejected Reason = "rejected" // the handler returned Reject
	ReasonEnvelope Reason = "envelope" // Holdfast's headers could not be read
)
