// Package proxy puts faults between a client and whatever it dials: cuts, black holes in one or both directions,
// refused connections, latency, a limited number of bytes.
//
// A client dials through it with Dialer, which first tells the proxy the address that the client asked for. So the
// addresses that a broker advertises stay behind the proxy as well.
package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy is a TCP proxy. Its faults hold for all of its connections.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup
	dials    atomic.Int64

	mu     sync.Mutex
	fault  Fault
	dialed []time.Time
	change chan struct{} // closed when fault changes
	conns  map[net.Conn]struct{}
	closed bool
}

// Fault is what the proxy does to the bytes that pass. The zero value lets them pass.
type Fault struct {
	Refuse   bool          // new connections are closed at once
	HoldUp   bool          // nothing of the client's arrives; it is kept until the fault ends
	HoldDown bool          // nothing of the broker's arrives
	Latency  time.Duration // added to every piece, each way
	Jitter   time.Duration // up to so much more or less than Latency, at random
	Slice    int           // pieces of at most so many bytes; 0: as they come
	// CutAfterUp closes the connection when so many more bytes of the client's have passed; 0: never.
	CutAfterUp int64
}

// Start starts a proxy on a loopback port.
func Start() (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{listener: l, change: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens: what Dialer takes.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Dials is how many connections were asked for so far, refused ones included.
func (p *Proxy) Dials() int64 { return p.dials.Load() }

// Dialed is when connections were asked for, refused ones included.
func (p *Proxy) Dialed() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dialed)
}

// Set replaces the fault.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	p.fault = f
	close(p.change)
	p.change = make(chan struct{})
	p.mu.Unlock()
}

// Cut closes every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Close closes the proxy and its connections, and waits for them.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.Set(Fault{})
	p.Cut()
	p.wg.Wait()
	return err
}

// Dialer returns a dial function that goes through the proxy at addr.
func Dialer(addr string) func(ctx context.Context, network, target string) (net.Conn, error) {
	return func(ctx context.Context, network, target string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(c, target+"\n"); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.dials.Add(1)
		p.mu.Lock()
		p.dialed = append(p.dialed, time.Now())
		p.mu.Unlock()
		if !p.keep(c) {
			_ = c.Close()
			continue
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.fault.Refuse {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	in := bufio.NewReader(client)
	target, err := in.ReadString('\n')
	if err != nil {
		return
	}
	broker, err := net.Dial("tcp", strings.TrimSuffix(target, "\n"))
	if err != nil || !p.keep(broker) {
		return
	}
	defer p.drop(broker)
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(broker, in, true); _ = client.Close(); _ = broker.Close() })
	wg.Go(func() { p.pass(client, broker, false); _ = client.Close(); _ = broker.Close() })
	wg.Wait()
}

// pass copies one direction until a side closes.
func (p *Proxy) pass(to io.Writer, from io.Reader, up bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf[:p.piece(len(buf))])
		if n > 0 && !p.forward(to, buf[:n], up) {
			return
		}
		if err != nil {
			return
		}
	}
}

// piece is how much to read at once, of at most so much.
func (p *Proxy) piece(most int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.fault.Slice; n > 0 {
		return min(n, most)
	}
	return most
}

// delay is how long a piece is held back.
func (f Fault) delay() time.Duration {
	if f.Jitter <= 0 {
		return f.Latency
	}
	return max(f.Latency-f.Jitter+rand.N(2*f.Jitter), 0)
}

// forward waits while the fault holds the direction up, and returns false when the connection is to be cut.
func (p *Proxy) forward(to io.Writer, piece []byte, up bool) bool {
	for {
		p.mu.Lock()
		f, change, closed := p.fault, p.change, p.closed
		cut := false
		if up && f.CutAfterUp > 0 {
			if cut = int64(len(piece)) >= f.CutAfterUp; cut {
				piece = piece[:f.CutAfterUp]
				p.fault.CutAfterUp = 0
			} else {
				p.fault.CutAfterUp -= int64(len(piece))
			}
		}
		p.mu.Unlock()
		if closed {
			return false
		}
		if up && f.HoldUp || !up && f.HoldDown {
			<-change
			continue
		}
		if held := f.delay(); held > 0 {
			<-time.After(held)
		}
		_, err := to.Write(piece)
		return err == nil && !cut
	}
}
