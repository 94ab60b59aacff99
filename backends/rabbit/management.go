package rabbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// managed is what AMQP does not tell: how much is leased or held back. It asks the management API (https://www.rabbitmq.com/docs/http-api-reference), whose figures are a few seconds old.
func (b *Backend) managed(ctx context.Context, n names, lanes map[string]bool) (driver.Gauge, error) {
	g := driver.Gauge{Oldest: -1}
	base, err := url.Parse(b.config.Management)
	if err != nil {
		return g, invalid("", errors.New("Config.Management is not a URL"))
	}
	target := base.JoinPath("api", "queues", url.PathEscape(b.config.vhost))
	target.RawQuery = url.Values{"disable_stats": {"true"}, "enable_queue_totals": {"true"}}.Encode()
	target.User = nil
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return g, invalid("", errors.New("Config.Management is not a URL"))
	}
	password, _ := base.User.Password()
	request.SetBasicAuth(base.User.Username(), password)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return g, &driver.Error{Kind: driver.Unavailable, Err: fmt.Errorf("management API: %w", err)}
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		kind := driver.Unknown
		if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
			kind = driver.Denied
		}
		return g, &driver.Error{Kind: kind, Err: fmt.Errorf("management API: %s", answer.Status)}
	}
	var queues []struct {
		Name    string `json:"name"`
		Ready   int    `json:"messages_ready"`
		Unacked int    `json:"messages_unacknowledged"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&queues); err != nil {
		return g, &driver.Error{Kind: driver.Unknown, Err: fmt.Errorf("management API: %w", err)}
	}
	ours := map[string]bool{}
	for lane := range lanes {
		ours[n.lane(lane)] = true
	}
	held := strings.TrimSuffix(n.delay(0), "0")
	for _, q := range queues {
		switch {
		case ours[q.Name]:
			g.InFlight += q.Unacked
		case strings.HasPrefix(q.Name, held):
			g.Delayed += q.Ready + q.Unacked
		}
	}
	return g, nil
}
