package middleware

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
)

// Log writes a line when a handler returns: at Info if it succeeded, at Warn with the error if it did not. Bodies and
// headers are not logged. A nil logger is slog.Default.
func Log(logger *slog.Logger) queue.Middleware {
	if logger == nil {
		logger = slog.Default()
	}
	return func(next queue.Handler) queue.Handler {
		return func(ctx context.Context, d *queue.Delivery) error {
			began := time.Now()
			err := next(ctx, d)
			level := slog.LevelInfo
			attrs := []slog.Attr{
				slog.String("queue", d.Queue), slog.String("id", d.ID), slog.String("tenant", d.Tenant),
				slog.Int("attempt", d.Attempt), slog.Duration("took", time.Since(began)),
			}
			if err != nil {
				level = slog.LevelWarn
				attrs = append(attrs, slog.Any("err", err))
				if cause := context.Cause(ctx); cause != nil {
					attrs = append(attrs, slog.Any("cause", cause))
				}
			}
			logger.LogAttrs(ctx, level, "message handled", attrs...)
			return err
		}
	}
}
