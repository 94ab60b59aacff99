package main

import (
	"context"
	"fmt"

	"github.com/holdfast-queue/holdfast/queue"
)

// advertiser is a customer; the paying ones go first.
type advertiser struct {
	name   string
	paying bool
}

const (
	paid     = 10
	internal = 0
)

// lanes keeps paid work before internal work, and one advertiser's flood from stopping the others. Scheduler and
// workers use the same.
var lanes = queue.Lanes{Priorities: true, Tenants: true}

// schedule publishes a message for each advertiser and channel. The ID names the piece of work, so that a scheduler
// that is restarted does not publish it twice within the broker's deduplication window.
func schedule(ctx context.Context, p *queue.Producer, day string, who []advertiser, channels []string) error {
	var ms []*queue.Message
	for _, a := range who {
		for _, channel := range channels {
			m, err := queue.NewJSON(report{Advertiser: a.name, Channel: channel, Day: day})
			if err != nil {
				return err
			}
			m.ID = fmt.Sprintf("%s/%s/%s", a.name, channel, day)
			m.Tenant, m.Priority = a.name, internal
			if a.paying {
				m.Priority = paid
			}
			ms = append(ms, m)
		}
	}
	return p.Publish(ctx, ms...)
}
