package datapath

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	podA, podA6           = "10.77.1.11", "fd00:77:1::11"
	podB                  = "10.77.1.12"
	nodeSource, node6     = "192.0.2.1", "2001:db8::1"
	someServer, server6   = "203.0.113.9", "2001:db8:9::9"
	someRouter, someOther = "198.51.100.254", "203.0.113.10"
)

// masqueraded has both families masqueraded.
func masqueraded(c *Config) {
	c.Masquerade, c.Masquerade6, c.BPFMasquerade = true, true, true
	c.NodeAddress6, c.RouterAddress6 = netip.MustParseAddr(node6), netip.MustParseAddr("fd00:77:1::1")
	c.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("fd00:77:1::/64")}
	c.NativeRoutingCIDR6 = netip.MustParsePrefix("fd00:77::/32")
}

// newNATRig masquerades both families behind the loopback interface, which stands for all.
func newNATRig(t *testing.T, routing RoutingMode, adjust ...func(*Config)) *rig {
	t.Helper()
	return newRig(t, routing, append([]func(*Config){masqueraded}, adjust...)...).behindLoopback()
}

func (r *rig) behindLoopback() *rig {
	r.t.Helper()
	r.must(r.objects.maps["devices"].Put(r.ifindex, deviceLayout{Address: toWire(r.config.NodeAddress), Address6: toWire(r.config.NodeAddress6)}))
	r.endpoint(1, podA, macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr(podA6)) })
	r.endpoint(2, podB, macB, nil)
	return r
}

// out sends by to_netdev and gives what leaves.
func (r *rig) out(what string, f flow) flow {
	r.t.Helper()
	verdict, frame := r.run("to_netdev", f.frame())
	if verdict != verdictUnspec {
		r.t.Fatalf("%s: verdict %d; counters %v", what, int32(verdict), r.counters())
	}
	return dissect(r.t, frame[14:])
}

// sent sends by from_pod and then by to_netdev, as a pod's packets go.
func (r *rig) sent(what string, f flow) flow {
	r.t.Helper()
	frame, mac := f.frame(), macA
	if f.source == podB {
		mac = macB
	}
	copy(frame[6:], mac[:])
	if verdict, _ := r.run("from_pod", frame); verdict == verdictShot {
		r.t.Fatalf("%s: from_pod dropped it; counters %v", what, r.counters())
	}
	return r.out(what, f)
}

// in receives by from_netdev; the packet is what would arrive in the pod.
func (r *rig) in(what string, f flow, want uint32) flow {
	r.t.Helper()
	verdict, frame := r.run("from_netdev", f.frame())
	if verdict != want {
		r.t.Fatalf("%s: verdict %d, want %d; counters %v", what, int32(verdict), int32(want), r.counters())
	}
	return dissect(r.t, frame[14:])
}

func eachFamily(t *testing.T, fn func(t *testing.T, pod, node, server string, icmp, echo uint8)) {
	t.Run("v4", func(t *testing.T) { fn(t, podA, nodeSource, someServer, unix.IPPROTO_ICMP, 8) })
	t.Run("v6", func(t *testing.T) { fn(t, podA6, node6, server6, unix.IPPROTO_ICMPV6, 128) })
}

func TestSNATOutAndBack(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	eachFamily(t, func(t *testing.T, pod, node, server string, icmp, echo uint8) {
		r.t = t
		for _, f := range []flow{
			{source: pod, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn},
			{source: pod, destination: server, protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 53, payload: 33},
			{source: pod, destination: server, protocol: icmp, sourcePort: 7, kind: echo, payload: 56},
		} {
			got := r.out("out", f)
			if got.source != node || got.destination != server || got.port != f.port || got.sourcePort < defaultNATFirst {
				t.Fatalf("%+v left as %+v", f, got)
			}
			for range 3 {
				if again := r.out("again", f); again != got {
					t.Errorf("the same flow left as %+v and then as %+v", got, again)
				}
			}
			// The other side answers what it saw; only it can.
			foreign := got.answer()
			foreign.source = "203.0.113.77"
			if pod == podA6 {
				foreign.source = "2001:db8:77::1"
			}
			r.in("a stranger's", foreign, verdictUnspec)
			back := r.in("answer", got.answer(), verdictRedirect)
			if want := f.answer(); back.source != want.source || back.destination != want.destination || back.port != want.port || back.sourcePort != want.sourcePort {
				t.Errorf("the answer arrived as %+v, want %+v", back, want)
			}
		}
	})
}

func TestSNATDecisions(t *testing.T) {
	tcp := func(source, destination string) flow {
		return flow{source: source, destination: destination, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn}
	}
	for _, routing := range []RoutingMode{RoutingTunnel, RoutingNative} {
		t.Run(string(routing), func(t *testing.T) {
			r := newNATRig(t, routing)
			r.must(r.UpsertNode(t.Context(), Node{Name: "node2", Address: netip.MustParseAddr("192.0.2.2"), Address6: netip.MustParseAddr("2001:db8::2")}))
			r.must(r.SetUnmasqueraded(t.Context(), []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:5::/48")}))
			toNode, toNode6 := nodeSource, node6
			if routing == RoutingNative {
				toNode, toNode6 = podA, podA6
			}
			for _, test := range []struct{ name, from, to, want string }{
				{"the world", podA, someServer, nodeSource},
				{"native range", podA, "10.77.9.9", podA},
				{"native range, version 6", podA6, "fd00:77:9::9", podA6},
				{"another node", podA, "192.0.2.2", toNode},
				{"a rule", podA, "198.51.100.7", podA},
				{"the router's address", "10.77.1.1", someServer, nodeSource},
				{"the node itself", nodeSource, someServer, nodeSource},
				{"what is only forwarded", "198.51.100.50", someServer, "198.51.100.50"},
			} {
				if got := r.out(test.name, tcp(test.from, test.to)); got.source != test.want {
					t.Errorf("%s: left from %s, want %s", test.name, got.source, test.want)
				}
			}
			t.Run("version 6", func(t *testing.T) {
				r.t = t
				for to, want := range map[string]string{server6: node6, "2001:db8:5::7": podA6, "2001:db8::2": toNode6} {
					if got := r.out("version 6", tcp(podA6, to)); got.source != want {
						t.Errorf("to %s: left from %s, want %s", to, got.source, want)
					}
				}
			})
			r.t = t
			// Rules are taken back and others come, while it runs.
			r.must(r.SetUnmasqueraded(t.Context(), []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}))
			f := tcp(podA, "198.51.100.8")
			if got := r.out("former rule", f); got.source != nodeSource {
				t.Errorf("after the rule went: left from %s", got.source)
			}
			if got := r.out("new rule", tcp(podA, someOther)); got.source != podA {
				t.Errorf("after the rule came: left from %s", got.source)
			}
			r.must(r.SetUnmasqueraded(t.Context(), nil))
			// A node that has other addresses no longer has its former ones.
			r.must(r.UpsertNode(t.Context(), Node{Name: "node2", Address: netip.MustParseAddr("192.0.2.3"), Address6: netip.MustParseAddr("2001:db8::3")}))
			for _, test := range []struct{ from, to, want string }{
				{podA, "192.0.2.3", toNode}, {podA6, "2001:db8::3", toNode6}, {podA, "192.0.2.2", nodeSource}, {podA6, "2001:db8::2", node6},
			} {
				f := tcp(test.from, test.to)
				f.sourcePort = 40777
				if got := r.out("a node's other address", f); got.source != test.want {
					t.Errorf("to %s after the node's addresses changed: left from %s, want %s", test.to, got.source, test.want)
				}
			}
			// What came from outside with the pod's own address is answered with it.
			incoming := flow{source: someOther, destination: podA, protocol: unix.IPPROTO_TCP, sourcePort: 1234, port: 80, flags: syn}
			r.in("from outside", incoming, verdictRedirect)
			reply := incoming.answer()
			reply.flags = syn | ack
			if got := r.out("its answer", reply); got.source != podA || got.sourcePort != 80 {
				t.Errorf("the answer left from %s:%d", got.source, got.sourcePort)
			}
		})
	}
}

func TestSNATOffLeavesOpenFlows(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn}
	got := r.out("out", f)
	// The agent comes again with nftables; the maps stay.
	c := r.config
	c.BPFMasquerade = false
	s, err := newSpec(c, 1, 1450, everyAbility())
	r.must(err)
	r.programs = newPrograms(s, r.objects.maps)
	t.Cleanup(r.programs.close)
	if again := r.out("an open flow", f); again != got {
		t.Errorf("left as %+v, before as %+v", again, got)
	}
	f.sourcePort++
	if fresh := r.out("a new flow", f); fresh.source != podA {
		t.Errorf("a new flow was translated to %s, which is for nftables now", fresh.source)
	}
	r.in("an open flow's answer", got.answer(), verdictRedirect)
}

func TestSNATErrors(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	eachFamily(t, func(t *testing.T, pod, node, server string, icmp, echo uint8) {
		r.t = t
		// An error of the protocol: time exceeded; port unreachable.
		router, exceeded, unreachable := someRouter, uint8(11), uint8(3)
		if icmp == unix.IPPROTO_ICMPV6 {
			router, exceeded, unreachable = "2001:db8:8::fe", 3, 1
		}
		for _, f := range []flow{
			{source: pod, destination: server, protocol: unix.IPPROTO_UDP, sourcePort: 40001, port: 33434, payload: 12},
			{source: pod, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 40001, port: 443, flags: syn},
			{source: pod, destination: server, protocol: icmp, sourcePort: 9, kind: echo, payload: 8},
		} {
			// The pod's own connection has to be known, or its policy would judge the error as a message of its own.
			sent := r.sent("out", f)
			arrived := r.in("time exceeded, from a router", flow{source: router, destination: node, protocol: icmp, kind: exceeded, quoted: &sent}, verdictRedirect)
			if arrived.source != router || arrived.destination != pod {
				t.Errorf("the error went from %s to %s", arrived.source, arrived.destination)
			}
			if q := arrived.quoted; q == nil || q.source != pod || q.sourcePort != f.sourcePort || q.destination != server || q.port != f.port {
				t.Errorf("protocol %d: it quotes %+v, want the packet as the pod sent it", f.protocol, q)
			}
			// The pod refuses an answer.
			answer := f.answer()
			left := r.out("port unreachable, of the pod", flow{source: pod, destination: server, protocol: icmp, kind: unreachable, quoted: &answer})
			if left.source != node || left.destination != server {
				t.Errorf("the pod's error went from %s to %s", left.source, left.destination)
			}
			want := sent.answer()
			if q := left.quoted; q == nil || q.source != want.source || q.destination != want.destination || q.port != want.port || q.sourcePort != want.sourcePort {
				t.Errorf("protocol %d: the pod's error quotes %+v, want what the server sent: %+v", f.protocol, q, want)
			}
		}
		// An error about nothing that was ever sent.
		made := flow{source: node, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 40999, port: 443}
		r.in("an error about nothing", flow{source: router, destination: node, protocol: icmp, kind: exceeded, quoted: &made}, verdictUnspec)
		about := flow{source: server, destination: pod, protocol: unix.IPPROTO_TCP, sourcePort: 443, port: 45999}
		before := r.counters()[168]
		verdict, _ := r.run("to_netdev", flow{source: pod, destination: server, protocol: icmp, kind: unreachable, quoted: &about}.frame())
		if verdict != verdictShot || r.counters()[168] != before+1 {
			t.Errorf("a pod's error about nothing: verdict %d, counters %v", verdict, r.counters())
		}
	})
}

func TestSNATUnusual(t *testing.T) {
	r := newNATRig(t, RoutingTunnel)
	f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_SCTP, sourcePort: 5000, port: 3868}
	got := r.out("SCTP", f)
	if got.source != nodeSource || got.sourcePort < r.config.natFirst() {
		t.Errorf("SCTP left from %s:%d", got.source, got.sourcePort)
	}
	if back := r.in("SCTP's answer", got.answer(), verdictRedirect); back.destination != podA || back.port != 5000 {
		t.Errorf("SCTP's answer went to %s:%d", back.destination, back.port)
	}
	other := f
	other.source = podB
	if second := r.out("another pod with the same SCTP port", other); second.sourcePort == got.sourcePort {
		t.Errorf("two pods share the SCTP port %d towards one server", second.sourcePort)
	}
	// An echo reply that nobody asked for.
	if verdict, _ := r.run("to_netdev", flow{source: podA, destination: someServer, protocol: unix.IPPROTO_ICMP, kind: 0, sourcePort: 3}.frame()); verdict != verdictShot {
		t.Errorf("an unasked echo reply: verdict %d", int32(verdict))
	}
	// UDP without a checksum stays without.
	frame := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 53}.frame()
	frame[14+20+6], frame[14+20+7] = 0, 0
	_, out := r.run("to_netdev", frame)
	if out[14+20+6] != 0 || out[14+20+7] != 0 {
		t.Errorf("UDP without a checksum got one: % x", out[34:42])
	}
	// Fragments: ports are in the first one only.
	first := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_UDP, sourcePort: 40100, port: 53, payload: 64}.frame()
	first[14+4], first[14+5], first[14+6] = 0x12, 0x34, 0x20
	later := append([]byte(nil), first...)
	later[14+6], later[14+7] = 0, 9
	_, a := r.run("to_netdev", first)
	verdict, b := r.run("to_netdev", later)
	source := netip.AddrFrom4([4]byte(b[26:30]))
	if verdict != verdictUnspec || source.String() != nodeSource || string(b[34:]) != string(later[34:]) || string(a[30:34]) != string(b[30:34]) {
		t.Errorf("a later fragment: verdict %d, source %s", int32(verdict), source)
	}
	later[14+4] = 0x77
	if verdict, _ := r.run("to_netdev", later); verdict != verdictShot || r.counters()[175] == 0 {
		t.Errorf("a fragment of nothing must not leave with the pod's address: verdict %d, counters %v", int32(verdict), r.counters())
	}
}

func TestSNATPortsRunOut(t *testing.T) {
	r := newNATRig(t, RoutingTunnel, func(c *Config) { c.NATFirst = 65532 })
	eachFamily(t, func(t *testing.T, pod, _, server string, _, _ uint8) {
		r.t = t
		f := flow{source: pod, destination: server, protocol: unix.IPPROTO_TCP, port: 443, flags: syn}
		used := map[uint16]uint16{}
		for i := range uint16(4) {
			f.sourcePort = 40000 + i
			got := r.opened("one of four", f)
			if other, taken := used[got.sourcePort]; taken {
				t.Fatalf("port %d serves %d and %d", got.sourcePort, other, f.sourcePort)
			}
			used[got.sourcePort] = f.sourcePort
		}
		f.sourcePort = 40004
		before := r.counters()[167]
		if verdict, _ := r.run("to_netdev", f.frame()); verdict != verdictShot {
			t.Errorf("the fifth: verdict %d", int32(verdict))
		}
		if n := r.counters()[167] - before; n != 1 {
			t.Errorf("exhaustion was counted %d times, want once", n)
		}
		// Towards another server all ports are free.
		elsewhere := f
		elsewhere.destination = someOther
		if f.v6() {
			elsewhere.destination = "2001:db8:9::10"
		}
		r.out("another server", elsewhere)
		// A flow that ended makes room: both sides say so, and ten seconds pass.
		end := f
		end.sourcePort, end.flags = 40000, 4|ack
		ended := r.out("a reset", end)
		r.expireNAT(func(key *natKeyLayout, v *natValueLayout) bool {
			return fromPort(key.DestinationPort) == ended.sourcePort && v.Flags&natReset != 0 && fromWire(key.Source).String() == server
		})
		if got := r.out("after room was made", f); got.sourcePort != ended.sourcePort {
			t.Errorf("got port %d, want the one that came free: %d", got.sourcePort, ended.sourcePort)
		}
		r.in("the old flow's peer goes to the new flow alone", ended.answer(), verdictRedirect)
	})
}

// expireNAT has entries end in the past.
func (r *rig) expireNAT(match func(*natKeyLayout, *natValueLayout) bool) {
	r.t.Helper()
	n := 0
	for _, name := range natTables {
		m := r.objects.maps[name]
		r.must(visitTable(m, func(key *natKeyLayout, v *natValueLayout) bool {
			if key.Direction == natIn && match(key, v) {
				k, changed := *key, *v
				changed.Expires = 1
				r.must(m.Put(k, changed))
				n++
			}
			return true
		}))
	}
	if n == 0 {
		r.t.Fatal("no entry to let end")
	}
}

func TestSNATSurvivesEviction(t *testing.T) {
	for table, flags := range map[string]uint8{"nat": ack, "nat_openings": syn} {
		t.Run(table, func(t *testing.T) {
			r := newNATRig(t, RoutingTunnel)
			f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 443, flags: syn}
			want := r.sent("out", f)
			f.flags = flags
			for _, gone := range [][]uint8{{natOut}, {natIn}, {natOut, natIn}} {
				r.in("its answer", want.answer(), verdictRedirect)
				if got := r.sent("what goes on", f); got != want {
					t.Errorf("before entries %v went: left as %+v, before as %+v", gone, got, want)
				}
				for _, direction := range gone {
					r.removeNAT(table, direction)
				}
				if got := r.sent("after eviction", f); got != want {
					t.Errorf("without entries %v: left as %+v, before as %+v", gone, got, want)
				}
			}
		})
	}
}

// removeNAT removes the one entry of a direction, which has to be in this table.
func (r *rig) removeNAT(table string, direction uint8) {
	r.t.Helper()
	var doomed []natKeyLayout
	r.must(visitTable(r.objects.maps[table], func(key *natKeyLayout, _ *natValueLayout) bool {
		if key.Direction == direction {
			doomed = append(doomed, *key)
		}
		return true
	}))
	if len(doomed) != 1 {
		r.t.Fatalf("%s has %d entries of direction %d, want 1", table, len(doomed), direction)
	}
	r.must(r.objects.maps[table].Delete(doomed[0]))
}

func TestSNATAndTheNodesOwnSockets(t *testing.T) {
	r := newNATRig(t, RoutingTunnel, func(c *Config) { c.NATFirst = 65534 })
	eachFamily(t, func(t *testing.T, pod, node, server string, _, _ uint8) {
		r.t = t
		own := flow{source: node, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 65534, port: 443, flags: syn}
		if got := r.out("the node's own", own); got != dissect(t, own.packet()) {
			t.Errorf("the node's own packet was changed to %+v", got)
		}
		r.in("its answer goes to the stack", own.answer(), verdictUnspec)
		for i := range uint16(2) {
			f := flow{source: pod, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 40000 + i, port: 443, flags: syn}
			if i == 0 {
				if got := r.opened("a pod", f); got.sourcePort != 65535 {
					t.Errorf("a pod got %+v, want the port that the node does not use", got)
				}
				continue
			}
			if verdict, frame := r.run("to_netdev", f.frame()); verdict != verdictShot {
				t.Errorf("a pod took the node's port: %+v", dissect(t, frame[14:]))
			}
		}
		entries, err := r.NAT(0)
		r.must(err)
		var ownEntries, pods int
		for _, e := range entries {
			switch {
			case e.Destination.Addr().String() != server:
			case e.Own:
				ownEntries++
			case e.Source.Addr().String() == pod && e.Translated.Addr().String() == node && e.Destination.Port() == 443 && e.Expires > 0:
				pods++
			}
		}
		if ownEntries != 1 || pods != 1 {
			t.Errorf("listed: %+v", entries)
		}
		// Low ports are never given away, so they need no entry; nor do the tunnel's packets.
		other := "192.0.2.2"
		if own.v6() {
			other = "2001:db8::2"
		}
		for _, f := range []flow{
			{source: node, destination: server, protocol: unix.IPPROTO_TCP, sourcePort: 6443, port: 50000},
			{source: node, destination: other, protocol: unix.IPPROTO_UDP, sourcePort: 65535, port: 8472},
		} {
			r.out("no entry", f)
		}
		if again, err := r.NAT(0); err != nil || len(again) != len(entries) {
			t.Errorf("%d entries became %d (%v)", len(entries), len(again), err)
		}
	})
}

func TestSNATOverload(t *testing.T) {
	const size = 2048
	r := newOwnRig(t, RoutingTunnel, masqueraded, func(c *Config) { c.NATMax = size }).behindLoopback()
	// Established flows that are used, and a flood of twice the table's size.
	var established []flow
	var want []flow
	for i := range uint16(200) {
		f := flow{source: podA, destination: someServer, protocol: unix.IPPROTO_TCP, sourcePort: 20000 + i, port: 443, flags: syn}
		r.sent("what opens", f)
		want = append(want, r.opened("established", f))
		f.flags = ack
		established = append(established, f)
	}
	kept, restored := 0, 0
	for i := range 2 * size / 2 {
		r.opened("flood", flow{source: podB, destination: someOther, protocol: unix.IPPROTO_UDP, sourcePort: uint16(1000 + i), port: 53})
		if i%10 == 0 {
			n := i / 10 % len(established)
			r.sent("in use", established[n])
		}
	}
	for i, f := range established {
		verdict, _ := r.run("from_netdev", want[i].answer().frame())
		if verdict == verdictRedirect {
			kept++
		}
		if got := r.sent("established after the flood", f); got == want[i] {
			restored++
		}
	}
	t.Logf("of %d established flows %d were in the table after %d new flows of 2 entries each in a table of %d, %d kept their port", len(established), kept, size, size, restored)
	if restored < len(established)*99/100 {
		t.Errorf("only %d of %d established flows kept their port", restored, len(established))
	}
}
