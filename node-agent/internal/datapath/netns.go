package datapath

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is the network namespace in which a datapath was opened. Its later calls act there, whatever thread they
// come from.
type namespace struct {
	file *os.File
	id   string
}

func threadNamespace() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

func currentNamespace() (*namespace, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.Open(threadNamespace())
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	id, err := os.Readlink(threadNamespace())
	if err != nil {
		return nil, fmt.Errorf("identifying the network namespace: %w", err)
	}
	return &namespace{file: f, id: id}, nil
}

// do runs fn on a thread that is in the namespace.
func (n *namespace) do(fn func() error) error {
	runtime.LockOSThread()
	if id, err := os.Readlink(threadNamespace()); err == nil && id == n.id {
		defer runtime.UnlockOSThread()
		return fn()
	}
	back, err := os.Open(threadNamespace())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	defer back.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering the datapath's network namespace: %w", err)
	}
	result := fn()
	// A thread that cannot go back must not be used again: it stays locked and ends with its goroutine.
	if err := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread()
	}
	return result
}

// hostCookie identifies the network namespace of the calling thread in socket programs; 0 where the kernel does not tell.
func hostCookie() uint64 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0
	}
	return cookie
}
