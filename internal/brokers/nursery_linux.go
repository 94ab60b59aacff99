package brokers

import "syscall"

func bound(atDeath syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: atDeath}
}
