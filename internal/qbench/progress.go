package qbench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	progressEvery     = 2 * time.Second
	progressEveryLive = 250 * time.Millisecond
)

// progress tells a person how the run is getting on, on standard error. It is used by one goroutine.
type progress struct {
	out   io.Writer // nil: quiet
	live  bool      // one line is written again and again
	t0    int64     // 0: the run has not begun
	next  time.Time
	dirty bool // the live line is on the screen
}

func newProgress(p *Program, quiet bool) *progress {
	if quiet {
		return &progress{}
	}
	return &progress{out: p.Stderr, live: p.Live}
}

// say writes a line of its own.
func (p *progress) say(format string, args ...any) {
	if p.out == nil {
		return
	}
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// event writes a line about something that happened at a moment of the journals' clock.
func (p *progress) event(at int64, format string, args ...any) {
	p.say("%7.1fs  %s", time.Duration(at-p.t0).Seconds(), fmt.Sprintf(format, args...))
}

func (p *progress) clear() {
	if p.dirty {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.dirty = false
	}
}

// step writes the state of the run if it is time to.
func (p *progress) step(t *tracker, now int64) {
	if p.out == nil || time.Now().Before(p.next) {
		return
	}
	every := progressEvery
	if p.live {
		every = progressEveryLive
	}
	p.next = time.Now().Add(every)
	line := fmt.Sprintf("%7.1fs  %s", time.Duration(now-p.t0).Seconds(), t.line())
	if !p.live {
		fmt.Fprintln(p.out, line)
		return
	}
	p.clear()
	fmt.Fprint(p.out, line)
	p.dirty = true
}

const barWidth = 20

// line is the state of the run in one line.
func (t *tracker) line() string {
	filled := min(int(t.share()*barWidth), barWidth)
	bar := strings.Repeat("█", filled) + strings.Repeat("░", barWidth-filled)
	waiting := max(len(t.pending)-len(t.running), 0)
	return fmt.Sprintf("%s %3.0f %%  %d of %d done  %d dead  %d running  %d waiting  %s", bar, 100*t.share(),
		t.completed+t.dead, len(t.jobs), t.dead, len(t.running), waiting, plural(len(t.ready), "worker"))
}

// announce says what is about to run.
func (r *run) announce() {
	p, l := r.plan, r.plan.load
	caps := r.broker.Capabilities()
	r.progress.say("%s %s, %s", caps.Name, caps.Version, r.broker.url())
	r.progress.say("%s, seed %d, %s: %s", l.Name, l.Seed, l.Model, p.work)
	r.progress.say("%d workers of %d slots, lease %s, %s", p.workers, p.slots, span(p.lease), faultsText(p.faults))
}

func faultsText(faults []fault) string {
	if len(faults) == 0 {
		return "no faults"
	}
	var texts []string
	for _, f := range faults {
		texts = append(texts, fmt.Sprintf("%s at %s", f.kind, f.at))
	}
	return strings.Join(texts, ", ")
}
