package rabbit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// QueueType is how the broker keeps the messages of a queue.
type QueueType string

// The types of queue. The zero value stands for Quorum.
const (
	Quorum  QueueType = "quorum"  // replicated, on disk
	Classic QueueType = "classic" // on one node
)

// Defaults of Config.
const (
	DefaultURL             = "amqp://guest:guest@localhost:5672/"
	DefaultHeartbeat       = 10 * time.Second
	DefaultTimeout         = 10 * time.Second
	DefaultConsumerTimeout = 30 * time.Minute // what a server has that nobody configured
	DefaultMaxBytes        = 16 << 20         // the same of servers since 4.0
	DefaultMaxPriority     = 9

	mostPriorities = 255
)

// Config says how to reach the servers and how queues are kept there. The zero value is a server on this machine's
// port 5672 with the account that a fresh installation has.
type Config struct {
	// URL is amqp://user:password@host1:5672,host2:5672/vhost or the same with amqps. Hosts are tried in turn. Without
	// a port it is 5672, or 5671 for amqps; without a host localhost; without user and password guest and guest, what a
	// fresh server lets in from its own machine. An IPv6 address stands in brackets. A path that is empty or "/" is the
	// virtual host "/" (the URI specification reads "/" as the one with the empty name, which cannot be asked for).
	// Bytes that mean something in a URL are escaped: %2F, %40, %3A, %3F, %23 and %25 for / @ : ? # and %.
	//
	// Parameters after "?" fill fields that are zero: heartbeat (seconds), connection_timeout (milliseconds; Timeout),
	// type, max_priority, consumer_timeout (such as 45m), max_bytes, existing (true or false), management, and for
	// amqps cacertfile, certfile, keyfile, server_name_indication and verify (verify_peer or verify_none). Any other
	// is refused. Empty: DefaultURL.
	URL string
	// TLS secures the connections of an amqps URL. Nil: as the URL's parameters say, else with the system's
	// certificates. Without a ServerName the host of each connection has to match its certificate.
	TLS *tls.Config

	// Type is that of queues created here. Zero: Quorum.
	Type QueueType
	// MaxPriority is how many levels above 0 a new classic queue has, 1 to 255; each costs the broker memory. Zero:
	// DefaultMaxPriority.
	MaxPriority int
	// Existing has queues used as they are and never declared.
	Existing bool

	// Heartbeat is how often each side shows that it is there: whole seconds. It decides how fast a silent loss of the
	// connection is noticed, and so how long leases last without news. Zero: DefaultHeartbeat.
	Heartbeat time.Duration
	// ConsumerTimeout is what the server allows for the work on one delivery (consumer_timeout in rabbitmq.conf); only
	// servers before 4.3 need it said. Zero: DefaultConsumerTimeout.
	ConsumerTimeout time.Duration
	// MaxBytes is the server's max_message_size, in bytes. Zero: DefaultMaxBytes.
	MaxBytes int

	// Timeout is how long connecting to one host, or one call, may take. Zero: DefaultTimeout.
	Timeout time.Duration
	// Name is what the broker shows of this client. Empty: the program's name and process id.
	Name string
	// Management is the URL of the management API, http://user:password@host:15672, for the one thing AMQP does not
	// tell: how many messages are leased. Empty: that number is not known.
	Management string
	// Dial opens every connection. Nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger gets what no call can return, such as a lost connection. Nil: slog.Default.
	Logger *slog.Logger

	// What setDefaults made of URL and TLS.
	endpoints             []endpoint
	user, password, vhost string
	tlsConfig             *tls.Config // nil for amqp; ServerName may be empty
}

// endpoint is one host of the URL.
type endpoint struct {
	addr string // host:port
	host string // for the server's certificate
	tls  bool
}

// CheckURL says what is wrong with the URL of a Config, if anything is, without connecting. The error holds no password.
func CheckURL(text string) error {
	c := Config{URL: text}
	return c.setDefaults()
}

// setDefaults reads the URL, fills what is zero and refuses what cannot work. Its errors hold no credentials.
func (c *Config) setDefaults() error {
	if err := c.readURL(); err != nil {
		return invalid("open", err)
	}
	c.fill()
	if err := c.check(); err != nil {
		return invalid("open", err)
	}
	return nil
}

func (c *Config) readURL() error {
	u, err := parseURL(orElse(c.URL, DefaultURL))
	if err != nil {
		return err
	}
	if !u.tls && c.TLS != nil {
		return errors.New("config has TLS but the URL says amqp, which is not secured: write amqps://")
	}
	c.endpoints, c.user, c.password, c.vhost = u.endpoints, u.user, u.password, u.vhost
	if err := c.applyParams(u.query); err != nil {
		return err
	}
	if c.TLS != nil {
		c.tlsConfig = c.TLS.Clone()
		return nil
	}
	c.tlsConfig, err = tlsFrom(u.query, u.tls)
	return err
}

func (c *Config) fill() {
	c.Type = orElse(c.Type, Quorum)
	c.MaxPriority = orElse(c.MaxPriority, DefaultMaxPriority)
	c.Heartbeat = orElse(c.Heartbeat, DefaultHeartbeat)
	c.ConsumerTimeout = orElse(c.ConsumerTimeout, DefaultConsumerTimeout)
	c.MaxBytes = orElse(c.MaxBytes, DefaultMaxBytes)
	c.Timeout = orElse(c.Timeout, DefaultTimeout)
	if c.Name == "" {
		c.Name = fmt.Sprintf("%s (%d)", filepath.Base(os.Args[0]), os.Getpid())
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (c *Config) check() error {
	switch {
	case c.Type != Quorum && c.Type != Classic:
		return fmt.Errorf("queue type %q: it is %q or %q", c.Type, Quorum, Classic)
	case c.MaxPriority < 1 || c.MaxPriority > mostPriorities:
		return fmt.Errorf("max priority %d: a classic queue has 1 to %d levels above 0", c.MaxPriority, mostPriorities)
	case c.Heartbeat < time.Second || c.Heartbeat%time.Second != 0 || c.Heartbeat > math.MaxUint16*time.Second:
		return fmt.Errorf("heartbeat %v: whole seconds are needed, from 1 to %d", c.Heartbeat, math.MaxUint16)
	case c.ConsumerTimeout < time.Minute:
		return fmt.Errorf("consumer timeout %v: the server looks once a minute", c.ConsumerTimeout)
	case c.MaxBytes < 0:
		return fmt.Errorf("max bytes %d: it cannot be negative", c.MaxBytes)
	case c.Timeout < 0:
		return fmt.Errorf("timeout %v: it cannot be negative", c.Timeout)
	default:
		return checkManagement(c.Management)
	}
}

func checkManagement(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("management URL: it is http://user:password@host:15672 or the same with https")
	}
	return nil
}

// parsedURL is what a URL says.
type parsedURL struct {
	scheme                string
	tls                   bool
	endpoints             []endpoint
	user, password, vhost string
	query                 url.Values
}

// parseURL reads a URL by itself, because package net/url takes no list of hosts with ports and quotes the URL in its
// errors. These errors quote nothing: where a byte of a password is not escaped, any part may be the password.
func parseURL(raw string) (*parsedURL, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	u := &parsedURL{scheme: strings.ToLower(scheme), user: "guest", password: "guest", vhost: "/"}
	u.tls = u.scheme == "amqps"
	if !ok || !u.tls && u.scheme != "amqp" {
		return nil, errors.New("URL: it begins with amqp:// or amqps://")
	}
	if strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) {
		return nil, errors.New("URL: # is written %23 and a space %20, also in a password; control characters are refused")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Contains(path, "@") {
		return nil, errors.New("URL: / in a user or password is written %2F, and @ in a virtual host %40")
	}
	at := strings.LastIndexByte(authority, '@')
	if at < 0 && strayAt(query) {
		return nil, errors.New("URL: ? in a user or password is written %3F")
	}
	if err := u.unescape(authority[:max(at, 0)], path, query); err != nil {
		return nil, err
	}
	return u, u.hosts(authority[at+1:])
}

func (u *parsedURL) unescape(account, path, query string) error {
	var err error
	if account != "" {
		user, password, _ := strings.Cut(account, ":")
		if u.user, err = url.PathUnescape(user); err != nil {
			return errors.New("URL: user: % is written %25")
		}
		if u.password, err = url.PathUnescape(password); err != nil {
			return errors.New("URL: password: % is written %25")
		}
	}
	if path != "" {
		if u.vhost, err = url.PathUnescape(path); err != nil {
			return errors.New("URL: virtual host: % is written %25")
		}
	}
	if u.query, err = url.ParseQuery(query); err != nil {
		return errors.New("URL: parameters: they are name=value with & between; % is written %25 and ; %3B")
	}
	return nil
}

func (u *parsedURL) hosts(list string) error {
	port := "5672"
	if u.tls {
		port = "5671"
	}
	if list == "" {
		list = "localhost"
	}
	for i, s := range strings.Split(list, ",") {
		host, number, err := splitHost(s)
		if err != nil {
			return fmt.Errorf("URL: host %d: %w", i+1, err)
		}
		number = orElse(number, port)
		if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("URL: host %d: its port is no number from 1 to 65535 "+
				"(/ and ? in a password are written %%2F and %%3F)", i+1)
		}
		u.endpoints = append(u.endpoints, endpoint{addr: net.JoinHostPort(host, number), host: host, tls: u.tls})
	}
	return nil
}

// splitHost takes host:port apart. The port may be missing.
func splitHost(s string) (host, port string, err error) {
	if s == "" {
		return "", "", errors.New("it is empty")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var rest string
		host, rest, ok = strings.Cut(inner, "]")
		if port = strings.TrimPrefix(rest, ":"); !ok || !strings.Contains(host, ":") || rest != "" && rest[0] != ':' {
			return "", "", errors.New("an IPv6 address is written [address]:port")
		}
		host = strings.Replace(host, "%25", "%", 1) // before a zone
		if strings.Count(host, "%") > 1 || strings.Contains(host, "[") {
			return "", "", errors.New("it is no IPv6 address")
		}
		return host, port, nil
	}
	host, port, _ = strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", errors.New("an IPv6 address is written [address]:port")
	}
	if strings.ContainsAny(host, "%[]") {
		return "", "", errors.New("it is no name of a host")
	}
	return orElse(host, "localhost"), port, nil
}

// redacted is a URL for logs: without user, password and the account of the management API.
func redacted(rawURL string) string {
	const unreadable = "(unreadable URL)"
	u, err := parseURL(orElse(rawURL, DefaultURL))
	if err != nil {
		return unreadable
	}
	hosts := make([]string, len(u.endpoints))
	for i, e := range u.endpoints {
		hosts[i] = strings.Replace(e.addr, "%", "%25", 1)
	}
	text := u.scheme + "://" + strings.Join(hosts, ",") + "/"
	if u.vhost != "/" {
		text += strings.ReplaceAll(url.PathEscape(u.vhost), "@", "%40")
	}
	shown := make(url.Values)
	for name, values := range u.query {
		switch _, known := parameters[name]; {
		case name == "management":
			shown.Set(name, unreadable)
			if m, err := url.Parse(values[0]); err == nil && m.Host != "" {
				shown.Set(name, m.Scheme+"://"+m.Host)
			}
		case known:
			shown[name] = values
		}
	}
	if len(shown) > 0 {
		text += "?" + shown.Encode()
	}
	return text
}

// parameters are what may stand behind the "?" of a URL, and what each does to a Config. Those of TLS have no field.
var parameters = map[string]func(c *Config, value string) error{
	"heartbeat":          func(c *Config, v string) error { return fillNumber(&c.Heartbeat, v, time.Second) },
	"connection_timeout": func(c *Config, v string) error { return fillNumber(&c.Timeout, v, time.Millisecond) },
	"max_priority":       func(c *Config, v string) error { return fillNumber(&c.MaxPriority, v, 1) },
	"max_bytes":          func(c *Config, v string) error { return fillNumber(&c.MaxBytes, v, 1) },
	"consumer_timeout":   fillConsumerTimeout,
	"existing":           fillExisting,
	"type": func(c *Config, v string) error {
		if v != string(Quorum) && v != string(Classic) {
			return fmt.Errorf("it is %s or %s", Quorum, Classic)
		}
		c.Type = orElse(c.Type, QueueType(v))
		return nil
	},
	"management": func(c *Config, v string) error {
		c.Management = orElse(c.Management, v)
		return nil
	},
	"cacertfile":             nil,
	"certfile":               nil,
	"keyfile":                nil,
	"verify":                 nil,
	"server_name_indication": nil,
}

var plainParam = regexp.MustCompile(`^[A-Za-z_]{1,32}$`)

// strayAt reports whether a query has an @ outside the URL of the management API: then it is part of an account.
func strayAt(query string) bool {
	for part := range strings.SplitSeq(query, "&") {
		if strings.Contains(part, "@") && !strings.HasPrefix(part, "management=http") {
			return true
		}
	}
	return false
}

func fillNumber[T ~int | ~int64](field *T, value string, unit T) error {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("it is a whole number from 1 to %d", math.MaxInt32)
	}
	*field = orElse(*field, T(n)*unit)
	return nil
}

func fillConsumerTimeout(c *Config, value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return errors.New("it is a time above zero with its unit, such as 45m or 2h")
	}
	c.ConsumerTimeout = orElse(c.ConsumerTimeout, d)
	return nil
}

func fillExisting(c *Config, value string) error {
	existing, err := strconv.ParseBool(value)
	if err != nil {
		return errors.New("it is true or false")
	}
	c.Existing = c.Existing || existing
	return nil
}

// applyParams checks every parameter and fills the fields of c that are zero.
func (c *Config) applyParams(query url.Values) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		fillField, known := parameters[name]
		if !known && plainParam.MatchString(name) {
			return fmt.Errorf("URL: unknown parameter %s; known are %s",
				name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		} else if !known {
			return errors.New("URL: a parameter's name is no word")
		}
		if len(query[name]) > 1 {
			return fmt.Errorf("URL: parameter %s is given twice", name)
		}
		if fillField == nil {
			continue
		}
		if err := fillField(c, query.Get(name)); err != nil {
			return fmt.Errorf("URL: parameter %s: %w", name, err)
		}
	}
	return nil
}

// tlsFrom is the TLS configuration that the parameters of a URL ask for; nil for amqp.
func tlsFrom(query url.Values, secured bool) (*tls.Config, error) {
	if !secured {
		for _, name := range []string{"cacertfile", "certfile", "keyfile", "verify", "server_name_indication"} {
			if query.Has(name) {
				return nil, fmt.Errorf("URL: parameter %s is for amqps, but the URL says amqp", name)
			}
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: query.Get("server_name_indication")}
	switch query.Get("verify") {
	case "", "verify_peer":
	case "verify_none":
		config.InsecureSkipVerify = true
	default:
		return nil, errors.New("URL: parameter verify: it is verify_peer or verify_none")
	}
	if path := query.Get("cacertfile"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cacertfile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacertfile %s holds no certificate in PEM form", path)
		}
	}
	certificate, key := query.Get("certfile"), query.Get("keyfile")
	if (certificate == "") != (key == "") {
		return nil, errors.New("URL: certfile and keyfile are only of use together")
	}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("certfile and keyfile: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
