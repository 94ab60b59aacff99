//go:build !linux

package crew

// rssBytes converts Rusage.Maxrss, which macOS counts in bytes.
func rssBytes(maxrss int64) int64 { return maxrss }
