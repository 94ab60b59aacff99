package qbench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// outDir is where the journals of a run go.
type outDir struct {
	path string
	keep bool // it was asked for; otherwise it is removed
}

// openOut makes the directory that --out names, or a temporary one if it names none. A directory with something in it
// is refused: the journals of two runs in one directory would be read as one history.
func openOut(path string) (outDir, error) {
	if path == "" {
		dir, err := os.MkdirTemp("", "qbench-")
		if err != nil {
			return outDir{}, fmt.Errorf("directory for journals: %w", err)
		}
		return outDir{path: dir}, nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return outDir{}, badUsage("give a directory that can be written", "--out: %w", reason(err))
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return outDir{}, badUsage("give a directory that can be read", "--out: %w", reason(err))
	}
	if len(entries) > 0 {
		return outDir{}, badUsage("give a new one: it would mix two runs", "--out %s: the directory is not empty", path)
	}
	probe := filepath.Join(path, ".probe")
	if err := os.WriteFile(probe, nil, 0o644); err != nil {
		return outDir{}, badUsage("give a directory that can be written", "--out: %w", reason(err))
	}
	return outDir{path: path, keep: true}, os.Remove(probe)
}

// reason drops the name of the system call from a file error.
func reason(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Errorf("%s: %w", at.Path, at.Err)
	}
	return err
}

func (d outDir) file(name string) string { return filepath.Join(d.path, name) }

// close removes a temporary directory.
func (d outDir) close() error {
	if d.keep {
		return nil
	}
	return os.RemoveAll(d.path)
}
