package history

import (
	"fmt"
	"time"
)

// Options says what a history claims. The zero value claims the least: the run was not drained, faults may have happened.
type Options struct {
	// Queue: only events of this queue, and events that name no queue, are judged. Empty: all. A run that also reads
	// its dead-letter queue needs it, with Queue in every event about a message.
	Queue string
	// Producers are the processes whose messages are expected; what others published is unexpected. Nil: all.
	Producers []string
	// Drained: the run ended with an empty queue, so a message that is neither completed nor dead-lettered is lost.
	// Otherwise it is unfinished.
	Drained bool
	// FaultFree: nothing was killed, stopped or cut, so any duplicate is a failure.
	FaultFree bool
	// AllowUnexplained: the broker may deliver twice for no reason that a journal shows.
	AllowUnexplained bool
	// SettleUnconfirmed: settle_ok means sent, not confirmed, so an acked message may come back.
	SettleUnconfirmed bool
	// DeathFrees: the broker gives the messages of a dead process away at once, so its leases end with it.
	DeathFrees bool
	// Fencing: every delivery has a token, greater than those of the message's earlier deliveries.
	Fencing bool
	// KeyOrder: messages with Key start in the order in which their producer published them, each after the one ahead
	// of it was acked or dead-lettered, and never two at once. A producer whose order counts publishes the messages of a
	// key one after the other.
	KeyOrder bool
	// IgnoresContext: no handler of the run honours its context, so no overrun is fatal.
	IgnoresContext bool
	// Tolerance is how long a handler may run on after its lease, while its process is not stopped. 0: 250 ms.
	Tolerance time.Duration
	// MaxDetails is the length of each list in Details. 0: 20.
	MaxDetails int
}

// Verdict is what Check found. Counts of messages count ids.
//
// Of the messages that did arrive, Confirmed + Recovered = Completed + DeadLettered + Lost + Unfinished.
type Verdict struct {
	Valid          bool     `json:"valid"`
	InvalidReasons []string `json:"invalid_reasons"`

	Published      int `json:"published"`       // attempted, whatever came of it
	Confirmed      int `json:"confirmed"`       // at least once
	Recovered      int `json:"recovered"`       // not confirmed, not refused either, and delivered
	Completed      int `json:"completed"`       // acked first, if they were dead-lettered as well
	AckUnconfirmed int `json:"ack_unconfirmed"` // among Completed: ack sent, no answer, and not seen again
	DeadLettered   int `json:"dead_lettered"`
	Lost           int `json:"lost"`       // only of a drained run
	Unfinished     int `json:"unfinished"` // only of a run that was not drained
	Unexpected     int `json:"unexpected"` // delivered though never published, or though the publish was refused

	Overlaps           int        `json:"overlaps"`
	Overruns           int        `json:"overruns"`
	FatalOverruns      int        `json:"fatal_overruns"` // among Overruns
	LateSettles        int        `json:"late_settles"`   // sent after the lease; not fatal by themselves
	Duplicates         Duplicates `json:"duplicates"`
	Retries            int        `json:"retries"`              // further runs after a failure
	Releases           int        `json:"releases"`             // further runs after a release
	Redrives           int        `json:"redrives"`             // further runs after a redrive
	AckedThenDelivered int        `json:"acked_then_delivered"` // deliveries after a confirmed ack
	OrderViolations    int        `json:"order_violations"`
	ExclusionBreaches  int        `json:"exclusion_breaches"`  // two runs of one key at once
	AttemptRegressions int        `json:"attempt_regressions"` // attempt number below an earlier one
	TokenRegressions   int        `json:"token_regressions"`   // token not above the earlier ones

	Redelivered       int  `json:"redelivered"`        // in work when their process was killed or stopped, and run again
	RedeliveryMissing int  `json:"redelivery_missing"` // not run again
	Work              Work `json:"work"`
	Torn              int  `json:"torn"`    // journal lines that a killed process did not finish
	Orphans           int  `json:"orphans"` // events that fit no delivery

	Balanced bool    `json:"balanced"` // the identity above holds
	Details  Details `json:"details"`
}

// Details are the findings behind the counts, each list cut at Options.MaxDetails.
type Details struct {
	Lost         []string     `json:"lost,omitempty"`
	Unfinished   []string     `json:"unfinished,omitempty"`
	Unexpected   []string     `json:"unexpected,omitempty"`
	Overlaps     []Overlap    `json:"overlaps,omitempty"`
	Overruns     []Overrun    `json:"overruns,omitempty"`
	Duplicates   []Duplicate  `json:"duplicates,omitempty"`
	Acked        []Finding    `json:"acked_then_delivered,omitempty"`
	Order        []Finding    `json:"order,omitempty"`
	Exclusion    []Finding    `json:"exclusion,omitempty"`
	Attempts     []Finding    `json:"attempts,omitempty"`
	Tokens       []Finding    `json:"tokens,omitempty"`
	Redeliveries []Redelivery `json:"redeliveries,omitempty"`
	Orphans      []Event      `json:"orphans,omitempty"`
}

// Finding is something wrong with a message at a moment, in words.
type Finding struct {
	Msg  string `json:"msg"`
	Proc string `json:"proc"`
	At   int64  `json:"at"`
	What string `json:"what"`
}

// Check judges a history. The events need not be in order, and are not changed.
func Check(events []Event, o Options) Verdict {
	return Judge(Index(ofQueue(events, o.Queue)), o)
}

func ofQueue(events []Event, queue string) []Event {
	if queue == "" {
		return events
	}
	var own []Event
	for _, e := range events {
		if e.Queue == "" || e.Queue == queue {
			own = append(own, e)
		}
	}
	return own
}

// Judge is Check for a history that is indexed already; Options.Queue has no effect.
func Judge(t *Timeline, o Options) Verdict {
	if o.Tolerance == 0 {
		o.Tolerance = 250 * time.Millisecond
	}
	if o.MaxDetails == 0 {
		o.MaxDetails = 20
	}
	j := judge{t: t, o: o}
	j.v.Torn = t.Torn
	for _, e := range t.Orphans {
		note(&j, &j.v.Orphans, &j.v.Details.Orphans, e)
	}
	j.totals()
	j.overlaps()
	j.overruns()
	j.duplicates()
	j.acked()
	j.attempts()
	if o.Fencing {
		j.tokens()
	}
	if o.KeyOrder {
		j.keys()
	}
	j.redeliveries()
	j.v.Work = t.Work()
	j.conclude()
	return j.v
}

type judge struct {
	t *Timeline
	o Options
	v Verdict
}

// note counts a finding and keeps it if there is room.
func note[T any](j *judge, count *int, list *[]T, v T) {
	*count++
	if len(*list) < j.o.MaxDetails {
		*list = append(*list, v)
	}
}

func (j *judge) conclude() {
	v, o := &j.v, j.o
	v.InvalidReasons = []string{}
	v.Balanced = v.Confirmed+v.Recovered == v.Completed+v.DeadLettered+v.Lost+v.Unfinished
	if !v.Balanced {
		v.InvalidReasons = append(v.InvalidReasons, "the totals do not balance: this is a fault of the checker")
	}
	j.refuse(v.Lost, "lost")
	j.refuse(v.Unexpected, "unexpected")
	j.refuse(v.Overlaps, "leases overlap another of their message")
	j.refuse(v.FatalOverruns, "handlers ran on after their lease")
	j.refuse(v.AckedThenDelivered, "deliveries after a confirmed ack")
	j.refuse(v.OrderViolations, "messages started before one ahead of them in their key was done")
	j.refuse(v.ExclusionBreaches, "handlers ran beside another of their key")
	j.refuse(v.AttemptRegressions, "attempt numbers went back")
	j.refuse(v.TokenRegressions, "fencing tokens did not rise")
	j.refuse(v.Orphans, "events fit no delivery")
	switch {
	case o.FaultFree:
		j.refuse(v.Duplicates.Total, "duplicates without a fault")
		j.refuse(v.Duplicates.FinishedAgain, "messages finished again without a fault")
	case !o.AllowUnexplained:
		j.refuse(v.Duplicates.ByCause[CauseUnexplained], "duplicates unexplained")
	}
	v.Valid = len(v.InvalidReasons) == 0
}

func (j *judge) refuse(n int, what string) {
	if n > 0 {
		j.v.InvalidReasons = append(j.v.InvalidReasons, fmt.Sprintf("%d %s", n, what))
	}
}
