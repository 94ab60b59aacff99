// Package mutants gives the conformance suite its teeth: a list of ways to break the code, each of which the rule named
// for it must catch while the unbroken code passes. A mutant changes a copy of a source file and is built with the go
// command's -overlay, so production code knows nothing of it. An edit that no longer matches its file fails the test:
// the list is kept up to date.
package mutants

// Mutant is one way to break the code.
type Mutant struct {
	Name    string
	Rule    string // the id of the rule that must catch it
	Backend string // the package below backends whose conformance is run
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
}
