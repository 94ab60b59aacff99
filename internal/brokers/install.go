package brokers

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

//go:embed scripts/rabbit-install.sh
var rabbitScript string

// Debian releases that have the versions.
var rabbitSuites = map[string]string{"4.3": "forky", "4.0": "trixie"}

// InstallRabbit unpacks a version ("4.3" or "4.0") into Home unless it is there, which takes half a minute and 100 MB, and says
// what is there. Callers at the same time, also of other programs, wait for one of them to do it.
func InstallRabbit(ctx context.Context, version string) (string, error) {
	_, what, err := installRabbit(ctx, version)
	return what, err
}

func installRabbit(ctx context.Context, version string) (tree, what string, err error) {
	suite, known := rabbitSuites[version]
	if !known {
		return "", "", fmt.Errorf("rabbitmq %q: only 4.3 and 4.0 can be had", version)
	}
	home, err := Home()
	if err != nil {
		return "", "", err
	}
	dir := filepath.Join(home, "rabbitmq")
	tree = filepath.Join(dir, suite)
	if what, err := installed(tree); err == nil {
		return tree, what, nil
	}
	if err := canInstall(); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	held, err := lock(ctx, tree+".lock")
	if err != nil {
		return "", "", fmt.Errorf("another program installs rabbitmq %s: %w", version, err)
	}
	defer func() { _ = held.Close() }()
	if what, err := installed(tree); err == nil {
		return tree, what, nil
	}
	if err := runScript(ctx, rabbitScript, held, "SUITE="+suite, "DEST="+tree, "MIRROR="+os.Getenv("HOLDFAST_DEBIAN_MIRROR")); err != nil {
		return "", "", fmt.Errorf("%w: install rabbitmq %s: %w", ErrUnavailable, version, err)
	}
	what, err = installed(tree)
	return tree, what, err
}

// installed says what an installation that was finished consists of.
func installed(tree string) (string, error) {
	text, err := os.ReadFile(filepath.Join(tree, ".complete"))
	return strings.TrimSpace(string(text)), err
}

// canInstall says why this machine cannot unpack Debian's packages.
func canInstall() error {
	advice := "use docker compose up and set HOLDFAST_RABBIT_43 or HOLDFAST_RABBIT_40 to its address"
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: Debian's packages do not run on %s: %s", ErrUnavailable, runtime.GOOS, advice)
	}
	for _, tool := range []string{"bash", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: there is no %s: %s", ErrUnavailable, tool, advice)
		}
	}
	return nil
}

// runScript shows on standard error what the script says there, which is one line for each slow step. The script keeps the lock
// for as long as it runs, in case this program is killed meanwhile.
func runScript(ctx context.Context, script string, held *os.File, env ...string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = io.MultiWriter(os.Stderr, &said)
	cmd.ExtraFiles = []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // with apt
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return errors.Join(err, errors.New(tail(said.String(), 5)))
	}
	return nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}
