package qbench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/internal/crew"
)

func TestMain(m *testing.M) {
	crew.Main(backends.Open)
	goleak.VerifyTestMain(m)
}

// result is what a program left behind.
type result struct {
	code           int
	stdout, stderr string
}

// execute runs the program in this process; its workers are processes of the test binary.
func execute(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := Main(ctx, &Program{Args: args, Stdout: &stdout, Stderr: &stderr})
	return result{code: code, stdout: stdout.String(), stderr: stderr.String()}
}

// document decodes the result of a run with --format json.
func (r result) document(t *testing.T) Run {
	t.Helper()
	var d Document
	dec := json.NewDecoder(strings.NewReader(r.stdout))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&d), "%s", r.stderr)
	require.Equal(t, 1, d.Schema)
	require.Len(t, d.Runs, 1)
	return d.Runs[0]
}

// file writes a file for a test and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}
