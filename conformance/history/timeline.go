package history

import "cmp"

// Timeline is a history by message and by process.
type Timeline struct {
	From, To  int64      // first and last event
	Messages  []*Message // in order of their first event
	Processes []*Process // in order of their first event
	Torn      int        // lines that a process did not finish
	Orphans   []Event    // that belong to no delivery of the history

	byID map[string]*Message
}

// Message returns the message of that id, or nil.
func (t *Timeline) Message(id string) *Message { return t.byID[id] }

// Message is everything that happened to the messages of one id.
type Message struct {
	ID, Queue, Tenant, Lane, Key string
	Priority                     int
	RunMS                        int64
	Publishes                    []*Publish  // by time
	Deliveries                   []*Delivery // by time
	Deaths                       []Death     // by time
	Redriven                     []int64     // by time
}

// Publish is one attempt to publish a message.
type Publish struct {
	Proc     string
	Invoked  int64
	Answered int64 // Never: its producer died first
	Due      int64 // zero: not known
	Delay    int64 // nanoseconds
	Outcome  Outcome
}

// Outcome is what is known about a call to the broker.
type Outcome int

// The outcomes. The zero value is the one to assume.
const (
	Ambiguous Outcome = iota // it may have happened
	Confirmed
	Refused // it certainly did not happen
)

// Death is the arrival of a message in the dead-letter queue.
type Death struct {
	At       int64
	Reason   string
	Delivery *Delivery // nil: the event named none
}

// Delivery is one handing-over of a message to a process.
type Delivery struct {
	Msg        *Message
	Proc       *Process
	Number     int64
	At         int64
	Until      int64 // end of the lease as last extended; Never: it has no clock
	Lost       int64 // noticed; Never: it was not
	LostCause  string
	Attempt    int
	Deliveries int
	Generation int
	Token      uint64
	Copied     int64 // its copy was confirmed
	Effects    []int64
	Runs       []*Run // more than one is a fault
	Settles    []*Settle
}

// Run is one run of a handler, until it returned or its process died or the history ended.
type Run struct {
	Span
	Delivery *Delivery
	Returned bool
	Err      string // empty: it succeeded, if it returned
	Ignores  bool
}

// Settle is one attempt to settle a delivery.
type Settle struct {
	Verdict  string
	Sent     int64
	Answered int64 // Never: no answer
	Delay    int64 // nanoseconds
	Outcome  Outcome
}

// Expiry is when the holder had to stop: the earlier of lease_lost and Until.
func (d *Delivery) Expiry() int64 { return min(d.Lost, d.Until) }

// LeaseEnd is the end of the lease interval, as the package comment defines it.
func (d *Delivery) LeaseEnd() int64 {
	end := d.Expiry()
	if d.Until == Never {
		end = min(end, d.Proc.Down)
	}
	for _, s := range d.Settles {
		if s.Outcome != Refused {
			return min(end, s.Sent)
		}
	}
	return end
}

// Settled returns the settle that counts: the confirmed one, else the last that may have happened, else nil.
func (d *Delivery) Settled() *Settle {
	var last *Settle
	for _, s := range d.Settles {
		switch s.Outcome {
		case Confirmed:
			return s
		case Ambiguous:
			last = s
		case Refused:
		}
	}
	return last
}

// succeeded reports whether a handler returned without an error. An application that acks without a handler says so
// itself.
func (d *Delivery) succeeded() bool {
	if len(d.Runs) == 0 {
		return true
	}
	for _, r := range d.Runs {
		if r.Returned && r.Err == "" {
			return true
		}
	}
	return false
}

// published counts the publishes that may have happened. More than one means that the broker may hold the message more
// than once.
func (m *Message) published() int {
	n := 0
	for _, p := range m.Publishes {
		if p.Outcome != Refused {
			n++
		}
	}
	return n
}

// confirmed returns the earliest confirmed publish, or nil.
func (m *Message) confirmed() *Publish {
	var first *Publish
	for _, p := range m.Publishes {
		if p.Outcome == Confirmed && (first == nil || p.Answered < first.Answered) {
			first = p
		}
	}
	return first
}

// finished is when the message was done with as far as its worker could do it: an ack was sent or it was dead-lettered.
func (m *Message) Finished() int64 {
	end := Never
	for _, d := range m.Deliveries {
		if s := d.Settled(); s != nil && final(s.Verdict) {
			end = min(end, s.Sent)
		}
	}
	for _, death := range m.Deaths {
		end = min(end, death.At)
	}
	return end
}

// firstRun returns the earliest run of the message, or nil.
func (m *Message) firstRun() *Run {
	var first *Run
	for _, d := range m.Deliveries {
		for _, r := range d.Runs {
			if first == nil || r.From < first.From {
				first = r
			}
		}
	}
	return first
}

// final reports whether a verdict takes the message off its queue.
func final(verdict string) bool {
	return verdict == VerdictAck || verdict == VerdictReject || verdict == VerdictDead
}

func byMoment(a, b int64) int { return cmp.Compare(a, b) }
