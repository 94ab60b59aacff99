// Package qbench is the command line qbench: it runs a workload on a broker with real worker processes, kills some of
// them, and says what the broker is worth as a work queue.
//
// Nothing in it touches the process it runs in: arguments and streams come in a Program, so that a test runs the whole
// program in its own process.
package qbench

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// Program is what the command line gets from its surroundings.
type Program struct {
	Args   []string // without the program's name
	Stdout io.Writer
	Stderr io.Writer
	Live   bool // Stderr is a terminal: progress rewrites its line
	Color  bool // Stdout shows colours
}

// FromOS is the program as the shell started it.
func FromOS() *Program {
	return &Program{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
		Live: isTerminal(os.Stderr), Color: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "",
	}
}

// isTerminal takes every character device for a terminal: on those that are none, such as /dev/null, nobody looks.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// Main runs the program and returns its exit code. When ctx ends the run is interrupted: no worker is left, and what was
// measured so far is reported.
func Main(ctx context.Context, p *Program) int {
	if _, file := p.Stderr.(*os.File); !file {
		p.Stderr = &lockedWriter{out: p.Stderr} // workers write to it as well
	}
	root := newRoot(p)
	root.SetArgs(p.Args)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code, text := explain(err)
	if text != "" {
		fmt.Fprintf(p.Stderr, "qbench: %s\n", text)
	}
	return code
}

// lockedWriter is a writer for several goroutines.
type lockedWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}
