package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// wrapped is a frame in VXLAN, as another node sends it.
func (x *xdpRig) wrapped(f flow, from string, vni uint32) []byte {
	inner := f.frame()
	outer := flow{source: from, destination: "192.0.2.1", protocol: unix.IPPROTO_UDP, sourcePort: 50123, port: 8472, payload: 8 + len(inner)}
	frame := frameTo(x.wire, outer)
	frame[14+20+6], frame[14+20+7] = 0, 0
	copy(frame[42:], []byte{8, 0, 0, 0})
	binary.BigEndian.PutUint32(frame[46:], vni<<8)
	copy(frame[50:], inner)
	return frame
}

// In tunnel routing what goes to other nodes is wrapped, and what comes from them is taken out, by XDP itself.
func TestXDPInATunnel(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.Routing = RoutingTunnel })
	node2 := netip.MustParseAddr("192.0.2.2")
	x.must(x.UpsertIP(t.Context(), IPEntry{Prefix: netip.PrefixFrom(node2, 32), Identity: 6},
		IPEntry{Prefix: netip.MustParsePrefix(backend4 + "/32"), Identity: 1009, TunnelEndpoint: node2},
		IPEntry{Prefix: netip.MustParsePrefix(backend6 + "/128"), Identity: 1009, TunnelEndpoint: node2}))
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	var last flow
	eachService(t, func(t *testing.T, f flow) {
		backend, router := backend4, "10.77.1.1"
		if f.v6() {
			backend, router = backend6, "fd00:10:77:1::1"
		}
		x.confirmed()
		frame := frameTo(x.uplink, f)
		verdict, out := x.arrive(xdpServices, x.uplink, frame)
		if verdict != xdpRedirect || !bytes.Equal(out[:6], macNode2) || len(out) != len(frame)+50 {
			t.Fatalf("verdict %d, %d bytes to %x; counters %v", verdict, len(out), out[:6], x.counters())
		}
		outer, tunnel := out[14:34], out[34:50]
		if fold(wordSum(outer)) != 0xffff || int(binary.BigEndian.Uint16(outer[2:])) != len(out)-14 || outer[9] != unix.IPPROTO_UDP ||
			!bytes.Equal(outer[12:20], []byte{192, 0, 2, 1, 192, 0, 2, 2}) {
			t.Errorf("outer header % x", outer)
		}
		// To port 8472 without a checksum; the sender is the world.
		if !bytes.Equal(slices.Concat(tunnel[2:4], tunnel[6:]), []byte{0x21, 0x18, 0, 0, 8, 0, 0, 0, 0, 0, 2, 0}) ||
			int(binary.BigEndian.Uint16(tunnel[4:])) != len(out)-34 {
			t.Errorf("tunnel's headers % x", tunnel)
		}
		if !bytes.Equal(out[62:64], frame[12:14]) {
			t.Errorf("inner protocol % x", out[62:64])
		}
		inner := dissect(t, out[64:])
		if inner.source != router || inner.destination != backend || inner.port != 7000 {
			t.Fatalf("went on as %+v", inner)
		}
		answer := inner.answer()
		if f.flags != 0 {
			answer.flags = syn | ack
		}
		last = answer
		verdict, out = x.arrive(xdpServices, x.wire, x.wrapped(answer, "192.0.2.2", 1009))
		if verdict != xdpRedirect || !bytes.Equal(out[:6], macClient) {
			t.Fatalf("answer: verdict %d to %x; counters %v", verdict, out[:6], x.counters())
		}
		if back, want := dissect(t, out[14:]), f.answer(); back.source != want.source || back.destination != want.destination || back.sourcePort != want.sourcePort || back.port != want.port {
			t.Errorf("the client was answered %+v", back)
		}
	})
	x.confirmed()
	good := x.wrapped(last, "192.0.2.2", 1009)
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	unknown, elsewhere := last, last
	unknown.port--
	elsewhere.destination = podOfNode6
	for what, frame := range map[string][]byte{
		"an unknown sender":         x.wrapped(last, "192.0.2.3", 1009),
		"a reserved identity":       x.wrapped(last, "192.0.2.2", 6),
		"a connection nobody knows": x.wrapped(unknown, "192.0.2.2", 1009),
		"a pod":                     x.wrapped(elsewhere, "192.0.2.2", 1009),
		"an outer checksum":         change(14+20+6, 1, 2),
		"congestion on the way":     change(15, 3),
		"another kind of tunnel":    change(42, 0),
		"another protocol inside":   change(62, 8, 6),
		"an extension header":       change(64+6, unix.IPPROTO_DSTOPTS),
		"a last hop":                change(64+7, 1),
		"cut off":                   good[:100],
	} {
		x.left(what, x.wire, frame)
	}
	large := flow{source: client4, destination: front4, protocol: unix.IPPROTO_UDP, sourcePort: 45000, port: 80, payload: 1450 - 28}
	if verdict, _ := x.arrive(xdpServices, x.uplink, frameTo(x.uplink, large)); verdict != xdpRedirect {
		t.Errorf("what fits: verdict %d", verdict)
	}
	large.payload, large.sourcePort = large.payload+1, 45001
	x.left("what does not fit with the tunnel's headers", x.uplink, frameTo(x.uplink, large))
	x.must(x.objects.maps["xdp_neighbours"].Put(neighbourLine(x.wire, "192.0.2.2"), uint64(1)))
	x.left("a node that is due", x.uplink, frameTo(x.uplink, flow{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 45002, port: 80, flags: syn}))
}
