// Package smalldisk gives tests a file system that is soon full.
package smalldisk

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// New mounts a file system of 64 KiB for the length of the test and gives its directory. The test is skipped where
// nothing may be mounted.
func New(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a file system that is soon full")
	}
	directory := t.TempDir()
	if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(directory, unix.MNT_DETACH) })
	return directory
}
