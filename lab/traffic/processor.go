package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// processors is a set of them as sched_setaffinity(2) has it: one bit each.
type processors [16]uint64

func (p *processors) call(number uintptr) error {
	if _, _, e := syscall.Syscall(number, 0, unsafe.Sizeof(*p), uintptr(unsafe.Pointer(p))); e != 0 {
		return e
	}
	return nil
}

// stayOn keeps this program on one processor. Threads inherit that from the one that starts them, and the runtime has started
// some already: the program begins anew.
func stayOn(processor int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed, wanted processors
	if processor >= len(wanted)*64 {
		return fmt.Errorf("processor %d is beyond the %d that can be named", processor, len(wanted)*64)
	}
	wanted[processor/64] = 1 << (processor % 64)
	if err := allowed.call(syscall.SYS_SCHED_GETAFFINITY); err != nil {
		return fmt.Errorf("asking for the processors: %w", err)
	}
	if allowed == wanted {
		return nil
	}
	if err := wanted.call(syscall.SYS_SCHED_SETAFFINITY); err != nil {
		return fmt.Errorf("staying on processor %d: %w", processor, err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
