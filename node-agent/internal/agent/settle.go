package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settleAfter is how long after its start the agent gives back what only the start needed.
	settleAfter = 10 * time.Second
	// settleInterval is how often it does so later: what was needed once, for a large change or a question, is given back as well.
	settleInterval = 10 * time.Minute
)

// settle keeps the agent as small as what it does all the time, until ctx ends. Reading a whole cluster takes twice what
// remembering it does, and starting passes nearly every page of the binary, most of them for the last time.
func settle(ctx context.Context, log *slog.Logger) {
	for wait := settleAfter; pause(ctx, wait) == nil; wait = settleInterval {
		debug.FreeOSMemory()
		if _, err := forgetBinary(); err != nil {
			log.Debug("pages of the binary that are not used stay", "error", err)
		}
	}
}

// forgetBinary takes the binary's pages out of this process's memory, and tells how many bytes were offered. They stay in the
// kernel's cache for as long as it has room; those that are used come back at the next use, some at a time.
func forgetBinary() (int64, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("finding the binary: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, fmt.Errorf("reading what is mapped: %w", err)
	}
	defer maps.Close()
	ranges, err := unchangeable(maps, path)
	if err != nil {
		return 0, err
	}
	var total int64
	var errs []error
	for _, r := range ranges {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED); e != 0 {
			errs = append(errs, fmt.Errorf("giving back %x-%x: %w", r.from, r.to, e))
			continue
		}
		total += int64(r.to - r.from)
	}
	return total, errors.Join(errs...)
}

// addresses are a range of them, the second one past its end.
type addresses struct{ from, to uintptr }

// unchangeable lists the mappings of a file, out of /proc/PID/maps, that nobody can have written to: giving up a page of any
// other one would lose what was written.
func unchangeable(maps io.Reader, path string) (out []addresses, err error) {
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// 00400000-012d1000 r-xp 00000000 00:974 11059687      /fairlead-agent
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Join(fields[5:], " ") != path || len(fields[1]) != 4 || fields[1][0] != 'r' || fields[1][1] != '-' || fields[1][3] != 'p' {
			continue
		}
		var r addresses
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &r.from, &r.to); err != nil || r.from >= r.to {
			return nil, fmt.Errorf("a range of addresses that cannot be read: %q", fields[0])
		}
		out = append(out, r)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading what is mapped: %w", err)
	}
	return out, nil
}
