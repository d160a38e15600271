package datapath

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What the kernel puts before each record: its length, with two bits for one that is still being written and for one
// that was given up (kernel/bpf/ringbuf.c, BPF_RINGBUF_*).
const (
	ringHeaderBytes = 8
	ringBusy        = 1 << 31
	ringDiscarded   = 1 << 30
)

// ring reads a ring buffer of the kernel's. The kernel offers each of its pages twice in a row, so that a reader need
// not know where it ends; the second view counts as memory of the process once more. This one maps the first alone and
// puts together the few records that go over the end.
type ring struct {
	// file is the map once more, for waiting in the runtime's own poller: no thread is held meanwhile.
	file *os.File
	raw  syscall.RawConn
	// consumer is the page that says how far was read, memory the one that says how far was written and all records.
	consumer, memory []byte
	data             []byte
	read, written    *uintptr
	interrupted      atomic.Bool
}

// openRing maps a ring buffer; close gives it back. It has one reader at a time.
func openRing(m *ebpf.Map) (*ring, error) {
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating the ring's descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("preparing the ring for waiting: %w", err)
	}
	r := &ring{file: os.NewFile(uintptr(fd), "ring")}
	if err := r.open(int(m.MaxEntries())); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) open(size int) (err error) {
	if size == 0 || size&(size-1) != 0 {
		return fmt.Errorf("a ring of %d bytes is none: its size is a power of two", size)
	}
	if err := r.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("waiting for the ring: %w", err)
	}
	if r.raw, err = r.file.SyscallConn(); err != nil {
		return fmt.Errorf("waiting for the ring: %w", err)
	}
	// Fd would make it blocking again.
	fd, page := -1, os.Getpagesize()
	if err := r.raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
		return fmt.Errorf("waiting for the ring: %w", err)
	}
	if r.consumer, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("mapping the reader's page: %w", err)
	}
	if r.memory, err = unix.Mmap(fd, int64(page), page+size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("mapping the records: %w", err)
	}
	r.data = r.memory[page:]
	r.read, r.written = (*uintptr)(unsafe.Pointer(&r.consumer[0])), (*uintptr)(unsafe.Pointer(&r.memory[0]))
	return nil
}

// interrupt ends a wait and makes all later ones end at once; any goroutine may call it.
func (r *ring) interrupt() {
	r.interrupted.Store(true)
	r.file.Close()
}

// close gives the memory back; nobody may be reading.
func (r *ring) close() {
	r.file.Close()
	for _, memory := range [][]byte{r.consumer, r.memory} {
		if memory != nil {
			_ = unix.Munmap(memory)
		}
	}
	r.consumer, r.memory, r.data = nil, nil, nil
}

// next copies the oldest record into buffer, which grows where it has no room. ok is false when there is none, which is also
// so while the oldest one is still being written: the kernel wakes the reader when it is complete.
func (r *ring) next(buffer []byte) (record []byte, ok bool, err error) {
	mask := uintptr(len(r.data) - 1)
	for {
		read, written := atomic.LoadUintptr(r.read), atomic.LoadUintptr(r.written)
		if read == written {
			return buffer, false, nil
		}
		// Headers are at multiples of 8, so that none goes over the end.
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[read&mask])))
		if header&ringBusy != 0 {
			return buffer, false, nil
		}
		length := uintptr(header &^ (ringBusy | ringDiscarded))
		end := read + ringHeaderBytes + (length+7)&^7
		if written-read < end-read || length > mask {
			return buffer, false, fmt.Errorf("a record of %d bytes in a ring that has %d: the ring is damaged", length, written-read)
		}
		if header&ringDiscarded == 0 {
			if uintptr(cap(buffer)) < length {
				buffer = make([]byte, length)
			}
			buffer = buffer[:length]
			start := (read + ringHeaderBytes) & mask
			if n := copy(buffer, r.data[start:]); uintptr(n) < length {
				copy(buffer[n:], r.data)
			}
		}
		atomic.StoreUintptr(r.read, end)
		if header&ringDiscarded == 0 {
			return buffer, true, nil
		}
	}
}

// ready tells whether the oldest record is complete.
func (r *ring) ready() bool {
	read, mask := atomic.LoadUintptr(r.read), uintptr(len(r.data)-1)
	return read != atomic.LoadUintptr(r.written) && atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[read&mask])))&ringBusy == 0
}

// wait returns when there is a record. Its error is os.ErrDeadlineExceeded after the deadline, and os.ErrClosed after interrupt.
func (r *ring) wait(deadline time.Time) error {
	err := r.file.SetReadDeadline(deadline)
	if err == nil {
		err = r.raw.Read(func(uintptr) bool { return r.ready() })
	}
	// The runtime has an error of its own for a file that was closed during the wait.
	if err != nil && r.interrupted.Load() {
		return os.ErrClosed
	}
	return err
}
