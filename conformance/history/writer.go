package history

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// seal ends a line that its process did not finish. The control character makes it a torn line for Read, where it would
// otherwise be a broken one in the middle of a journal.
const (
	sealMark = '\x18'
	seal     = "\x18\n"
)

// Writer appends events to a journal. It is safe for concurrent use.
type Writer struct {
	proc string
	now  func() int64

	mu   sync.Mutex
	out  io.Writer
	buf  []byte
	torn bool // the last line was written in part
}

// Open opens the journal at path for the process named proc, and creates it if there is none. Events are appended. A
// torn last line, which a killed predecessor left, stays and is marked as such.
func Open(path, proc string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	w := NewWriter(f, proc, Now)
	if w.torn, err = endsTorn(f); err != nil {
		return nil, errors.Join(fmt.Errorf("history: %w", err), f.Close())
	}
	return w, nil
}

func endsTorn(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// NewWriter writes a journal to out, with one call of out.Write an event, serialized: out must not call the Writer. A
// nil now is Now; a run in virtual time gives its own clock, in nanoseconds from any origin.
func NewWriter(out io.Writer, proc string, now func() int64) *Writer {
	if now == nil {
		now = Now
	}
	return &Writer{proc: proc, now: now, out: out}
}

// Now is the present moment of the Writer's clock.
func (w *Writer) Now() int64 { return w.now() }

// At converts a time to the Writer's clock, as At does to the clock of the machine.
func (w *Writer) At(t time.Time) int64 { return w.now() + int64(time.Until(t)) }

// Write appends e, with the moment of the call if e.T is zero and the Writer's process if e.Proc is empty. When it
// returns nil the event outlives the process, though not the machine.
func (w *Writer) Write(e Event) error {
	if e.T == 0 {
		e.T = w.now()
	}
	if e.Proc == "" {
		e.Proc = w.proc
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = w.buf[:0]
	if w.torn {
		w.buf = append(w.buf, seal...)
	}
	w.buf = appendEvent(w.buf, &e)
	n, err := w.out.Write(w.buf)
	if err != nil {
		w.torn = w.torn || n > 0
		return fmt.Errorf("history: %s of %q not written: %w", e.Kind, e.Msg, err)
	}
	w.torn = false
	return nil
}

// Close closes the journal's file if Open opened it or out has a Close method.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.out.(io.Closer)
	if !ok {
		return nil
	}
	if err := c.Close(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}
