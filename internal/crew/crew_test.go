package crew_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/conformance/history"
	"github.com/holdfast-queue/holdfast/internal/crew"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestMain(m *testing.M) {
	crew.Main(func(context.Context, string) (driver.Backend, error) { return nil, errors.New("no broker here") })
	goleak.VerifyTestMain(m)
}

func newCrew(t *testing.T) *crew.Crew {
	dir := t.TempDir()
	journal, err := history.Open(filepath.Join(dir, "supervisor.jsonl"), "supervisor")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, journal.Close()) })
	return crew.New(dir, journal, nil)
}

func TestWorker_that_cannot_reach_its_broker_ends_with_a_failure(t *testing.T) {
	c := newCrew(t)
	p, err := c.Start(crew.Spec{Name: "w1"})
	require.NoError(t, err)
	require.Equal(t, crew.ExitFailed, p.ExitCode())
	require.ErrorContains(t, p.Kill(), "w1 has ended")
	require.NoError(t, c.Drain(time.Second), "nobody is left to drain")
	require.NoError(t, c.Close())
}

// A worker that ends between the look and the signal was once reported as one that could not be killed.
func TestClose_of_workers_that_are_ending(t *testing.T) {
	for round := range 30 {
		c := newCrew(t)
		for i := range 4 {
			p, err := c.Start(crew.Spec{Name: fmt.Sprintf("w%d", i)})
			require.NoError(t, err)
			if i%2 == 0 {
				proc, err := os.FindProcess(p.PID())
				require.NoError(t, err)
				require.NoError(t, proc.Kill()) // dead, and perhaps not known to be
			}
		}
		require.NoError(t, c.Close(), "round %d", round)
	}
}
