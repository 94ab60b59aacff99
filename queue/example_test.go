package queue_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue"
)

func Example() {
	ctx, stop := context.WithCancel(context.Background())
	backend := memory.Open(memory.Config{})

	producer, err := queue.NewProducer(ctx, backend, "collect", queue.ProducerConfig{})
	if err != nil {
		panic(err)
	}
	if err := producer.Publish(ctx, &queue.Message{ID: "acme-2026-11-22", Tenant: "acme", Body: []byte("campaigns")}); err != nil {
		panic(err)
	}

	worker, err := queue.NewWorker(backend, "collect", queue.WorkerConfig{Limits: queue.Limits{Concurrency: 4}})
	if err != nil {
		panic(err)
	}
	err = worker.Run(ctx, func(_ context.Context, d *queue.Delivery) error {
		fmt.Printf("%s for %s, attempt %d\n", d.Body, d.Tenant, d.Attempt)
		stop() // a service would stop on SIGTERM: see RunUntil
		return nil
	})
	fmt.Println("drained:", err)
	// Output:
	// campaigns for acme, attempt 1
	// drained: <nil>
}

func ExampleConsumer() {
	ctx := context.Background()
	backend := memory.Open(memory.Config{})
	producer, _ := queue.NewProducer(ctx, backend, "collect", queue.ProducerConfig{})
	_ = producer.Publish(ctx, &queue.Message{ID: "1"}, &queue.Message{ID: "2"})

	consumer, _ := queue.NewConsumer(ctx, backend, "collect", queue.ConsumerConfig{})
	deliveries, _ := consumer.Receive(ctx, 10)
	for _, d := range deliveries {
		fmt.Println(d.ID, d.Ack(ctx), errors.Is(d.Ack(ctx), queue.ErrAlreadySettled))
	}
	_ = consumer.Close(ctx)
	// Output:
	// 1 <nil> true
	// 2 <nil> true
}

func ExampleRetryAfter() {
	handler := func(context.Context, *queue.Delivery) error {
		return queue.RetryAfter(errors.New("429 Too Many Requests"), time.Minute)
	}
	fmt.Println(handler(context.Background(), nil))
	// Output: 429 Too Many Requests
}

func ExampleJSON() {
	type report struct{ Advertiser, Day string }
	handler := queue.JSON(func(_ context.Context, r report, d *queue.Delivery) error {
		fmt.Println(r.Advertiser, r.Day)
		return nil
	})
	m, _ := queue.NewJSON(report{"acme", "2026-11-22"})
	fmt.Println(handler(context.Background(), &queue.Delivery{Message: *m}))
	// Output:
	// acme 2026-11-22
	// <nil>
}

func ExampleNeeds() {
	backend := memory.Open(memory.Config{}) // without KeyOrder
	_, err := queue.NewWorker(backend, "transfers", queue.WorkerConfig{Needs: queue.Needs{KeyOrder: true}})
	var unsupported *queue.UnsupportedError
	fmt.Println(errors.As(err, &unsupported), unsupported.Wanted)
	// Output: true Needs.KeyOrder
}
