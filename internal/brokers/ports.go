package brokers

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Ports are taken in blocks below the range from which the kernel draws ports of outgoing connections, so that a broker that
// was stopped finds its ports free when it starts again.
const (
	firstPort  = 20000
	lastPort   = 32000
	blockPorts = 16
)

// A block is a run of ports that no other program which uses this package has, and the data directories that go with it. The
// kernel gives the block back when the program ends, in whatever way.
type block struct {
	lock *os.File
	home string
	base int
	next int
}

// takeBlock also removes the data that killed programs left behind.
func takeBlock(home string) (*block, error) {
	run := filepath.Join(home, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return nil, err
	}
	sweep(home)
	const blocks = (lastPort - firstPort) / blockPorts
	start := rand.IntN(blocks)
	for i := range blocks {
		b := &block{home: home, base: firstPort + (start+i)%blocks*blockPorts}
		lock, err := tryLock(filepath.Join(run, strconv.Itoa(b.base)+".lock"))
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.lock = lock
		if b.free() {
			return b, nil
		}
		b.close()
	}
	return nil, fmt.Errorf("no free block of %d ports from %d to %d", blockPorts, firstPort, lastPort)
}

// free asks the kernel whether all ports of the block can be bound.
func (b *block) free() bool {
	for i := range blockPorts {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.base+i)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// port gives out the next port of the block.
func (b *block) port() int {
	if b.next == blockPorts {
		panic("brokers: block of ports exhausted")
	}
	b.next++
	return b.base + b.next - 1
}

// dir names the block's data directory: in memory if fast is asked for and there is a /dev/shm.
func (b *block) dir(fast bool) string {
	if shm := sharedMemory(b.home, b.base); fast && shm != "" {
		return shm
	}
	return onDisk(b.home, b.base)
}

// close removes the block's data and gives the ports back.
func (b *block) close() {
	removeData(b.home, b.base)
	_ = b.lock.Close()
}

func onDisk(home string, base int) string {
	return filepath.Join(home, "run", strconv.Itoa(base))
}

func sharedMemory(home string, base int) string {
	if s, err := os.Stat("/dev/shm"); err != nil || !s.IsDir() {
		return ""
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(home))
	return fmt.Sprintf("/dev/shm/holdfast-%d-%08x-%d", os.Getuid(), h.Sum32(), base)
}

// removeData is for whoever holds the block's lock.
func removeData(home string, base int) {
	_ = os.RemoveAll(onDisk(home, base))
	if shm := sharedMemory(home, base); shm != "" {
		_ = os.RemoveAll(shm)
	}
}

func sweep(home string) {
	locks, _ := filepath.Glob(filepath.Join(home, "run", "*.lock"))
	for _, name := range locks {
		base, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(name), ".lock"))
		if err != nil {
			continue
		}
		if lock, err := tryLock(name); err == nil {
			removeData(home, base)
			_ = lock.Close()
		}
	}
}

// tryLock takes the lock on a file, which it makes, or returns EWOULDBLOCK. Closing the file lets go of it.
func tryLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// lock waits for the lock on a file, which it makes.
func lock(ctx context.Context, name string) (f *os.File, err error) {
	err = poll(ctx, func() (bool, error) {
		f, err = tryLock(name)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}
