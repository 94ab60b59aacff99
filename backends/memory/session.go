package memory

import "context"

// session is what Lease.Session shows of a consumer's connection. A nil session stands for a broker without sessions.
type session struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  bool // set under Broker.mu, before cancel is called outside of it
}

func newSession() *session {
	s := &session{}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

func (s *session) context() context.Context {
	if s == nil {
		return nil
	}
	return s.ctx
}

func (s *session) over() bool { return s != nil && s.ended }

// current is the session of a new lease: after one has ended, the next.
func (c *consumer) current() *session {
	if c.session == nil && c.b.broker.cfg.Session {
		c.session = newSession()
	}
	return c.session
}

// endSession refuses what was leased in the session. The caller cancels it after releasing the lock.
func (c *consumer) endSession() []*session {
	s := c.session
	if s == nil {
		return nil
	}
	c.session, s.ended = nil, true
	return []*session{s}
}
