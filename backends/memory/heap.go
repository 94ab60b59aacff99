package memory

// heap is a binary heap whose items know their place, so that one can be taken out of the middle.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	moved func(item T, at int) // at is -1 when the item left
}

func (h *heap[T]) len() int { return len(h.items) }

// top is the least item. The heap must not be empty.
func (h *heap[T]) top() T { return h.items[0] }

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	h.moved(item, len(h.items)-1)
	h.up(len(h.items) - 1)
}

// remove takes the item at i out.
func (h *heap[T]) remove(i int) T {
	last := len(h.items) - 1
	h.swap(i, last)
	item := h.items[last]
	var none T
	h.items[last] = none
	h.items = h.items[:last]
	if i < last {
		h.fix(i)
	}
	h.moved(item, -1)
	h.shrink()
	return item
}

// fix restores the order after the item at i changed.
func (h *heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

// shrink gives memory back after a large backlog was worked off.
func (h *heap[T]) shrink() {
	if c := cap(h.items); c >= 256 && len(h.items) < c/4 {
		h.items = append(make([]T, 0, c/2), h.items...)
	}
}

func (h *heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap[T]) down(from int) bool {
	i := from
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], h.items[i]) {
			break
		}
		h.swap(i, child)
		i = child
	}
	return i > from
}

func (h *heap[T]) swap(i, j int) {
	if i == j {
		return
	}
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.moved(h.items[i], i)
	h.moved(h.items[j], j)
}
