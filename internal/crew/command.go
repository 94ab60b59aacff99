package crew

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
)

// Command is what a parent tells a running worker.
type Command struct {
	Limits *queue.Limits `json:",omitempty"`
	Pause  bool          `json:",omitempty"`
	Resume bool          `json:",omitempty"`
}

// listen reads what the parent says on standard input, a line a command.
func (j *diary) listen(w *queue.Worker) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o Command
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			fmt.Fprintf(os.Stderr, "worker: command does not decode: %v\n", err)
			continue
		}
		j.obey(w, o)
	}
	outlive()
}

// obey does what it is told and notes with how many slots the worker receives from now on. Commands come one at a time.
func (j *diary) obey(w *queue.Worker, o Command) {
	if o.Limits != nil {
		if err := w.SetLimits(*o.Limits); err != nil {
			fmt.Fprintf(os.Stderr, "worker: %v\n", err)
			return
		}
		j.slots = max(o.Limits.Concurrency, 1)
	}
	if o.Pause {
		w.Pause()
		j.paused = true
	}
	if o.Resume {
		w.Resume()
		j.paused = false
	}
	n := j.slots
	if j.paused {
		n = 0
	}
	j.note(history.Event{Kind: history.ProcReady, N: n})
}
