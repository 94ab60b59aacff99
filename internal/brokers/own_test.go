package brokers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A program that starts a broker and is killed leaves neither processes nor, after the next start, data.
func TestNothingOutlivesAKilledProgram(t *testing.T) {
	if os.Getenv("BROKERS_TEST_VICTIM") != "" {
		c, err := StartRabbit(t.Context(), RabbitOptions{Fast: true})
		if err != nil {
			fmt.Println("victim failed:", err)
			return
		}
		fmt.Println("victim has", c.native.nodes[0].settings.dir)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until it is killed
		return
	}
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("starts a broker")
	}
	_, err := InstallRabbit(t.Context(), "4.3")
	Need(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "BROKERS_TEST_VICTIM=1", "HOLDFAST_RABBIT_43=", "HOLDFAST_BROKERS_HOW=native")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "victim has ")
	}
	require.NotEmpty(t, dir)
	require.GreaterOrEqual(t, len(processesIn(t, dir)), 2, "the broker and its epmd")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return len(processesIn(t, dir)) == 0 }, 10*time.Second, 20*time.Millisecond, "%v are left", processesIn(t, dir))

	home, err := Home()
	require.NoError(t, err)
	b, err := takeBlock(home)
	require.NoError(t, err)
	defer b.close()
	require.NoDirExists(t, dir)
}

// processesIn lists the processes whose working directory is in dir.
func processesIn(t *testing.T, dir string) []string {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var in []string
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			in = append(in, filepath.Dir(link))
		}
	}
	return in
}

func TestBlocksAreDisjoint(t *testing.T) {
	home := t.TempDir()
	seen := map[int]bool{}
	for range 5 {
		b, err := takeBlock(home)
		require.NoError(t, err)
		defer b.close()
		for range blockPorts {
			p := b.port()
			require.False(t, seen[p], "port %d twice", p)
			seen[p] = true
		}
		require.Panics(t, func() { b.port() })
	}
}

func TestDataLiveAsLongAsTheirBlock(t *testing.T) {
	home := t.TempDir()
	for _, fast := range []bool{false, true} {
		mine, err := takeBlock(home)
		require.NoError(t, err)
		dir := mine.dir(fast)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		other, err := takeBlock(home)
		require.NoError(t, err)
		require.DirExists(t, dir, "the data of a program that runs")
		other.close()
		_ = mine.lock.Close() // as the kernel does for a program that was killed
		other, err = takeBlock(home)
		require.NoError(t, err)
		require.NoDirExists(t, dir)
		other.close()
	}
}

func TestOneInstallsAtATime(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	held, err := lock(t.Context(), name)
	require.NoError(t, err)
	var let atomic.Bool
	got := make(chan error, 1)
	go func() {
		f, err := lock(t.Context(), name)
		if err == nil {
			err = f.Close()
		}
		if !let.Load() {
			err = errors.New("two have the lock")
		}
		got <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = lock(ctx, name)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	let.Store(true)
	require.NoError(t, held.Close())
	require.NoError(t, <-got)
}

func TestMachineWithoutApt(t *testing.T) {
	t.Setenv("HOLDFAST_BROKERS", t.TempDir())
	t.Setenv("HOLDFAST_RABBIT_43", "")
	t.Setenv("PATH", t.TempDir())
	_, err := StartRabbit(t.Context(), RabbitOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "docker compose up and set HOLDFAST_RABBIT_43")
}

// A script that fails says why, and an installation counts from its last line on only.
func TestInstallationThatFails(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("HOLDFAST_BROKERS", t.TempDir())
	t.Setenv("HOLDFAST_DEBIAN_MIRROR", "http://127.0.0.1:1/debian")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for tool, text := range map[string]string{"apt-get": "echo E: no such mirror >&2; exit 100", "patchelf": "exit 0", "dpkg-deb": "exit 0", "sudo": "exit 0"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/bash\n"+text+"\n"), 0o755))
	}
	for range 2 {
		_, err := InstallRabbit(t.Context(), "4.0")
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorContains(t, err, "E: no such mirror")
	}
}

// tester notes what Need does to a test.
type tester struct {
	failed, skipped bool
}

func (*tester) Helper()                 {}
func (*tester) Name() string            { return "tester" }
func (t *tester) Fatalf(string, ...any) { t.failed = true }
func (t *tester) Skip(...any)           { t.skipped = true }

func TestNeed(t *testing.T) {
	for _, c := range []struct {
		require string
		err     error
		want    tester
	}{
		{"1", nil, tester{}},
		{"1", ErrUnavailable, tester{failed: true}},
		{"1", fmt.Errorf("kill: %w", ErrFixed), tester{skipped: true}},
		{"", ErrUnavailable, tester{skipped: true}},
		{"", nil, tester{}},
	} {
		t.Setenv("REQUIRE_BROKERS", c.require)
		var got tester
		Need(&got, c.err)
		require.Equal(t, c.want, got, "REQUIRE_BROKERS=%q, %v", c.require, c.err)
	}
}

func TestImagesAreThoseOfCompose(t *testing.T) {
	text, err := os.ReadFile("../../compose.yaml")
	require.NoError(t, err)
	for _, image := range rabbitImages {
		require.Contains(t, string(text), "image: "+image+"\n")
	}
}
