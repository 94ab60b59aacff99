package workload

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const swfHead = "; Version: 2.2\n; Computer: Abacus\n; Installation: Counting House\n;\n\n"

func swfLine(n int, submit, run string, user int) string {
	return fmt.Sprintf("%5d %s -1 %s 4 -1 -1 -1 -1 -1 -1 %d 1 -1 -1 -1 -1 -1\n", n, submit, run, user)
}

// swf is a trace of n jobs, one every ten seconds from second 100 on, with run times of 0, 1, 2, ... 9 s.
func swf(n int) string {
	var b strings.Builder
	b.WriteString(swfHead)
	for i := range n {
		b.WriteString(swfLine(i+1, fmt.Sprint(100+10*i), fmt.Sprint(i%10), i%3))
	}
	return b.String()
}

func zipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func TestReadSWF(t *testing.T) {
	plain, err := ReadSWF(strings.NewReader(swf(20)), "t.swf", SWFOptions{})
	require.NoError(t, err)
	require.Len(t, plain.Jobs, 20)
	require.Equal(t, "Abacus, Counting House", plain.Label)
	require.Len(t, plain.Header, 4)
	require.Equal(t, TraceJob{Line: 6, User: "user-0"}, plain.Jobs[0], "zero run times are kept")
	require.Equal(t, TraceJob{Line: 17, Submit: 110 * time.Second, Run: time.Second, User: "user-2"}, plain.Jobs[11])
	require.Equal(t, 190*time.Second, plain.Span())
	require.InDelta(t, 90.0/(2*190), plain.Utilisation(2), 1e-9)

	packed, err := ReadSWF(bytes.NewReader(zipped(t, swf(20))), "t.swf", SWFOptions{})
	require.NoError(t, err)
	require.Equal(t, plain, packed)

	some, err := ReadSWF(strings.NewReader(swf(20)), "t.swf", SWFOptions{Limit: 10, Cap: 6 * time.Second})
	require.NoError(t, err)
	require.Len(t, some.Jobs, 10)
	require.Equal(t, 3, some.Capped)
	require.Equal(t, 6*time.Second, some.Jobs[9].Run)
}

func TestSWFIsSortedBySubmission(t *testing.T) {
	text := swfLine(1, "50", "1", -1) + swfLine(2, "20", "2", 7)
	tr, err := ReadSWF(strings.NewReader(text), "t.swf", SWFOptions{})
	require.NoError(t, err)
	require.Equal(t, []TraceJob{
		{Line: 2, Run: 2 * time.Second, User: "user-7"},
		{Line: 1, Submit: 30 * time.Second, Run: time.Second, User: "user-unknown"},
	}, tr.Jobs)
}

func TestSWFFaults(t *testing.T) {
	good := swfLine(1, "0", "5", 1)
	whole := zipped(t, swf(5000))
	for _, c := range []struct {
		name, text string
		line       int
		problem    string
	}{
		{"empty", "", 0, "no jobs"},
		{"header only", swfHead, 0, "no jobs"},
		{"unknown run time", swfHead + good + swfLine(2, "1", "-1", 1), 7, `field 4 (run time) is "-1", which is negative`},
		{"text in a number", good + swfLine(2, "soon", "1", 1), 2, `field 2 (submit time) is "soon"`},
		{"not a number", good + swfLine(2, "1", "NaN", 1), 2, "field 4 (run time)"},
		{"negative submission", swfLine(2, "-1", "1", 1), 1, "field 2 (submit time)"},
		{"endless", swfLine(2, "1", "1e12", 1), 1, "longer than a year"},
		{"odd user", strings.Replace(good, "-1 1 1", "-1 1.5 1", 1), 1, "field 12 (user)"},
		{"short line", good + "2 1 -1 5 4\n", 2, "5 fields"},
		{"long line", strings.TrimSpace(good) + " 7\n", 1, "19 fields"},
		{"very long line", good + strings.Repeat("1", 1<<20), 2, "too long"},
		{"far apart", good + swfLine(2, "9e9", "5", 1), 2, "century"},
		{"truncated gzip", string(whole[:len(whole)/2]), -1, "unexpected EOF"},
		{"gzip without trailer", string(whole[:len(whole)-4]), -1, "unexpected EOF"},
		{"gzip header only", string(whole[:5]), 0, "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadSWF(strings.NewReader(c.text), "t.swf", SWFOptions{})
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "t.swf", e.File)
			if c.line >= 0 {
				require.Equal(t, c.line, e.Line)
			} else {
				require.Positive(t, e.Line)
			}
			require.ErrorContains(t, err, c.problem)
			require.NotEmpty(t, e.Hint)
		})
	}
	_, err := ReadSWF(strings.NewReader(good), "t.swf", SWFOptions{Limit: -1})
	require.ErrorContains(t, err, "negative")
}

func readTrace(t testing.TB, text string) *Trace {
	t.Helper()
	tr, err := ReadSWF(strings.NewReader(text), "/some/where/Abacus-1842_v2.swf.gz", SWFOptions{})
	require.NoError(t, err)
	return tr
}

func TestTraceBecomesAWorkload(t *testing.T) {
	w, err := readTrace(t, swf(30)).Workload(TraceOptions{Options: Options{Scale: 0.1}, BodyBytes: 64})
	require.NoError(t, err)
	require.Equal(t, "abacus-1842-v2", w.Name)
	require.Equal(t, Open, w.Model)
	require.Equal(t, Job{
		ID: "abacus-1842-v2-1-000012", Seq: 12, Tenant: "user-0", At: 12 * time.Second, Run: 200 * time.Millisecond, BodyBytes: 64,
	}, w.Messages[12])
	require.Equal(t, 3, w.Summary().Instant)

	tiny, err := readTrace(t, swf(30)).Workload(TraceOptions{Options: Options{Scale: 0.0003}})
	require.NoError(t, err)
	require.Equal(t, 9, tiny.Summary().Short, "run times of 1, 2 and 3 s are below 1 ms")
}

func TestLoadMovesArrivalsAndNotRunTimes(t *testing.T) {
	tr := readTrace(t, swf(1000))
	for _, load := range []float64{0.2, 0.9, 1.5} {
		w, err := tr.Workload(TraceOptions{Options: Options{Scale: 0.01, Slots: 4}, Load: load})
		require.NoError(t, err)
		s := w.Summary()
		require.Equal(t, 45*time.Second, s.Work)
		require.InEpsilon(t, load, s.Work.Seconds()/(4*s.Span.Seconds()), 0.001)
		require.Equal(t, load, w.Load)
	}
	for _, o := range []TraceOptions{
		{Options: Options{Scale: 1}, Load: 0.9},
		{Options: Options{Scale: 1, Slots: 4}, Load: -1},
		{Options: Options{Scale: 1, Slots: 4}, Load: 1e-9},
	} {
		_, err := tr.Workload(o)
		require.ErrorContains(t, err, "load")
	}
	_, err := readTrace(t, swfLine(1, "5", "5", 1)).Workload(TraceOptions{Options: Options{Scale: 1, Slots: 1}, Load: 1})
	require.ErrorContains(t, err, "arrive at once")
}

func TestTraceScaleComesFromATarget(t *testing.T) {
	tr := readTrace(t, swf(1000))
	w, err := tr.Workload(TraceOptions{Options: Options{Slots: 4}})
	require.NoError(t, err)
	// The last job of 9 s is submitted at 9990 s.
	require.InEpsilon(t, 210.0/9999, w.Scale, 0.001)
	w, err = tr.Workload(TraceOptions{Options: Options{Slots: 4, Target: 30 * time.Second}, Load: 50})
	require.NoError(t, err)
	require.InEpsilon(t, 30*4, w.Summary().Work.Seconds(), 0.01, "overloaded, the work decides")
	_, err = tr.Workload(TraceOptions{})
	require.ErrorContains(t, err, "number of slots")
}

func TestTraceWithFailures(t *testing.T) {
	o := TraceOptions{Options: Options{Scale: 0.1, Seed: 4}, Failures: Failures{Transient: 0.1}, Retry: Retry{Base: 10 * time.Second}}
	w, err := readTrace(t, swf(100)).Workload(o)
	require.NoError(t, err)
	require.Equal(t, 10, w.Summary().Transient)
	require.Equal(t, time.Second, w.Retry.Base)
	o.Failures.Poison = 2
	_, err = readTrace(t, swf(100)).Workload(o)
	require.ErrorContains(t, err, "add up to 1")
}

func FuzzReadSWF(f *testing.F) {
	f.Add([]byte(swf(20)))
	f.Add(zipped(f, swf(20)))
	f.Add([]byte(swfHead + swfLine(1, "1e3", "0.5", -1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := ReadSWF(bytes.NewReader(data), "t.swf", SWFOptions{Limit: 1000})
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			return
		}
		w, err := tr.Workload(TraceOptions{Options: Options{Slots: 3}, Load: 0.8})
		if err != nil {
			return
		}
		for _, j := range w.Messages {
			require.GreaterOrEqual(t, j.At, time.Duration(0))
			require.GreaterOrEqual(t, j.Run, time.Duration(0))
		}
	})
}
