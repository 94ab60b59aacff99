// Package backends opens a broker by URL, for command lines. Applications import the one backend they use instead, and
// compile no other.
package backends

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/backends/nats"
	"github.com/holdfast-queue/holdfast/backends/nats/embedded"
	"github.com/holdfast-queue/holdfast/backends/rabbit"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// The schemes of URLs.
const (
	NATS         = "nats"          // nats://[user:password@]host[:port]: a server that runs already
	NATSEmbedded = "nats+embedded" // nats+embedded:///dir[?sync=always]: a server in this process; no dir: a temporary one
	Memory       = "memory"        // memory://: in this process, gone with it
	AMQP         = "amqp"          // amqp://[user:password@]host[:port][,host…]/vhost[?type=classic&…]: RabbitMQ; see rabbit.Config
	AMQPS        = "amqps"         // the same over TLS
)

// Forms are the forms of URL that Open knows, for messages and help texts.
func Forms() []string {
	return []string{"nats+embedded:///dir (no dir: a temporary one)", "nats://host[:port]", "amqp[s]://host[:port]/vhost", "memory://"}
}

// URLError is a URL that names no broker that Open knows.
type URLError struct {
	URL     string // without credentials
	Problem string
	Hint    string // what to write instead
}

func (e *URLError) Error() string { return fmt.Sprintf("broker %q: %s; %s", e.URL, e.Problem, e.Hint) }

// Open opens the broker that a URL names. The error is a *URLError if the URL is at fault, and else the backend's own.
// With nats+embedded the server stops when the Backend is closed.
func Open(ctx context.Context, text string) (driver.Backend, error) {
	u, err := parse(text)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case Memory:
		return memory.Open(memory.Config{}), nil
	case NATSEmbedded:
		return openEmbedded(ctx, text)
	case AMQP, AMQPS:
		return openRabbit(ctx, text)
	default:
		return openNATS(ctx, text)
	}
}

// Serve makes the broker that a URL names reachable for other processes: it starts the server that nats+embedded stands
// for and returns the URL that leads to it. Any other broker runs already, and its URL is returned as it is; memory
// cannot be reached and is refused with a *URLError. The caller must call stop when it is done with the broker.
func Serve(text string) (shared string, stop func(), err error) {
	u, err := parse(text)
	if err != nil {
		return "", nil, err
	}
	switch u.Scheme {
	case Memory:
		return "", nil, &URLError{
			URL: text, Problem: "it lives in one process, and other processes cannot reach it",
			Hint: "use nats+embedded:// for a broker that needs no server",
		}
	case NATSEmbedded:
		server, err := embedded.Start(embedded.Config{
			Dir: filepath.FromSlash(u.Path), SyncAlways: u.Query().Get("sync") == "always",
		})
		if err != nil {
			return "", nil, err
		}
		return server.URL(), server.Shutdown, nil
	default:
		return text, func() {}, nil
	}
}

// openNATS takes care that a failed Open is not a Backend that is not nil.
func openNATS(ctx context.Context, text string) (driver.Backend, error) {
	b, err := nats.Open(ctx, nats.Config{URL: text})
	if err != nil {
		return nil, err
	}
	return b, nil
}

func openRabbit(ctx context.Context, text string) (driver.Backend, error) {
	b, err := rabbit.Open(ctx, rabbit.Config{URL: text})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// embeddedNATS stops its server when it is closed.
type embeddedNATS struct {
	*nats.Backend
	stop func()
}

func openEmbedded(ctx context.Context, text string) (driver.Backend, error) {
	shared, stop, err := Serve(text)
	if err != nil {
		return nil, err
	}
	b, err := nats.Open(ctx, nats.Config{URL: shared})
	if err != nil {
		stop()
		return nil, err
	}
	return embeddedNATS{Backend: b, stop: stop}, nil
}

func (b embeddedNATS) Close(ctx context.Context) error {
	err := b.Backend.Close(ctx)
	b.stop()
	return err
}

// parse reads a URL and refuses what none of the schemes could make sense of.
func parse(text string) (*url.URL, error) {
	if scheme, _, _ := strings.Cut(text, ":"); scheme == AMQP || scheme == AMQPS {
		return parseRabbit(scheme, text)
	}
	return parsePlain(text)
}

func parsePlain(text string) (*url.URL, error) {
	fail := func(problem, hint string) error { return &URLError{URL: Redact(text), Problem: problem, Hint: hint} }
	known := "use one of " + strings.Join(Forms(), ", ")
	u, err := url.Parse(text)
	if err != nil {
		var reason *url.Error
		if errors.As(err, &reason) && strings.Contains(reason.Err.Error(), "port") {
			return nil, fail("the port is not a number", "write it like nats://localhost:4222")
		}
		return nil, fail("it is not a URL", known)
	}
	switch u.Scheme {
	case NATS:
		if u.Hostname() == "" {
			return nil, fail("it names no host", "write it like nats://localhost:4222")
		}
	case NATSEmbedded:
		if u.Host != "" || u.Opaque != "" {
			return nil, fail("it names a host where a directory belongs", "write it with three slashes, like nats+embedded:///var/lib/queue")
		}
		for key, values := range u.Query() {
			if key != "sync" || len(values) != 1 || values[0] != "always" {
				return nil, fail(fmt.Sprintf("unknown setting %q", key), "the only one is ?sync=always")
			}
		}
	case Memory:
		if u.Host != "" || u.Path != "" || u.Opaque != "" {
			return nil, fail("memory has no address", "write memory://")
		}
	case "":
		return nil, fail("it has no scheme", known)
	default:
		return nil, fail(fmt.Sprintf("unknown scheme %q", u.Scheme), known)
	}
	return u, nil
}

// parseRabbit leaves the URL to the driver: several hosts are no URL to net/url.
func parseRabbit(scheme, text string) (*url.URL, error) {
	if err := rabbit.CheckURL(text); err != nil {
		return nil, &URLError{URL: Redact(text), Problem: err.Error(), Hint: "write it like amqp://user:password@localhost:5672/vhost"}
	}
	return &url.URL{Scheme: scheme}, nil
}

// Redact returns a URL without its user information, for messages and reports. It also works on what is not quite a
// URL: everything between the scheme and the last @ before the path goes.
func Redact(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	}
	// A password that was not escaped may hold slashes: look for the last @ in all that is left.
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	if !found {
		return rest
	}
	return scheme + "://" + rest
}
