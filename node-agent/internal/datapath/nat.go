package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// natTables: flows that are open, and those that are being opened.
var natTables = []string{"nat", "nat_openings"}

// NATEntry is one translated flow, for `bpf nat list`.
type NATEntry struct {
	Protocol uint8
	// Source sends to Destination, which sees Translated. Of ICMP the port is the identifier.
	Source, Destination, Translated netip.AddrPort
	// Own is a port of the node's own sockets, kept from others.
	Own     bool
	Flags   string
	Expires time.Duration
}

// NAT implements Datapath: one line per flow, from the entry that owns the port.
func (k *kernel) NAT(limit int) ([]NATEntry, error) {
	return listTables(k, "listing translations", natTables, limit, func(table string, key *natKeyLayout, v *natValueLayout, now uint64) (e NATEntry, listed bool) {
		if key.Direction != natIn || v.Expires < now {
			return e, false
		}
		e = natEntry(key, v, now)
		if table == "nat_openings" {
			e.Flags = strings.TrimPrefix(e.Flags+",opening", ",")
		}
		return e, true
	})
}

func natEntry(key *natKeyLayout, v *natValueLayout, now uint64) NATEntry {
	e := NATEntry{
		Protocol: key.Protocol, Own: v.Flags&natOwn != 0, Expires: time.Duration(v.Expires - now),
		Source:      netip.AddrPortFrom(fromWire(v.Address), fromPort(v.Port)),
		Destination: netip.AddrPortFrom(fromWire(key.Source), fromPort(key.SourcePort)),
		Translated:  netip.AddrPortFrom(fromWire(key.Destination), fromPort(key.DestinationPort)),
	}
	for i, name := range []string{"own", "replied", "fin-out", "fin-in", "reset"} {
		if v.Flags&(1<<i) != 0 {
			if e.Flags != "" {
				e.Flags += ","
			}
			e.Flags += name
		}
	}
	return e
}

// sweepNAT deletes ports whose flows are over, and hints that lead to no port or to somebody else's.
func sweepNAT(m *ebpf.Map, now uint64) (left, deleted int, err error) {
	return sweepTable(m, func(key *natKeyLayout, v *natValueLayout) bool {
		if key.Direction == natIn {
			return v.Expires+sweepGrace < now
		}
		// A hint is written after its port, so a young one is not looked at.
		if v.Expires+sweepGrace >= now {
			return false
		}
		in := natKeyLayout{Source: key.Destination, Destination: v.Address, SourcePort: key.DestinationPort, DestinationPort: v.Port, Protocol: key.Protocol, Direction: natIn}
		var owner natValueLayout
		if err := m.Lookup(in, &owner); err != nil {
			return errors.Is(err, ebpf.ErrKeyNotExist)
		}
		return owner.Address != key.Source || owner.Port != key.SourcePort
	})
}

// lowestTranslation is the lowest port of the flows that an earlier run translated; 0 where there are none. Its range of node
// ports may have been smaller. SCTP keeps its own ports, which are in no range.
func lowestTranslation(directory string) (lowest uint16, err error) {
	now := monotonic()
	for _, name := range natTables {
		for _, pin := range append(neighbourPins(directory, name), mapPin(directory, name)) {
			m, err := ebpf.LoadPinnedMap(pin, nil)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("opening the pin %s: %w", pin, err)
			}
			// Of another layout nothing is read: what is carried over from there has to be in the range.
			if uintptr(m.KeySize()) == unsafe.Sizeof(natKeyLayout{}) && uintptr(m.ValueSize()) == unsafe.Sizeof(natValueLayout{}) {
				// In batches: packets go on writing it, and it may have a hundred thousand.
				err = visitTable(m, func(key *natKeyLayout, v *natValueLayout) bool {
					if port := fromPort(key.DestinationPort); key.Direction == natIn && key.Protocol != unix.IPPROTO_SCTP && v.Expires >= now && (lowest == 0 || port < lowest) {
						lowest = port
					}
					return true
				})
			}
			m.Close()
			if err != nil {
				return 0, fmt.Errorf("reading ports of %s: %w", pin, err)
			}
		}
	}
	return lowest, nil
}
