package middleware

import (
	"context"
	"sync"

	"github.com/holdfast-queue/holdfast/queue"
)

// Once remembers the last size IDs whose handlers succeeded in this process, and acks a message that comes again
// without running it: after an ack that failed although the work was done. It is a memory of one process, so it saves
// work and promises nothing: a redelivery elsewhere runs.
func Once(size int) queue.Middleware {
	done := &memory{size: max(size, 1), known: map[string]bool{}}
	return func(next queue.Handler) queue.Handler {
		return func(ctx context.Context, d *queue.Delivery) error {
			if done.has(d.ID) {
				return nil
			}
			err := next(ctx, d)
			if err == nil {
				done.add(d.ID)
			}
			return err
		}
	}
}

// memory is the last size ids, oldest forgotten first.
type memory struct {
	size int

	mu    sync.Mutex
	known map[string]bool
	ring  []string
	next  int
}

func (m *memory) has(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[id]
}

func (m *memory) add(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[id] {
		return
	}
	m.known[id] = true
	if len(m.ring) < m.size {
		m.ring = append(m.ring, id)
		return
	}
	delete(m.known, m.ring[m.next])
	m.ring[m.next] = id
	m.next = (m.next + 1) % m.size
}
