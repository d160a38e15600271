package datapath

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf"
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
