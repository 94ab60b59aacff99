package qbench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

const (
	openTimeout  = 10 * time.Second // to connect, or to find out that nobody is there
	closeTimeout = 5 * time.Second  // to tidy up at the end
)

// broker is the broker of a run, as the parent process sees it.
type broker struct {
	asked  string // the URL that was given, which may hold credentials
	shared string // the URL that leads workers to it; may hold credentials
	stop   func() // ends the server that was started for the run, if one was
	driver.Backend
}

// openBroker starts the broker if it is an embedded one, and connects.
func openBroker(ctx context.Context, url string) (*broker, error) {
	shared, stop, err := backends.Serve(url)
	if err != nil {
		return nil, brokerFailed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	b, err := backends.Open(ctx, shared)
	if err != nil {
		stop()
		return nil, brokerFailed(err)
	}
	return &broker{asked: url, shared: shared, stop: stop, Backend: b}, nil
}

func (b *broker) embedded() bool { return strings.HasPrefix(b.asked, backends.NATSEmbedded+":") }

// url is what was asked for, without credentials.
func (b *broker) url() string { return backends.Redact(b.asked) }

// durability says what a confirmed message survives.
func (b *broker) durability() string {
	switch {
	case b.embedded() && strings.Contains(b.asked, "sync=always"):
		return "on disk, synced before each confirmation"
	case b.embedded():
		return "on disk, synced every 10s: survives the death of the process, not a power failure"
	default:
		return "as the server is configured"
	}
}

// calls are the requests that the parent itself has sent.
func (b *broker) calls() map[string]int64 {
	if m, can := b.Backend.(driver.Meter); can {
		return m.Calls()
	}
	return nil
}

// empty reports whether the broker holds no message of the queue. known is false if it cannot tell.
func (b *broker) empty(ctx context.Context, queue string) (empty, known bool) {
	g, can := b.Backend.(driver.Gauger)
	if !can {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	depth, err := g.Gauge(ctx, queue)
	if err != nil {
		return false, false
	}
	if depth.InFlight < 0 { // what is leased or held back cannot be seen
		return false, depth.Ready > 0
	}
	return depth.Ready == 0 && depth.InFlight == 0 && depth.Delayed <= 0, true
}

// close removes the queues of the run, so that a server that is used again stays clean, and disconnects. It takes its
// own time: an interrupted run tidies up as well.
func (b *broker) close(queues ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	if admin, can := b.Backend.(driver.Admin); can {
		for _, q := range queues {
			if err := admin.DeleteQueue(ctx, q); err != nil && !errors.Is(err, driver.NotFound) {
				errs = append(errs, fmt.Errorf("delete queue %s: %w", q, err))
			}
		}
	}
	errs = append(errs, b.Close(ctx))
	b.stop()
	return errors.Join(errs...)
}
