package history

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What Read accepts it also reads again after it was written: same events, and no line is torn the second time. And no
// journal, however broken, makes the checker fail.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"t":1,"k":"deliver","p":"w1","m":"a","u":9}` + "\n" + `{"t":2,"k":"st`))
	f.Add([]byte(`{"t":1,"k":"kill","p":"w1"}` + "\n" + `{"t":1,"k":"proc_start","p":"w1"}` + "\n"))
	f.Add([]byte(`{"t":1,"k":"publish_ok","m":"a","delay":9223372036854775807}` + "\n{}\n"))
	f.Add([]byte("\x18\n{\"K\":\"x\"}"))
	f.Fuzz(func(t *testing.T, journal []byte) {
		events, err := Read(bytes.NewReader(journal))
		if err != nil {
			require.ErrorContains(t, err, "line ")
		}
		require.True(t, Check(events, Options{Drained: true, KeyOrder: true, Fencing: true}).Balanced)
		Index(events).Idle(IdleOptions{})
		var again []byte
		for i := range events {
			again = appendEvent(again, &events[i])
		}
		second, err := Read(bytes.NewReader(again))
		require.NoError(t, err)
		require.Equal(t, events, second)
	})
}

// The hand-written encoding is the one that encoding/json makes of the same event.
func FuzzAppendEvent(f *testing.F) {
	f.Add(int64(1), "deliver", "w1", `quo"te\`, "<ü\xff\x00\n>", uint64(1)<<63, true)
	f.Add(int64(-1), "", "", "", "", uint64(0), false)
	f.Fuzz(func(t *testing.T, n int64, kind, proc, msg, err string, token uint64, flag bool) {
		e := Event{
			T: n, Kind: Kind(kind), Proc: proc, Msg: msg, Queue: msg, Tenant: err, Lane: proc, Key: kind,
			Priority: int(n), Due: n, Delay: n, RunMS: n, Delivery: n, Attempt: int(n), Deliveries: int(n),
			Generation: int(n), Token: token, Until: n, Verdict: proc, Definite: flag, Ignores: flag,
			Err: err, Cause: err, Signal: msg, N: int(n),
		}
		line := appendEvent(nil, &e)
		require.Equal(t, 1, bytes.Count(line, []byte("\n")))
		want, jsonErr := json.Marshal(e)
		require.NoError(t, jsonErr)
		if kind == "" { // encoding/json writes an empty kind, a journal has none
			want = []byte(strings.Replace(string(want), `,"k":""`, "", 1))
		}
		require.JSONEq(t, string(want), string(line))
	})
}
