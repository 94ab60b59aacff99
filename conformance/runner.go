package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// ruleTime bounds one rule. Virtual time costs nothing, and rules there have longer leases.
const (
	ruleTime        = 4 * time.Minute
	virtualRuleTime = 24 * time.Hour
)

// Suite runs rules against one backend.
type Suite struct {
	h      Harness
	tier   Tier
	seed   uint64
	dir    string // journals; those of failed rules are kept
	shared Broker

	// What the backend turned out to be.
	Caps    driver.Capabilities
	Setting Setting
	Broker  string // name and version
}

// NewSuite starts a broker to see what it is. Journals go to dir.
func NewSuite(ctx context.Context, h Harness, tier Tier, dir string) (*Suite, error) {
	if h.Lease == 0 {
		h.Lease = 2 * time.Second
	}
	s := &Suite{h: h, tier: tier, dir: dir, seed: uint64(time.Now().UnixNano())}
	broker, err := h.Start(ctx, filepath.Join(dir, "broker"))
	if err != nil {
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	if err := s.look(ctx, broker); err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	if h.Shared {
		s.shared = broker
		return s, nil
	}
	return s, broker.Close()
}

func (s *Suite) look(ctx context.Context, broker Broker) error {
	s.Broker = broker.Version()
	var b driver.Backend
	var err error
	if c, inside := broker.(Connector); inside {
		b, _, err = c.Connect(ctx)
	} else {
		b, err = s.h.Open(ctx, broker.URL(), nil)
	}
	if err != nil {
		return fmt.Errorf("open the backend: %w", err)
	}
	s.Caps = b.Capabilities()
	r, restarts := powerOf(broker)
	forgetful := restarts && r.Forgetful()
	_, admin := b.(driver.Admin)
	_, gauges := b.(driver.Gauger)
	s.Setting = Setting{
		Caps: s.Caps, Virtual: s.h.Virtual, Network: !s.h.Virtual, Restarts: restarts || s.h.Powered != nil, Forgetful: forgetful,
		Kills: s.h.Apart != nil, Admin: admin, Gauges: gauges,
	}
	return b.Close(ctx)
}

// Close stops a shared broker.
func (s *Suite) Close() error {
	if s.shared != nil {
		return s.shared.Close()
	}
	return nil
}

// Run runs one rule. In virtual time it must be called inside the bubble.
func (s *Suite) Run(ctx context.Context, r Rule) Result {
	res := Result{Rule: r, Measured: map[string]string{}}
	check, declined := r.Check, ""
	if r.Needs != nil {
		declined = r.Needs(s.Setting)
	}
	if declined != "" {
		if r.Denied == nil {
			res.Status, res.Detail = Unsupported, declined
			return s.declared(res)
		}
		check = r.Denied
	}
	most := ruleTime
	if s.h.Virtual {
		most = virtualRuleTime
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	dir := filepath.Join(s.dir, r.Title())
	e, err := s.env(ctx, r, dir)
	if err != nil {
		res.Status, res.Detail = Fail, err.Error()
		return res
	}
	e.measured = res.Measured
	res.Status = Pass
	if detail, failed := attempt(check, e); failed {
		res.Status, res.Detail = Fail, detail
	}
	if err := e.close(); err != nil && res.Status == Pass {
		res.Status, res.Detail = Fail, "clean up: "+err.Error()
	}
	if res.Status == Fail {
		res.Detail += e.kept()
		return res
	}
	if e.memory == nil {
		_ = os.RemoveAll(dir) // only what failed is worth keeping
	}
	if declined != "" {
		res.Status, res.Detail = Unsupported, declined
		return s.declared(res)
	}
	if r.Emulated != nil {
		if how := r.Emulated(s.Caps); how != "" {
			res.Status, res.Detail = Emulated, how
			return s.declared(res)
		}
	}
	return res
}

// declared turns what is not PASS into a FAIL unless the backend's file declares it.
func (s *Suite) declared(res Result) Result {
	x, err := parseExpected(s.h.Expected)
	if err != nil {
		res.Status, res.Detail = Fail, err.Error()
		return res
	}
	if d, found := x.find(s.h.Name, res.Rule.ID); !found || d.Status != res.Status {
		res.Detail = fmt.Sprintf("%s (%s), but %s is not declared so for %s", res.Status, res.Detail, res.Rule.ID, s.h.Name)
		res.Status = Fail
	}
	return res
}

func attempt(check func(*Env), e *Env) (detail string, failed bool) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case broken:
			detail, failed = p.detail, true
		default:
			detail, failed = fmt.Sprintf("panic: %v\n%s", p, debug.Stack()), true
		}
	}()
	check(e)
	return "", false
}

func (s *Suite) env(ctx context.Context, r Rule, dir string) (*Env, error) {
	e := &Env{
		Ctx: ctx, Queue: "conf-" + strings.ToLower(r.ID), Lease: s.h.Lease, Tier: s.tier, Seed: s.seed,
		Setting: s.Setting, h: &s.h, broker: s.shared, dir: dir, log: newLog(), names: map[string]int{}, measured: map[string]string{},
	}
	if s.shared != nil {
		e.Queue = fmt.Sprintf("%s-%x", e.Queue, time.Now().UnixNano())
	}
	if s.h.Virtual {
		e.memory = newMemoryJournal()
		e.self = e.memory.writer("rule")
	} else {
		path, err := journalPath(filepath.Join(dir, "journals"), "rule")
		if err != nil {
			return nil, err
		}
		if e.self, err = history.Open(path, "rule"); err != nil {
			return nil, err
		}
		e.tail = history.NewTailer(filepath.Dir(path))
		stderr, err := os.Create(filepath.Join(dir, "workers.log"))
		if err != nil {
			return nil, fmt.Errorf("conformance: %w", err)
		}
		e.crew = crew.New(filepath.Dir(path), e.self, stderr)
		e.Cleanup(e.self.Close)
		e.Cleanup(stderr.Close)
		e.Cleanup(e.crew.Close)
	}
	start := s.h.Start
	if r.Power && s.h.Powered != nil {
		start, e.broker = s.h.Powered, nil
	}
	if e.broker == nil {
		broker, err := start(ctx, filepath.Join(dir, "broker"))
		if err != nil {
			return nil, fmt.Errorf("start the broker: %w", err)
		}
		e.broker = broker
		e.cleanups = append([]func() error{broker.Close}, e.cleanups...)
	}
	return e, nil
}

// close undoes everything, the last thing first.
func (e *Env) close() error {
	e.over.Store(true)
	var errs []error
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		errs = append(errs, e.cleanups[i]())
	}
	return errors.Join(errs...)
}

// kept says where the evidence of a failed rule is.
func (e *Env) kept() string {
	if e.memory != nil {
		return ""
	}
	return "\njournals: " + e.dir
}
