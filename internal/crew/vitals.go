package crew

import (
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
)

// Events about what the process uses, written every second by a process that is a worker or a producer and nothing
// else. They decide nothing.
const (
	Goroutines history.Kind = "goroutines"
	Files      history.Kind = "files" // open file descriptors; none where that cannot be told
)

// vitals writes such events until stop is called, which waits for the last.
func (j *diary) vitals() (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-over:
				return
			}
			j.note(history.Event{Kind: Goroutines, N: runtime.NumGoroutine()})
			j.note(history.Event{Kind: RSS, N: int(peakRSS())})
			if files, err := os.ReadDir("/proc/self/fd"); err == nil {
				j.note(history.Event{Kind: Files, N: len(files)})
			}
		}
	})
	return func() { close(over); wg.Wait() }
}
