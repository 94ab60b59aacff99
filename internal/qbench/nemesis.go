package qbench

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-queue/holdfast/internal/crew"
)

// nemesis makes the faults of a run happen when their moment has come.
type nemesis struct {
	r       *run
	waiting []fault
	done    []faultDone
	names   int             // workers that have a name so far
	ours    map[string]bool // workers that it killed
}

// faultDone is a fault that has happened.
type faultDone struct {
	kind   string
	target string
	at     int64
}

func newNemesis(r *run) *nemesis {
	return &nemesis{r: r, waiting: slices.Clone(r.plan.faults), ours: make(map[string]bool)}
}

// start starts a worker under a new name.
func (n *nemesis) start() (*crew.Proc, error) {
	n.names++
	return n.r.crew.Start(n.r.spec(fmt.Sprintf("w%d", n.names)))
}

// step makes happen what is due, and looks after workers that went by themselves.
func (n *nemesis) step(now int64) error {
	share, passed := n.r.track.share(), time.Duration(now-n.r.t0)
	var left []fault
	for _, f := range n.waiting {
		happened := false
		if f.at.reached(share, passed) {
			var err error
			if happened, err = n.happen(f, now); err != nil {
				return err
			}
		}
		if !happened {
			left = append(left, f)
		}
	}
	n.waiting = left
	return n.replaceCrashed(now)
}

func (n *nemesis) happen(f fault, now int64) (bool, error) {
	if f.kind == faultJoin {
		p, err := n.start()
		if err != nil {
			return false, err
		}
		n.note(string(f.kind), p.Spec.Name, now)
		n.r.progress.event(now, "%s joins", p.Spec.Name)
		return true, nil
	}
	return n.kill(now)
}

// kill ends the worker with the longest-running job. While nothing runs there is nothing to interrupt, and the kill
// waits; so it does for the last worker, which would leave nobody.
func (n *nemesis) kill(now int64) (bool, error) {
	h, since, found := n.r.track.longest(now)
	if !found || len(n.r.track.ready) < 2 {
		return false, nil
	}
	for _, p := range n.r.crew.Procs() {
		if p.Spec.Name != h.proc || !p.Alive() {
			continue
		}
		if err := p.Kill(); err != nil {
			if !p.Alive() {
				return false, nil // it went by itself at this very moment
			}
			return false, err
		}
		n.ours[h.proc] = true
		n.note(string(faultKill), h.proc, now)
		n.r.progress.event(now, "%s killed (SIGKILL): it had been running %s for %s", h.proc, h.msg, span(time.Duration(now-since)))
		return true, nil
	}
	return false, nil
}

// replaceCrashed starts a worker for each that died by itself, as a cluster would, if the workload has messages that
// kill their process. In any other workload nobody is meant to die: that is for the verdict to say.
func (n *nemesis) replaceCrashed(now int64) error {
	for _, p := range n.r.crew.Procs() {
		name := p.Spec.Name
		if p.Alive() || n.ours[name] {
			continue
		}
		n.ours[name] = true
		n.note("exit", name, now)
		n.r.progress.event(now, "%s ended by itself, with code %d", name, p.ExitCode())
		if n.r.plan.work.Crash == 0 {
			n.r.complain("worker %s ended by itself, with code %d", name, p.ExitCode())
			continue
		}
		next, err := n.start()
		if err != nil {
			return err
		}
		n.r.progress.event(now, "%s takes its place", next.Spec.Name)
	}
	return nil
}

func (n *nemesis) note(kind, target string, at int64) {
	n.done = append(n.done, faultDone{kind: kind, target: target, at: at})
}

// alive reports whether a worker is left or one is to come.
func (n *nemesis) alive() bool {
	if slices.ContainsFunc(n.r.crew.Procs(), (*crew.Proc).Alive) {
		return true
	}
	return slices.ContainsFunc(n.waiting, func(f fault) bool { return f.kind == faultJoin && f.at.share == 0 })
}

// joined are the names of workers that joined during the run.
func (n *nemesis) joined() map[string]bool {
	names := make(map[string]bool)
	for _, f := range n.done {
		if f.kind == string(faultJoin) {
			names[f.target] = true
		}
	}
	return names
}
