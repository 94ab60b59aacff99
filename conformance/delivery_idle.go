package conformance

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
)

// What an idle worker may cost. A loop that forgets to wait costs a thousand times as much.
const (
	idleCalls = 3.0  // requests a second, and a look at each lane every five, where the broker does not tell of them
	idleCPU   = 0.02 // of a processor
	// wakes is how long a message may wait for an idle worker, in the middle of several; a long poll waits 20 s.
	wakes = time.Second
	// wakesLate bounds the slowest: the contract's five seconds for a lane that just appeared, with room.
	wakesLate = 7 * time.Second
)

// idleCheap lets workers idle, one on a plain queue and one on a queue of many lanes, and then surprises them.
func idleCheap(e *Env) {
	window := 8 * time.Second
	if e.Virtual {
		window = 10 * time.Minute
	} else if e.Tier == Full {
		window = time.Minute
	}
	// The library's own lease: a short one is bought with requests.
	plain := e.idler(e.Queue, queue.Lanes{}, 1)
	idlers := []*idler{plain}
	if e.Caps.Lanes {
		idlers = append(idlers, e.idler(e.Queue+"-lanes", queue.Lanes{Tenants: true}, 30))
	}
	e.Sleep(2 * time.Second)
	for _, i := range idlers {
		i.look()
	}
	e.Sleep(window)
	for _, i := range idlers {
		i.check(window)
	}
	surprise(e, idlers)
	ws := make([]*Worker, len(idlers))
	for k, i := range idlers {
		ws[k] = i.w
	}
	e.Drain(ws, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

// idler is a worker that has nothing to do.
type idler struct {
	e     *Env
	w     *Worker
	p     *queue.Producer
	queue string
	lanes int
	sent  int

	calls int
	at    int64
	cpu   time.Duration
}

// idler starts a worker on a queue and has it do one message of each lane.
func (e *Env) idler(name string, lanes queue.Lanes, n int) *idler {
	p, err := queue.NewProducer(e.Ctx, e.Open(), name, queue.ProducerConfig{Lanes: lanes, Hooks: e.Published(), Logger: e.log})
	e.Must(err, "open a producer")
	i := &idler{e: e, p: p, queue: name, lanes: n}
	i.w = e.Worker(Slots(4), With(func(s *crew.Spec) { s.Queue, s.Lanes, s.Lease = name, lanes, VirtualLease }))
	for lane := range n {
		i.publish(lane)
	}
	e.Await("the first messages are done", 2*late, i.done)
	return i
}

func (i *idler) publish(lane int) string {
	m := i.e.Message(Job{
		ID: fmt.Sprintf("%s/%d", i.queue, i.sent), Tenant: fmt.Sprintf("tenant-%d", lane), Order: workload.Order{Seq: i.sent},
	})
	i.sent++
	i.e.Publishing(m)
	i.e.Must(i.p.Publish(i.e.Ctx, m), "publish")
	return m.ID
}

func (i *idler) done(t *history.Timeline) bool {
	for k := range i.sent {
		if m := t.Message(fmt.Sprintf("%s/%d", i.queue, k)); m == nil || m.Finished() == history.Never {
			return false
		}
	}
	return true
}

// look notes what the worker has cost so far. Its journal says how many requests it has sent, every second.
func (i *idler) look() {
	i.calls, i.at = i.spent()
	i.cpu, _ = i.w.cpu()
}

func (i *idler) spent() (sum int, at int64) {
	last := map[string]int{}
	for _, ev := range i.e.Events(crew.Calls, i.w.Name) {
		last[ev.Cause], at = ev.N, ev.T
	}
	for _, n := range last {
		sum += n
	}
	return sum, at
}

func (i *idler) check(window time.Duration) {
	calls, at := i.spent()
	if at > i.at { // what cannot count its requests writes none
		rate := float64(calls-i.calls) / time.Duration(at-i.at).Seconds()
		i.e.Note(i.note("idle requests"), "%.2f/s", rate)
		i.e.Check(rate <= idleCalls+float64(i.lanes)/5, "an idle worker of %s sends %.1f requests a second", i.queue, rate)
	}
	if cpu, known := i.w.cpu(); known {
		share := float64(cpu-i.cpu) / float64(window)
		i.e.Note(i.note("idle CPU"), "%.1f %%", 100*share)
		i.e.Check(share <= idleCPU, "an idle worker of %s uses %.1f %% of a processor", i.queue, 100*share)
	}
}

func (i *idler) note(what string) string {
	if i.lanes > 1 {
		return fmt.Sprintf("%s (%d lanes)", what, i.lanes)
	}
	return what
}

// surprise publishes a message to each idler now and then, the last one on a lane that is new.
func surprise(e *Env, idlers []*idler) {
	const n = 5
	waits := make([][]time.Duration, len(idlers))
	for k := range n {
		e.Sleep(time.Duration(300+170*k) * time.Millisecond)
		for at, i := range idlers {
			lane := k
			if k == n-1 {
				lane = i.lanes
			}
			id := i.publish(lane)
			e.Await("an idle worker does message "+id, 2*late, i.done)
			m := e.Timeline().Message(id)
			waits[at] = append(waits[at], time.Duration(m.Deliveries[0].Runs[0].From-m.Publishes[0].Answered))
		}
	}
	for at, i := range idlers {
		w := waits[at]
		slices.Sort(w)
		e.Note(i.note("wakes"), "%v", max(w[n/2], 0).Round(time.Millisecond))
		e.Check(w[n/2] <= wakes && w[n-1] <= wakesLate, "messages waited for an idle worker of %s for %v", i.queue, w)
	}
}

// cpu is the processor time that the worker's process has used, where the system tells.
func (w *Worker) cpu() (used time.Duration, known bool) {
	if w.proc == nil {
		return 0, false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.proc.PID()))
	if err != nil {
		return 0, false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the third and on
	if len(fields) < 13 {
		return 0, false
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, true
}
