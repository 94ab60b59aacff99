// Package history is the journal of a run and the checker that judges it.
//
// Producers, workers and the supervisor of a run append events to journals, each process to a file of its own. An event
// is one line of JSON and one write(2), so what was written before a SIGKILL is there after it, without an fsync. When
// the run is over, ReadDir merges the journals and Check judges the whole history: was anything confirmed lost, did
// something appear that nobody published, did two workers hold one message at once, what ran twice and why.
//
// # Clock
//
// Event.T and every other moment is CLOCK_MONOTONIC in nanoseconds, which all processes of one machine share; histories
// of several machines cannot be merged. Go's own monotonic reading has another origin in each process: Writer.At and At
// convert. A run in virtual time gives NewWriter its own clock. T is read when Write is called, so a sequence of events
// of one goroutine is in order. Never stands for a moment that did not come.
//
// # When events are written
//
// The checker relies on these:
//
//   - publish_invoke before the send; publish_ok or publish_err after its outcome is known. A publish without an
//     outcome is ambiguous: its producer died.
//   - deliver after the message was leased, with Until as it was granted (counted from before the request, so the
//     broker gives the message to nobody else before it); start before the handler's first instruction; end after its
//     last; extend after the broker confirmed, with the new Until; lease_lost when the process notices.
//   - settle_sent before the first byte that can make the message go away or come back, so also before the copy that a
//     retry or a dead letter publishes; settle_ok or settle_err when the answer is known. A settle_err without a
//     settle_sent is a verdict that came too late to be sent. copy and dead are written when the copy is confirmed,
//     which is before the original is acked.
//   - kill, stop and cont, by the supervisor with the worker's name in Proc, before the signal is sent; proc_exit after
//     the process was waited for, and before another one of its name is started.
//
// A process that gets a name used before begins with proc_start: that is what tells it from its predecessor. An event
// about a delivery carries its number (Event.Delivery) if one process may hold two deliveries of a message at once.
//
// # Lease intervals
//
// The lease of a delivery is the half-open interval from deliver to the earliest of settle_sent, lease_lost and Until,
// the latter as moved by the last extend. A settle that certainly did not reach the broker (settle_err with Definite)
// does not end it. Neither does the death of its process: the broker does not know, and keeps the lease until Until;
// for a broker that watches the connection set Options.DeathFrees. A lease without Until ends with its process.
//
// Because settle_sent is written before the send and deliver after the receive, the next delivery of a message given
// back is always written after the end of the lease before it. So two leases of one message (of any generation) that
// share more than an end point are an overlap: two workers could believe at the same moment that they hold it. Only a
// message that was published twice under one id may be held twice.
//
// A handler that runs on after the earlier of lease_lost and Until is an overrun. A stopped process cannot help that,
// nor one whose handler ignores its context, so an overrun is fatal only for the time it was neither, less a tolerance.
package history
