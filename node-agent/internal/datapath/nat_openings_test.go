package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// opened has the flow opened as far as translation goes: sent, answered, and gone on with. It gives what left last.
func (r *rig) opened(what string, f flow) flow {
	r.t.Helper()
	answer := r.out(what, f).answer()
	if f.protocol == unix.IPPROTO_TCP {
		answer.flags = syn | ack
		f.flags = ack
	}
	if verdict, _ := r.run("from_netdev", answer.frame()); verdict == verdictShot {
		r.t.Fatalf("%s: the answer was dropped; counters %v", what, r.counters())
	}
	return r.out(what, f)
}

// opened is the same for a client of a service whose backend is elsewhere.
func (x *xdpRig) opened(what string, f flow, mac net.HardwareAddr) flow {
	x.t.Helper()
	got := dissect(x.t, x.sent(what, x.uplink, f, xdpRedirect, mac))
	answer := got.answer()
	answer.flags = syn | ack
	x.confirmed()
	if verdict, _ := x.arrive(xdpServices, x.wire, frameTo(x.wire, answer)); verdict != xdpRedirect {
		x.t.Fatalf("%s: verdict %d on the answer; counters %v", what, verdict, x.counters())
	}
	f.flags = ack
	return dissect(x.t, x.sent(what, x.uplink, f, xdpRedirect, mac))
}

// translations counts the entries of both tables.
func (r *rig) translations() (open, opening int) {
	r.t.Helper()
	open, err := countEntries(r.objects.maps["nat"])
	r.must(err)
	opening, err = countEntries(r.objects.maps["nat_openings"])
	r.must(err)
	return open, opening
}

// eachKind runs fn for what opens a flow of each protocol and family.
func eachKind(t *testing.T, fn func(t *testing.T, f flow)) {
	eachFamily(t, func(t *testing.T, pod, node, server string, icmp, echo uint8) {
		for name, f := range map[string]flow{
			"TCP":  {protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn},
			"UDP":  {protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 53, payload: 12},
			"SCTP": {protocol: unix.IPPROTO_SCTP, sourcePort: 40000, port: 3868, flags: syn},
			"echo": {protocol: icmp, kind: echo, sourcePort: 77, payload: 8},
		} {
			f.source, f.destination = pod, server
			t.Run(name, func(t *testing.T) { fn(t, f) })
		}
	})
}

// A translation lies with the half-open ones until its sender goes on after an answer, and keeps its port on the way.
func TestTranslationsOpenWithTheirSenders(t *testing.T) {
	eachKind(t, func(t *testing.T, f flow) {
		r := newNATRig(t, RoutingTunnel)
		half := func(when string) {
			t.Helper()
			if open, opening := r.translations(); open != 0 || opening != 2 {
				t.Errorf("%s: %d entries of open flows and %d of others, want 0 and 2", when, open, opening)
			}
		}
		first := r.out("what opens", f)
		half("after what opens")
		r.out("what opens, again", f)
		half("after what opens came again")
		answer := first.answer()
		if f.flags == syn {
			answer.flags = syn | ack
		}
		r.in("an answer", answer, verdictRedirect)
		half("after an answer")
		if f.flags == syn {
			f.flags = ack
		}
		again := r.out("what goes on", f)
		if again.source != first.source || again.sourcePort != first.sourcePort {
			t.Errorf("it goes on from %s:%d, and began from %s:%d", again.source, again.sourcePort, first.source, first.sourcePort)
		}
		if open, opening := r.translations(); open != 2 || opening != 0 {
			t.Errorf("once it is open: %d entries of open flows and %d of others, want 2 and 0", open, opening)
		}
		answer.flags = f.flags
		r.in("another answer", answer, verdictRedirect)
		r.out("another packet", f)
		if open, opening := r.translations(); open != 2 || opening != 0 {
			t.Errorf("later: %d entries of open flows and %d of others, want 2 and 0", open, opening)
		}
		entries, err := r.NAT(0)
		r.must(err)
		if len(entries) != 1 || entries[0].Flags != "replied" {
			t.Errorf("listed as %+v", entries)
		}
	})
}

// A limit holds for open flows and those that open together.
func TestTranslationsAreListedToALimit(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, port: 443, flags: syn}
	for i := range uint16(3) {
		f.sourcePort = 40000 + i
		if i < 1 {
			r.opened("one that is open", f)
		} else {
			r.out("one that opens", f)
		}
	}
	for limit, want := range map[int]int{0: 3, 1: 1, 2: 2, 3: 3, 9: 3} {
		if entries, err := r.NAT(limit); err != nil || len(entries) != want {
			t.Errorf("of 3 entries with a limit of %d %d are listed, want %d (%v)", limit, len(entries), want, err)
		}
	}
}

func TestTranslationLifetimes(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn}
	kept := func(when, flags string, seconds float64) {
		t.Helper()
		entries, err := r.NAT(0)
		r.must(err)
		if len(entries) != 1 || entries[0].Flags != flags {
			t.Fatalf("%s: listed as %+v, want flags %q", when, entries, flags)
		}
		if got := entries[0].Expires.Seconds(); got > seconds+1 || got < seconds-5 {
			t.Errorf("%s: kept for %.0f s, want %.0f", when, got, seconds)
		}
	}
	answer := r.out("what opens", f).answer()
	kept("unanswered", "opening", 60)
	answer.flags = syn | ack
	r.in("an answer", answer, verdictRedirect)
	kept("answered", "replied,opening", 60)
	f.flags = ack
	r.out("what goes on", f)
	kept("open", "replied", 8000)
	f.flags = rst
	r.out("a reset", f)
	kept("reset", "replied,reset", 10)
	// A reset after an answer opens nothing.
	f.sourcePort++
	f.flags = syn
	answer = r.out("what opens", f).answer()
	answer.flags = syn | ack
	r.in("an answer", answer, verdictRedirect)
	f.flags = rst
	r.out("a reset", f)
	if open, opening := r.translations(); open != 2 || opening != 2 {
		t.Errorf("%d entries of open flows and %d of others, want 2 and 2", open, opening)
	}
}

// No port is given twice, whichever of the tables has it.
func TestNoPortIsGivenTwice(t *testing.T) {
	r := newNATRig(t, RoutingTunnel, func(c *Config) { c.NATFirst = 65536 - 16 })
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, port: 443, flags: syn}
	used := map[uint16]uint16{}
	for i := range uint16(16) {
		f.sourcePort = 40000 + i
		open := r.out
		if i%2 == 0 {
			open = r.opened
		}
		got := open("a flow", f)
		if other, taken := used[got.sourcePort]; taken {
			t.Fatalf("port %d serves %d and %d", got.sourcePort, other, f.sourcePort)
		}
		used[got.sourcePort] = f.sourcePort
	}
	if open, opening := r.translations(); open != 16 || opening != 16 {
		t.Fatalf("%d entries of open flows and %d of others", open, opening)
	}
	// All are taken: those that are being opened give way, and no other.
	for i := range uint16(40) {
		f.sourcePort = 50000 + i
		got := r.out("one more", f)
		if owner := used[got.sourcePort]; owner >= 40000 && owner < 50000 && owner%2 == 0 {
			t.Fatalf("an open flow lost port %d", got.sourcePort)
		}
		used[got.sourcePort] = f.sourcePort
	}
	for i := uint16(0); i < 16; i += 2 {
		f.sourcePort, f.flags = 40000+i, ack
		if got := r.out("an open flow", f); used[got.sourcePort] != f.sourcePort {
			t.Errorf("the open flow of port %d has port %d now, which is that of %d", f.sourcePort, got.sourcePort, used[got.sourcePort])
		}
	}
	if n := r.counters()[167]; n != 0 {
		t.Errorf("%d packets found no port", n)
	}
}

// What ended in the table of open flows gives its port to one that opens.
func TestEndedTranslationGivesItsPort(t *testing.T) {
	r := newNATRig(t, RoutingTunnel, func(c *Config) { c.NATFirst = 65535 })
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn}
	r.sent("what opens", f)
	r.opened("the first", f)
	r.expireNAT(func(*natKeyLayout, *natValueLayout) bool { return true })
	f.sourcePort++
	answer := r.sent("the second", f).answer()
	answer.flags = syn | ack
	r.in("its answer", answer, verdictRedirect)
	f.flags = ack
	r.out("it goes on", f)
	entries, err := r.NAT(0)
	r.must(err)
	if len(entries) != 1 || entries[0].Source.Port() != 40001 {
		t.Errorf("listed as %+v", entries)
	}
	// The hint of the first leads to somebody else's port: nothing of it may come back.
	f.sourcePort--
	if verdict, _ := r.run("to_netdev", f.frame()); verdict != verdictShot || r.counters()[167] != 1 {
		t.Errorf("the first went on with the second's port: verdict %d, counters %v", int32(verdict), r.counters())
	}
	r.pressures = map[string]MapPressure{}
	r.sweep()
	if open, opening := r.translations(); open > 3 || opening != 0 {
		t.Errorf("after a sweep: %d entries of open flows and %d of others", open, opening)
	}
}

const natFlood = 20_000

// A pod that floods the world, by TCP and by datagrams, answered and not, takes no port of what others have open.
func TestFloodOfAPodEvictsNoTranslation(t *testing.T) {
	for name, protocol := range map[string]uint8{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP} {
		t.Run(name, func(t *testing.T) {
			r := newOwnRig(t, RoutingTunnel, masqueraded, func(c *Config) { c.NATMax = 1024 }).behindLoopback()
			const open = 100
			var held, want [open]flow
			for i := range held {
				held[i] = flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: uint16(20000 + i), port: 443, flags: syn}
				r.sent("what opens", held[i])
				want[i] = r.opened("a held connection", held[i])
				held[i].flags = ack
			}
			for i := range natFlood {
				f := flow{source: podB, destination: fmt.Sprintf("198.51.100.%d", 1+i%200), protocol: protocol, sourcePort: uint16(1024 + i), port: 443, flags: syn}
				answer := r.out("the flood", f).answer()
				if i%2 == 0 {
					answer.flags = syn | ack
					r.in("an answer to the flood", answer, verdictRedirect)
				}
			}
			r.holds(held[:], want[:])
		})
	}
}

// holds expects answers to reach the pods, without anything that they send first, and the ports to be those of before.
func (r *rig) holds(held, want []flow) {
	r.t.Helper()
	answered, kept := 0, 0
	for i := range held {
		if verdict, frame := r.run("from_netdev", want[i].answer().frame()); verdict == verdictRedirect && dissect(r.t, frame[14:]).port == held[i].sourcePort {
			answered++
		}
	}
	for i := range held {
		if r.out("a held connection", held[i]) == want[i] {
			kept++
		}
	}
	r.t.Logf("%d half-open flows; of %d held connections %d are answered, %d have their port", natFlood, len(held), answered, kept)
	if answered != len(held) || kept != len(held) {
		r.t.Errorf("of %d held connections %d are answered and %d have their port", len(held), answered, kept)
	}
}

// A flood at a node port with a backend elsewhere takes no translation of a connection that is open, neither of its own
// clients nor of pods.
func TestFloodAtANodePortEvictsNoTranslation(t *testing.T) {
	r := newOwnRig(t, RoutingNative, masqueraded, func(c *Config) { c.NATMax = 1024 }).behindLoopback()
	const backend = "10.77.2.11"
	r.door(unix.IPPROTO_TCP, backend)
	const open = 100
	var held, want [open]flow
	for i := range held {
		held[i] = flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: uint16(20000 + i), port: 443, flags: syn}
		r.sent("what opens", held[i])
		want[i] = r.opened("a pod's connection", held[i])
		held[i].flags = ack
	}
	client := func(i int, flags uint8) frame {
		return frame{source: "203.0.113.9", destination: doorOfNode, protocol: unix.IPPROTO_TCP, sourcePort: uint16(5000 + i), destPort: 30080, flags: flags}
	}
	var before [open]frame
	for i := range open {
		out := r.passes("what opens", "from_netdev", client(i, syn))
		before[i] = answered(out, unix.IPPROTO_TCP, syn|ack, macA)
		r.passes("the answer", "from_netdev", before[i])
		r.passes("what goes on", "from_netdev", client(i, ack))
		before[i].flags = ack
	}
	for i := range natFlood {
		f := client(i%50_000, syn)
		f.source = fmt.Sprintf("198.51.%d.%d", i>>8&255, i&255)
		out := r.passes("the flood", "from_netdev", f)
		if i%2 == 0 {
			r.passes("an answer to the flood", "from_netdev", answered(out, unix.IPPROTO_TCP, syn|ack, macA))
		}
	}
	r.holds(held[:], want[:])
	answeredClients, kept := 0, 0
	for i := range open {
		if out := r.passes("a backend's answer", "from_netdev", before[i]); netip.AddrFrom4([4]byte(out[30:34])).String() == "203.0.113.9" && binary.BigEndian.Uint16(out[36:]) == uint16(5000+i) {
			answeredClients++
		}
	}
	for i := range open {
		if out := r.passes("a held connection", "from_netdev", client(i, ack)); binary.BigEndian.Uint16(out[34:]) == before[i].destPort {
			kept++
		}
	}
	t.Logf("of %d held connections of clients %d are answered, %d have their port", open, answeredClients, kept)
	if answeredClients != open || kept != open {
		t.Errorf("of %d held connections of clients %d are answered, %d have their port", open, answeredClients, kept)
	}
	if n := r.counters()[167]; n != 0 {
		t.Errorf("%d packets found no port", n)
	}
}

// The same by XDP, in both families.
func TestXDPFloodEvictsNoTranslation(t *testing.T) {
	x := newXDPRigOf(t, newOwnRigOf, func(c *Config) { c.NATMax = 1024 })
	x.serve(unix.IPPROTO_TCP, backend4, backend6)
	for _, way := range []struct{ client, front, flood string }{{client4, front4, "203.0.%d.%d"}, {client6, front6, "2001:db8:99::%x:%x"}} {
		const open = 100
		var held, want [open]flow
		for i := range held {
			held[i] = flow{source: way.client, destination: way.front, protocol: unix.IPPROTO_TCP, sourcePort: uint16(5000 + i), port: 80, flags: syn}
			want[i] = x.opened("a held connection", held[i], macNode2)
			held[i].flags = ack
		}
		for i := range natFlood {
			if i%1000 == 0 {
				x.confirmed()
			}
			f := flow{source: fmt.Sprintf(way.flood, i>>8&255, i&255), destination: way.front, protocol: unix.IPPROTO_TCP, sourcePort: uint16(1024 + i), port: 80, flags: syn}
			if verdict, _ := x.arrive(xdpServices, x.uplink, frameTo(x.uplink, f)); verdict != xdpRedirect {
				t.Fatalf("the flood: verdict %d, counters %v", verdict, x.counters())
			}
		}
		answered, kept := 0, 0
		x.confirmed()
		for i := range held {
			if verdict, out := x.arrive(xdpServices, x.wire, frameTo(x.wire, want[i].answer())); verdict == xdpRedirect && dissect(t, out[14:]).port == held[i].sourcePort {
				answered++
			}
		}
		for i := range held {
			if got := dissect(t, x.sent("a held connection", x.uplink, held[i], xdpRedirect, macNode2)); got == want[i] {
				kept++
			}
		}
		t.Logf("%s: %d half-open flows; of %d held connections %d are answered, %d have their port", way.front, natFlood, open, answered, kept)
		if answered != open || kept != open {
			t.Errorf("%s: of %d held connections %d are answered and %d have their port", way.front, open, answered, kept)
		}
	}
}
