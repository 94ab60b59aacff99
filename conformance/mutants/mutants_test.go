//go:build mutants

package mutants_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/conformance/mutants"
)

func TestMutants(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	sound := map[string]bool{}                             // tests that the unbroken code has passed
	asked := strings.Fields(os.Getenv("HOLDFAST_MUTANTS")) // backends; none: all
	for _, m := range mutants.All {
		if len(asked) > 0 && !slices.Contains(asked, m.Backend) {
			continue
		}
		t.Run(strings.ReplaceAll(m.Name, " ", "_"), func(t *testing.T) {
			if name := m.Backend + "/" + title(m); !sound[name] {
				out, err := run(t, root, m, "")
				if skipped(out) {
					t.Skipf("no broker:\n%s", out)
				}
				require.NoError(t, err, "the unbroken code must pass %s:\n%s", title(m), out)
				require.Contains(t, out, "--- PASS: "+title(m), "it did not run")
				sound[name] = true
			}
			out, err := run(t, root, m, overlay(t, root, m.Edits))
			require.Error(t, err, "%s did not catch it:\n%s", title(m), out)
			require.Contains(t, out, "--- FAIL: "+title(m), "something else failed:\n%s", out)
			fmt.Printf("mutant %q: caught by %s\n", m.Name, m.Rule+m.Test)
		})
	}
}

// title is how the name of the test begins that must catch a mutant.
func title(m mutants.Mutant) string {
	switch {
	case m.Test != "":
		return m.Test
	case m.Mode != "":
		return "TestConformance/" + m.Mode + "/rules/" + m.Rule
	default:
		return "TestConformance/rules/" + m.Rule
	}
}

// skipped: where brokers are required a test that has none fails instead.
func skipped(out string) bool {
	return os.Getenv("REQUIRE_BROKERS") != "1" && strings.Contains(out, " skipped: ")
}

// run runs the one test.
func run(t *testing.T, root string, m mutants.Mutant, overlay string) (string, error) {
	pattern := "^" + strings.ReplaceAll(title(m), "/", "$/^")
	if m.Rule != "" {
		pattern += "_"
	} else {
		pattern += "$"
	}
	args := []string{"test", "-count=1", "-v", "-timeout=5m", "-run=" + pattern}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "./backends/"+m.Backend)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "HOLDFAST_TIER=fast", "HOLDFAST_SHEET=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// overlay writes the changed files and the list of them that the go command reads.
func overlay(t *testing.T, root string, edits []mutants.Edit) string {
	dir := t.TempDir()
	replace := map[string]string{}
	for _, e := range edits {
		path := filepath.Join(root, e.File)
		from := path
		if changed, again := replace[path]; again {
			from = changed
		}
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), e.Old), "%s must have exactly one %q", e.File, e.Old)
		to := filepath.Join(dir, strings.ReplaceAll(e.File, "/", "_"))
		require.NoError(t, os.WriteFile(to, []byte(strings.Replace(string(text), e.Old, e.New, 1)), 0o600))
		replace[path] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	list := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(list, text, 0o600))
	return list
}
