package rabbit

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of RabbitMQ in the README is what the program prints for the servers that run here, less their patch versions.
func TestReadmeHasTheCapabilities(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts brokers")
	}
	new43, old40 := shared(t, "4.3"), shared(t, "4.0")
	cmd := exec.CommandContext(t.Context(), "go", "run", "./cmd/qbench", "caps", new43.URL(), new43.URL()+"?type=classic",
		old40.URL(), old40.URL()+"?type=classic")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	printed := regexp.MustCompile(`(RabbitMQ \w+ \d+\.\d+)\.\d+`).ReplaceAllString(string(out), "$1")
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "<!-- caps rabbit -->\n")
	require.True(t, found)
	table, _, found := strings.Cut(rest, "<!-- /caps rabbit -->")
	require.True(t, found)
	require.Equal(t, printed, table, "put the output of qbench caps into the README")
}
