package datapath

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// wrapped is the frame as the wire brings it from the other node, whose address and ours the outer frame has.
func wrapped(outer, f frame, first, vni uint32, adjust func(outer []byte)) []byte {
	inner := f.bytes()
	outer.protocol, outer.sourcePort = unix.IPPROTO_UDP, 50000
	outer.payload = make([]byte, 8, 8+len(inner))
	binary.BigEndian.PutUint32(outer.payload, first)
	binary.BigEndian.PutUint32(outer.payload[4:], vni<<8)
	outer.payload = append(outer.payload, inner...)
	b := outer.bytes()
	if adjust != nil {
		adjust(b)
	}
	return b
}

const vxlanWord, geneveWord = 0x08000000, 0x6558

func inVXLAN(f frame, vni uint32, adjust func(outer []byte)) []byte {
	return wrapped(frame{source: "192.0.2.2", destination: "192.0.2.1", destPort: 8472}, f, vxlanWord, vni, adjust)
}

// What from_netdev takes out of the tunnel itself, what it refuses, and what it leaves to the tunnel device.
func TestOutOfTheTunnel(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyIngress = true })
	ctx := context.Background()
	r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.MustParsePrefix("192.0.2.2/32"), Identity: 6}))
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 1, Identity: 2001}, PolicyValue{}}}, nil))
	good := frame{source: "10.77.2.11", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80}
	to := func(f frame, source, destination string) frame {
		f.source, f.destination = source, destination
		return f
	}
	for _, test := range []struct {
		name   string
		f      frame
		vni    uint32
		adjust func([]byte)
		want   uint32
		reason uint8
	}{
		{"an identity that policy allows", good, 2001, nil, verdictRedirect, 0},
		{"another one", to(good, "10.77.2.12", "10.77.1.11"), 2002, nil, verdictShot, 133},
		{"no identity", good, 0, nil, verdictShot, 183},
		{"a reserved identity", good, 4, nil, verdictShot, 171},
		{"the address of one of our own pods", to(good, "10.77.1.12", "10.77.1.11"), 2001, nil, verdictShot, 132},
		{"to a pod that is not there", to(good, "10.77.2.11", "10.77.1.99"), 2001, nil, verdictShot, 152},
		{"to the router", to(good, "10.77.2.11", "10.77.1.1"), 2001, nil, verdictUnspec, 0},
		{"to the node", to(good, "10.77.2.11", "192.0.2.1"), 2001, nil, verdictUnspec, 0},
		{"from no node", good, 2001, func(b []byte) { b[29] = 77 }, verdictUnspec, 0},
		{"with a checksum", good, 2001, func(b []byte) { b[40] = 1 }, verdictUnspec, 0},
		{"marked as congested", good, 2001, func(b []byte) { b[15] = 3 }, verdictUnspec, 0},
		{"a fragment", good, 2001, func(b []byte) { b[20] = 0x20 }, verdictUnspec, 0},
		{"with options", good, 2001, func(b []byte) { b[14] = 0x46 }, verdictUnspec, 0},
		{"another port", good, 2001, func(b []byte) { b[37]++ }, verdictUnspec, 0},
		{"other flags", good, 2001, func(b []byte) { b[42] = 0x0c }, verdictUnspec, 0},
		{"not IPv4 inside", good, 2001, func(b []byte) { b[62] = 0x86 }, verdictUnspec, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := r.counters()
			packet := inVXLAN(test.f, test.vni, test.adjust)
			verdict, out := r.run("from_netdev", packet)
			if verdict != test.want {
				t.Errorf("verdict %d, want %d; counters %+v", int32(verdict), int32(test.want), r.counters())
			}
			if n := r.counters()[test.reason] - before[test.reason]; test.reason != 0 && n != 1 {
				t.Errorf("reason %d was counted %d times, want once", test.reason, n)
			}
			switch test.want {
			case verdictUnspec:
				if string(out) != string(packet) {
					t.Error("the packet was changed")
				}
			case verdictRedirect:
				if want := test.f.bytes(); string(out[14:]) != string(want[14:]) || [6]byte(out[:6]) != macA {
					t.Errorf("handed over %x, want %x", out, want)
				}
			}
		})
	}
}
