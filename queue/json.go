package queue

import (
	"context"
	"encoding/json"
	"fmt"
)

// JSON makes a Handler of a function over a typed body. A body that does not decode can never succeed: the message is
// rejected with the decoder's error.
func JSON[T any](f func(ctx context.Context, body T, d *Delivery) error) Handler {
	return func(ctx context.Context, d *Delivery) error {
		var body T
		if err := json.Unmarshal(d.Body, &body); err != nil {
			return Reject(fmt.Errorf("decode body: %w", err))
		}
		return f(ctx, body, d)
	}
}

// NewJSON makes a Message with v as its body.
func NewJSON(v any) (*Message, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	return &Message{Body: body}, nil
}
