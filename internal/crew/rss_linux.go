package crew

import (
	"bytes"
	"os"
	"strconv"
)

// peakRSS is the largest resident size of this process so far, in bytes; 0 if it cannot be told. It is not what
// getrusage says: Linux counts the parent's memory at the moment of the fork there.
func peakRSS() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(rest[:max(0, bytes.IndexByte(rest, '\n'))])
	if len(fields) != 2 {
		return 0
	}
	kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return kib * 1024
}
