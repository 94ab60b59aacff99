// Package brokers starts real brokers for tests and for qbench, without a container engine where that is possible.
//
// A broker comes from one of three places: an address in the environment, which is used as it is; packages that are unpacked
// into a cache directory and run as processes of this user (How "native"); or a container (How "container"). Processes end with
// the program that started them, also when that one is killed.
package brokers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// How a broker was had.
const (
	Native    = "native"    // processes that this program started
	Container = "container" // a container that this program started
	External  = "external"  // an address from the environment
)

var (
	// ErrUnavailable is in the error of every start for which this machine lacks something: packages, an architecture, an engine.
	ErrUnavailable = errors.New("no such broker on this machine")
	// ErrFixed is returned where a broker would have to be stopped, frozen or set up in a way that is not ours to choose.
	ErrFixed = errors.New("this broker is taken as it is")
)

// Home is the directory of installations and of running brokers' data: $HOLDFAST_BROKERS, or holdfast/brokers in the user's
// cache directory. It need not exist yet.
func Home() (string, error) {
	if dir := os.Getenv("HOLDFAST_BROKERS"); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("set HOLDFAST_BROKERS: %w", err)
	}
	return filepath.Join(cache, "holdfast", "brokers"), nil
}

// Test is what Need uses of a testing.TB.
type Test interface {
	Helper()
	Name() string
	Fatalf(format string, args ...any)
	Skip(args ...any)
}

// Need ends the test when err is not nil: it fails where REQUIRE_BROKERS=1, and is skipped with a line elsewhere. What a broker
// from outside cannot do (ErrFixed) is always skipped.
func Need(t Test, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_BROKERS") == "1" && !errors.Is(err, ErrFixed):
		t.Fatalf("REQUIRE_BROKERS=1: %v", err)
	default:
		fmt.Printf("%s skipped: %v\n", t.Name(), err)
		t.Skip(err)
	}
}

// poll asks until done says true or an error, every 50 ms, as long as ctx lives.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
