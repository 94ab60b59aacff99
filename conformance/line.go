package conformance

import (
	"context"
	"time"

	"github.com/holdfast-queue/holdfast/conformance/proxy"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// line is a connection of the rule's own that can be disturbed: through a proxy, or in virtual time by the model itself.
type line struct {
	driver.Backend
	proxy  *proxy.Proxy // nil in virtual time
	outage interface{ Outage(down bool) }
	kill   func()
}

// line opens one.
func (e *Env) line() *line {
	if !e.Virtual {
		l := &line{proxy: e.Proxy()}
		b, err := e.OpenThrough(l.proxy)
		e.Must(err, "open the backend through a proxy")
		l.Backend = b
		return l
	}
	c := e.broker.(Connector)
	b, kill, err := c.Connect(e.Ctx)
	e.Must(err, "connect")
	e.Cleanup(func() error {
		kill()
		closing, cancel := context.WithTimeout(context.WithoutCancel(e.Ctx), 5*time.Second)
		defer cancel()
		_ = b.Close(closing)
		return nil
	})
	return &line{Backend: b, outage: c, kill: kill}
}

// hole lets nothing pass, and breaks nothing. In virtual time that is an outage of the broker: nobody reaches it.
func (l *line) hole() {
	if l.proxy == nil {
		l.outage.Outage(true)
		return
	}
	l.proxy.Set(proxy.Fault{HoldUp: true, HoldDown: true, Refuse: true})
}

// heal ends a hole. What was under way arrives now.
func (l *line) heal() {
	if l.proxy == nil {
		l.outage.Outage(false)
		return
	}
	l.proxy.Set(proxy.Fault{})
}

// silence makes a hole of this connection alone, for good.
func (l *line) silence() {
	if l.proxy == nil {
		l.kill()
		return
	}
	l.hole()
}

// sever breaks this connection for good. What was under way in a hole is lost.
func (l *line) sever() {
	if l.proxy == nil {
		l.kill()
		return
	}
	l.hole()
	l.proxy.Cut()
}
