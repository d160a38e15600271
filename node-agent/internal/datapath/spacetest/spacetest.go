// Package spacetest makes network namespaces for tests.
package spacetest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Space is a network namespace of a test.
type Space struct {
	// File refers to the namespace, and is closed at the test's end.
	File *os.File
}

// New makes a namespace whose loopback device is up; the test is skipped where none can be made.
func New(t testing.TB) *Space {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made, 1)
	go func() {
		// The thread keeps the namespace, so it must end with the goroutine.
		runtime.LockOSThread()
		file, err := unshare()
		result <- made{file, err}
	}()
	m := <-result
	if m.err != nil {
		t.Skipf("needs root: cannot make a network namespace, which this test is about: %v", m.err)
	}
	t.Cleanup(func() { m.file.Close() })
	return &Space{m.file}
}

// unshare gives the calling thread a namespace of its own.
func unshare() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("looking for the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return nil, fmt.Errorf("setting the loopback device up: %w", err)
	}
	return os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// In runs fn on a thread of its own in the namespace.
func (s *Space) In(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(s.File.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering the test's namespace: %w", err)
			return
		}
		result <- fn()
	}()
	return <-result
}
