// Command qbench benchmarks message brokers as work queues.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/internal/qbench"
)

func main() {
	crew.Main(backends.Open) // does not return in a worker process
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once; workers end with it
	os.Exit(qbench.Main(ctx, qbench.FromOS()))
}
