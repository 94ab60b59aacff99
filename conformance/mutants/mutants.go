// Package mutants gives the conformance suite its teeth: a list of ways to break the code, each of which the rule named
// for it, or a test of the backend where no rule can, must catch while the unbroken code passes. A mutant changes a copy of a source file and is built with the go
// command's -overlay, so production code knows nothing of it. An edit that no longer matches its file fails the test:
// the list is kept up to date.
package mutants

// Mutant is one way to break the code.
type Mutant struct {
	Name    string
	Rule    string // the id of the rule that must catch it
	Test    string // or the test of the backend that must
	Backend string // the package below backends that is run
	Mode    string // of the conformance test, where the backend has several: the name of the subtest
	Edits   []Edit
}

// Edit replaces text that occurs exactly once in a file.
type Edit struct{ File, Old, New string }

// All is the list.
var All = []Mutant{
	{
		Name: "ack before run", Rule: "C01", Backend: "nats",
		Edits: []Edit{{
			"queue/run.go", "	call(r.cfg.Hooks.Started, d)\n",
			"	_ = r.c.in.Ack(context.Background(), []*driver.Delivery{d.in})\n	call(r.cfg.Hooks.Started, d)\n",
		}},
	},
	{
		Name: "no extension", Rule: "L01", Backend: "memory",
		Edits: []Edit{{"queue/lease.go", "if !k.c.caps.Extend {", "if k.c.caps.Extend {"}},
	},
	{
		Name: "verdict after a lost lease goes through", Rule: "L03", Backend: "nats",
		Edits: []Edit{
			{"queue/delivery.go", "	if state == open {\n		d.state = settling", "	if state == lost {\n		state = open\n	}\n	if state == open {\n		d.state, d.lapse = settling, nil"},
			{"queue/delivery.go", "; !now.Before(until) {", "; until.IsZero() {"},
			{"queue/lease.go", "	if idle {\n		k.drop(d)", "	if idle {"},
		},
	},
	{
		Name: "release burns an attempt", Rule: "P08", Backend: "memory",
		Edits: []Edit{{"queue/plan.go", "		rec.Releases++\n", "		rec.Releases++\n		rec.Attempts++\n"}},
	},
	{
		Name: "dead letter after ack", Rule: "P02", Backend: "memory",
		Edits: []Edit{{
			"queue/settle.go", "	s.store(ctx, s.c.cfg.DeadLetters, dead)\n",
			"	for _, o := range dead {\n		_ = s.c.in.Ack(ctx, []*driver.Delivery{o.d.in})\n	}\n	s.store(ctx, s.c.cfg.DeadLetters, dead)\n",
		}},
	},
	{
		Name: "double settle", Rule: "D07", Backend: "memory",
		Edits: []Edit{{"queue/delivery.go", "	default:\n		done(d.c.wrap(r.verdict.String(), d.ID, ErrAlreadySettled))", "	default:\n		d.c.settler.submit(d, r, done)"}},
	},
	{
		Name: "hoard one", Rule: "S04", Backend: "memory",
		Edits: []Edit{
			{"queue/slots.go", "	return max(s.limits.Concurrency-len(s.running), 0)", "	return max(s.limits.Concurrency-len(s.running), 1)"},
		},
	},
	{
		Name: "wrong deadline base", Rule: "L14", Backend: "nats",
		Edits: []Edit{{"backends/nats/settle.go", "} else if !r.extend(sent, o.at) {", "} else if !r.extend(sent.Add(o.at.Sub(sent)), o.at) {"}},
	},
	{
		Name: "copy reuses the deduplication id", Rule: "P09", Backend: "memory",
		Edits: []Edit{{"queue/envelope.go", `	return e.id + "/" + strconv.FormatInt(born.UnixMicro(), 36) + "/" + strconv.Itoa(e.generation)`, "	return e.id"}},
	},
	{
		Name: "stale tag acked after a reconnect", Test: "TestBreakEndsLeases", Backend: "rabbit",
		Edits: []Edit{
			{"backends/rabbit/slot.go", "	case r.phase == gone:\n", "	case r.phase == gone && r.k == nil:\n"},
			{"backends/rabbit/slot.go", "	if tag != \"\" && !keep {\n		// As", "	if tag != \"\" && !keep && !k.ch.IsClosed() {\n		// As"},
			{
				"backends/rabbit/slot.go", "	if closed {\n		return lost(errCancelled)\n	}\n",
				"	ch := k.ch\n	for other := range k.c.slots {\n		if closed && other.held != nil {\n			ch = other.ch\n		}\n	}\n",
			},
			{"backends/rabbit/slot.go", "err = k.ch.Ack(", "err = ch.Ack("},
			{"backends/rabbit/slot.go", "k.ch.Qos(", "ch.Qos("},
		},
	},
	{
		Name: "the client library recovers", Test: "TestClosedChannelStaysClosed", Backend: "rabbit",
		Edits: []Edit{{
			"backends/rabbit/link.go", "Properties: properties,\n",
			"Properties: properties, Recovery: &amqp.Recovery{ReconnectionConfig: &amqp.ReconnectionConfig{MaxRetryCount: 3, RetryInterval: 100 * time.Millisecond}},\n",
		}},
	},
	{
		Name: "prefetch 10", Rule: "S04", Backend: "rabbit", Mode: "rabbit-quorum",
		Edits: []Edit{
			{"backends/rabbit/slot.go", "	return ch.Qos(1,", "	return ch.Qos(10,"},
			{"backends/rabbit/slot.go", "k.ch.Qos(1,", "k.ch.Qos(10,"},
		},
	},
	{
		Name: "delays as TTLs in one queue", Rule: "P03", Backend: "rabbit", Mode: "rabbit-quorum",
		Edits: []Edit{
			{"backends/rabbit/names.go", "strconv.FormatInt(class.Milliseconds(), 10)", "strconv.FormatInt(0*class.Milliseconds(), 10)"},
			{"backends/rabbit/topology.go", "		\"x-message-ttl\":          class.Milliseconds(),\n", ""},
			{"backends/rabbit/topology.go", "(class + 2*delayFresh)", "(2 * delayFresh)"},
			{
				"backends/rabbit/producer.go", "			c.class = delayClass(m.Delay)\n",
				"			c.class = delayClass(m.Delay)\n			c.pub.Expiration = strconv.FormatInt(c.class.Milliseconds(), 10)\n",
			},
		},
	},
	{
		Name: "unroutable publish accepted", Rule: "N10", Backend: "rabbit", Mode: "rabbit-quorum",
		Edits: []Edit{{"backends/rabbit/producer.go", "c.key, true, false, c.pub)", "c.key, false, false, c.pub)"}},
	},
	{
		Name: "refusal taken for a confirmation", Test: "TestFullQueue", Backend: "rabbit",
		Edits: []Edit{{"backends/rabbit/producer.go", "		return &driver.Error{Kind: driver.Throttled, Err: errNacked}\n", "		return nil\n"}},
	},
}
