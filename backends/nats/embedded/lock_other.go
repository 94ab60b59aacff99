//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package embedded

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockDir proves that the directory can be written. This system has no lock that goes with the process, so that a
// second server on the directory is not noticed.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.CreateTemp(dir, "holdfast-*.lock")
	if err != nil {
		return nil, err
	}
	name := filepath.Clean(f.Name())
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	return func() {}, os.Remove(name)
}
