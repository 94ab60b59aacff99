package nats

import "sync/atomic"

// callKind is what a request is for, in Backend.Calls.
type callKind int

const (
	callPublish callKind = iota
	callPull
	callAck
	callNak
	callExtend
	callState // state of returned messages: written, read or removed
	callInfo  // what a stream or consumer holds
	callAdmin // creates, updates, deletes, purges
	callPeek
	callKinds
)

var callNames = [callKinds]string{"publish", "pull", "ack", "nak", "extend", "state", "info", "admin", "peek"}

type meter struct{ counts [callKinds]atomic.Int64 }

func (m *meter) add(kind callKind, n int) { m.counts[kind].Add(int64(n)) }

// Calls implements driver.Meter: requests sent, by kind.
func (b *Backend) Calls() map[string]int64 {
	calls := make(map[string]int64, callKinds)
	for kind, name := range callNames {
		calls[name] = b.meter.counts[kind].Load()
	}
	return calls
}
