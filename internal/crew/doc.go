// Package crew runs workers as real processes: it starts them from the running binary, signals them, and has each write
// a journal of its own, so that killing one is a real kill and what it did before is on disk.
//
// The parent makes a Crew and starts workers from Specs. The child is the same binary: its main function (or TestMain)
// calls Main first, which does not return in a process that was started as a worker. A worker does what the body of
// each message tells it (workload.Order) and ends when its parent does, so that no worker is left behind.
package crew

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// specVariable is the environment variable that makes a process a worker.
const specVariable = "HOLDFAST_WORKER"

// Opener opens the backend that a URL names.
type Opener func(ctx context.Context, url string) (driver.Backend, error)

// Spec is what a worker process is told. It travels as JSON.
type Spec struct {
	Name    string // of the process, unique in a run
	URL     string
	Queue   string
	Journal string // the file to append events to

	Limits     queue.Limits
	Window     int
	Lease      time.Duration
	Timeout    time.Duration
	Drain      time.Duration
	Grace      time.Duration
	StuckAfter time.Duration
	Longest    time.Duration
	Lanes      queue.Lanes
	Retry      queue.Retry
	Needs      queue.Needs
	Fail       Failpoint // where the process kills itself; empty: nowhere
	Procs      int       // processors that the process uses (GOMAXPROCS); 0: as the environment says

	Publish *Publishing // the process is a producer, and takes Name, URL, Queue, Journal and Lanes only; nil: it is a worker
}

// Publishing is what a producer process is told: it publishes batch after batch until it is killed.
type Publishing struct {
	Batch    int            // messages a call
	Order    workload.Order // the body of each
	Bytes    int            // size of a body at least
	Stubborn bool           // go on after a call that failed
}

// Failpoint is a moment at which a worker kills itself with SIGKILL, the first time it comes there.
type Failpoint string

// The failpoints.
const (
	AfterReceive Failpoint = "after receive"  // leased, not started
	InJob        Failpoint = "in job"         // half of the run time is over
	BeforeAck    Failpoint = "before ack"     // the handler has returned, nothing is sent
	AfterAckSent Failpoint = "after ack sent" // the ack is confirmed, the process does not know
)

// Exit codes of a worker process.
const (
	ExitDrained  = 0 // every handler was done
	ExitFailed   = 1 // the broker or the journal could not be used
	ExitReleased = 5 // handlers were cut short, their messages given back
	ExitStuck    = 6 // handlers did not return
)
