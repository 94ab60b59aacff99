// Package memory is a broker inside the process: the reference model of the driver contract.
//
// It does no I/O and keeps nothing: when the process ends, its messages are gone. It is meant for two things. An
// application tests its handlers with it, in real time or inside testing/synctest, where a lease of thirty seconds runs
// out in no time at all. And the other backends are held against it, because it does what the contract
// says, and the tests of this package compare it with a model that is simpler still.
//
// # Shape
//
// A [Broker] is the shared state and a [Backend] is one connection to it. Workers that shall be able to die apart get a
// connection each:
//
//	broker := memory.New(memory.Config{})
//	first, second := broker.Open(), broker.Open()
//	first.Kill() // as SIGKILL would: its leases run out, then second gets the messages
//
// [Open] is the short form for a broker with a single connection.
//
// # Faults
//
// [Backend.Kill] drops one connection, [Broker.Outage] makes the broker unreachable for all. Neither loses a message,
// and leases go on running out by the clock in both cases.
//
// # Weaker brokers
//
// The zero [Config] is the full model. Its fields take single abilities away, each as some real broker lacks it, so
// that what package queue does about the lack can be tested without that broker.
//
// # Order
//
// Messages of a lane are delivered in the order in which they were published. A message that comes back, by Nack, by an
// expired lease or by Close, takes the place it had before. A delayed message does not hold up those behind it, except
// those of its key under [Config.KeyOrder].
//
// # Time
//
// The clock is time.Now and its monotonic reading. A lease ends, and a delay is over, at the very moment named; there is
// no goroutine that waits for it: whoever calls next, or waits in Receive, makes it so.
package memory
