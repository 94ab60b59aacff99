// Package nats is the NATS JetStream backend. It needs nats-server 2.10 or newer, with JetStream; package embedded
// starts one in this process.
//
// # On the server
//
// A queue q is a stream HF_q with work-queue retention, and a stream HF-STATE_q for what returned messages shall
// remember. A lane l of it is the subject hf.q.l.l with a durable pull consumer of its own; the default lane is the
// subject hf.q.l._ . Consumers are made when a lane is first asked for, and stay. "hf" is Config.Prefix. In names every
// byte other than a-z, 0-9 and '-' is written as '=' and two hexadecimal digits, which may take 220 bytes in all.
// An operator may change limits, replicas and placement of the streams; the driver turns on only what it needs.
//
// A plain NATS client can publish to the subject of a lane. Its message is delivered with the ID "HF_q:sequence" and
// its own headers. It can read Holdfast's messages as well: the body is the body, and headers that NATS cannot carry
// as they are (line ends, outer spaces, other than printable ASCII, odd names) are together in one header Hf-Packed.
//
// # Leases
//
// The term of a lease belongs to the lane: it is the longest that any consumer of the queue has asked for so far, and
// Lease.Until says what was given. It is counted from the send of the request that obtained or extended the lease, and
// an extension counts only if its confirmation is here before the old lease ends.
//
// The server takes a settlement for a message's present holder, whoever sends it. So after the end of a lease nothing
// is sent for it, and Ack, Nack and Extend fail with LeaseLost. One hole is left that no client can close: a Nack that
// the network holds back until its lease has ended ends the next holder's lease.
//
// A server that is killed forgets the leases of its last moments, and after any restart counts in whole seconds. While
// the connection is broken leases are therefore taken for shorter, and young ones for ended; they are restored if the
// same server process answers again. A message that was given back without a delay just before a restart comes back
// when its lease would have ended.
//
// # Counting and state
//
// Delivery.DeliveryCount is the server's count less the deliveries that no caller has seen, because a cancelled
// Receive gave them back. It rises with every delivery, except that a killed server does not know the deliveries of its
// last moments and gives their numbers again.
//
// # Receiving
//
// Receive leases what it returns and no more. A single lane is waited for at the server. For several the driver asks
// those that may hold something, in order of preference or, for any lane, in turn; it then waits for the server's
// hints, with a sweep every 250 ms for up to eight lanes and every second for more, because a redelivery gives no
// hint. A wait at the server cannot be called back, so that Close may take a second.
//
// # Limits
//
// Capabilities.MaxBytes is the server's max_payload less room for headers, of which a message can have 64 KiB. Delayed
// messages need nats-server 2.12: the server keeps them in the stream under a subject of their own and moves them to
// their lane within about a quarter of a second after their time; their delay is counted on the server's clock.
// Gauge counts them, and those returned with a delay, as in flight. Deduplication reaches back two minutes.
//
// # Durability
//
// A message is confirmed when the server has it: on the disk of a majority of Replicas, as far as the servers sync
// their disks. NATS does so every two minutes unless told otherwise (sync_interval, sync: always): the death of a
// server process loses nothing, that of the machine of a single server may.
package nats
