// Package embedded runs a NATS server with JetStream inside this process, so that a queue needs nothing but Go. Other
// processes of the machine can use it over TCP by its URL.
//
// # Durability
//
// Messages are files under Config.Dir. A stored message has reached the operating system before it is confirmed, so
// that the death of the process loses nothing. What a power failure or a crash of the machine can lose depends on
// Config: with SyncAlways nothing that was confirmed, otherwise what was written within the last SyncInterval.
// SyncAlways costs one fsync for each message stored and each message acknowledged.
//
// Which deliveries are leased, and how often a message was delivered, is written up to a tenth of a second late even
// with SyncAlways. A server that is killed, not stopped, can forget the leases of that time; package nats ends them on
// the client's side when the connection breaks.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Defaults of Config, and the size limit that every embedded server has.
const (
	DefaultAddr         = "127.0.0.1:0"
	DefaultSyncInterval = 10 * time.Second
	// MaxPayload is the largest message with its headers, in bytes. The server's authors advise against more.
	MaxPayload = 8 << 20

	startTimeout = 30 * time.Second // recovery of a large directory included
)

// Config says where a server listens and keeps its messages. The zero value is a server on a free loopback port with
// a temporary directory that Shutdown removes.
type Config struct {
	// Dir keeps the messages. Empty: a temporary directory, removed by Shutdown. One server at a time can use it.
	Dir string
	// Addr is where clients connect, host:port. Empty: DefaultAddr; port 0: a free one.
	Addr string
	// SyncAlways confirms a message only after it was synced to the disk.
	SyncAlways bool
	// SyncInterval is how often written messages are synced otherwise. Zero: DefaultSyncInterval.
	SyncInterval time.Duration
	// Logger gets what the server has to say. Nil: nothing is logged.
	Logger *slog.Logger
}

// Server is a running NATS server. It is safe for concurrent use.
type Server struct {
	nats   *server.Server
	dir    string
	remove bool // dir is ours to remove
	unlock func()
	stop   sync.Once
}

// Start starts a server and returns when clients can connect. It fails if the address is taken, or the directory
// cannot be written or belongs to another running server. The caller must call Shutdown.
func Start(c Config) (*Server, error) {
	host, port, err := splitAddr(c.Addr)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: c.Dir}
	if err := s.claimDir(); err != nil {
		return nil, err
	}
	if err := s.start(c, host, port); err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(c Config, host string, port int) error {
	if c.SyncInterval <= 0 {
		c.SyncInterval = DefaultSyncInterval
	}
	n, err := server.NewServer(&server.Options{
		ServerName:   "holdfast-embedded",
		Host:         host,
		Port:         port,
		JetStream:    true,
		StoreDir:     s.dir,
		SyncAlways:   c.SyncAlways,
		SyncInterval: c.SyncInterval,
		MaxPayload:   MaxPayload,
		NoSigs:       true,
		NoLog:        true,
	})
	if err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	s.nats = n
	log := newLogger(c.Logger)
	n.SetLoggerV2(log, false, false, false)
	n.Start()
	if err := log.failure(); err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	if !n.ReadyForConnections(startTimeout) {
		return errors.Join(errors.New("embedded nats server: not ready in time"), log.failure())
	}
	return nil
}

// splitAddr translates port 0 into the server's own word for a free port.
func splitAddr(addr string) (string, int, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("embedded nats server: address: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("embedded nats server: port: %w", err)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

func (s *Server) claimDir() error {
	var err error
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "holdfast-nats-"); err != nil {
			return fmt.Errorf("embedded nats server: %w", err)
		}
		s.remove = true
	} else if err = os.MkdirAll(s.dir, 0o750); err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	if s.unlock, err = lockDir(s.dir); err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	return nil
}

// URL is what clients connect to: nats://host:port.
func (s *Server) URL() string { return s.nats.ClientURL() }

// Addr is the host:port that the server listens on, for a later server that shall take this one's place.
func (s *Server) Addr() string { return s.nats.Addr().String() }

// Dir is where the server keeps its messages.
func (s *Server) Dir() string { return s.dir }

// Version is the version of the NATS server.
func (s *Server) Version() string { return server.VERSION }

// Shutdown stops the server, waits until it has written everything, and removes the directory if it was a temporary
// one. Later calls do nothing.
func (s *Server) Shutdown() {
	s.stop.Do(func() {
		if s.nats != nil {
			s.nats.Shutdown()
			s.nats.WaitForShutdown()
		}
		if s.unlock != nil {
			s.unlock()
		}
		if s.remove {
			_ = os.RemoveAll(s.dir) // a leftover temporary directory is the system's to clean
		}
	})
}

// logger passes the server's messages on, and keeps the first fatal one: the server reports what keeps it from
// starting only there.
type logger struct {
	out *slog.Logger

	mu    sync.Mutex
	fatal error
}

func newLogger(out *slog.Logger) *logger {
	if out == nil {
		out = slog.New(slog.DiscardHandler)
	}
	return &logger{out: out}
}

func (l *logger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *logger) log(level slog.Level, format string, v []any) {
	if l.out.Enabled(context.Background(), level) {
		l.out.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}

func (l *logger) Noticef(format string, v ...any) { l.log(slog.LevelInfo, format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.log(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.log(slog.LevelError, format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.log(slog.LevelDebug, format, v) }
func (l *logger) Tracef(format string, v ...any)  { l.log(slog.LevelDebug, format, v) }

func (l *logger) Fatalf(format string, v ...any) {
	l.log(slog.LevelError, format, v)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
	}
}
