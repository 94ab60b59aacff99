package memory_test

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

// A worker that is killed gives nothing back. When its lease has run out, another worker gets the message.
func ExampleBackend_Kill() {
	ctx := context.Background()
	broker := memory.New(memory.Config{})
	first, second := broker.Open(), broker.Open()
	defer first.Close(ctx)
	defer second.Close(ctx)

	p, _ := first.OpenProducer(ctx, "reports")
	_ = p.Publish(ctx, []*driver.Message{{ID: "monday"}})

	lease := driver.ConsumerConfig{Term: 20 * time.Millisecond}
	victim, _ := first.OpenConsumer(ctx, "reports", lease)
	ds, _ := victim.Receive(ctx, driver.Want{Max: 1}, 0)
	fmt.Println("first worker:", ds[0].ID, ds[0].DeliveryCount)
	first.Kill()

	heir, _ := second.OpenConsumer(ctx, "reports", lease)
	ds, _ = heir.Receive(ctx, driver.Want{Max: 1}, time.Minute)
	fmt.Println("second worker:", ds[0].ID, ds[0].DeliveryCount)
	// Output:
	// first worker: monday 1
	// second worker: monday 2
}
