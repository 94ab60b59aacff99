package queue

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// RedriveConfig configures Redrive. The zero value moves everything back to where it came from.
type RedriveConfig struct {
	// To is the queue to publish to. Empty: the one each message came from.
	To string
	// Lanes must be those of the queue's producers.
	Lanes Lanes
	// Limit is the most messages to move. Zero: no limit.
	Limit int
	// Idle is how long the dead-letter queue must be empty for Redrive to be done. Zero: 1 s.
	Idle time.Duration
	// Logger gets a line for each lost lease and failed ack. Nil: slog.Default.
	Logger *slog.Logger
}

// Redrive moves dead letters back: with their ID, body and headers, with attempts and crashes at zero. Each is stored
// again before its dead letter is acked, so that one that is killed in the middle loses nothing and may repeat one
// message. One that dies again meanwhile stays where it is. It returns how many were moved.
func Redrive(ctx context.Context, b driver.Backend, deadLetters string, cfg RedriveConfig) (moved int, err error) {
	setDefault(&cfg.Idle, time.Second)
	// However often a Redrive was killed in the middle, the dead letters stay where they are.
	c, err := NewConsumer(ctx, b, deadLetters, ConsumerConfig{Retry: Retry{MaxCrashes: math.MaxInt}, Logger: cfg.Logger})
	if err != nil {
		return 0, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.callTimeout())
		defer cancel()
		err = errors.Join(err, c.Close(closing)) // gives back what was held
	}()
	was := map[life]bool{}
	for cfg.Limit == 0 || moved < cfg.Limit {
		most := min(64, c.room())
		if cfg.Limit > 0 {
			most = min(most, cfg.Limit-moved)
		}
		if most <= 0 {
			return moved, nil
		}
		ds, in, err := c.receive(ctx, driver.Want{Max: most}, cfg.Idle)
		if err != nil || len(in) == 0 {
			return moved, err
		}
		for _, d := range ds {
			if was[d.life()] {
				continue // held until the end, or it would be received again at once
			}
			if err := c.redrive(ctx, d, cfg); err != nil {
				return moved, err
			}
			was[d.life()] = true
			moved++
		}
	}
	return moved, nil
}

// life tells the messages of one ID apart.
type life struct {
	id   string
	born int64
}

func (d *Delivery) life() life { return life{d.ID, d.PublishedAt.UnixMicro()} }

func (c *Consumer) redrive(ctx context.Context, d *Delivery, cfg RedriveConfig) error {
	to := cfg.To
	if to == "" && d.Dead != nil {
		to = d.Dead.Origin
	}
	switch to {
	case "":
		return c.wrap("redrive", d.ID, invalid("the message does not say which queue it came from: set RedriveConfig.To"))
	case c.name:
		return c.wrap("redrive", d.ID, invalid("it would go to the queue that it is in"))
	}
	e := d.env
	e.record, e.death = record{}, nil
	e.generation++
	m := c.copyMessage(d, &e)
	m.Lane = cfg.Lanes.lane(e.tenant, e.priority, c.caps)
	out, err := c.outlet(ctx, to)
	if err == nil {
		err = driver.Outcome(out.Publish(ctx, []*driver.Message{m}), 0)
	}
	if err != nil {
		return c.wrap("redrive", d.ID, err)
	}
	return d.Ack(ctx)
}
