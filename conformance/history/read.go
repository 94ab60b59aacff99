package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Read reads a journal. A last line that its process did not finish becomes a Torn event; any other line that is not an
// event is an error that names its number, and the events before it are returned.
func Read(r io.Reader) ([]Event, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var p parser
	events, n, err := p.lines(data)
	if rest := data[n:]; err == nil && len(rest) > 0 {
		events = append(events, p.last(rest))
	}
	return events, err
}

// ReadDir reads all journals of a directory (*.jsonl) and merges them by time. Events of the same moment keep the order
// of their journal; of different journals, that of the file names.
func ReadDir(dir string) ([]Event, error) {
	paths, err := journals(dir)
	if err != nil {
		return nil, err
	}
	var all []Event
	for _, path := range paths {
		events, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		all = append(all, events...)
	}
	byTime(all)
	return all, nil
}

func readFile(path string) (events []Event, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return Read(f)
}

// journals returns the paths of the journals in dir, by name.
func journals(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if e.Type().IsRegular() && filepath.Ext(e.Name()) == ".jsonl" {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// byTime sorts events by their moment and keeps the order of those that share one.
func byTime(events []Event) {
	order := func(a, b Event) int { return cmp.Compare(a.T, b.T) }
	if !slices.IsSortedFunc(events, order) {
		slices.SortStableFunc(events, order)
	}
}

// parser turns the lines of one journal into events.
type parser struct {
	line  int   // lines read so far
	lastT int64 // of the last event
}

// lines decodes the complete lines of data, and returns how many bytes they take. At a line that is no event it stops
// with an error; n is then past that line.
func (p *parser) lines(data []byte) (events []Event, n int, err error) {
	for {
		end := bytes.IndexByte(data[n:], '\n')
		if end < 0 {
			return events, n, nil
		}
		line := data[n : n+end]
		n += end + 1
		p.line++
		if len(line) > 0 && line[len(line)-1] == sealMark {
			events = append(events, Event{T: p.lastT, Kind: Torn})
			continue
		}
		e, err := decode(line)
		if err != nil {
			return events, n, fmt.Errorf("history: line %d: %w", p.line, err)
		}
		p.lastT = e.T
		events = append(events, e)
	}
}

// last decodes a line without its end. If only the end is missing the event did happen.
func (p *parser) last(line []byte) Event {
	p.line++
	e, err := decode(line)
	if err != nil {
		return Event{T: p.lastT, Kind: Torn}
	}
	return e
}

// decode decodes one line. Fields that it does not know are ignored, so that an older checker reads a newer journal.
func decode(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, err
	}
	if e.Kind == "" {
		return Event{}, errors.New("an event without a kind")
	}
	return e, nil
}
