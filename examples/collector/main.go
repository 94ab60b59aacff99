// Command collector is a service as Holdfast's users write it: a scheduler that publishes a message for each advertiser,
// channel and day, and workers that collect from a slow interface of somebody else's.
//
//	collector schedule nats://localhost:4222 2026-11-22
//	collector work     nats://localhost:4222 https://api.example
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/holdfast-queue/holdfast/backends/nats"
	"github.com/holdfast-queue/holdfast/queue"
	"github.com/holdfast-queue/holdfast/queue/driver"
	"github.com/holdfast-queue/holdfast/queue/middleware"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) != 3 {
		return errors.New("usage: collector schedule|work BROKER-URL DAY|API-URL")
	}
	backend, err := nats.Open(ctx, nats.Config{URL: args[1]})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close(ctx)) }()
	switch args[0] {
	case "schedule":
		p, err := queue.NewProducer(ctx, backend, "collect", queue.ProducerConfig{Lanes: lanes})
		if err != nil {
			return err
		}
		return schedule(ctx, p, args[2], []advertiser{{"acme", true}, {"globex", false}}, []string{"search", "social"})
	case "work":
		c := &collector{api: args[2], client: &http.Client{Timeout: 30 * time.Minute}, store: discard}
		return work(ctx, backend, c)
	default:
		return fmt.Errorf("no command %q: it is schedule or work", args[0])
	}
}

// work runs a worker until SIGTERM, and then drains: what runs may go on for a while, the rest is given back.
func work(ctx context.Context, backend driver.Backend, c *collector) error {
	w, err := newWorker(backend)
	if err != nil {
		return err
	}
	h := queue.Chain(queue.JSON(c.collect), middleware.Log(nil))
	return w.RunUntil(ctx, h, syscall.SIGTERM, os.Interrupt)
}

func newWorker(backend driver.Backend) (*queue.Worker, error) {
	return queue.NewWorker(backend, "collect", queue.WorkerConfig{
		Limits:  queue.Limits{Concurrency: 4, PerTenant: 2},
		Lanes:   lanes,
		Longest: 30 * time.Minute,
		Timeout: 40 * time.Minute,
		Retry:   queue.Retry{MaxAttempts: 5, Base: 30 * time.Second},
		Needs:   queue.Needs{Shared: true, Redelay: time.Minute, Fencing: true},
	})
}

func discard(_ context.Context, r report, token uint64, data []byte) error {
	slog.Info("collected", "advertiser", r.Advertiser, "channel", r.Channel, "day", r.Day, "token", token, "bytes", len(data))
	return nil
}
