package memory_test

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-queue/holdfast/backends/memory"
)

// Rules of retries, content and resources hold on brokers that can do less, or who asks for what is not there is
// refused.
func TestRetries_on_brokers_that_can_do_less(t *testing.T) {
	none := []string{"R01", "R02", "R04"} // whatever the model can do
	emulated := []string{"P03", "P04", "P05", "P06"}
	for name, v := range map[string]struct {
		config             memory.Config
		declined, emulated []string
	}{
		"SQS standard": {
			config: memory.Config{
				NoCarry: true, NoLanes: true, MaxBatch: 10, MaxReceive: 10, MaxBytes: 1 << 20, Dedup: -1,
				MaxDelay: 15 * time.Minute, MaxRedelay: time.Hour, MaxTerm: 12 * time.Hour,
			},
			declined: []string{"W07"},
		},
		"SQS FIFO":           {config: memory.Config{NoCarry: true, MaxBatch: 10, MaxReceive: 10, MaxDelay: 15 * time.Minute, Dedup: 5 * time.Minute}},
		"classic queue":      {config: memory.Config{NoCarry: true, Counting: memory.Flagged, NoRedelay: true, Session: true, Dedup: -1}, declined: []string{"W07"}, emulated: emulated},
		"flag with state":    {config: memory.Config{Counting: memory.Flagged}},
		"log":                {config: memory.Config{NoCarry: true, NoRedelay: true, Counting: memory.Uncounted}, emulated: emulated},
		"share group":        {config: memory.Config{BrokerDropsAfter: 5, MaxDelay: time.Minute, MaxRedelay: time.Minute}},
		"few, not carried":   {config: memory.Config{BrokerDropsAfter: 5, NoCarry: true}},
		"two deliveries":     {config: memory.Config{BrokerDropsAfter: 2}},
		"no publish delay":   {config: memory.Config{NoDelay: true, MaxRedelay: 10 * time.Minute}},
		"fixed leases":       {config: memory.Config{NoExtend: true}},
		"one at a time":      {config: memory.Config{MaxReceive: 1, MaxBatch: 1, Session: true, KeyOrder: true}},
		"small":              {config: memory.Config{MaxBytes: 256 << 10}},
		"nothing is counted": {config: memory.Config{Counting: memory.Uncounted}},
	} {
		t.Run(name, func(t *testing.T) {
			conform(t, "PWR", v.config, declarations(slices.Concat(none, v.declined), v.emulated))
		})
	}
}
