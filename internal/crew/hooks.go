package crew

import (
	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
)

// Hooks write to a journal what a Consumer or a Worker of this process does, in the words of a worker process.
func Hooks(w *history.Writer) queue.Hooks { return (&diary{w: w, kill: killSelf}).hooks() }
