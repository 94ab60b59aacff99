//go:build !linux

package crew

import "syscall"

// peakRSS is the largest resident size of this process so far, in bytes; 0 if it cannot be told.
func peakRSS() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss
}
