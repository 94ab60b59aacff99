package history

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWriterFillsInTimeAndProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w1.jsonl")
	w, err := Open(path, "w1")
	require.NoError(t, err)
	before := Now()
	require.NoError(t, w.Write(Event{Kind: Deliver, Msg: "a"}))
	require.NoError(t, w.Write(Event{Kind: Kill, Proc: "w2", T: 7}))
	after := Now()
	require.NoError(t, w.Close())

	events, err := Read(open(t, path))
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, "w1", events[0].Proc)
	require.GreaterOrEqual(t, events[0].T, before)
	require.LessOrEqual(t, events[0].T, after)
	require.Equal(t, Event{Kind: Kill, Proc: "w2", T: 7}, events[1])
	require.Error(t, w.Write(Event{Kind: End}), "written after Close")
}

func TestAtKeepsTheDistanceToNow(t *testing.T) {
	in := At(time.Now().Add(time.Hour)) - Now()
	require.InDelta(t, float64(time.Hour), float64(in), float64(time.Second))
}

func TestWriterInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var out bytes.Buffer
		w := NewWriter(&out, "w1", func() int64 { return 1 + int64(time.Since(start)) })
		time.Sleep(time.Minute)
		require.NoError(t, w.Write(Event{Kind: Deliver, Msg: "a", Until: w.At(time.Now().Add(30 * time.Second))}))
		require.NoError(t, w.Close())
		events, err := Read(&out)
		require.NoError(t, err)
		require.Equal(t, 1+int64(time.Minute), events[0].T)
		require.Equal(t, 1+int64(90*time.Second), events[0].Until)
	})
}

func TestWriterIsSafeForConcurrentUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w1.jsonl")
	w, err := Open(path, "w1")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				if err := w.Write(Event{Kind: Start, Msg: strconv.Itoa(g), N: i + 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, w.Close())
	events, err := ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, events, 800)
	next := make(map[string]int)
	for _, e := range events {
		next[e.Msg]++
		require.Equal(t, next[e.Msg], e.N, "events of one goroutine are in order")
	}
}

// halfWriter writes only a part of its second write.
type halfWriter struct {
	bytes.Buffer
	calls int
}

func (h *halfWriter) Write(b []byte) (int, error) {
	if h.calls++; h.calls == 2 {
		n, _ := h.Buffer.Write(b[:len(b)/2])
		return n, io.ErrShortWrite
	}
	return h.Buffer.Write(b)
}

func TestWriteAfterAFailedOne(t *testing.T) {
	var out halfWriter
	w := NewWriter(&out, "w1", nil)
	require.NoError(t, w.Write(Event{Kind: Start, Msg: "a"}))
	require.ErrorIs(t, w.Write(Event{Kind: Start, Msg: "b"}), io.ErrShortWrite)
	require.NoError(t, w.Write(Event{Kind: Start, Msg: "c"}))
	events, err := Read(&out.Buffer)
	require.NoError(t, err)
	require.Equal(t, []string{"start a", "torn ", "start c"}, names(events))
}

func TestReadTornLastLine(t *testing.T) {
	whole := "{\"t\":1,\"k\":\"start\",\"m\":\"a\"}\n"
	for name, c := range map[string]struct {
		journal string
		want    []string
	}{
		"torn":             {whole + `{"t":2,"k":"en`, []string{"start a", "torn "}},
		"only the end":     {whole + `{"t":2,"k":"end","m":"a"}`, []string{"start a", "end a"}},
		"torn and sealed":  {`{"t":1,"k":"st` + seal + whole, []string{"torn ", "start a"}},
		"nothing but torn": {`{`, []string{"torn "}},
		"empty":            {``, nil},
	} {
		t.Run(name, func(t *testing.T) {
			events, err := Read(strings.NewReader(c.journal))
			require.NoError(t, err)
			require.Equal(t, c.want, names(events))
		})
	}
}

func TestReadBrokenLine(t *testing.T) {
	whole := "{\"t\":1,\"k\":\"start\"}\n"
	for name, line := range map[string]string{
		"cut":          `{"t":2,"k":"en`,
		"no kind":      `{"t":2}`,
		"null":         `null`,
		"empty":        ``,
		"wrong type":   `{"t":"2","k":"end"}`,
		"two on a row": `{"t":1,"k":"a"}{"t":2,"k":"b"}`,
	} {
		t.Run(name, func(t *testing.T) {
			events, err := Read(strings.NewReader(whole + line + "\n" + whole))
			require.ErrorContains(t, err, "line 2")
			require.Len(t, events, 1)
		})
	}
	_, err := Read(iotestErr{})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

func TestReadDirMergesByTime(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.jsonl", `{"t":1,"k":"x","m":"1"}`+"\n"+`{"t":5,"k":"x","m":"4"}`+"\n")
	put(t, dir, "b.jsonl", `{"t":2,"k":"x","m":"2"}`+"\n"+`{"t":2,"k":"x","m":"3"}`+"\n")
	put(t, dir, "notes.txt", "not a journal")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub.jsonl"), 0o755))
	events, err := ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"x 1", "x 2", "x 3", "x 4"}, names(events))

	put(t, dir, "c.jsonl", "broken\n")
	_, err = ReadDir(dir)
	require.ErrorContains(t, err, "c.jsonl")
	_, err = ReadDir(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTailer(t *testing.T) {
	dir := t.TempDir()
	tail := NewTailer(dir)
	poll := func() []string {
		t.Helper()
		events, err := tail.Poll()
		require.NoError(t, err)
		return names(events)
	}
	require.Empty(t, poll())
	put(t, dir, "a.jsonl", `{"t":3,"k":"x","m":"a1"}`+"\n"+`{"t":4,"k":"x`)
	require.Equal(t, []string{"x a1"}, poll())
	require.Empty(t, poll(), "a line that is not finished waits")
	put(t, dir, "a.jsonl", `","m":"a2"}`+"\n")
	put(t, dir, "b.jsonl", `{"t":1,"k":"x","m":"b1"}`+"\n")
	require.Equal(t, []string{"x b1", "x a2"}, poll())
	put(t, dir, "a.jsonl", `{"t":9,"k`+seal+`{"t":10,"k":"x","m":"a3"}`+"\n")
	require.Equal(t, []string{"torn ", "x a3"}, poll())

	put(t, dir, "a.jsonl", `{"t":11,"k":"x","m":"a4"}`+"\nbroken\n"+`{"t":12,"k":"x","m":"a5"}`+"\n")
	put(t, dir, "b.jsonl", `{"t":2,"k":"x","m":"b2"}`+"\n")
	events, err := tail.Poll()
	require.ErrorContains(t, err, "a.jsonl: history: line 6")
	require.Equal(t, []string{"x b2", "x a4"}, names(events))
	require.Equal(t, []string{"x a5"}, poll(), "goes on after the broken line")

	require.NoError(t, os.RemoveAll(dir))
	_, err = tail.Poll()
	require.ErrorIs(t, err, os.ErrNotExist)
}

// What a process had written when it was killed is there, and its successor can go on in the same journal.
func TestJournalSurvivesSIGKILL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "victim.jsonl")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), journalEnv+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	written := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if written, err = strconv.Atoi(lines.Text()); err != nil {
			break
		}
		if written == 500 {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	require.Error(t, cmd.Wait())
	require.NoError(t, err)
	require.GreaterOrEqual(t, written, 500)

	w, err := Open(path, "successor")
	require.NoError(t, err)
	require.NoError(t, w.Write(Event{Kind: ProcStart}))
	require.NoError(t, w.Close())
	events, err := Read(open(t, path))
	require.NoError(t, err)
	require.Equal(t, ProcStart, events[len(events)-1].Kind)
	require.GreaterOrEqual(t, len(events)-1, written)
	for i, e := range events[:written] {
		require.Equal(t, strconv.Itoa(i+1), e.Msg)
	}
}

func TestOpenSealsATornLine(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.jsonl", `{"t":1,"k":"x","m":"1"}`+"\n"+`{"t":2,"k"`)
	w, err := Open(filepath.Join(dir, "a.jsonl"), "w1")
	require.NoError(t, err)
	require.NoError(t, w.Write(Event{T: 3, Kind: "x", Msg: "2"}))
	require.NoError(t, w.Write(Event{T: 4, Kind: "x", Msg: "3"}))
	require.NoError(t, w.Close())
	events, err := ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"x 1", "torn ", "x 2", "x 3"}, names(events))
	require.Equal(t, 1, Check(events, Options{}).Torn)

	_, err = Open(filepath.Join(dir, "none", "a.jsonl"), "w1")
	require.True(t, errors.Is(err, os.ErrNotExist))
}

func names(events []Event) []string {
	var ns []string
	for _, e := range events {
		ns = append(ns, string(e.Kind)+" "+e.Msg)
	}
	return ns
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// put appends text to a file of dir.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
