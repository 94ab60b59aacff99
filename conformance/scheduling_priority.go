package conformance

import (
	"math/rand/v2"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func priorityByLanes(c driver.Capabilities) string {
	if c.Priorities == 0 {
		return "a lane for each priority"
	}
	return ""
}

func needsPriorities(s Setting) string {
	if s.Caps.Priorities == 0 {
		return needsLanes(s)
	}
	return ""
}

var byPriority = queue.Lanes{Priorities: true}

// priorityOrder has a backlog of shuffled priorities before the only slot there is.
func priorityOrder(e *Env) {
	const levels, each = 5, 6
	jobs := e.Jobs(levels*each, unit/2, func(i int, j *Job) { j.Priority = i % levels })
	r := rand.New(rand.NewPCG(e.Seed, 9))
	r.Shuffle(len(jobs), func(i, k int) { jobs[i], jobs[k] = jobs[k], jobs[i] })
	e.Publish(byPriority, jobs...)
	w := e.Worker(laned(byPriority))
	e.Await("the messages are done", levels*each*unit+late, finished(len(jobs)))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	var before *history.Message
	for _, r := range e.runs() {
		m := r.Delivery.Msg
		if before != nil && before.Priority < m.Priority {
			e.Failf("a message of priority %d started before one of priority %d that waited as long", before.Priority, m.Priority)
		}
		before = m
	}
}

// notice is how late a worker may learn that a lane that it knows has a message again, at a broker that tells nobody.
const notice = 2 * time.Second

// overtakes checks that run r of a message that could start from moment at on did so before the backlog did, and after
// no more jobs than those that ran or were about to.
func (e *Env) overtakes(r *history.Run, at int64, most time.Duration) {
	took := time.Duration(r.From - at)
	ahead, behind := 0, 0
	for _, m := range e.Timeline().Messages {
		if m.Priority >= r.Delivery.Msg.Priority {
			continue
		}
		switch runs := runsOf(m); {
		case len(runs) == 0 || runs[0].From > r.From:
			behind++
		case runs[0].From > at:
			ahead++
		}
	}
	e.Check(took <= most, "a message of priority %d waited %v, and %d of lower priority started meanwhile", r.Delivery.Msg.Priority, took, ahead)
	e.Check(behind > ahead, "only %d messages of lower priority were overtaken, %d were not", behind, ahead)
	e.Note("overtaking", "after %v and %d others", took.Round(time.Millisecond), ahead)
}

// priorityKept fails the first attempt of a message of high priority in front of a backlog of low priority.
func priorityKept(e *Env) {
	const backlog, run, pause = 24, 3 * unit, 3 * unit
	jobs := e.Jobs(1+backlog, run, func(i int, j *Job) {
		if i == 0 {
			j.Priority, j.Fail, j.After = 9, 1, pause
		}
	})
	e.Publish(byPriority, jobs...)
	w := e.Worker(laned(byPriority))
	e.Await("the message of high priority is done", backlog*run+late, finished1(jobs[0].ID))
	e.Await("the messages are done", backlog*run+late, finished(len(jobs)))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	m := e.Timeline().Message(jobs[0].ID)
	rs := runsOf(m)
	e.Check(len(rs) == 2, "the message ran %d times", len(rs))
	e.Check(rs[0] == e.runs()[0], "the message of high priority was not the first to start")
	back := m.Deliveries[0].Settled().Answered + int64(pause)
	e.overtakes(rs[1], back, notice+run+e.slack()/5)
}

func finished1(id string) func(*history.Timeline) bool {
	return func(t *history.Timeline) bool { m := t.Message(id); return m != nil && m.Finished() != history.Never }
}

// latePriority publishes messages of high priority while a backlog of low priority runs: one in a lane that nobody has
// heard of, one in the lane that it made known.
func latePriority(e *Env) {
	const slots, backlog, run = 2, 80, 3 * unit
	w := e.Worker(Slots(slots), laned(byPriority))
	e.Publish(byPriority, e.Jobs(backlog, run, nil)...)
	e.Await("the backlog runs", late, atLeast(slots))
	for i, most := range []time.Duration{5 * time.Second, notice} {
		j := e.Jobs(1, run, func(_ int, j *Job) { j.ID += "/high" + string(rune('0'+i)); j.Priority = 9 })[0]
		e.Publish(byPriority, j)
		r := e.awaitRun(j.ID, 1, most+run+late)
		e.Await("it is done", late, finished1(j.ID))
		e.overtakes(r, r.Delivery.Msg.Publishes[0].Answered, most+run+e.slack()/5)
	}
	e.Await("the messages are done", backlog*run+late, finished(backlog+2))
	e.Drain([]*Worker{w}, late)
	e.Valid(history.Options{Drained: true, FaultFree: true})
	for _, r := range e.runs() {
		e.Check(r.Returned && r.Err == "", "a job was cut short: %s", r.Err)
	}
}
