package replay

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// ready holds the eligible messages by rank, which is their place in the order of publication.
type ready struct {
	levels []*level // the highest priority first
	laneOf []*lane  // by rank
	size   int
}

// level is the messages of one priority.
type level struct {
	priority int
	waiting  laneHeap // lanes that have a message
	clock    float64  // the tag of the lane that was last served
}

// lane is the messages of one tenant, or of all where tenants do not take turns.
type lane struct {
	level  *level
	weight float64
	index  int // in level.waiting; -1: not there
	// tag is the slot time that the tenant was charged, in seconds by weight, but when it comes back after it had nothing
	// to do, no less than that of the tenant served last: who was away saves nothing up (start-time fair queueing).
	tag float64
	// Messages arrive in order of rank, so that they need no heap; only those that come back do.
	fresh    []int32
	returned ranks
}

// newReady makes the lanes for jobs, which are given in order of publication.
func newReady(in *Input, order []int32) *ready {
	type name struct {
		priority int
		tenant   string
	}
	r := &ready{laneOf: make([]*lane, len(order))}
	lanes, levels := make(map[name]*lane), make(map[int]*level)
	for rank, j := range order {
		var n name
		if in.Lanes.ByPriority() {
			n.priority = in.Jobs[j].Priority
		}
		if in.Lanes.ByTenant() {
			n.tenant = in.Jobs[j].Tenant
		}
		l := lanes[n]
		if l == nil {
			lv := levels[n.priority]
			if lv == nil {
				lv = &level{priority: n.priority}
				levels[n.priority] = lv
				r.levels = append(r.levels, lv)
			}
			l = &lane{level: lv, weight: 1, index: -1}
			if w := in.Weights[n.tenant]; w > 0 && in.Lanes.ByTenant() {
				l.weight = w
			}
			lanes[n] = l
		}
		r.laneOf[rank] = l
	}
	slices.SortFunc(r.levels, func(a, b *level) int { return cmp.Compare(b.priority, a.priority) })
	return r
}

// arrive adds a message for the first time. Calls come in order of rank.
func (r *ready) arrive(rank int32) {
	l := r.laneOf[rank]
	l.fresh = append(l.fresh, rank)
	r.added(l)
}

// giveBack adds a message that was here before.
func (r *ready) giveBack(rank int32) {
	l := r.laneOf[rank]
	heap.Push(&l.returned, rank)
	r.added(l)
}

func (r *ready) added(l *lane) {
	r.size++
	if l.index >= 0 {
		heap.Fix(&l.level.waiting, l.index)
		return
	}
	l.tag = max(l.tag, l.level.clock)
	heap.Push(&l.level.waiting, l)
}

// take removes the message that is to start next; there must be one. Its lane is charged with the time that its start
// will take by cost.
func (r *ready) take(cost func(rank int32) time.Duration) int32 {
	r.size--
	for _, lv := range r.levels {
		if len(lv.waiting) == 0 {
			continue
		}
		l := lv.waiting[0]
		rank := l.pop()
		lv.clock = l.tag
		l.tag += cost(rank).Seconds() / l.weight
		if l.empty() {
			heap.Pop(&lv.waiting)
		} else {
			heap.Fix(&lv.waiting, 0)
		}
		return rank
	}
	panic("replay: take from an empty queue")
}

func (l *lane) empty() bool { return len(l.fresh) == 0 && len(l.returned) == 0 }

// head returns the first message of a lane that is not empty.
func (l *lane) head() int32 {
	if len(l.returned) > 0 && (len(l.fresh) == 0 || l.returned[0] < l.fresh[0]) {
		return l.returned[0]
	}
	return l.fresh[0]
}

func (l *lane) pop() int32 {
	first := l.head()
	if len(l.returned) > 0 && l.returned[0] == first {
		heap.Pop(&l.returned)
	} else {
		l.fresh = l.fresh[1:]
	}
	return first
}

// laneHeap has the lane first whose tenant has used the least, then the one whose message was published first.
type laneHeap []*lane

func (h laneHeap) Len() int { return len(h) }
func (h laneHeap) Less(i, k int) bool {
	if h[i].tag != h[k].tag {
		return h[i].tag < h[k].tag
	}
	return h[i].head() < h[k].head()
}
func (h laneHeap) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i, k
}
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h)
	*h = append(*h, l)
}
func (h *laneHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	last.index = -1
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

// ranks is a heap with the lowest first.
type ranks []int32

func (h ranks) Len() int           { return len(h) }
func (h ranks) Less(i, k int) bool { return h[i] < h[k] }
func (h ranks) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *ranks) Push(x any)        { *h = append(*h, x.(int32)) }
func (h *ranks) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
