package conformance

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// resourceRules are family R: what a worker uses, and what it says of itself.
var resourceRules = []Rule{
	{
		ID: "R01", Name: "memory_of_a_backlog", Tier: Fast,
		Claim: "a worker's memory does not grow with the backlog of its queue",
		Needs: needsProcesses,
		Check: memoryOfBacklog,
	},
	{
		ID: "R02", Name: "memory_of_a_stall", Tier: Fast,
		Claim: "a producer's memory does not grow while the broker does not answer",
		Needs: func(s Setting) string {
			if why := needsProcesses(s); why != "" {
				return why
			}
			return needsNetwork(s)
		},
		Check: memoryOfStall,
	},
	{
		ID: "R03", Name: "no_goroutine_left", Tier: Smoke,
		Claim: "a worker that has ended leaves no goroutine behind",
		Check: noGoroutineLeft,
	},
	{
		ID: "R04", Name: "reconnects", Tier: Fast,
		Claim: "a connection that breaks again and again costs no more files and goroutines than one that lasts",
		Needs: func(s Setting) string {
			if why := needsProcesses(s); why != "" {
				return why
			}
			return needsNetwork(s)
		},
		Check: reconnects,
	},
	{
		ID: "R06", Name: "stats", Tier: Fast,
		Claim: "the counts of Stats are those of what happened",
		Check: statsAreTrue,
	},
	{
		ID: "R07", Name: "health", Tier: Fast,
		Claim: "Health fails while the broker is away, a handler is stuck or the loop stands still, and recovers",
		Check: healthIsTrue,
	},
	{
		ID: "R08", Name: "logged_once", Tier: Fast,
		Claim: "a lost lease, a dead letter and an unconfirmed publish are logged once, with the message's id",
		Check: loggedOnce,
	},
}

// growth is how much a process may grow for no good reason.
const growth = 64 << 20

// most is the greatest N of a process's events of one kind since a moment of the journals.
func (e *Env) most(kind history.Kind, proc string, since int64) int {
	n := 0
	for _, ev := range e.Events(kind, proc) {
		if ev.T >= since {
			n = max(n, ev.N)
		}
	}
	return n
}

// settledVitals waits until processes have written how they are twice from now on, and returns a moment before the
// second time of each.
func (e *Env) settledVitals(procs ...string) (since int64) {
	before := make([]int, len(procs))
	for i, proc := range procs {
		before[i] = len(e.Events(crew.Goroutines, proc))
	}
	e.Await("processes say how they are", late, func(*history.Timeline) bool {
		for i, proc := range procs {
			if len(e.Events(crew.Goroutines, proc)) < before[i]+2 {
				return false
			}
		}
		return true
	})
	since = history.Never
	for i, proc := range procs {
		since = min(since, e.Events(crew.Goroutines, proc)[before[i]+1].T)
	}
	return since
}

// memoryOfBacklog fills the queue beside a worker of slow jobs.
func memoryOfBacklog(e *Env) {
	n := 100_000
	if e.Tier == Full {
		n = 1_000_000
	}
	w := e.Worker(Slots(4))
	e.Publish(queue.Lanes{}, e.Jobs(20, 10*time.Millisecond, nil)...)
	e.Await("the worker is warm", late, finished(20))
	before := e.most(crew.RSS, w.Name, e.settledVitals(w.Name))
	e.fill(n, workload.Order{Run: 200 * time.Millisecond})
	done := len(e.Events(history.SettleOK, w.Name))
	e.Await("slow jobs are done beside the backlog", 2*late, func(*history.Timeline) bool {
		return len(e.Events(history.SettleOK, w.Name)) >= done+40
	})
	after := e.most(crew.RSS, w.Name, e.settledVitals(w.Name))
	e.Drain([]*Worker{w}, late)
	e.Check(before > 0, "the worker did not say how much memory it uses")
	e.Note("growth", "%.1f MB at %d messages", float64(after-before)/(1<<20), n)
	e.Check(after-before < growth, "the worker grew from %d to %d MB with %d messages waiting", before>>20, after>>20, n)
}

// fill publishes n messages of 1 KiB, of which no journal is kept.
func (e *Env) fill(n int, o workload.Order) {
	body, err := o.Encode(1 << 10)
	e.Must(err, "encode an order")
	p := e.Producer(queue.ProducerConfig{})
	const batch = 2000
	ms := make([]*queue.Message, batch)
	for sent := 0; sent < n; sent += batch {
		for i := range ms {
			ms[i] = &queue.Message{Body: body}
		}
		e.Must(p.Publish(e.Ctx, ms[:min(batch, n-sent)]...), "fill the queue")
	}
	e.Must(p.Close(e.Ctx), "close the producer")
}

// memoryOfStall lets a producer publish into a black hole.
func memoryOfStall(e *Env) {
	px := e.Proxy()
	name := "stalled"
	_, err := e.crew.Start(crew.Spec{
		Name: name, URL: proxied(e.broker.URL(), px.Addr()), Queue: e.Queue,
		Publish: &crew.Publishing{Batch: 50, Bytes: 32 << 10, Stubborn: true},
	})
	e.Must(err, "start a producer")
	confirmed := func(n int) func(*history.Timeline) bool {
		return func(*history.Timeline) bool { return len(e.Events(history.PublishOK, name)) > n }
	}
	e.Await("messages are confirmed", late, confirmed(500))
	before := e.most(crew.RSS, name, e.settledVitals(name))
	l := &line{proxy: px}
	l.hole()
	e.Await("a publish that nobody answers fails", 2*late, func(*history.Timeline) bool { return len(e.Events(history.PublishErr, name)) > 0 })
	e.Sleep(time.Second) // for those of its call that were confirmed before
	stalled := len(e.Events(history.PublishOK, name))
	e.Sleep(8 * time.Second)
	e.Check(!confirmed(stalled)(nil), "messages were confirmed by nobody")
	after := e.most(crew.RSS, name, e.settledVitals(name))
	l.heal()
	px.Cut()
	e.Await("messages are confirmed again", 2*late, confirmed(stalled))
	e.Note("growth", "%.1f MB", float64(after-before)/(1<<20))
	e.Check(before > 0 && after-before < growth, "the producer grew from %d to %d MB", before>>20, after>>20)
}

// noGoroutineLeft starts and stops workers, some at work and some waiting for it, each over a connection of its own.
func noGoroutineLeft(e *Env) {
	const lanes, rounds = 10, 10
	e.Publish(queue.Lanes{}, e.Jobs(lanes*rounds, 0, nil)...)
	pprof.Do(e.Ctx, pprof.Labels("rule", e.Queue), func(context.Context) {
		before, _ := labelled(e.Queue)
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		for lane := range lanes {
			wg.Go(func() {
				for round := range rounds {
					if err := e.startStop(lane, round); err != nil {
						failed.Store(&err)
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			e.Failf("start and stop a worker: %v", *err)
		}
		over := time.Now().Add(late)
		after, stacks := labelled(e.Queue)
		for ; after > before && time.Now().Before(over); after, stacks = labelled(e.Queue) {
			e.Sleep(50 * time.Millisecond)
		}
		e.Check(after <= before, "%d goroutines before, %d after %d workers:\n%s", before, after, lanes*rounds, stacks)
	})
}

// startStop runs a worker until it has done a job, or has waited for one in vain.
func (e *Env) startStop(lane, round int) error {
	ctx, cancel := context.WithTimeout(e.Ctx, 2*late)
	defer cancel()
	b, err := e.open(ctx, nil)
	if err != nil {
		return err
	}
	name, idle := e.Queue, round%3 == 2
	if idle {
		name += "-idle"
	}
	lanes := queue.Lanes{Tenants: e.Caps.Lanes && lane%2 == 1}
	w, err := queue.NewWorker(b, name, queue.WorkerConfig{Lease: e.Lease, Lanes: lanes, Logger: e.log})
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	if idle {
		time.AfterFunc(100*time.Millisecond, stop)
	}
	err = w.Run(working, func(context.Context, *queue.Delivery) error { stop(); return nil })
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if !idle && w.Stats().Acked == 0 {
		return fmt.Errorf("a worker ended without a job: %w", context.Cause(ctx))
	}
	return b.Close(ctx)
}

// labelled counts the goroutines with a label, which a goroutine has from the one that started it, and shows their
// stacks. Other rules and brokers may run in this process.
func labelled(rule string) (n int, stacks string) {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return 0, ""
	}
	var found strings.Builder
	_, groups, _ := strings.Cut(all.String(), "\n") // the first line is a title
	for group := range strings.SplitSeq(groups, "\n\n") {
		if !strings.Contains(group, `"rule":`+strconv.Quote(rule)) {
			continue
		}
		digits, _, _ := strings.Cut(group, " ")
		if count, err := strconv.Atoi(digits); err == nil {
			n += count
		}
		found.WriteString(group + "\n\n")
	}
	return n, found.String()
}

// reconnects cuts the connections of several workers again and again.
func reconnects(e *Env) {
	workers, rounds := 7, 15
	if e.Tier == Full {
		workers, rounds = 10, 100
	}
	px := e.Proxy()
	ws := e.Workers(workers, Through(px))
	for _, w := range ws {
		e.Await("the worker is ready", late, e.isReady(w))
	}
	e.settledVitals(names(ws)...)
	e.cutAndWork(px, workers, 2)
	before := e.vitals(ws, 0) // the most so far: one that is not connected at the moment has less
	e.cutAndWork(px, workers, rounds-2)
	after := e.vitals(ws, e.settledVitals(names(ws)...))
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true})
	e.Note("after", "%d reconnects: %v goroutines and files", px.Dials()-int64(workers), after)
	const play = 5 // what happens to be under way
	for i := range ws {
		for k, what := range []string{"goroutines", "files"} {
			e.Check(after[i][k] <= before[i][k]+play, "%d %s, %d after %d reconnects more", before[i][k], what, after[i][k], rounds-2)
		}
	}
}

// cutAndWork cuts the connections of n workers some times, and has a job done.
func (e *Env) cutAndWork(px *proxy.Proxy, n, times int) {
	for range times {
		dials := px.Dials()
		px.Cut()
		for over := time.Now().Add(late); px.Dials() < dials+int64(n); e.Sleep(5 * time.Millisecond) {
			e.Check(time.Now().Before(over), "not all workers connect again within %v", late)
		}
		e.Sleep(50 * time.Millisecond) // for the handshake: a connection that breaks in it is tried again ever later
	}
	done := len(acked(e.Timeline()))
	e.Publish(queue.Lanes{}, e.Jobs(n, 0, func(i int, j *Job) { j.ID = fmt.Sprintf("job-%d", done+i) })...)
	e.Await("jobs are done after a reconnect", 2*late, func(t *history.Timeline) bool { return len(acked(t)) == done+n })
}

// vitals are the most goroutines and files of each worker since a moment of the journals.
func (e *Env) vitals(ws []*Worker, since int64) [][2]int {
	all := make([][2]int, len(ws))
	for i, name := range names(ws) {
		all[i] = [2]int{e.most(crew.Goroutines, name, since), e.most(crew.Files, name, since)}
	}
	return all
}

func names(ws []*Worker) []string {
	all := make([]string, len(ws))
	for i, w := range ws {
		all[i] = w.Name
	}
	return all
}
