package memory_test

import (
	"testing"
	"time"

	"github.com/holdfast-queue/holdfast/backends/memory"
)

// Rules of scheduling hold on brokers that can do less, or who asks for what is not there is refused.
func TestScheduling_on_brokers_that_can_do_less(t *testing.T) {
	lanes := []string{"S05", "S06", "S07", "S08", "S09", "S10", "S11"}
	emulated := []string{"S05", "S07", "S08", "S09", "S10", "S11"}
	for name, v := range map[string]struct {
		config             memory.Config
		declined, emulated []string
	}{
		"no lanes, no order": {memory.Config{NoLanes: true}, append(lanes, "S12"), nil},
		"nothing is carried": {memory.Config{NoCarry: true, KeyOrder: true}, []string{"S12"}, emulated},
		"one at a time, no publish delay": {
			memory.Config{MaxReceive: 1, MaxBatch: 1, NoDelay: true, Session: true, KeyOrder: true}, nil, emulated,
		},
		"like a log": {
			memory.Config{NoCarry: true, NoRedelay: true, Counting: memory.Uncounted, Dedup: time.Minute}, []string{"S12"}, emulated,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conform(t, "S", v.config, declarations(v.declined, v.emulated))
		})
	}
}
