package queue_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// No test can set the clock of its process alone. What makes a clock that is set harmless is that no age is computed from
// a time that went through a number: Health once called a worker stuck when the clock was set an hour ahead.
func TestNoAgeIsMeasuredByTheWallClock(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	wall := regexp.MustCompile(`\.Unix(Nano|Milli)?\(`)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NotRegexp(t, wall, string(text), name)
	}
}
