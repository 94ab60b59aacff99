package memory_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/backends/memory"
	"github.com/holdfast-queue/holdfast/conformance"
)

// variants are brokers that can do less, with what the suite has to find out about each: rules that are declined, or
// that the queue makes good.
var variants = map[string]struct {
	config   memory.Config
	declined []string
	emulated []string
}{
	"SQS standard": {
		config: memory.Config{
			NoCarry: true, NoLanes: true, MaxBatch: 10, MaxReceive: 10, MaxBytes: 1 << 20, Dedup: -1,
			MaxDelay: 15 * time.Minute, MaxRedelay: 12 * time.Hour, MaxTerm: 12 * time.Hour,
		},
		emulated: []string{"D05"},
	},
	"classic queue": {
		config:   memory.Config{NoCarry: true, Counting: memory.Flagged, NoRedelay: true, Session: true},
		declined: []string{"L15"},
		emulated: []string{"D05"},
	},
	"nothing counted": {
		config:   memory.Config{NoCarry: true, Counting: memory.Uncounted, KeyOrder: true},
		declined: []string{"L15"},
		emulated: []string{"D05"},
	},
	"fixed leases": {
		config:   memory.Config{NoExtend: true},
		declined: []string{"D06", "L01", "L09"},
	},
	"few deliveries": {
		config: memory.Config{BrokerDropsAfter: 5},
	},
}

func TestConformance_of_brokers_that_can_do_less(t *testing.T) {
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			conform(t, "DL", v.config, declarations(append(v.declined, "L10", "L11"), v.emulated))
		})
	}
}

// conform runs the rules of some families against a model that can do less.
func conform(t *testing.T, families string, config memory.Config, expected []byte) {
	h := conformance.Harness{
		Name: "variant", Virtual: true, Lease: conformance.VirtualLease, Expected: expected,
		Start: func(context.Context, string) (conformance.Broker, error) { return &broker{memory.New(config)}, nil },
	}
	s, err := conformance.NewSuite(t.Context(), h, conformance.Fast, t.TempDir())
	require.NoError(t, err)
	for _, r := range conformance.Rules() {
		if !strings.Contains(families, r.ID[:1]) {
			continue
		}
		t.Run(r.Title(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res := s.Run(t.Context(), r)
				require.NotEqual(t, conformance.Fail, res.Status, res.Detail)
			})
		})
	}
	require.NoError(t, s.Close())
}

// declarations is a file of them.
func declarations(declined, emulated []string) []byte {
	var b strings.Builder
	for status, rules := range map[conformance.Status][]string{
		conformance.Unsupported: declined, conformance.Emulated: emulated,
	} {
		for _, id := range rules {
			b.WriteString("- {backend: variant, rule: " + id + ", status: " + string(status) + ", reason: its config, source: this file}\n")
		}
	}
	return []byte(b.String())
}
