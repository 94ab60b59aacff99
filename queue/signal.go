package queue

import (
	"context"
	"os"
	"os/signal"
)

// RunUntil is Run for a program's main function: the first of the given signals (usually SIGTERM and os.Interrupt)
// begins the drain, a second one leaves at once, without waiting for handlers; their leases run out.
func (w *Worker) RunUntil(ctx context.Context, h Handler, signals ...os.Signal) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	got := make(chan os.Signal, 2)
	if len(signals) > 0 { // none would mean every signal, of which the runtime sends some to itself
		signal.Notify(got, signals...)
	}
	defer signal.Stop(got)
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for _, act := range []func(){stop, w.Abort} {
			select {
			case <-got:
				act()
			case <-over:
				return
			}
		}
	}()
	err := w.Run(ctx, h)
	close(over)
	<-watched
	return err
}
