package middleware

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
)

// Timeout ends the handler's context with queue.ErrTimeout after what limit says for the delivery, for limits that
// differ by tenant or header. Zero or less: no limit. WorkerConfig.Timeout bounds all messages alike, and also watches
// for handlers that do not return.
func Timeout(limit func(*queue.Delivery) time.Duration) queue.Middleware {
	return func(next queue.Handler) queue.Handler {
		return func(ctx context.Context, d *queue.Delivery) error {
			most := limit(d)
			if most <= 0 {
				return next(ctx, d)
			}
			ctx, cancel := context.WithTimeoutCause(ctx, most, queue.ErrTimeout)
			defer cancel()
			return next(ctx, d)
		}
	}
}
