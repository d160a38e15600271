package datapath

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// keptFor is how long the entry of a connection is kept from now on, and in which table.
func (r *rig) keptFor(key connectionKeyLayout) (table string, left time.Duration) {
	r.t.Helper()
	for _, name := range connectionTables {
		var c connectionLayout
		if err := r.objects.maps[name].Lookup(key, &c); err == nil {
			return name, time.Duration(c.Expires - monotonic())
		}
	}
	return "", 0
}

// An entry is kept for as long as the state of its connection says, whichever side brought it there.
func TestConnectionLifetimes(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	const pod, client = "10.77.1.11", "203.0.113.9"
	type step struct {
		fromPod bool
		flags   uint8
		table   string
		seconds float64
	}
	for i, test := range []struct {
		name     string
		protocol uint8
		steps    []step
	}{
		{"closed by both sides", unix.IPPROTO_TCP, []step{
			{false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}, {true, ack, "connections", 8000},
			{false, fin | ack, "connections", 8000}, {true, ack, "connections", 8000}, {true, fin | ack, "connections", 10}, {false, ack, "connections", 10}}},
		{"reset by the client", unix.IPPROTO_TCP, []step{
			{false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}, {false, rst, "connections", 10}}},
		{"refused", unix.IPPROTO_TCP, []step{{false, syn, "openings", 60}, {true, rst | ack, "openings", 10}}},
		{"opened again by the same ports", unix.IPPROTO_TCP, []step{
			{false, syn, "openings", 60}, {true, rst | ack, "openings", 10}, {false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}}},
		{"opened again after it was open", unix.IPPROTO_TCP, []step{
			{false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}, {false, rst, "connections", 10},
			{false, syn, "connections", 60}, {false, syn, "connections", 60}, {true, syn | ack, "connections", 60}, {true, syn | ack, "connections", 60},
			{false, ack, "connections", 8000}, {true, ack, "connections", 8000}}},
		{"opened again and refused", unix.IPPROTO_TCP, []step{
			{false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}, {true, rst, "connections", 10},
			{false, syn, "connections", 60}, {true, rst | ack, "connections", 10}, {false, syn, "connections", 60}}},
		{"datagrams", unix.IPPROTO_UDP, []step{{false, 0, "openings", 60}, {true, 0, "openings", 60}, {false, 0, "connections", 60}}},
		{"an association", unix.IPPROTO_SCTP, []step{
			{false, syn, "openings", 60}, {true, syn | ack, "openings", 60}, {false, ack, "connections", 8000}, {true, rst, "connections", 10}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.t = t
			in := frame{source: client, destination: pod, protocol: test.protocol, sourcePort: uint16(5000 + i), destPort: 80}
			out := frame{mac: macA, source: pod, destination: client, protocol: test.protocol, sourcePort: 80, destPort: in.sourcePort}
			key := connectionKeyLayout{Local: toWire(netip.MustParseAddr(pod)), Remote: toWire(netip.MustParseAddr(client)),
				LocalPort: toPort(80), RemotePort: toPort(in.sourcePort), Endpoint: 1, Protocol: test.protocol}
			for n, s := range test.steps {
				program, f := "from_netdev", in
				if s.fromPod {
					program, f = "from_pod", out
				}
				f.flags = s.flags
				if verdict, _ := r.run(program, f.bytes()); verdict == verdictShot {
					t.Fatalf("packet %d was dropped; counters %v", n, r.counters())
				}
				if table, left := r.keptFor(key); table != s.table || left.Seconds() > s.seconds || left.Seconds() < s.seconds-5 {
					t.Errorf("after packet %d (%+v) it is kept in %q for %s", n, s, table, left)
				}
			}
		})
	}
	r.t = t
	// What is over counts for nothing, though nobody has cleaned it away yet: the pod's packet would be one that it opens.
	in := frame{source: client, destination: pod, protocol: unix.IPPROTO_UDP, sourcePort: 6000, destPort: 80}
	r.expect("a datagram", "from_netdev", in, verdictRedirect)
	key := connectionKeyLayout{Local: toWire(netip.MustParseAddr(pod)), Remote: toWire(netip.MustParseAddr(client)), LocalPort: toPort(80), RemotePort: toPort(6000),
		Endpoint: 1, Protocol: unix.IPPROTO_UDP}
	var c connectionLayout
	r.must(r.objects.maps["openings"].Lookup(key, &c))
	c.Expires = monotonic() - uint64(time.Second)
	r.must(r.objects.maps["openings"].Put(key, c))
	r.expectDrop("an answer after the entry's time", "from_pod", frame{mac: macA, source: pod, destination: client, protocol: unix.IPPROTO_UDP, sourcePort: 80, destPort: 6000}, 133)
}

// Where the table takes no entry (a kernel may refuse one while others write), what policy allows passes all the same and is
// counted; an answer is what it would be by itself.
func TestPacketsPassWithoutAnEntry(t *testing.T) {
	needsRoot(t)
	c := rigConfig(RoutingNative)
	b := newTestbed(t, c, nil)
	t.Cleanup(b.close)
	// In the place of the table that evicts one that is full.
	s := &ebpf.MapSpec{}
	for _, o := range b.programs.spec.collections {
		if m := o.Maps["openings"]; m != nil {
			m.Type, m.MaxEntries = ebpf.Hash, 1
			s = m.Copy()
		}
	}
	s.Pinning = ebpf.PinNone
	full, err := ebpf.NewMap(s)
	if err != nil {
		t.Fatal(err)
	}
	b.maps["openings"].Close()
	b.maps["openings"] = full
	if err := full.Put(connectionKeyLayout{Endpoint: 9}, connectionLayout{}); err != nil {
		t.Fatal(err)
	}
	r := rigOn(t, c, b)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyIngress, e.PolicyEgress = true, true })
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 1, Direction: Ingress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}, PolicyValue{}}}, nil))
	f := frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 5000, destPort: 80}
	for i, flags := range []uint8{syn, ack, ack} {
		f.flags = flags
		r.expect("a segment that policy allows", "from_netdev", f, verdictRedirect)
		if n := r.counters()[155]; n != uint64(i+1) {
			t.Errorf("%d entries that the table did not take were counted, want %d", n, i+1)
		}
	}
	f.destPort = 81
	r.expectDrop("a segment that it denies", "from_netdev", f, 133)
	back := frame{mac: macA, source: f.destination, destination: f.source, protocol: f.protocol, sourcePort: 80, destPort: f.sourcePort, flags: ack}
	r.expectDrop("an answer, where the pod may open nothing", "from_pod", back, 133)
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 1, Direction: Egress, Protocol: unix.IPPROTO_TCP}, PolicyValue{}}}, nil))
	if verdict, _ := r.run("from_pod", back.bytes()); verdict == verdictShot {
		t.Errorf("an answer, where policy allows both directions, was dropped: %v", r.counters())
	}
}

// A datagram without a checksum stays without, and none gets a checksum that says so, by whichever translation.
func TestDatagramsKeepTheirKindOfChecksum(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	backend := netip.MustParseAddr(podB)
	r.must(r.UpsertService(context.Background(), Service{ServiceID: ServiceID{Name: "dns", Protocol: unix.IPPROTO_UDP},
		Frontends: []Frontend{{Address: netip.MustParseAddr("10.96.0.10"), Port: 53, Protocol: unix.IPPROTO_UDP}},
		Backends:  []Backend{{Address: backend, Port: 5353, Internal: true, External: true}}}))
	const checksumAt, wordAt = 34 + 6, 34 + 8
	for program, f := range map[string]flow{
		"from_pod":  {source: podA, destination: "10.96.0.10", protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 53, payload: 2},
		"to_netdev": {source: podA, destination: someServer, protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 53, payload: 2},
	} {
		translated := func(what string, data []byte) uint16 {
			t.Helper()
			copy(data[6:], macA[:])
			verdict, out := r.run(program, data)
			if verdict == verdictShot || string(out[26:34]) == string(data[26:34]) {
				t.Fatalf("%s, %s: verdict %d, not translated; counters %v", program, what, int32(verdict), r.counters())
			}
			return binary.BigEndian.Uint16(out[checksumAt:])
		}
		without := f.frame()
		binary.BigEndian.PutUint16(without[checksumAt:], 0)
		if got := translated("without a checksum", without); got != 0 {
			t.Errorf("%s: a datagram without a checksum left with %#x", program, got)
		}
		// A word that makes the sum of the translated datagram all ones, whose complement would be zero.
		before := f.frame()
		word := uint32(binary.BigEndian.Uint16(before[wordAt:]))
		added := uint32(translated("as it is", f.frame()))
		data := f.frame()
		binary.BigEndian.PutUint16(data[wordAt:], fold(word+added))
		sum := uint32(^binary.BigEndian.Uint16(before[checksumAt:]))
		binary.BigEndian.PutUint16(data[checksumAt:], ^fold(sum+added))
		if got := translated("whose sum comes to zero", data); got != 0xffff {
			t.Errorf("%s: a datagram whose checksum comes to zero left with %#x", program, got)
		}
	}
}
