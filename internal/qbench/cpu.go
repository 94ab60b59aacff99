package qbench

import (
	"runtime"
	"syscall"
	"time"
)

// cpuMeter measures how much of the machine this process uses: generator, supervisor and an embedded broker together.
type cpuMeter struct {
	began     time.Time
	used      time.Duration
	took, cpu time.Duration
}

func (m *cpuMeter) start() { m.began, m.used = time.Now(), processorTime() }

func (m *cpuMeter) stop() {
	m.took, m.cpu = time.Since(m.began), processorTime()-m.used
}

// share is of all processors, from 0 to 1.
func (m *cpuMeter) share() float64 {
	if m.took <= 0 {
		return 0
	}
	return m.cpu.Seconds() / (m.took.Seconds() * float64(runtime.NumCPU()))
}

// processorTime is what this process has used so far; 0 if it cannot be told.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
