//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir keeps a second server out of a directory: two would destroy each other's files. The lock goes with the
// process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "holdfast.lock"), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("directory %s is in use by another server: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
