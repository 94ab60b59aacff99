package rabbit

import "sync/atomic"

// callKind is a kind of request: an AMQP method that the client sends.
type callKind int

const (
	callPublish callKind = iota
	callHint
	callConsume
	callCancel
	callAck
	callNack
	callSync
	callPing
	callDeclare
	callDepth
	callChannel
	callKinds
)

var callNames = [callKinds]string{
	callPublish: "publish", callHint: "hint", callConsume: "consume", callCancel: "cancel", callAck: "ack", callNack: "nack",
	callSync: "sync", callPing: "ping", callDeclare: "declare", callDepth: "depth", callChannel: "channel",
}

// meter counts what was sent.
type meter struct{ counts [callKinds]atomic.Int64 }

func (m *meter) count(k callKind) { m.counts[k].Add(1) }

// Calls implements driver.Meter: AMQP methods by kind. "sync" is the call that confirms an ack, "ping" the one that
// proves that the server hears us, "depth" a look at what a queue holds.
func (b *Backend) Calls() map[string]int64 {
	all := make(map[string]int64, callKinds)
	for k := range callKinds {
		if n := b.meter.counts[k].Load(); n > 0 {
			all[callNames[k]] = n
		}
	}
	return all
}
