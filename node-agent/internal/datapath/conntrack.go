package datapath

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// collectBatch entries are read at a time: 140 kB of them.
const collectBatch = 1024

// connectionTables: those that are open, and those that are being opened.
var connectionTables = []string{"connections", "openings"}

func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return uint64(t.Nano())
}

// deleteConnections deletes what match says, and counts what is left.
func deleteConnections(m *ebpf.Map, match func(*connectionKeyLayout, *connectionLayout) bool) (left int, err error) {
	var doomed []connectionKeyLayout
	if err := visitTable(m, func(key *connectionKeyLayout, value *connectionLayout) bool {
		if match(key, value) {
			doomed = append(doomed, *key)
		} else {
			left++
		}
		return true
	}); err != nil {
		return 0, err
	}
	for _, key := range doomed {
		// It may have been opened again or refreshed since it was read.
		var value connectionLayout
		if err := m.Lookup(key, &value); err != nil || !match(&key, &value) {
			left++
			continue
		}
		if err := ignoreMissing(m.Delete(key)); err != nil {
			return 0, fmt.Errorf("deleting a connection: %w", err)
		}
	}
	return left, nil
}

// Conntrack implements Datapath.
func (k *kernel) Conntrack(limit int) ([]ConntrackEntry, error) {
	short, err := k.shortTraffic()
	if err != nil {
		return nil, err
	}
	return listTables(k, "listing connections", connectionTables, limit, func(table string, key *connectionKeyLayout, v *connectionLayout, now uint64) (e ConntrackEntry, listed bool) {
		if v.Expires < now {
			return e, false
		}
		if key.Protocol == unix.IPPROTO_TCP {
			out := short[shortFlow{key.Local, key.Remote, key.LocalPort, key.RemotePort}]
			in := short[shortFlow{key.Remote, key.Local, key.RemotePort, key.LocalPort}]
			v.Packets, v.Bytes = [2]uint64{v.Packets[0] + in[0], v.Packets[1] + out[0]}, [2]uint64{v.Bytes[0] + in[1], v.Bytes[1] + out[1]}
		}
		e = k.conntrackEntry(key, v, now)
		if table == "openings" || v.Seen[0]&seenReopened != 0 {
			e.Flags = strings.TrimPrefix(e.Flags+",opening", ",")
		}
		return e, true
	})
}

func (k *kernel) conntrackEntry(key *connectionKeyLayout, v *connectionLayout, now uint64) ConntrackEntry {
	local := netip.AddrPortFrom(fromWire(key.Local), fromPort(key.LocalPort))
	remote := netip.AddrPortFrom(fromWire(key.Remote), fromPort(key.RemotePort))
	e := ConntrackEntry{
		Protocol: key.Protocol, Direction: Direction(v.Initiator), Flags: connectionFlags(v.Flags),
		PacketsOut: v.Packets[1], PacketsIn: v.Packets[0], BytesOut: v.Bytes[1], BytesIn: v.Bytes[0],
		Expires: time.Duration(v.Expires - now),
	}
	if e.Direction == Egress {
		e.Source, e.Destination, e.SourceIdentity = local, remote, k.endpoints[EndpointID(key.Endpoint)].Identity
	} else {
		e.Source, e.Destination, e.SourceIdentity = remote, local, v.Peer
	}
	translated := netip.AddrPortFrom(fromWire(v.Translated), fromPort(v.TranslatedPort))
	switch {
	case v.Flags&connectionReverse != 0:
		e.TranslatedFrom = translated
	case v.Flags&connectionService != 0:
		e.TranslatedFrom, e.Destination = remote, translated
	}
	return e
}

func connectionFlags(f uint8) string {
	var out []string
	for i, name := range []string{"service", "reverse", "replied", "fin-out", "fin-in", "reset", "wire", "proxy"} {
		if f&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}
