package podlink

import (
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func nsHandle(f *os.File) netns.NsHandle { return netns.NsHandle(f.Fd()) }

// cookie asks a socket made in the namespace; it is what socket programs see. 0 where it cannot be known.
func cookie(ns *os.File) uint64 {
	result := make(chan uint64, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine, so that nobody inherits the namespace.
		runtime.LockOSThread()
		result <- func() uint64 {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return 0
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0
			}
			defer unix.Close(fd)
			value, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, soNetnsCookie)
			if err != nil {
				return 0
			}
			return value
		}()
	}()
	return <-result
}
