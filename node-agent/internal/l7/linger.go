package l7

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// graceLeast and graceMost bound how long a client is given to close first of its own accord.
	graceLeast = 300 * time.Microsecond
	graceMost  = 100 * time.Millisecond
)

// linger ends a connection after its last answer. A client that knows where the answer ends is let close first: whoever does
// keeps the pair of ports reserved for a minute, and a client that uses its port again would wait for that. One that waits
// for the end is shown it after two round trips. Until it has closed as well what it sends is read, or a reset for unread
// bytes would overtake the answer.
func (s *session) linger() {
	if stirs(s.client) && !errors.Is(s.discard(graceMost), os.ErrDeadlineExceeded) {
		return
	}
	if half, ok := s.client.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	_ = s.discard(lingering)
}

// discard reads what comes until the client ends the connection, for at most so long.
func (s *session) discard(most time.Duration) error {
	_ = s.client.SetReadDeadline(time.Now().Add(most))
	_, err := io.Copy(limited(discardLimit), s.client)
	return err
}

// stirs waits two round trips and a moment for the client to close, or to send. It asks the kernel itself, since a deadline
// of less than a millisecond is one of a millisecond, and that is what a short connection takes in all.
func stirs(c net.Conn) bool {
	raw, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return true
	}
	n := 0
	err = control.Control(func(fd uintptr) {
		grace := graceLeast
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			grace = min(grace+2*time.Duration(info.Rtt)*time.Microsecond, graceMost)
		}
		timeout := unix.NsecToTimespec(grace.Nanoseconds())
		// Interrupted is not stirring; that the end is shown too soon harms nobody.
		n, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &timeout, nil)
	})
	return err != nil || n > 0
}
