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
			h := conformance.Harness{
				Name: "variant", Virtual: true, Lease: conformance.VirtualLease, Expected: declarations(v.declined, v.emulated),
				Start: func(context.Context, string) (conformance.Broker, error) {
					return &broker{memory.New(v.config)}, nil
				},
			}
			s, err := conformance.NewSuite(t.Context(), h, conformance.Fast, t.TempDir())
			require.NoError(t, err)
			for _, r := range conformance.Rules() {
				if !strings.HasPrefix(r.ID, "S") {
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
		})
	}
}
