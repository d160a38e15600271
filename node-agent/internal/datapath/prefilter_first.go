package datapath

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Lines of refused_first4, which has one for each first 16 bits of an IPv4 address (FIRST_* in bpf/lib/prefilter.h). A line
// that asks is always right; the others save the search.
const (
	firstAsk     = 0
	firstNone    = 1
	firstNetwork = 2

	firstBits  = 16
	firstCount = 1 << firstBits
)

// firstRange is the lines that a network has addresses in, the last one included.
func firstRange(n netip.Prefix) (from, to int) {
	a := n.Masked().Addr().As4()
	from = int(a[0])<<8 | int(a[1])
	return from, from | (1<<max(firstBits-n.Bits(), 0) - 1)
}

// firstLines is what the lines say when exactly these networks are refused.
func firstLines(indexes map[netip.Prefix]uint32) []uint32 {
	lines := slices.Repeat([]uint32{firstNone}, firstCount)
	var networks []netip.Prefix
	for n := range indexes {
		if n.Addr().Is4() {
			networks = append(networks, n)
		}
	}
	// The longest is written last.
	slices.SortFunc(networks, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for _, n := range networks {
		line := uint32(firstAsk)
		if n.Bits() <= firstBits {
			line = firstNetwork + indexes[n]
		}
		from, to := firstRange(n)
		for i := from; i <= to; i++ {
			lines[i] = line
		}
	}
	return lines
}

// askFirst makes the lines of these networks ask, before any of them changes.
func askFirst(m *ebpf.Map, networks []netip.Prefix) error {
	var lines []uint32
	for _, n := range networks {
		if !n.Addr().Is4() {
			continue
		}
		from, to := firstRange(n)
		for i := from; i <= to; i++ {
			lines = append(lines, uint32(i))
		}
	}
	return writeFirst(m, lines, make([]uint32, len(lines))) // firstAsk
}

// settleFirst writes the lines that are other than they should be.
func settleFirst(m *ebpf.Map, indexes map[netip.Prefix]uint32) error {
	keys, values := make([]uint32, firstCount), make([]uint32, firstCount)
	var cursor ebpf.MapBatchCursor
	// An error with all of them says that there are no more.
	if n, err := m.BatchLookup(&cursor, keys, values, nil); n != firstCount {
		return fmt.Errorf("reading the prefilter's first bits: %d of %d lines: %w", n, firstCount, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	var other, wanted []uint32
	for i, line := range firstLines(indexes) {
		if values[i] != line {
			other, wanted = append(other, uint32(i)), append(wanted, line)
		}
	}
	return writeFirst(m, other, wanted)
}

// forgetFirst makes every line ask. At a start: another version, which knows no such lines, may have changed the networks.
func forgetFirst(m *ebpf.Map) error {
	return askFirst(m, []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)})
}

func writeFirst(m *ebpf.Map, lines, values []uint32) error {
	if len(lines) == 0 {
		return nil
	}
	if _, err := m.BatchUpdate(lines, values, nil); err != nil {
		return fmt.Errorf("writing the prefilter's first bits: %w", err)
	}
	return nil
}
