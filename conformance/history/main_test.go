package history

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// journalEnv makes the test binary a process that writes the journal it names until it is killed.
const journalEnv = "HISTORY_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(journalEnv); path != "" {
		writeForever(path)
	}
	goleak.VerifyTestMain(m)
}

func writeForever(path string) {
	w, err := Open(path, "victim")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 1; ; i++ {
		if err := w.Write(Event{Kind: Start, Msg: strconv.Itoa(i), Err: strings.Repeat("x", i%7000)}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(i) // the parent knows that event i was written
	}
}

const ms = int64(time.Millisecond)

// script reads a history, an event a line: milliseconds, process, kind, message, then name=value with the short names of
// the journal; u, due and delay are milliseconds.
func script(t testing.TB, text string) []Event {
	t.Helper()
	var events []Event
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		require.GreaterOrEqual(t, len(words), 3, line)
		at, err := strconv.ParseInt(words[0], 10, 64)
		require.NoError(t, err)
		e := Event{T: at * ms, Proc: words[1], Kind: Kind(words[2])}
		for _, word := range words[3:] {
			name, value, set := strings.Cut(word, "=")
			if !set {
				e.Msg = word
				continue
			}
			setField(t, &e, name, value)
		}
		events = append(events, e)
	}
	return events
}

func setField(t testing.TB, e *Event, name, value string) {
	t.Helper()
	switch name {
	case "v":
		e.Verdict = value
	case "err":
		e.Err = value
	case "cause":
		e.Cause = value
	case "sig":
		e.Signal = value
	case "key":
		e.Key = value
	case "ten":
		e.Tenant = value
	case "q":
		e.Queue = value
	case "def":
		e.Definite = value == "true"
	case "ign":
		e.Ignores = value == "true"
	default:
		setNumber(t, e, name, value)
	}
}

func setNumber(t testing.TB, e *Event, name, value string) {
	t.Helper()
	n, err := strconv.ParseInt(value, 10, 64)
	require.NoError(t, err, name)
	switch name {
	case "u":
		e.Until = n * ms
	case "due":
		e.Due = n * ms
	case "delay":
		e.Delay = n * ms
	case "d":
		e.Delivery = n
	case "a":
		e.Attempt = int(n)
	case "g":
		e.Generation = int(n)
	case "tok":
		e.Token = uint64(n)
	case "n":
		e.N = int(n)
	default:
		require.Fail(t, "unknown field "+name)
	}
}

// publish is a confirmed publish of each message at 1 to 2 ms.
func publish(msgs ...string) string {
	var b strings.Builder
	for _, m := range msgs {
		fmt.Fprintf(&b, "1 p publish_invoke %s\n2 p publish_ok %s\n", m, m)
	}
	return b.String()
}
