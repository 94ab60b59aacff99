package memory

import "time"

// window remembers deduplication ids for a time.
type window struct {
	length time.Duration // zero: nothing is remembered
	ids    map[string]struct{}
	order  []sighting // the oldest first, and so the first to be forgotten
}

type sighting struct {
	id    string
	until time.Time
}

// seen says whether id was seen within the window, and remembers it from now on if not. A repeated sighting does not
// prolong the first.
func (w *window) seen(id string, now time.Time) bool {
	if id == "" || w.length == 0 {
		return false
	}
	if _, known := w.ids[id]; known {
		return true
	}
	if w.ids == nil {
		w.ids = map[string]struct{}{}
	}
	w.ids[id] = struct{}{}
	w.order = append(w.order, sighting{id, now.Add(w.length)})
	return false
}

func (w *window) forget(now time.Time) {
	n := 0
	for n < len(w.order) && !w.order[n].until.After(now) {
		delete(w.ids, w.order[n].id)
		n++
	}
	if w.order = w.order[n:]; len(w.order) == 0 {
		w.ids, w.order = nil, nil
	}
}
