// Package workload makes the messages that a benchmark publishes: how many, of which tenants, when, how long each
// takes and which of them fail. Everything follows from one seed, so that every broker is given the same work.
//
// A workload comes from one of three places: Collector is built in, ParseFile reads a description in YAML, and ReadSWF
// reads the log of a real machine. Times in a description are those of the service that it models; Workload.Scale
// says by how much they were shortened, and all times of a Workload are shortened already.
package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Model says what paces the publisher.
type Model string

// The models.
const (
	Closed Model = "closed" // a backlog: everything is published at the start, as fast as the broker takes it
	Open   Model = "open"   // each message has its own instant, whether or not the workers keep up
)

// Lanes says which messages are kept apart on their way to a slot.
type Lanes string

// The lane policies. The zero value means LanesPriority.
const (
	LanesNone     Lanes = "none"     // one line, in order of publication
	LanesPriority Lanes = "priority" // a higher priority goes first
	LanesTenant   Lanes = "tenant"   // tenants take turns by weight; priorities are ignored
	LanesBoth     Lanes = "both"     // a higher priority goes first, within one tenants take turns
)

// ByPriority reports whether a higher priority goes first.
func (l Lanes) ByPriority() bool { return l == "" || l == LanesPriority || l == LanesBoth }

// ByTenant reports whether tenants take turns.
func (l Lanes) ByTenant() bool { return l == LanesTenant || l == LanesBoth }

// Workload is what one run publishes.
type Workload struct {
	Name       string
	Seed       uint64
	Scale      float64 // all times here are those of the model times Scale
	Model      Model
	Messages   []Job // in order of At
	Lanes      Lanes
	Weights    map[string]float64 // of tenants, for tenant lanes; a tenant without an entry has weight 1
	Retry      Retry
	Thresholds []Threshold
	Load       float64 // the utilisation that arrivals were fitted to; 0: they were not
	Capped     int     // run times that were cut to the cap
}

// Job is one message and what its handler has to do.
type Job struct {
	ID        string // unique over workloads of different names or seeds
	Seq       int    // position in Workload.Messages
	Tenant    string
	Key       string        // empty: no order is asked for
	Priority  int           // higher goes first
	At        time.Duration // when it is to be published, from the start of the run
	Run       time.Duration // how long each attempt takes, failing ones included; whole microseconds
	Fail      int           // attempts that fail before one succeeds
	Poison    bool          // every attempt fails
	Crash     bool          // every attempt ends the process of its worker after Run, without a verdict
	BodyBytes int           // size of the body; a body that must be larger to hold the order is as large as it must be
}

// Fails reports whether an attempt that follows the given number of failures fails as well.
func (j Job) Fails(failures int) bool { return j.Poison || failures < j.Fail }

// Starts returns how often the handler of j is started if no worker dies of another cause: until success, or until r
// gives up.
func (j Job) Starts(r Retry) int {
	switch {
	case j.Crash:
		return r.Crashes()
	case j.Poison:
		return r.Attempts()
	default:
		return min(j.Fail+1, r.Attempts())
	}
}

// SlotTime returns how long j occupies slots in all, counted as Starts is.
func (j Job) SlotTime(r Retry) time.Duration { return time.Duration(j.Starts(r)) * j.Run }

// Dies reports whether j ends as a dead letter under r.
func (j Job) Dies(r Retry) bool { return j.Crash || j.Fails(r.Attempts()-1) }

// Retry is the retry policy that belongs to a workload: the workers and the reference schedule use the same numbers.
// The zero value gives up after the third failure or the fifth crash and retries at once.
type Retry struct {
	MaxAttempts int           // failures after which a message is dead-lettered; 0: 3
	MaxCrashes  int           // starts without an end after which it is; 0: 5
	Base        time.Duration // delay after the first failure, doubled with each further one
	Cap         time.Duration // longest delay; 0: no limit
}

// Attempts returns MaxAttempts or its default.
func (r Retry) Attempts() int {
	if r.MaxAttempts <= 0 {
		return 3
	}
	return r.MaxAttempts
}

// Crashes returns MaxCrashes or its default.
func (r Retry) Crashes() int {
	if r.MaxCrashes <= 0 {
		return 5
	}
	return r.MaxCrashes
}

// Delay returns how long a message waits after its failure of that number, the first being 1. There is no jitter.
func (r Retry) Delay(failure int) time.Duration {
	d := r.Base
	for range failure - 1 {
		if d > longest/2 || (r.Cap > 0 && d >= r.Cap) {
			break
		}
		d *= 2
	}
	if r.Cap > 0 {
		d = min(d, r.Cap)
	}
	return d
}

func (r Retry) scaled(f float64) Retry {
	r.Base, r.Cap = scaled(r.Base, f), scaled(r.Cap, f)
	return r
}

// Digest identifies the messages and the retry policy: two workloads of one digest ask for the same work.
func (w *Workload) Digest() string {
	h := sha256.New()
	fmt.Fprintln(h, w.Model, w.Lanes, w.Retry.Attempts(), w.Retry.Crashes(), int64(w.Retry.Base), int64(w.Retry.Cap))
	for _, j := range w.Messages {
		fmt.Fprintf(h, "%s %d %q %q %d %d %d %d %t %t %d\n",
			j.ID, j.Seq, j.Tenant, j.Key, j.Priority, int64(j.At), int64(j.Run), j.Fail, j.Poison, j.Crash, j.BodyBytes)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
