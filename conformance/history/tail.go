package history

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Tailer follows the journals of a directory while they are written. It holds no file open and has no goroutine. It is
// not safe for concurrent use.
type Tailer struct {
	dir   string
	files map[string]*tail
}

type tail struct {
	parser
	offset int64 // of the first line not returned yet
}

// NewTailer follows the journals (*.jsonl) of dir from their beginning, those that appear later included.
func NewTailer(dir string) *Tailer {
	return &Tailer{dir: dir, files: make(map[string]*tail)}
}

// Poll returns the events written since the last call, by time; none is no error. It does not wait, and leaves a line
// that is not finished for the next call. A broken line is an error: the events of all journals before it and of the
// other journals are returned with it, and the next call goes on after it.
func (t *Tailer) Poll() ([]Event, error) {
	paths, err := journals(t.dir)
	if err != nil {
		return nil, err
	}
	var events []Event
	var errs []error
	for _, path := range paths {
		f := t.files[path]
		if f == nil {
			f = &tail{}
			t.files[path] = f
		}
		es, err := f.poll(path)
		events = append(events, es...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Base(path), err))
		}
	}
	byTime(events)
	return events, errors.Join(errs...)
}

func (f *tail) poll(path string) (events []Event, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if info.Size() <= f.offset {
		return nil, nil
	}
	data, err := io.ReadAll(io.NewSectionReader(file, f.offset, info.Size()-f.offset))
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	events, n, err := f.lines(data)
	f.offset += int64(n)
	return events, err
}
