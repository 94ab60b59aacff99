package queue

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// listTime is how long a worker waits at most for the list of a queue's lanes before it begins without it.
const listTime = time.Second

// lanesListed waits until the lanes are known that were there at the beginning: a worker that began earlier would fill
// its slots from whichever lane it heard of first.
func (r *run) lanesListed(ctx context.Context) {
	timer := time.NewTimer(listTime)
	defer timer.Stop()
	select {
	case <-r.listed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// watchLanes keeps the lane table up to date.
func (r *run) watchLanes(ctx context.Context) {
	var once sync.Once
	listed := func() { once.Do(func() { close(r.listed) }) }
	defer listed()
	watcher, can := r.backend.(driver.LaneWatcher)
	if r.lanes == nil || !can {
		return
	}
	pause := backoff{first: 100 * time.Millisecond, top: 5 * time.Second}
	for ctx.Err() == nil {
		events, err := watcher.Watch(ctx, r.queue)
		if err != nil {
			r.c.trouble("watch lanes", err)
			sleep(ctx, pause.pause())
			continue
		}
		for e := range events {
			pause.reset()
			if r.learn(e, events, listed) {
				r.recall()
			}
		}
		sleep(ctx, pause.pause()) // the channel ended although ctx did not
	}
}

// learn adds the lane of e and of the events that have come by now, so that many lanes recall a call once. It reports
// whether one was new.
func (r *run) learn(e driver.LaneEvent, more <-chan driver.LaneEvent, listed func()) (fresh bool) {
	for {
		fresh = r.lanes.add(e.Lane) || fresh
		if e.Listed {
			listed()
		}
		var open bool
		select {
		case e, open = <-more:
			if open {
				continue
			}
		default:
		}
		return fresh
	}
}
