package brokers

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A nursery starts processes from a thread of its own, which lives as long as they do: on Linux a child that asks for a signal
// at its parent's death gets it when the thread that forked it ends, and an ordinary goroutine's thread may end at any time.
type nursery struct {
	births chan birth
	done   chan struct{}
}

type birth struct {
	cmd *exec.Cmd
	err chan error
}

func newNursery() *nursery {
	n := &nursery{births: make(chan birth), done: make(chan struct{})}
	go n.run()
	return n
}

func (n *nursery) run() {
	defer close(n.done)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for b := range n.births {
		b.err <- b.cmd.Start()
	}
}

// close is called when all processes have ended: those left are killed.
func (n *nursery) close() {
	close(n.births)
	<-n.done
}

// A process is a child that was started by a nursery.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
}

// start runs cmd in a session of its own, where a terminal's Ctrl-C does not reach it; it gets atDeath when this program ends.
func (n *nursery) start(cmd *exec.Cmd, atDeath syscall.Signal) (*process, error) {
	cmd.SysProcAttr = bound(atDeath)
	b := birth{cmd: cmd, err: make(chan error, 1)}
	n.births <- b
	if err := <-b.err; err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how a broker ends says nothing
	}()
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal of a process that has ended is no error, and never reaches another process that has got its number.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// end sends sig and waits; a process that still runs after patience is killed.
func (p *process) end(sig syscall.Signal, patience time.Duration) error {
	if err := p.signal(sig); err != nil {
		return err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.done:
		return nil
	case <-late.C:
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}
