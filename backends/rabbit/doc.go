// Package rabbit is the driver for RabbitMQ 4.0 and newer, over AMQP 0-9-1.
//
// # What is on the server
//
// A queue is an AMQP queue of the same name (quorum, unless Config.Type says classic), and a durable direct exchange of
// the same name. Each lane has a queue of its own, bound with the lane as its routing key: so a program without Holdfast
// reaches a tenant's lane by publishing to the exchange with the routing key t<tenant>. Beside them there are, as they
// are needed: a stream that lists the lanes, a fanout exchange for hints, the wills of workers that wait, and a queue for
// each class of delays. Everything of a queue begins with its name and a '~'; see names.go.
//
// # Leases
//
// A lease is a channel with one delivery: prefetch 1. AMQP gives a delivery no clock, so the driver keeps one: a lease
// lasts for the term that was asked for, at most 1.5 heartbeat intervals after a question that the server has answered.
// The server gives up a silent client after two intervals at the earliest. What is not extended in time loses its channel,
// and so goes back while the process lives. Receipts belong to their channel; the client library's own recovery is off,
// because it opens channels anew under receipts that then mean somebody else's message.
//
// Acks are confirmed by a call on the same channel, which the server answers in order.
//
// # What the server does that one should know
//
//   - A single node that is killed within half a second of declaring a quorum queue forgets the queue, and what it has
//     confirmed in it (seen on 4.3.6 and 4.0.5): its register of queues is written late. Declare queues before they matter.
//   - A classic queue flags all its messages as redelivered after a crash of the server, so that each is counted as lost once.
//   - A basic.nack counts as a delivery on 4.0 and on classic queues, and on quorum queues since 4.3 it does not. What the
//     driver gives back by itself goes back as a copy where it would count (giveback.go).
//   - The consumer timeout (30 minutes by default) is lifted for each consumer on quorum queues since 4.3. Before it, and on
//     4.0's classic queues, it is the server's: Capabilities.MaxTerm says what it leaves, and Config.ConsumerTimeout what it is.
//   - basic.get is not used: its deliveries are subject to that timeout whatever a consumer argument says.
//   - The client library cannot send priority 0, which the server takes for 4: on quorum queues Holdfast's priority 0 is 4,
//     and 27 is the highest.
//   - A message that is given back on a quorum queue since 4.3 comes before all others, whatever their priority.
package rabbit
