package queue

import (
	"math"
	"slices"
	"sync"
	"time"
)

// slots counts what runs. A slot is free before a message is asked for, so that a worker never leases what it cannot
// start.
type slots struct {
	changed chan struct{} // capacity 1: something became free, or limits changed

	mu       sync.Mutex
	limits   Limits
	paused   bool
	running  map[*Delivery]*job
	byKey    map[string]int
	byTenant map[string]int
	suspects []suspect // leased, to run alone when nothing else does
	alone    bool      // a suspect is running
}

// aloneWait is how long a suspect waits at most for the worker to be empty: longer, and it had better wait in the queue,
// where an idle worker finds it.
const aloneWait = 30 * time.Second

// suspect is a delivery that waits until it can run alone.
type suspect struct {
	d     *Delivery
	since time.Time
}

// job is a running handler.
type job struct {
	d       *Delivery
	began   time.Time
	charge  *charge   // nil without lanes
	ended   time.Time // when its context ended; zero while it lasts
	stuck   bool      // reported
	timeout bool      // its context ended by WorkerConfig.Timeout
}

func newSlots(l Limits) *slots {
	return &slots{
		changed: make(chan struct{}, 1), limits: l,
		running: map[*Delivery]*job{}, byKey: map[string]int{}, byTenant: map[string]int{},
	}
}

func (s *slots) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// free is how many messages may be asked for now.
func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused || s.alone || len(s.suspects) > 0 {
		return 0
	}
	return max(s.limits.Concurrency-len(s.running), 0)
}

// rooms is tenantRoom, or nil if no tenant has a bound.
func (s *slots) rooms() func(tenant string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits.PerTenant == 0 && len(s.limits.Tenants) == 0 {
		return nil
	}
	return s.tenantRoom
}

// tenantRoom is how many more messages of a tenant may start.
func (s *slots) tenantRoom(tenant string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bound := s.limits.ofTenant(tenant); bound > 0 {
		return max(bound-s.byTenant[tenant], 0)
	}
	return math.MaxInt
}

// placing is what became of a delivery that came for a slot.
type placing int

const (
	placed  placing = iota
	parked          // it has to wait until it can run alone
	noSlot          // there is none any more: the worker was paused, or its limits lowered, while it was received
	atBound         // its key or tenant is at its bound, or it would have to run beside a suspect
)

// take puts d into a slot and returns its job, if it is placed. A suspect that waited beside another one would be
// counted as its victim, so the second one is at a bound.
func (s *slots) take(d *Delivery) (*job, placing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused || len(s.running) >= s.limits.Concurrency {
		return nil, noSlot
	}
	key, tenant := s.limits.PerKey, s.limits.ofTenant(d.Tenant)
	switch {
	case key > 0 && d.Key != "" && s.byKey[d.Key] >= key, tenant > 0 && s.byTenant[d.Tenant] >= tenant:
		return nil, atBound
	case s.alone, d.RunAlone && len(s.suspects) > 0:
		return nil, atBound
	case d.RunAlone:
		s.suspects = append(s.suspects, suspect{d, time.Now()})
		return nil, parked
	default:
		return s.occupy(d), placed
	}
}

func (s *slots) occupy(d *Delivery) *job {
	j := &job{d: d, began: time.Now()}
	s.running[d] = j
	if d.Key != "" {
		s.byKey[d.Key]++
	}
	s.byTenant[d.Tenant]++
	return j
}

// next returns a suspect that may run alone now, or nil.
func (s *slots) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone || len(s.running) > 0 || len(s.suspects) == 0 || s.paused {
		return nil
	}
	d := s.suspects[0].d
	s.suspects = s.suspects[1:]
	s.alone = true
	return s.occupy(d)
}

// tired takes out the suspects that shall wait no longer: it has been too long, the worker is paused, or their leases
// were lost while they waited.
func (s *slots) tired(now time.Time) []*Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []*Delivery
	s.suspects = slices.DeleteFunc(s.suspects, func(w suspect) bool {
		over := s.paused || w.d.ctx.Err() != nil || len(s.running) > 0 && now.Sub(w.since) >= aloneWait
		if over {
			gone = append(gone, w.d)
		}
		return over
	})
	return gone
}

// put frees d's slot. It returns false if that was done before. opened says that d's tenant was at its bound.
func (s *slots) put(d *Delivery) (ran, opened bool) {
	s.mu.Lock()
	_, ran = s.running[d]
	if ran {
		bound := s.limits.ofTenant(d.Tenant)
		opened = bound > 0 && s.byTenant[d.Tenant] == bound
		delete(s.running, d)
		if len(s.running) == 0 {
			s.alone = false
		}
		decrement(s.byKey, d.Key)
		decrement(s.byTenant, d.Tenant)
	}
	s.mu.Unlock()
	s.poke()
	return ran, opened
}

func decrement(counts map[string]int, name string) {
	if counts[name]--; counts[name] <= 0 {
		delete(counts, name)
	}
}

// count is the number of running handlers.
func (s *slots) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

func (s *slots) takeSuspects() []*Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ds []*Delivery
	for _, w := range s.suspects {
		ds = append(ds, w.d)
	}
	s.suspects = nil
	return ds
}

// each calls f for every running job, under the lock.
func (s *slots) each(f func(*job)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.running {
		f(j)
	}
}
