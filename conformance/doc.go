// Package conformance is the public suite that any backend can run: a table of rules, each with the sentence of the
// contract that it checks, on real brokers, with workers that are real processes and are really killed.
//
// A backend's test package makes itself able to be a worker, and runs the table:
//
//	func TestMain(m *testing.M) {
//		conformance.Main(open) // does not return in a worker process
//		os.Exit(m.Run())
//	}
//
//	func TestConformance(t *testing.T) {
//		conformance.Test(t, conformance.Harness{Name: "mine", Start: start, Open: open})
//	}
//
// A rule ends as PASS, FAIL, EMULATED or UNSUPPORTED. What a backend may decline is declared with a reason and a source
// in a file (Harness.Expected); a denial that is not declared there is a FAIL. There are no retries: a rule that fails
// once in a while has found something, and its journals are kept.
//
// Rules know nothing of package testing: Rules is a table of functions over an Env, and Test is one of the ways to run
// it. A backend without I/O runs the same rules in virtual time (Harness.Virtual); there a worker is a goroutine on a
// connection of its own, and killing it drops the connection.
package conformance
