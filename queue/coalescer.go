package queue

import (
	"context"
	"slices"
	"sync"
)

// coalescer hands items to do in batches: one call at a time, and what is added during a call shares the next. It
// never waits to fill a batch.
type coalescer[T any] struct {
	most int
	do   func(context.Context, []T)
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	items  []T
	closed bool
}

func newCoalescer[T any](most int, do func(context.Context, []T)) *coalescer[T] {
	if most <= 0 {
		most = 256
	}
	return &coalescer[T]{most: most, do: do, wake: make(chan struct{}, 1)}
}

// add returns false if the loop has ended and nobody will see the item.
func (c *coalescer[T]) add(item T) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.items = append(c.items, item)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

func (c *coalescer[T]) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			batch := c.next()
			if len(batch) == 0 {
				break
			}
			c.do(ctx, batch)
		}
	}
}

func (c *coalescer[T]) next() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.items), c.most)
	batch := slices.Clone(c.items[:n])
	c.items = slices.Delete(c.items, 0, n)
	return batch
}

// close takes what is left when the loop has ended, and refuses more.
func (c *coalescer[T]) close() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	left := c.items
	c.items = nil
	return left
}
