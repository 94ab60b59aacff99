//go:build !linux

package brokers

import "syscall"

// Only Linux tells a child of its parent's death: elsewhere a container outlives a program that is killed.
func bound(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
