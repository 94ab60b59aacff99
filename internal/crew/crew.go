package crew

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
)

// Crew starts worker processes and remembers them, so that none is left behind.
type Crew struct {
	dir     string
	journal *history.Writer // the supervisor's
	stderr  io.Writer

	mu    sync.Mutex
	procs []*Proc
}

// New makes a crew whose workers write their journals to dir. What the supervisor does to them goes to journal, and what
// they print to stderr (nil: nowhere).
func New(dir string, journal *history.Writer, stderr io.Writer) *Crew {
	return &Crew{dir: dir, journal: journal, stderr: stderr}
}

// Proc is a worker process.
type Proc struct {
	Spec  Spec
	crew  *Crew
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}

	mu sync.Mutex // guards stdin
}

// Start starts a worker. Its journal is named after it, unless the spec names one.
func (c *Crew) Start(spec Spec) (*Proc, error) {
	if spec.Journal == "" {
		spec.Journal = filepath.Join(c.dir, spec.Name+".jsonl")
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", spec.Name, err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", spec.Name, err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), specVariable+"="+string(text))
	if spec.Procs > 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(spec.Procs))
	}
	cmd.Stderr = c.stderr
	// A group of its own: an interrupt at the terminal is for the parent, which ends its workers itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", spec.Name, err)
	}
	if err := c.journal.Write(history.Event{Kind: history.Join, Proc: spec.Name}); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("worker %s: %w", spec.Name, err)
	}
	p := &Proc{Spec: spec, crew: c, cmd: cmd, stdin: stdin, done: make(chan struct{})}
	c.mu.Lock()
	c.procs = append(c.procs, p)
	c.mu.Unlock()
	go p.reap()
	return p, nil
}

// reap waits for the process; Crew.Close waits for reap.
func (p *Proc) reap() {
	defer close(p.done)
	_ = p.cmd.Wait() // how it ended is in ProcessState
	_ = p.crew.journal.Write(history.Event{Kind: history.ProcExit, Proc: p.Spec.Name, N: p.cmd.ProcessState.ExitCode()})
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Alive reports whether the process has not ended.
func (p *Proc) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode is the code of a process that has ended: -1 if a signal ended it.
func (p *Proc) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// MaxRSS is the largest resident size of a process that has ended, in bytes, as it noted last: every second and at its
// end. 0 if it noted none.
func (p *Proc) MaxRSS() int64 {
	<-p.done
	var most int64
	for _, e := range p.events() {
		if e.Kind == RSS && e.Proc == p.Spec.Name {
			most = max(most, int64(e.N))
		}
	}
	return most
}

// events are those that the process's journal holds; what cannot be read is missing.
func (p *Proc) events() []history.Event {
	f, err := os.Open(p.Spec.Journal)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	events, _ := history.Read(f)
	return events
}

// PID is the process's id.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Kill ends the process at once (SIGKILL).
func (p *Proc) Kill() error { return p.signal(history.Kill, syscall.SIGKILL, "KILL") }

// Term asks the process to drain (SIGTERM); a second time it leaves at once.
func (p *Proc) Term() error { return p.signal(history.Kill, syscall.SIGTERM, "TERM") }

// Stop freezes the process (SIGSTOP).
func (p *Proc) Stop() error { return p.signal(history.Stop, syscall.SIGSTOP, "STOP") }

// Cont thaws it (SIGCONT).
func (p *Proc) Cont() error { return p.signal(history.Cont, syscall.SIGCONT, "CONT") }

func (p *Proc) signal(kind history.Kind, s syscall.Signal, name string) error {
	if !p.Alive() {
		return fmt.Errorf("worker %s has ended", p.Spec.Name)
	}
	if err := p.crew.journal.Write(history.Event{Kind: kind, Proc: p.Spec.Name, Signal: name}); err != nil {
		return err
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) { // it ends by itself just now
		return fmt.Errorf("worker %s: %w", p.Spec.Name, err)
	}
	return nil
}

// Tell sends a command to the running worker.
func (p *Proc) Tell(o Command) error {
	line, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("worker %s: %w", p.Spec.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("worker %s: %w", p.Spec.Name, err)
	}
	return nil
}

// Procs are the workers started so far, the ended ones included.
func (c *Crew) Procs() []*Proc {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.procs)
}

// Drain asks every worker to drain, waits at most so long, and reports those that did not end well.
func (c *Crew) Drain(most time.Duration) error {
	live := slices.DeleteFunc(c.Procs(), func(p *Proc) bool { return !p.Alive() })
	for _, p := range live {
		_ = p.Term() // it may have ended meanwhile; then its exit code speaks
	}
	over := time.After(most)
	var errs []error
	for _, p := range live {
		select {
		case <-p.done:
			if code := p.ExitCode(); code != ExitDrained {
				errs = append(errs, fmt.Errorf("worker %s ended with code %d", p.Spec.Name, code))
			}
		case <-over:
			return errors.Join(append(errs, fmt.Errorf("worker %s does not drain", p.Spec.Name), c.Close())...)
		}
	}
	return errors.Join(errs...)
}

// Close kills what still runs and waits for it.
func (c *Crew) Close() error {
	var errs []error
	for _, p := range c.Procs() {
		if p.Alive() {
			if err := p.Kill(); err != nil && p.Alive() {
				errs = append(errs, err)
			}
		}
		<-p.done
		_ = p.stdin.Close()
	}
	return errors.Join(errs...)
}
