package conformance

import (
	"bytes"
	"fmt"
	"maps"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/workload"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// retryRules are family P: retries, delays, dead letters.
var retryRules = []Rule{
	{
		ID: "P01", Name: "poison", Tier: Smoke,
		Claim: "a message that always fails is dead-lettered after exactly MaxAttempts attempts, as it was published and with how it died",
		Check: poisonDies,
	},
	{
		ID: "P02", Name: "original_stays", Tier: Fast,
		Claim: "a message is not acked before its dead letter is stored",
		Check: originalStays,
	},
	{
		ID: "P03", Name: "delays", Tier: Fast,
		Claim:    "a message with a delay comes not before it is over, and soon after",
		Emulated: emulatedDelays,
		Check:    delaysKept,
	},
	{
		ID: "P04", Name: "long_delays", Tier: Fast,
		Claim:    "a delay that the broker cannot hold is refused by the driver, and held by the queue in parts",
		Emulated: emulatedDelays,
		Check:    longDelays,
	},
	{
		ID: "P05", Name: "delays_survive", Tier: Fast, Power: true,
		Claim:    "delayed messages survive the death of the worker that returned them and a restart of the broker",
		Emulated: emulatedDelays,
		Check:    delaysSurvive,
	},
	{
		ID: "P06", Name: "delays_block_nobody", Tier: Fast,
		Claim:    "a message that waits for its time holds up no other",
		Emulated: emulatedDelays,
		Check:    delaysBlockNobody,
	},
	{
		ID: "P07", Name: "no_hot_loop", Tier: Fast,
		Claim: "a message that always fails, or is always given back, is delivered at most five times a second",
		Check: noHotLoop,
	},
	{
		ID: "P08", Name: "release_is_free", Tier: Fast,
		Claim: "a message that is given back, by its handler or by a drain, loses no attempt and counts no crash",
		Check: releaseIsFree,
	},
	{
		ID: "P09", Name: "redrive", Tier: Fast,
		Claim: "a dead letter that is moved back keeps its id, body and headers, and starts anew",
		Check: redriven,
	},
}

func emulatedDelays(c driver.Capabilities) string {
	switch {
	case c.Redelay.By == driver.Emulated:
		return "a returned message is held back by the driver"
	case c.Delay.By == driver.Emulated:
		return "a published message is held back by the driver"
	case c.Redelay.By == driver.Nobody:
		return "a failed message is published again with a delay"
	}
	return ""
}

// steady is a retry policy of n attempts with the shortest pause between them.
func steady(n int) WorkerOption {
	return With(func(s *crew.Spec) {
		s.Retry = queue.Retry{MaxAttempts: n, Base: 200 * time.Millisecond, Factor: 1, Jitter: -1}
	})
}

// filled gives a job something in every field that a message has.
func filled(i int, j *Job) {
	j.Tenant, j.Key, j.Priority = fmt.Sprintf("tenant %d ü", i), fmt.Sprintf("key/%d", i), i-2
	j.Header = map[string]string{"traceparent": fmt.Sprintf("00-%032x-%016x-01", i+1, i+1), "empty": "", "ünïcode": "ß — \t\n"}
}

func poisonDies(e *Env) {
	n := 3
	if drops := e.Caps.BrokerDropsAfter; drops > 0 {
		n = drops + 2 // its limit must not be felt
	}
	jobs := e.Jobs(8, 10*time.Millisecond, func(i int, j *Job) {
		filled(i, j)
		switch i {
		case 0:
			j.Poison = true
		case 1:
			j.Do = workload.Reject
		case 2:
			j.Do, j.Times = workload.Panic, n+1
		}
	})
	w := e.Worker(Slots(4), steady(n))
	e.Publish(queue.Lanes{}, jobs...)
	e.Await("every message is done", time.Duration(n)*time.Second+2*late, finished(len(jobs)))
	e.Drain([]*Worker{w}, late)
	v := e.Valid(history.Options{Drained: true, FaultFree: true})
	e.Check(v.DeadLettered == 3, "%d dead letters", v.DeadLettered)
	dead := e.deadLetters(3)
	for i, want := range []queue.Death{
		{Reason: queue.ReasonAttempts, Attempts: n}, {Reason: queue.ReasonRejected, Attempts: 1}, {Reason: queue.ReasonAttempts, Attempts: n},
	} {
		d := dead[jobs[i].ID]
		e.Check(d != nil, "message %s has no dead letter", jobs[i].ID)
		e.same(jobs[i], d)
		e.died(d, want)
		runs := e.runsOf(d.ID)
		e.Check(len(runs) == want.Attempts, "message %s ran %d times, not %d", d.ID, len(runs), want.Attempts)
		for k, r := range runs {
			e.Check(r.Delivery.Attempt == k+1, "run %d of message %s was attempt %d", k+1, d.ID, r.Delivery.Attempt)
		}
	}
}

// died checks how a dead letter says that it died.
func (e *Env) died(d *queue.Delivery, want queue.Death) {
	got := d.Dead
	e.Check(got != nil, "dead letter %s does not say how it died", d.ID)
	e.Check(got.Reason == want.Reason && got.Attempts == want.Attempts && got.Crashes == want.Crashes,
		"dead letter %s: %s after %d attempts and %d crashes, not %s after %d and %d",
		d.ID, got.Reason, got.Attempts, got.Crashes, want.Reason, want.Attempts, want.Crashes)
	e.Check(got.Origin == e.Queue, "dead letter %s says that it comes from %q", d.ID, got.Origin)
	e.Check(got.Err != "", "dead letter %s gives no error", d.ID)
	e.Check(!got.First.IsZero() && !got.Last.Before(got.First) && (want.Attempts == 1 || got.Last.After(got.First)),
		"dead letter %s failed first %v and last %v", d.ID, got.First, got.Last)
}

// same checks that a delivery brings what the job was published as.
func (e *Env) same(j Job, d *queue.Delivery) { e.brings(d, e.Message(j)) }

// brings checks that a delivery brings what was published.
func (e *Env) brings(d *queue.Delivery, m *queue.Message) {
	e.Check(d.ID == m.ID, "id %q came as %q", m.ID, d.ID)
	e.Check(bytes.Equal(d.Body, m.Body), "the body of message %s has changed: %q, was %q", m.ID, start(d.Body), start(m.Body))
	e.Check(maps.Equal(d.Header, m.Header), "the headers of message %s have changed: %q, were %q", m.ID, d.Header, m.Header)
	e.Check(d.Tenant == m.Tenant && d.Key == m.Key && d.Priority == m.Priority, "message %s came with tenant %q, key %q and priority %d, not %q, %q and %d",
		m.ID, d.Tenant, d.Key, d.Priority, m.Tenant, m.Key, m.Priority)
}

// start is enough of a body to see what it is.
func start(body []byte) []byte { return body[:min(len(body), 60)] }

// runsOf are the runs of a message, by time.
func (e *Env) runsOf(id string) []*history.Run {
	var runs []*history.Run
	if m := e.Timeline().Message(id); m != nil {
		for _, d := range m.Deliveries {
			runs = append(runs, d.Runs...)
		}
	}
	return runs
}

// deadLetters receives and acks what is in the queue's dead letters, which must be n messages.
func (e *Env) deadLetters(n int) map[string]*queue.Delivery {
	c := e.Consumer(e.Queue+".dead", queue.ConsumerConfig{})
	dead := map[string]*queue.Delivery{}
	for _, d := range e.Receive(c, n, late) {
		e.Must(d.Ack(e.Ctx), "ack a dead letter")
		e.Check(dead[d.ID] == nil, "two dead letters of message %s", d.ID)
		dead[d.ID] = d
	}
	e.Quietly(c, time.Second, "there should be no more dead letters")
	return dead
}

func noHotLoop(e *Env) {
	e.Publish(queue.Lanes{}, e.Jobs(4, 0, func(i int, j *Job) {
		switch i {
		case 0:
			j.Poison = true
		case 1:
			j.Poison, j.After = true, time.Millisecond
		case 2:
			j.Do, j.Times = workload.Release, 1000
		case 3:
			j.Do, j.Times = workload.Panic, 1000
		}
	})...)
	w := e.Worker(Slots(4), With(func(s *crew.Spec) {
		s.Retry = queue.Retry{MaxAttempts: 1000, Base: time.Nanosecond, Factor: 1, Jitter: -1}
	}))
	e.Await("every message came six times", late, func(t *history.Timeline) bool {
		for _, m := range t.Messages {
			if len(m.Deliveries) < 6 {
				return false
			}
		}
		return len(t.Messages) == 4
	})
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{FaultFree: true})
	const second, blur = int64(time.Second), int64(20 * time.Millisecond)
	for _, m := range e.Timeline().Messages {
		for i, d := range m.Deliveries {
			if i+6 <= len(m.Deliveries)-1 {
				span := m.Deliveries[i+6].At - d.At
				e.Check(span >= second-blur, "message %s was delivered seven times within %v", m.ID, time.Duration(span))
			}
		}
	}
}

func releaseIsFree(e *Env) {
	times := 6 // more than MaxAttempts, and than crashes are allowed
	if e.Tier == Full || e.Virtual {
		times = 10
	}
	e.releasedByHandler(times)
	e.releasedByDrain(6)
	e.Valid(history.Options{Drained: true, FaultFree: true})
}

func (e *Env) releasedByHandler(times int) {
	job := e.Jobs(1, 0, func(_ int, j *Job) { j.ID, j.Do, j.Times = "by-handler", workload.Release, times })[0]
	e.Publish(queue.Lanes{}, job)
	w := e.Worker()
	e.Await("the message is done", time.Duration(times)*5*time.Second+late, finished(1))
	e.Drain([]*Worker{w}, late)
	runs := e.runsOf(job.ID)
	e.Check(len(runs) == times+1, "the message ran %d times, not %d", len(runs), times+1)
	for i, r := range runs {
		e.Check(r.Delivery.Attempt == 1, "after %d releases the message has attempt %d", i, r.Delivery.Attempt)
	}
	for _, ev := range e.Events(history.Deliver, "") {
		e.Check(ev.N == 0, "a delivery of message %s has %d crashes", ev.Msg, ev.N)
	}
}

// releasedByDrain cuts the same job short in one worker after the other.
func (e *Env) releasedByDrain(workers int) {
	job := e.Jobs(1, 5*time.Minute, func(_ int, j *Job) { j.ID = "by-drain" })[0]
	e.Publish(queue.Lanes{}, job)
	for i := range workers {
		w := e.Worker(With(func(s *crew.Spec) { s.Drain = -1 }))
		e.Await(fmt.Sprintf("start %d of the message", i+1), e.back(), func(*history.Timeline) bool { return len(e.runsOf(job.ID)) == i+1 })
		w.Term()
		code := w.Exit(late)
		e.Check(code == crew.ExitReleased, "worker %s ended with code %d", w.Name, code)
	}
	d := e.Receive(e.Puller("last", e.Open(), queue.ConsumerConfig{}), 1, e.back())[0]
	e.Check(d.ID == job.ID && d.Attempt == 1 && d.Crashes == 0, "after %d drains message %s has attempt %d and %d crashes", workers, d.ID, d.Attempt, d.Crashes)
	e.Check(!e.Caps.Carries || d.Releases == workers, "%d releases are counted, not %d", d.Releases, workers)
	e.Must(d.Ack(e.Ctx), "ack")
}
