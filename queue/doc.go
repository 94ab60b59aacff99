// Package queue is a work queue over a message broker: producers publish messages, workers lease them, run a handler
// and settle them, and what a dead worker leaves behind runs elsewhere.
//
// # What is promised
//
// In this order: nothing confirmed is lost; nothing acked runs again; while a worker holds a lease nobody else runs
// the message, and when it loses the lease its handler's context ends before the broker can give the message away, and
// its late verdict is refused; an idle worker gets the next message; what a broker cannot do is an error at start.
//
// Delivery is at least once. A process that is paused can always outlive its lease, so a handler that writes somewhere
// should do it conditionally on Delivery.Token, which rises with every delivery of a message where the broker counts
// (Capabilities.Fencing).
//
// # The three types
//
// A Producer publishes. A Worker runs a Handler in a fixed number of slots and settles by what it returns: nil acks, an
// error is a failed attempt that comes back after a backoff, RetryAfter, Release and Reject say something else. A
// Consumer is the pull form under it: Receive, then a verdict on each Delivery.
//
// All three are concrete and stand on a driver.Backend, which an application gets from one of the packages under
// backends.
//
// # Attempts, releases, crashes
//
// An attempt is a handler that ran and failed; at Retry.MaxAttempts the message is dead-lettered. A release (a drain, a
// cap, Release) costs nothing. A crash is a start without an end: at Retry.MaxCrashes the message is dead-lettered, and
// from the third such start it runs alone in its process, so that only the guilty one is counted.
package queue
