package brokers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api calls the management API: the first node that can be reached answers. A paused one would take the call and never answer.
// The path is escaped by the caller; in and out are JSON, or nil.
func (c *RabbitCluster) api(ctx context.Context, method, path string, in, out any) error {
	failed := errors.New("all nodes are paused")
	for i, n := range c.nodes {
		if c.native != nil && c.native.nodes[i].frozen.Load() {
			continue
		}
		err := call(ctx, request{method: method, url: n.management + path, in: in}, out)
		var status statusError
		if err == nil || errors.As(err, &status) {
			return err
		}
		failed = err
	}
	return failed
}

type request struct {
	method, url string
	in          any
}

// A statusError is an answer that is none of 2xx.
type statusError struct {
	what   string
	status int
	body   string
}

func (e statusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.what, e.status, e.body)
}

func call(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	u, err := url.Parse(r.url)
	if err != nil {
		return err
	}
	user := u.User
	u.User = nil
	var body io.Reader
	if r.in != nil {
		text, err := json.Marshal(r.in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return err
	}
	password, _ := user.Password()
	req.SetBasicAuth(user.Username(), password)
	req.Header.Set("Content-Type", "application/json")
	// A connection a call: nothing is left for a leak check to find, or to break when the node restarts.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return statusError{what: r.method + " " + u.Path, status: resp.StatusCode, body: strings.TrimSpace(string(text))}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// serverVersion waits until the API answers and all nodes are in the cluster.
func (c *RabbitCluster) serverVersion(ctx context.Context, nodes int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var version string
	var last error
	err := poll(ctx, func() (bool, error) {
		var overview struct {
			Version string `json:"rabbitmq_version"`
		}
		if last = c.api(ctx, http.MethodGet, "/api/overview", nil, &overview); last != nil {
			return false, nil
		}
		version = overview.Version
		var members []struct{ Running bool }
		if last = c.api(ctx, http.MethodGet, "/api/nodes", nil, &members); last != nil {
			return false, nil
		}
		up := 0
		for _, m := range members {
			if m.Running {
				up++
			}
		}
		last = fmt.Errorf("%d of %d nodes are up", up, nodes)
		return version != "" && (up >= nodes || c.how == External), nil
	})
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, last)
	}
	return version, nil
}

// CreateVhost makes a virtual host, which isolates a test from others at the same broker, and returns its URL at the first node
// (VhostURLs has the others'). One that exists is left as it is.
func (c *RabbitCluster) CreateVhost(ctx context.Context, name string) (string, error) {
	vhost := url.PathEscape(name)
	if err := c.api(ctx, http.MethodPut, "/api/vhosts/"+vhost, struct{}{}, nil); err != nil {
		return "", fmt.Errorf("create vhost %s: %w", name, err)
	}
	u, err := url.Parse(c.URL())
	if err != nil {
		return "", err
	}
	user := "guest"
	if u.User != nil {
		user = u.User.Username()
	}
	all := map[string]string{"configure": ".*", "write": ".*", "read": ".*"}
	if err := c.api(ctx, http.MethodPut, "/api/permissions/"+vhost+"/"+url.PathEscape(user), all, nil); err != nil {
		return "", fmt.Errorf("permissions in vhost %s: %w", name, err)
	}
	return inVhost(c.URL(), name), nil
}

// DeleteVhost removes a virtual host with all that is in it. One that does not exist is no error.
func (c *RabbitCluster) DeleteVhost(ctx context.Context, name string) error {
	err := c.api(ctx, http.MethodDelete, "/api/vhosts/"+url.PathEscape(name), nil, nil)
	var status statusError
	if errors.As(err, &status) && status.status == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete vhost %s: %w", name, err)
	}
	return nil
}

// A RabbitQueue is what the broker last counted in a queue.
type RabbitQueue struct {
	Ready   int    `json:"messages_ready"`
	Unacked int    `json:"messages_unacknowledged"`
	Leader  string `json:"leader"` // of a quorum queue: a node's name; "" for others
	Node    string `json:"node"`   // of a classic queue: where it is
}

// Queue counts a queue's messages. The counts come straight from the tables into which queues write, not from the API's samples
// of them; queues of a node that this package started write every 200 ms, others every 5 s.
func (c *RabbitCluster) Queue(ctx context.Context, vhost, queue string) (RabbitQueue, error) {
	var q RabbitQueue
	path := "/api/queues/" + url.PathEscape(vhost) + "/" + url.PathEscape(queue) + "?disable_stats=true&enable_queue_totals=true"
	if err := c.api(ctx, http.MethodGet, path, nil, &q); err != nil {
		return RabbitQueue{}, fmt.Errorf("queue %s: %w", queue, err)
	}
	return q, nil
}

// Unacked is the number of a queue's messages that consumers have and have not settled, as late as Queue says.
func (c *RabbitCluster) Unacked(ctx context.Context, vhost, queue string) (int, error) {
	q, err := c.Queue(ctx, vhost, queue)
	return q.Unacked, err
}

// inVhost replaces the virtual host of an AMQP URL.
func inVhost(address, vhost string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // StartRabbit has parsed it
	}
	u.Path, u.RawPath = "/"+vhost, "/"+url.PathEscape(vhost)
	return u.String()
}
