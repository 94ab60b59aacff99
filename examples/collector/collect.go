package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/holdfast-queue/holdfast/queue"
)

// report is the body of a message: what to collect.
type report struct {
	Advertiser string `json:"advertiser"`
	Channel    string `json:"channel"`
	Day        string `json:"day"`
}

// collector collects reports from an advertising platform's interface.
type collector struct {
	api    string // base URL
	client *http.Client
	store  func(ctx context.Context, r report, token uint64, data []byte) error
}

// collect is the handler. What the platform answers decides the verdict: too many requests is tried again when the
// platform says, a bad request never, anything else after the retry policy's backoff.
func (c *collector) collect(ctx context.Context, r report, d *queue.Delivery) error {
	url := fmt.Sprintf("%s/reports/%s/%s/%s", c.api, r.Advertiser, r.Channel, r.Day)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return queue.Reject(err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		// The token rises with every delivery of a message: a store that keeps the highest one it has seen refuses a
		// worker that was paused and has lost its lease.
		return c.store(ctx, r, d.Token, data)
	case http.StatusTooManyRequests:
		return queue.RetryAfter(fmt.Errorf("%s: %s", url, resp.Status), retryAfter(resp.Header))
	case http.StatusBadRequest:
		return queue.Reject(fmt.Errorf("%s: %s", url, resp.Status))
	default:
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
}

func retryAfter(h http.Header) time.Duration {
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	return time.Minute
}
