package queue

import (
	"maps"
	"strconv"
)

// Limits bound what runs at once. They may change while a Worker runs (Worker.SetLimits). Every bound holds within one
// process: across processes only Needs.KeyOrder excludes.
type Limits struct {
	// Concurrency is the number of slots. Zero: 1.
	Concurrency int
	// PerKey bounds the running messages of one Key; messages without one are not bounded. What is received beyond it goes
	// back and comes again after a growing delay, of 5 s at most. Zero: no bound.
	PerKey int
	// PerTenant bounds the running messages of one Tenant; messages without one are not bounded. It needs Lanes.Tenants.
	// Zero: no bound.
	PerTenant int
	// Tenants are bounds for single tenants in place of PerTenant; zero: no bound for that one.
	Tenants map[string]int
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.Concurrency, 1)
	l.Tenants = maps.Clone(l.Tenants)
	return l
}

func (l Limits) check(window int, lanes Lanes) error {
	switch {
	case l.Concurrency < 0 || l.PerKey < 0 || l.PerTenant < 0:
		return invalid("a negative Concurrency, PerKey or PerTenant: use zero for the default")
	case l.Concurrency > window:
		return invalid("Concurrency is above Window: set WorkerConfig.Window to the most that SetLimits shall allow")
	case (l.PerTenant > 0 || len(l.Tenants) > 0) && !lanes.Tenants:
		return invalid("Limits.PerTenant needs Lanes.Tenants: without lanes, the messages of a tenant at its bound would stand in everybody's way")
	}
	for who, n := range l.Tenants {
		if n < 0 {
			return invalid("Limits.Tenants[" + strconv.Quote(who) + "] is negative: use zero for no bound")
		}
	}
	return nil
}

// ofTenant is the bound for a tenant; zero: none.
func (l Limits) ofTenant(tenant string) int {
	if n, found := l.Tenants[tenant]; found {
		return n
	}
	if tenant == "" {
		return 0
	}
	return l.PerTenant
}
