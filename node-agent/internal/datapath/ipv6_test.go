package datapath

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	pod1, pod2   = "fd00:10:77:1::11", "fd00:10:77:1::12"
	remotePod    = "fd00:10:77:2::11"
	icmp6Request = 128
	icmp6Reply   = 129
)

func tcp6(source, destination string, flags uint8) frame {
	return frame{mac: macA, source: source, destination: destination, protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: flags}
}

// checksum of an IPv6 packet's upper layer; 0 where the one that is in it is right.
func checksum6(packet []byte) uint16 {
	ip := packet[14:]
	upper := ip[40:]
	data := slices.Concat(ip[8:40], binary.BigEndian.AppendUint32(nil, uint32(len(upper))), []byte{0, 0, 0, ip[6]}, upper)
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func TestIPv6PolicyAndSources(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, pod1, macA, func(e *Endpoint) { e.PolicyEgress = true })
	r.endpoint(2, pod2, macB, func(e *Endpoint) { e.PolicyIngress = true })
	f := tcp6(pod1, pod2, syn)
	r.expectDrop("egress default deny", "from_pod", f, 133)
	spoof := f
	spoof.source = "fd00:10:77:1::99"
	r.expectDrop("an address of nobody", "from_pod", spoof, 132)
	spoof.source = "::ffff:10.77.1.11"
	data := f.bytes()
	copy(data[22:], netip.MustParseAddr("::ffff:10.77.1.11").AsSlice())
	if got, _ := r.run("from_pod", data); got != verdictShot || r.counters()[132] != 2 {
		t.Errorf("a mapped address: verdict %d, counters %+v", got, r.counters())
	}
	spoof = f
	spoof.mac = macB
	r.expectDrop("another's hardware address", "from_pod", spoof, 130)
	ctx := context.Background()
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{
		{PolicyKey{Endpoint: 1, Identity: 1002, Direction: Egress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}, PolicyValue{}},
	}, nil))
	r.expectDrop("ingress default deny", "from_pod", f, 133)
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{
		{PolicyKey{Endpoint: 2, Identity: 1001, Direction: Ingress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}, PolicyValue{}},
	}, nil))
	out := r.expect("allowed", "from_pod", f, verdictRedirect)
	if [6]byte(out[:6]) != macB {
		t.Errorf("handed to %x", out[:6])
	}
	reply := frame{mac: macB, source: pod2, destination: pod1, protocol: unix.IPPROTO_TCP, sourcePort: 80, destPort: 40000, flags: syn | ack}
	r.expect("the reply", "from_pod", reply, verdictRedirect)
	f.destPort = 81
	r.expectDrop("another port", "from_pod", f, 133)
	// What the host's stack sends into a pod.
	f = tcp6("2001:db8::1", pod2, syn)
	r.expectDrop("the node against default deny", "to_pod", f, 133)
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 2, Identity: 1}, PolicyValue{}}}, nil))
	r.expect("the node, allowed", "to_pod", f, verdictOK)
	f.source = "fd00:10:77:1::1"
	r.expect("the router, allowed", "to_pod", f, verdictOK)
	r.expectDrop("to nobody", "to_pod", tcp6("2001:db8::1", "fd00:10:77:1::99", syn), 152)
}

func TestIPv6Extensions(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, pod1, macA, func(e *Endpoint) { e.PolicyEgress = true })
	r.endpoint(2, pod2, macB, nil)
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{
		{PolicyKey{Endpoint: 1, Direction: Egress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}, PolicyValue{}},
		{PolicyKey{Endpoint: 1, Direction: Egress, Protocol: unix.IPPROTO_UDP, Port: 53, PortPrefix: 16}, PolicyValue{}},
	}, nil))
	header := func(next, length byte) []byte {
		b := make([]byte, 8+8*int(length))
		b[0], b[1] = next, length
		return b
	}
	f := tcp6(pod1, pod2, syn)
	for name, chain := range map[string]struct {
		first      uint8
		extensions []byte
	}{
		"hop by hop":     {0, header(6, 0)},
		"long options":   {60, header(6, 3)},
		"several":        {0, slices.Concat(header(43, 1), header(60, 0), header(6, 2))},
		"authentication": {51, append([]byte{6, 4}, make([]byte, 22)...)},
	} {
		f.firstExtension, f.extensions = chain.first, chain.extensions
		r.expect(name, "from_pod", f, verdictRedirect)
		f.destPort = 81
		r.expectDrop(name+", another port", "from_pod", f, 133)
		f.destPort = 80
	}
	f.firstExtension, f.extensions = 60, nil
	for range 6 {
		f.extensions = append(f.extensions, header(60, 0)...)
	}
	f.extensions = append(f.extensions, header(6, 0)...)
	r.expectDrop("more than anybody needs", "from_pod", f, 156)
	f.extensions = header(6, 200)[:8]
	r.expectDrop("longer than the packet", "from_pod", f, 134)
	f.extensions = header(59, 0)
	r.expectDrop("nothing behind", "from_pod", f, 142)

	fragment := func(id uint32, offset uint16, more bool) []byte {
		b := []byte{unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0}
		if more {
			offset |= 1
		}
		binary.BigEndian.PutUint16(b[2:], offset)
		binary.BigEndian.PutUint32(b[4:], id)
		return b
	}
	d := frame{mac: macA, source: pod1, destination: pod2, protocol: unix.IPPROTO_UDP, sourcePort: 5000, destPort: 53, firstExtension: 44, payload: make([]byte, 40)}
	d.extensions = fragment(7, 0, true)
	r.expect("the first fragment", "from_pod", d, verdictRedirect)
	d.extensions = fragment(7, 48, false)
	d.destPort = 9999 // payload, not a port
	r.expect("the later fragment", "from_pod", d, verdictRedirect)
	d.extensions = fragment(8, 48, false)
	r.expectDrop("a fragment of nothing", "from_pod", d, 175)
}

func TestIPv6Control(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, pod1, macA, func(e *Endpoint) { e.PolicyEgress, e.HostMAC = true, [6]byte{2, 1, 1, 1, 1, 1} })
	r.endpoint(2, pod2, macB, func(e *Endpoint) { e.InterfaceIndex = 1 })
	r.must(r.judgeAgain(1)) // both claim the same interface; the first one owns it
	ctx := context.Background()
	echo := frame{mac: macA, source: pod1, destination: pod2, protocol: unix.IPPROTO_ICMPV6, sourcePort: 77, icmpType: icmp6Request}
	r.expectDrop("an echo request that nobody allows", "from_pod", echo, 133)
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 1, Direction: Egress, Protocol: unix.IPPROTO_ICMPV6, Port: icmp6Request, PortPrefix: 16}, PolicyValue{}}}, nil))
	r.expect("an echo request", "from_pod", echo, verdictRedirect)
	reply := frame{mac: macB, source: pod2, destination: pod1, protocol: unix.IPPROTO_ICMPV6, sourcePort: 77, icmpType: icmp6Reply}
	r.expect("its reply", "from_pod", reply, verdictRedirect)
	// An error about a datagram of the second pod, by the first, which may send no other.
	sent := frame{mac: macB, source: pod2, destination: pod1, protocol: unix.IPPROTO_UDP, sourcePort: 5000, destPort: 53}
	r.expect("the datagram", "from_pod", sent, verdictRedirect)
	e := frame{mac: macA, source: pod1, destination: pod2, protocol: unix.IPPROTO_ICMPV6, icmpType: 1, payload: sent.bytes()[14:]}
	r.expect("the error", "from_pod", e, verdictRedirect)
	sent.sourcePort = 5001
	e.payload = sent.bytes()[14:]
	r.expectDrop("an error about nothing", "from_pod", e, 133)

	solicit := func(target string) []byte {
		a := netip.MustParseAddr(target).As16()
		f := frame{mac: macA, source: pod1, destination: "ff02::1:ff00:1", protocol: unix.IPPROTO_ICMPV6, icmpType: 135, payload: append(a[:], 1, 1, 2, 0, 0, 0, 0, 0xa)}
		return f.bytes()
	}
	verdict, out := r.run("from_pod", solicit("fd00:10:77:1::1"))
	if verdict != verdictRedirect {
		t.Fatalf("the gateway was asked for: verdict %d, counters %+v", int32(verdict), r.counters())
	}
	if len(out) != 14+40+32 || [6]byte(out[:6]) != macA || out[54] != 136 || out[21] != 255 || [6]byte(out[80:86]) != [6]byte{2, 1, 1, 1, 1, 1} ||
		netip.AddrFrom16([16]byte(out[38:54])).String() != pod1 || checksum6(out) != 0 {
		t.Errorf("answered %x, checksum off by %x", out, checksum6(out))
	}
	for name, test := range map[string]struct {
		data   []byte
		want   uint32
		reason uint8
	}{
		"its own address":              {solicit(pod1), verdictOK, 0},
		"a router's advertisement":     {frame{mac: macA, source: "fe80::1", destination: "ff02::1", protocol: unix.IPPROTO_ICMPV6, icmpType: 134}.bytes(), verdictShot, 146},
		"a redirect":                   {frame{mac: macA, source: "fe80::1", destination: pod2, protocol: unix.IPPROTO_ICMPV6, icmpType: 137}.bytes(), verdictShot, 146},
		"a report of group membership": {frame{mac: macA, source: "fe80::1", destination: "ff02::16", protocol: unix.IPPROTO_ICMPV6, icmpType: 143, firstExtension: 0, extensions: []byte{58, 0, 5, 2, 0, 0, 1, 0}}.bytes(), verdictShot, 139},
	} {
		before := r.counters()[test.reason]
		if got, _ := r.run("from_pod", test.data); got != test.want || (test.reason != 0 && r.counters()[test.reason] != before+1) {
			t.Errorf("%s: verdict %d, counters %+v", name, int32(got), r.counters())
		}
	}
}

func TestIPv6Service(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, pod1, macA, nil)
	r.endpoint(2, pod2, macB, nil)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		front := Frontend{Address: netip.MustParseAddr("fd00:10:96::1"), Port: 443, Protocol: protocol}
		r.must(r.UpsertService(context.Background(), Service{
			ServiceID: ServiceID{Name: "api", Protocol: protocol, V6: true}, Frontends: []Frontend{front},
			Backends: []Backend{{Address: netip.MustParseAddr(pod2), Port: 6443, Internal: true}},
		}))
		f := frame{mac: macA, source: pod1, destination: "fd00:10:96::1", protocol: protocol, sourcePort: 40000, destPort: 443, flags: syn, payload: []byte("hello, world")}
		checked := func(f frame) []byte {
			b := f.bytes()
			at := 54 + 6
			if protocol == unix.IPPROTO_TCP {
				at = 54 + 16
			} else {
				binary.BigEndian.PutUint16(b[58:], uint16(len(b)-54))
			}
			binary.BigEndian.PutUint16(b[at:], checksum6(b))
			return b
		}
		verdict, out := r.run("from_pod", checked(f))
		if to := netip.AddrFrom16([16]byte(out[38:54])); verdict != verdictRedirect || to.String() != pod2 || binary.BigEndian.Uint16(out[56:]) != 6443 || checksum6(out) != 0 {
			t.Errorf("protocol %d: verdict %d, sent to %s port %d, checksum off by %x", protocol, int32(verdict), to, binary.BigEndian.Uint16(out[56:]), checksum6(out))
		}
		reply := frame{mac: macB, source: pod2, destination: pod1, protocol: protocol, sourcePort: 6443, destPort: 40000, flags: syn | ack, payload: []byte("hello back")}
		verdict, out = r.run("from_pod", checked(reply))
		if from := netip.AddrFrom16([16]byte(out[22:38])); verdict != verdictRedirect || from.String() != "fd00:10:96::1" || binary.BigEndian.Uint16(out[54:]) != 443 || checksum6(out) != 0 {
			t.Errorf("protocol %d: verdict %d, came from %s port %d, checksum off by %x", protocol, int32(verdict), from, binary.BigEndian.Uint16(out[54:]), checksum6(out))
		}
	}
}

func TestIPv6FromNetdev(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, pod1, macA, func(e *Endpoint) { e.PolicyIngress = true })
	f := frame{source: remotePod, destination: pod1, protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80}
	r.expectDrop("the world against default deny", "from_netdev", f, 133)
	ctx := context.Background()
	r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.MustParsePrefix(remotePod + "/128"), Identity: 2001}))
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 1, Identity: 2001}, PolicyValue{}}}, nil))
	r.expect("a pod that is allowed", "from_netdev", f, verdictRedirect)
	f.source = pod1
	r.expectDrop("a local pod's address on the wire", "from_netdev", f, 132)
	f.source, f.destination = "2001:db8::99", "2001:db8::1"
	r.expect("the node's own packet", "from_netdev", f, verdictUnspec)
	nd := frame{source: "2001:db8::99", destination: "ff02::1:ff00:1", protocol: unix.IPPROTO_ICMPV6, icmpType: 135, payload: make([]byte, 16)}
	r.expect("neighbour discovery of the node", "from_netdev", nd, verdictUnspec)
}

// Both families inside, both families outside, both kinds of tunnel.
func TestOutOfEachTunnel(t *testing.T) {
	ctx := context.Background()
	inner := map[string]frame{
		"IPv4": {source: "10.77.2.11", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80, payload: []byte("datagram")},
		"IPv6": {source: remotePod, destination: pod1, protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80, payload: []byte("datagram")},
	}
	for _, underlay6 := range []bool{false, true} {
		for _, protocol := range []TunnelProtocol{TunnelVXLAN, TunnelGeneve} {
			c := rigConfig(RoutingTunnel)
			c.TunnelProtocol = protocol
			node, outer, first := "192.0.2.2/32", frame{source: "192.0.2.2", destination: "192.0.2.1", destPort: c.tunnelPort()}, uint32(vxlanWord)
			if underlay6 {
				c.NodeAddress = netip.Addr{}
				node, outer = "2001:db8::2/128", frame{source: "2001:db8::2", destination: "2001:db8::1", destPort: c.tunnelPort()}
			}
			if protocol == TunnelGeneve {
				first = geneveWord
			}
			r := newRigOf(t, c)
			r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.MustParsePrefix(node), Identity: 6}))
			r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) {
				e.Addresses = append(e.Addresses, netip.MustParseAddr(pod1))
				e.PolicyIngress = true
			})
			r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 1, Identity: 2001}, PolicyValue{}}}, nil))
			for family, f := range inner {
				name := string(protocol) + ", " + family + " by " + outer.source
				verdict, out := r.run("from_netdev", wrapped(outer, f, first, 2001, nil))
				want := f.bytes()
				if verdict != verdictRedirect || string(out[12:]) != string(want[12:]) || [6]byte(out[:6]) != macA {
					t.Errorf("%s: verdict %d, handed over %x, want %x; counters %+v", name, int32(verdict), out, want, r.counters())
				}
				before := r.counters()[133]
				other := f
				other.sourcePort++
				if verdict, _ = r.run("from_netdev", wrapped(outer, other, first, 2002, nil)); verdict != verdictShot || r.counters()[133] != before+1 {
					t.Errorf("%s: another identity: verdict %d, counters %+v", name, int32(verdict), r.counters())
				}
				if verdict, _ = r.run("from_netdev", wrapped(outer, f, first^0x01000001, 2001, nil)); verdict != verdictUnspec {
					t.Errorf("%s: another kind of tunnel: verdict %d", name, int32(verdict))
				}
				foreign := outer
				foreign.source = outer.source + "9"
				if verdict, _ = r.run("from_netdev", wrapped(foreign, f, first, 2001, nil)); verdict != verdictUnspec {
					t.Errorf("%s: from no node: verdict %d", name, int32(verdict))
				}
			}
		}
	}
}

// The error that a pod gets for a packet that does not fit into the tunnel: of its family, with the MTU, quoting it, with
// right checksums.
func TestTooLargeIsAnswered(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr(pod1)) })
	f := frame{mac: macA, source: pod1, destination: remotePod, protocol: unix.IPPROTO_UDP, sourcePort: 5000, destPort: 53, payload: make([]byte, 1450-48)}
	r.expect("what just fits", "from_pod", f, verdictOK)
	f.payload = append(f.payload, 0)
	verdict, out := r.run("from_pod", f.bytes())
	if verdict != verdictRedirect || len(out) != 14+40+8+96 || out[54] != 2 || binary.BigEndian.Uint32(out[58:]) != 1450 || checksum6(out) != 0 ||
		netip.AddrFrom16([16]byte(out[22:38])) != r.config.RouterAddress6 || string(out[62:]) != string(f.bytes()[14:14+96]) || [6]byte(out[:6]) != macA {
		t.Errorf("IPv6: verdict %d, %x", int32(verdict), out)
	}
	f.source, f.destination = "10.77.1.11", "10.77.2.11"
	f.payload = make([]byte, 1450-28+1)
	data := f.bytes()
	if _, out = r.run("from_pod", data); len(out) < 1400 {
		t.Errorf("one that may be fragmented was answered: %x", out)
	}
	data[20] = 0x40
	verdict, out = r.run("from_pod", data)
	if verdict != verdictRedirect || len(out) != 14+20+8+68 || out[34] != 3 || out[35] != 4 || binary.BigEndian.Uint16(out[40:]) != 1450 ||
		checksum(0, out[14:34]) != 0 || checksum(0, out[34:]) != 0 || string(out[42:]) != string(data[14:14+68]) {
		t.Errorf("IPv4: verdict %d, %x", int32(verdict), out)
	}
	if n := r.counters()[157]; n != 2 {
		t.Errorf("counted %d times", n)
	}
}
