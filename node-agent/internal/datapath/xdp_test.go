package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	xdpTX       = 3
	xdpRedirect = 4
)

// xdpRig has the programs of XDP beside all others, in a network namespace with two devices: "wire" to other nodes and
// "uplink" to clients. Nothing is attached; packets are given by BPF_PROG_TEST_RUN.
type xdpRig struct {
	*rig
	wire, uplink netlink.Link
}

const (
	backend4, backend6 = "10.77.2.9", "fd00:10:77:2::9"
	client4, client6   = "198.51.100.9", "2001:db8:51::9"
	front4, front6     = "198.18.0.80", "2001:db8:18::80"
	near4, near6       = "192.0.2.50", "2001:db8::50"
)

var (
	macNode2  = net.HardwareAddr{2, 0, 0, 0, 2, 2}
	macClient = net.HardwareAddr{2, 0, 0, 0, 9, 9}
)

func newXDPRig(t *testing.T, adjust ...func(*Config)) *xdpRig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces and loads programs into the kernel")
	}
	runtime.LockOSThread() // for good: the thread stays in its namespace and ends with the test
	space, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = space.Close() })
	x := &xdpRig{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		must(writeSysctl(name, "1"))
	}
	must(writeSysctl("net/ipv6/conf/default/accept_dad", "0"))
	link := func(name string, addresses ...string) netlink.Link {
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}))
		l, err := netlink.LinkByName(name)
		must(err)
		far, err := netlink.LinkByName(name + "-far")
		must(err)
		must(netlink.LinkSetUp(far))
		must(netlink.LinkSetUp(l))
		for _, text := range addresses {
			a, err := netlink.ParseAddr(text)
			must(err)
			if a.IP.To4() == nil {
				a.Flags = unix.IFA_F_NODAD
			}
			must(netlink.AddrAdd(l, a))
		}
		return l
	}
	x.wire = link("wire", "192.0.2.1/24", "2001:db8::1/64")
	x.uplink = link("uplink", "198.51.100.1/24", "2001:db8:51::1/64")
	neighbour := func(l netlink.Link, address string, mac net.HardwareAddr) {
		must(netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(address), HardwareAddr: mac, State: netlink.NUD_PERMANENT}))
	}
	for _, a := range []string{"192.0.2.2", "2001:db8::2"} {
		neighbour(x.wire, a, macNode2)
	}
	for _, a := range []string{near4, near6} {
		neighbour(x.wire, a, macClient)
	}
	for _, a := range []string{client4, client6} {
		neighbour(x.uplink, a, macClient)
	}
	for to, via := range map[string]string{"10.77.2.0/24": "192.0.2.2", "fd00:10:77:2::/64": "2001:db8::2", "10.77.3.0/24": "192.0.2.3"} {
		must(netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix(to)), Gw: net.ParseIP(via)}))
	}
	c := rigConfig(RoutingNative)
	c.xdpPrograms = []string{xdpServices, xdpBoth}
	for _, change := range adjust {
		change(&c)
	}
	x.rig = newRigOf(t, c)
	for _, l := range []netlink.Link{x.wire, x.uplink} {
		x.device(l, xdpFlagServices|xdpFlagTransmit)
	}
	x.endpoint(1, podA, macA, nil)
	return x
}

func (x *xdpRig) device(l netlink.Link, flags uint16) {
	x.t.Helper()
	x.must(x.objects.maps["xdp_devices"].Put(uint32(l.Attrs().Index), xdpDeviceLayout{MAC: [6]byte(l.Attrs().HardwareAddr), Flags: flags}))
}

// serve publishes a service of both families with these backends.
func (x *xdpRig) serve(protocol uint8, backends ...string) {
	x.t.Helper()
	for _, v6 := range []bool{false, true} {
		s := Service{ServiceID: ServiceID{Namespace: "default", Name: "web", Protocol: protocol, V6: v6}}
		for _, f := range []Frontend{
			{netip.MustParseAddr(front4), 80, protocol, ServiceLoadBalancer}, {netip.MustParseAddr(front6), 80, protocol, ServiceLoadBalancer},
			{netip.MustParseAddr("10.96.0.10"), 80, protocol, ServiceClusterIP},
		} {
			if f.Address.Is6() == v6 {
				s.Frontends = append(s.Frontends, f)
			}
		}
		for _, text := range backends {
			if a := netip.MustParseAddr(text); a.Is6() == v6 {
				s.Backends = append(s.Backends, Backend{Address: a, Port: 7000, Internal: true, External: true})
			}
		}
		x.must(x.UpsertService(x.t.Context(), s))
	}
}

// confirmed has every neighbour confirmed just now.
func (x *xdpRig) confirmed() {
	x.t.Helper()
	var now unix.Timespec
	x.must(unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now))
	for i := range uint32(256) {
		x.must(x.objects.maps["xdp_neighbours"].Put(i, uint64(now.Nano())))
	}
}

// arrive gives a frame to a program at a device.
func (x *xdpRig) arrive(program string, l netlink.Link, frame []byte) (uint32, []byte) {
	x.t.Helper()
	context := struct{ Data, DataEnd, DataMeta, Ifindex, Queue, Egress uint32 }{DataEnd: uint32(len(frame)), Ifindex: uint32(l.Attrs().Index)}
	options := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	verdict, err := x.program(program).Run(options)
	x.must(err)
	return verdict, options.DataOut
}

// frameTo is the flow's frame to a device.
func frameTo(l netlink.Link, f flow) []byte {
	frame := f.frame()
	copy(frame, l.Attrs().HardwareAddr)
	copy(frame[6:], macClient)
	return frame
}

// sent expects the packet to be sent on, and gives it; its hop count has to be one less.
func (x *xdpRig) sent(what string, l netlink.Link, f flow, verdict uint32, to net.HardwareAddr) []byte {
	x.t.Helper()
	x.confirmed()
	frame := frameTo(l, f)
	got, out := x.arrive(xdpServices, l, frame)
	if got != verdict {
		x.t.Fatalf("%s: verdict %d, want %d; counters %v", what, got, verdict, x.counters())
	}
	at := 14 + 8
	if f.v6() {
		at = 14 + 7
	}
	if !bytes.Equal(out[:6], to) || out[at] != frame[at]-1 {
		x.t.Errorf("%s: to %x with hop count %d", what, out[:6], out[at])
	}
	return out[14:]
}

// state is everything that a packet may leave behind.
func (x *xdpRig) state() map[string]int {
	x.t.Helper()
	out := map[string]int{}
	for _, name := range []string{"connections", "openings", "nat", "fragments", "affinity"} {
		n, err := countEntries(x.objects.maps[name])
		x.must(err)
		out[name] = n
	}
	counts, err := x.Drops()
	x.must(err)
	for _, c := range counts {
		out[fmt.Sprint("count ", c.Reason, c.Direction)] = int(c.Packets)
	}
	return out
}

// left expects a packet to be passed on as it is, and nothing to be written.
func (x *xdpRig) left(what string, l netlink.Link, frame []byte) {
	x.t.Helper()
	before := x.state()
	verdict, out := x.arrive(xdpServices, l, frame)
	if verdict != xdpPass || !bytes.Equal(out, frame) {
		x.t.Errorf("%s: verdict %d, changed: %v", what, verdict, !bytes.Equal(out, frame))
	}
	if after := x.state(); fmt.Sprint(after) != fmt.Sprint(before) {
		x.t.Errorf("%s: left behind %v, before %v", what, after, before)
	}
}

// eachService runs fn for each family and protocol, with a packet that opens a connection of a client.
func eachService(t *testing.T, fn func(t *testing.T, f flow)) {
	for _, f := range []flow{
		{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn},
		{source: client4, destination: front4, protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 80, payload: 21},
		{source: client6, destination: front6, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn},
		{source: client6, destination: front6, protocol: unix.IPPROTO_UDP, sourcePort: 40000, port: 80, payload: 21},
	} {
		// Not as tests of their own, whose threads would be in another namespace.
		fn(t, f)
	}
}

func TestXDPTranslates(t *testing.T) {
	x := newXDPRig(t)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	eachService(t, func(t *testing.T, f flow) {
		backend, node := backend4, "192.0.2.1"
		if f.v6() {
			backend, node = backend6, "2001:db8::1"
		}
		out := dissect(t, x.sent("opening", x.uplink, f, xdpRedirect, macNode2))
		if out.source != node || out.destination != backend || out.port != 7000 || out.sourcePort < defaultNATFirst {
			t.Fatalf("went on as %+v", out)
		}
		answer := out.answer()
		if f.flags != 0 {
			answer.flags = syn | ack
		}
		back := dissect(t, x.sent("answer", x.wire, answer, xdpRedirect, macClient))
		if want := f.answer(); back.source != want.source || back.destination != want.destination || back.sourcePort != want.sourcePort || back.port != want.port {
			t.Errorf("the client was answered %+v", back)
		}
		// tc goes on with it, and XDP after that.
		f.flags &^= syn
		f.flags |= ack
		if again := x.in("by tc", f, verdictRedirect); again.sourcePort != out.sourcePort || again.destination != out.destination {
			t.Errorf("tc sent on %+v after %+v", again, out)
		}
		if again := dissect(t, x.sent("by XDP", x.uplink, f, xdpRedirect, macNode2)); again.sourcePort != out.sourcePort || again.destination != out.destination {
			t.Errorf("XDP sent on %+v after %+v", again, out)
		}
		// It lies with the open ones now, which is where a flood does not reach.
		var c connectionLayout
		key := connectionKeyLayout{Local: toWire(netip.MustParseAddr(f.source)), Remote: toWire(netip.MustParseAddr(f.destination)),
			LocalPort: toPort(f.sourcePort), RemotePort: toPort(f.port), Protocol: f.protocol}
		if err := x.objects.maps["connections"].Lookup(key, &c); err != nil || c.Packets[1] != 3 {
			t.Errorf("the choice in the table of open connections: %v, %d packets", err, c.Packets[1])
		}
	})
	// A client on the devices' own network: back by where it came from.
	near := flow{source: near4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 41000, port: 80, flags: syn}
	x.t = t
	x.sent("by one device", x.wire, near, xdpTX, macNode2)
	near.source, near.destination = near6, front6
	x.sent("by one device", x.wire, near, xdpTX, macNode2)
	x.device(x.wire, xdpFlagServices|xdpFlagTransmit|xdpFlagVirtual)
	x.sent("by one virtual device", x.wire, near, xdpRedirect, macNode2)
	// A datagram without a checksum stays without.
	f := flow{source: client4, destination: front4, protocol: unix.IPPROTO_UDP, sourcePort: 42000, port: 80, payload: 8}
	frame := frameTo(x.uplink, f)
	frame[14+20+6], frame[14+20+7] = 0, 0
	x.confirmed()
	if verdict, out := x.arrive(xdpServices, x.uplink, frame); verdict != xdpRedirect || out[14+20+6] != 0 || out[14+20+7] != 0 {
		t.Errorf("without checksum: verdict %d, checksum %x", verdict, out[14+20+6:14+20+8])
	}
}

func TestXDPLeavesToTC(t *testing.T) {
	x := newXDPRig(t)
	x.serve(unix.IPPROTO_TCP, backend4, backend6)
	x.serve(unix.IPPROTO_UDP, podA)
	open := flow{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn}
	open6 := flow{source: client6, destination: front6, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn}
	with := func(f flow, change func(*flow)) []byte {
		change(&f)
		return frameTo(x.uplink, f)
	}
	raw := func(f flow, change func([]byte) []byte) []byte { return change(frameTo(x.uplink, f)) }
	x.confirmed()
	for what, frame := range map[string][]byte{
		"a backend here":   with(open, func(f *flow) { f.protocol, f.flags, f.payload = unix.IPPROTO_UDP, 0, 9 }),
		"no service":       with(open, func(f *flow) { f.port = 81 }),
		"a ClusterIP":      with(open, func(f *flow) { f.destination = "10.96.0.10" }),
		"no backends":      with(open6, func(f *flow) { f.protocol, f.flags, f.payload = unix.IPPROTO_UDP, 0, 9 }),
		"ICMP":             with(open, func(f *flow) { f.protocol, f.kind, f.flags = unix.IPPROTO_ICMP, 8, 0 }),
		"a pod":            with(open, func(f *flow) { f.destination = podA }),
		"a pod's source":   with(open, func(f *flow) { f.source = podA }),
		"larger than MTU":  with(open, func(f *flow) { f.payload = 1500 }),
		"larger, IPv6":     with(open6, func(f *flow) { f.payload = 1500 }),
		"the node's port":  with(open, func(f *flow) { f.destination, f.port = "192.0.2.1", 50000 }),
		"a lone answer":    with(open, func(f *flow) { f.source, f.destination, f.port = backend4, "192.0.2.1", 60000 }),
		"another's frame":  raw(open, func(b []byte) []byte { b[5] ^= 1; return b }),
		"a multicast":      raw(open, func(b []byte) []byte { copy(b, []byte{1, 0, 94, 0, 0, 1}); return b }),
		"ARP":              raw(open, func(b []byte) []byte { b[12], b[13] = 8, 6; return b }),
		"a VLAN":           raw(open, func(b []byte) []byte { return slices.Concat(b[:12], []byte{0x81, 0, 0, 7}, b[12:]) }),
		"a last hop":       raw(open, func(b []byte) []byte { b[14+8] = 1; return b }),
		"a last hop, IPv6": raw(open6, func(b []byte) []byte { b[14+7] = 1; return b }),
		"a fragment":       raw(open, func(b []byte) []byte { b[14+6] = 0x20; return b }),
		"IP options": raw(open, func(b []byte) []byte {
			b[14] = 0x46
			return slices.Concat(b[:34], []byte{1, 1, 1, 1}, b[34:])
		}),
		"an extension header": raw(open6, func(b []byte) []byte {
			b[14+6] = unix.IPPROTO_DSTOPTS
			binary.BigEndian.PutUint16(b[14+4:], binary.BigEndian.Uint16(b[14+4:])+8)
			return slices.Concat(b[:54], []byte{unix.IPPROTO_TCP, 0, 1, 4, 0, 0, 0, 0}, b[54:])
		}),
		"cut off":       frameTo(x.uplink, open)[:14+20+10],
		"cut off, IPv6": frameTo(x.uplink, open6)[:14+30],
	} {
		x.left(what, x.uplink, frame)
	}
	// What depends on the node, its devices and its services.
	frame := frameTo(x.uplink, open)
	again := func(what string, change, back func()) {
		t.Helper()
		x.confirmed()
		change()
		x.left(what, x.uplink, frame)
		back()
	}
	devices := x.objects.maps["xdp_devices"]
	served := uint16(xdpFlagServices | xdpFlagTransmit)
	again("a device that is not served", func() { x.device(x.uplink, xdpFlagTransmit) }, func() { x.device(x.uplink, served) })
	again("an unknown device", func() { x.must(devices.Delete(uint32(x.uplink.Attrs().Index))) }, func() { x.device(x.uplink, served) })
	again("another device on the way", func() { x.must(devices.Delete(uint32(x.wire.Attrs().Index))) }, func() { x.device(x.wire, served) })
	again("one that sends nothing", func() { x.device(x.wire, xdpFlagServices) }, func() { x.device(x.wire, served) })
	again("no route", func() { x.serve(unix.IPPROTO_TCP, "10.99.0.1") }, func() {})
	again("no neighbour", func() { x.serve(unix.IPPROTO_TCP, "10.77.3.9") }, func() {})
	again("the node as backend", func() { x.serve(unix.IPPROTO_TCP, "192.0.2.1") }, func() {})
	again("clients out of the ranges", func() {
		x.must(x.UpsertService(t.Context(), Service{ServiceID: ServiceID{Namespace: "default", Name: "web", Protocol: unix.IPPROTO_TCP},
			Frontends:    []Frontend{{netip.MustParseAddr(front4), 80, unix.IPPROTO_TCP, ServiceLoadBalancer}},
			Backends:     []Backend{{Address: netip.MustParseAddr(backend4), Port: 7000, Internal: true, External: true}},
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}))
	}, func() { x.serve(unix.IPPROTO_TCP, backend4, backend6) })
	again("a neighbour that is due", func() { x.must(x.objects.maps["xdp_neighbours"].Put(neighbourLine(x.wire, "192.0.2.2"), uint64(1))) }, func() {})
	for _, f := range []flow{open, open6} {
		frame = frameTo(x.uplink, f)
		at := 14 + len(f.packet()) - 20
		var sum [2]byte
		binary.BigEndian.PutUint16(sum[:], fold(pseudo(f.packet(), f.protocol, 20)))
		copy(frame[at+16:], sum[:])
		again("an unfinished checksum", func() { x.device(x.uplink, served|xdpFlagVirtual) }, func() { x.device(x.uplink, served) })
	}
	// And this is what is sent on when nothing is in the way.
	x.sent("the packet itself", x.uplink, open, xdpRedirect, macNode2)
	x.device(x.uplink, served|xdpFlagVirtual)
	x.sent("a finished checksum", x.uplink, open, xdpRedirect, macNode2)
}

// neighbourLine is neighbour_is_due()'s line of a next hop of version 4.
func neighbourLine(l netlink.Link, address string) uint32 {
	a := netip.MustParseAddr(address).As4()
	line := uint32(l.Attrs().Index) ^ binary.LittleEndian.Uint32(a[:])
	line ^= line >> 16
	return (line ^ line>>8) & 255
}

func TestXDPConfirmsNeighbours(t *testing.T) {
	x := newXDPRig(t)
	x.serve(unix.IPPROTO_TCP, backend4, backend6)
	f := flow{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn}
	x.left("the first packet of a next hop", x.uplink, frameTo(x.uplink, f))
	for i := range 3 {
		if verdict, _ := x.arrive(xdpServices, x.uplink, frameTo(x.uplink, f)); verdict != xdpRedirect {
			t.Fatalf("packet %d after it: verdict %d", i, verdict)
		}
	}
}

func TestXDPDropsWhereNoPortIsFree(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.NATFirst = 65535 })
	x.serve(unix.IPPROTO_TCP, backend4)
	f := flow{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn}
	x.sent("the first client", x.uplink, f, xdpRedirect, macNode2)
	f.sourcePort++
	x.confirmed()
	if verdict, _ := x.arrive(xdpServices, x.uplink, frameTo(x.uplink, f)); verdict != xdpDrop || x.counters()[167] != 1 {
		t.Errorf("verdict %d, counters %v", verdict, x.counters())
	}
}

func TestXDPTellsTheFront(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	eachService(t, func(t *testing.T, f flow) {
		packet := x.sent("opening", x.uplink, f, xdpRedirect, macNode2)
		plain := frontOf(t, packet, front4, front6)
		out := dissect(t, plain)
		if out.source != f.source || out.sourcePort != f.sourcePort || out.port != 7000 {
			t.Errorf("went on as %+v", out)
		}
		// tc writes the same.
		again := f
		again.sourcePort++
		_, frame := x.run("from_netdev", again.frame())
		if at := len(packet) - len(plain); !bytes.Equal(optionOf(frame[14:])[:at], optionOf(packet)[:at]) {
			t.Errorf("tc wrote % x, XDP % x", optionOf(frame[14:])[:at], optionOf(packet)[:at])
		}
		f.flags &^= syn
		f.flags |= ack
		packet = x.sent("going on", x.uplink, f, xdpRedirect, macNode2)
		if f.protocol == unix.IPPROTO_UDP {
			packet = frontOf(t, packet, front4, front6)
		}
		if out := dissect(t, packet); out.port != 7000 {
			t.Errorf("went on as %+v", out)
		}
	})
}

func optionOf(packet []byte) []byte {
	if packet[0]>>4 == 6 {
		return packet[40:]
	}
	return packet[20:]
}

// frontOf expects a packet to tell this service's address, and takes that out of it.
func frontOf(t *testing.T, packet []byte, v4, v6 string) []byte {
	t.Helper()
	plain := bytes.Clone(packet)
	if packet[0]>>4 == 6 {
		front := netip.MustParseAddr(v6).As16()
		want := slices.Concat([]byte{packet[40], 2, 0x1b, 20}, front[:], []byte{0, 80, 0, 0})
		if packet[6] != unix.IPPROTO_DSTOPTS || !bytes.Equal(packet[40:64], want) || int(binary.BigEndian.Uint16(packet[4:])) != len(packet)-40 {
			t.Fatalf("header % x, option % x, want % x", packet[:40], packet[40:64], want)
		}
		plain[6] = packet[40]
		binary.BigEndian.PutUint16(plain[4:], uint16(len(packet)-64))
		return slices.Concat(plain[:40], plain[64:])
	}
	front := netip.MustParseAddr(v4).As4()
	want := slices.Concat([]byte{0x9a, 8, 0, 80}, front[:])
	if packet[0] != 0x47 || !bytes.Equal(packet[20:28], want) || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) || fold(wordSum(packet[:28])) != 0xffff {
		t.Fatalf("header % x, want the option % x", packet[:28], want)
	}
	plain[0] = 0x45
	binary.BigEndian.PutUint16(plain[2:], uint16(len(packet)-8))
	plain[10], plain[11] = 0, 0
	binary.BigEndian.PutUint16(plain[10:], ^fold(wordSum(plain[:20])))
	return slices.Concat(plain[:20], plain[28:])
}

// The other end: what a packet tells is believed of services only, and the pod's answer has that address.
func TestFrontIsHeard(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	far := newTeller(x)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	x.endpoint(1, podA, macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr(podOfNode6)) })
	port := uint16(40000)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, v6 := range []bool{false, true} {
			for front, believed := range map[string]bool{front4: true, "198.18.0.99": false, "10.96.0.10": false, front6: true, "2001:db8:18::99": false} {
				if netip.MustParseAddr(front).Is6() != v6 {
					continue
				}
				port++
				f := flow{source: client4, destination: podA, protocol: protocol, sourcePort: port, port: 7000}
				if v6 {
					f.source, f.destination = client6, podOfNode6
				}
				if protocol == unix.IPPROTO_TCP {
					f.flags = syn
				}
				if verdict, _ := x.run("from_netdev", far.tell(f, front)); verdict != verdictRedirect {
					t.Fatalf("%+v: verdict %d, counters %v", f, int32(verdict), x.counters())
				}
				answer := f.answer()
				if f.flags != 0 {
					answer.flags = syn | ack
				}
				frame := answer.frame()
				copy(frame[6:], macA[:])
				_, out := x.run("from_pod", frame)
				want := f.destination
				if believed {
					want = front
				}
				if got := dissect(t, out[14:]); got.source != want {
					t.Errorf("told %s by protocol %d: the pod's answer came from %s, want %s", front, protocol, got.source, want)
				}
			}
		}
	}
}

const podOfNode6 = "fd00:10:77:1::11"

// teller makes packets that tell a service's address, as another node does.
type teller struct{ x *xdpRig }

func newTeller(x *xdpRig) teller { return teller{x} }

func (teller) tell(f flow, front string) []byte {
	frame := f.frame()
	if f.v6() {
		a := netip.MustParseAddr(front).As16()
		option := slices.Concat([]byte{f.protocol, 2, 0x1b, 20}, a[:], []byte{0, 80, 0, 0})
		frame[14+6] = unix.IPPROTO_DSTOPTS
		binary.BigEndian.PutUint16(frame[14+4:], binary.BigEndian.Uint16(frame[14+4:])+24)
		return slices.Concat(frame[:54], option, frame[54:])
	}
	a := netip.MustParseAddr(front).As4()
	frame = slices.Concat(frame[:34], []byte{0x9a, 8, 0, 80}, a[:], frame[34:])
	frame[14] = 0x47
	binary.BigEndian.PutUint16(frame[14+2:], binary.BigEndian.Uint16(frame[14+2:])+8)
	frame[14+10], frame[14+11] = 0, 0
	binary.BigEndian.PutUint16(frame[14+10:], ^fold(wordSum(frame[14:42])))
	return frame
}

// A datagram that does not fit with the option is answered with what does, as the client sent it.
func TestFrontDoesNotFit(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	x.serve(unix.IPPROTO_UDP, backend4, backend6)
	for _, test := range []struct {
		name     string
		flow     flow
		fits     int // octets of data that fit with the option: MTU 1450
		fragment bool
	}{
		{"v4", flow{source: client4, destination: front4}, 1450 - 28 - 8, false},
		{"v4, may be fragmented", flow{source: client4, destination: front4}, 1450 - 28 - 8, true},
		{"v6", flow{source: client6, destination: front6}, 1450 - 48 - 24, false},
	} {
		for _, more := range []int{0, 1} {
			f := test.flow
			f.protocol, f.sourcePort, f.port, f.payload = unix.IPPROTO_UDP, 40000, 80, test.fits+more
			frame := frameTo(x.wire, f)
			if !f.v6() && !test.fragment {
				frame[14+6] = 0x40
				frame[14+10], frame[14+11] = 0, 0
				binary.BigEndian.PutUint16(frame[14+10:], ^fold(wordSum(frame[14:34])))
			}
			before := x.counters()[157]
			verdict, out := x.run("from_netdev", frame)
			if answered := more > 0 && !test.fragment; !answered {
				if x.counters()[157] != before {
					t.Errorf("%d octets were refused", f.payload)
				}
				continue
			}
			if verdict != verdictRedirect || x.counters()[157] != before+1 || !bytes.Equal(out[:6], macClient) {
				t.Fatalf("%s: verdict %d, to %x, counters %v", test.name, int32(verdict), out[:6], x.counters())
			}
			packet, sent := out[14:], frame[14:]
			head, protocol, mtu, source, destination := 20, uint8(unix.IPPROTO_ICMP), uint32(1450-8), packet[12:16], packet[16:20]
			if f.v6() {
				head, protocol, mtu, source, destination = 40, unix.IPPROTO_ICMPV6, 1450-24, packet[8:24], packet[24:40]
			}
			icmp := packet[head:]
			if told := binary.BigEndian.Uint32(icmp[4:]); told != mtu || fold(wordSum(icmp)+pseudo(packet, protocol, len(icmp))) != 0xffff {
				t.Errorf("%s: told %d, want %d; or a wrong checksum: % x", test.name, told, mtu, packet)
			}
			if !bytes.Equal(source, netip.MustParseAddr(f.destination).AsSlice()) || !bytes.Equal(destination, netip.MustParseAddr(f.source).AsSlice()) || !bytes.Equal(icmp[8:56], sent[:48]) {
				t.Errorf("%s: answered % x to % x", test.name, packet[:96], sent[:48])
			}
		}
	}
}

func TestXDPFilteredRefusesFirst(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.Prefilter = true })
	x.serve(unix.IPPROTO_TCP, backend4)
	f := flow{source: client4, destination: front4, protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 80, flags: syn}
	x.confirmed()
	if verdict, _ := x.arrive(xdpBoth, x.uplink, frameTo(x.uplink, f)); verdict != xdpRedirect {
		t.Fatalf("nobody is refused, verdict %d", verdict)
	}
	x.must(x.SetRefused(t.Context(), prefixes("198.51.100.0/24")))
	before := x.state()
	if verdict, _ := x.arrive(xdpBoth, x.uplink, frameTo(x.uplink, f)); verdict != xdpDrop {
		t.Errorf("verdict %d", verdict)
	}
	after := x.state()
	if after["count 181 0"] != before["count 181 0"]+1 {
		t.Errorf("the drop is not among those of reason 181: %v, before %v", after, before)
	}
	refused, err := x.Refused()
	if err != nil || len(refused) != 1 || refused[0].Packets != 1 {
		t.Errorf("counted %v, %v", refused, err)
	}
	// After a restart the counters go on, and numbers are not given twice.
	x.refused = refusedTable{}
	x.must(x.SetRefused(t.Context(), prefixes("198.51.100.0/24", "203.0.113.0/24")))
	refused, err = x.Refused()
	if err != nil || len(refused) != 2 || refused[0].Packets+refused[1].Packets != 1 {
		t.Errorf("after a restart %v, %v", refused, err)
	}
}

// A kernel whose verifier does not take the programs of XDP serves at tc, and its status says why.
func TestWithoutXDPEverythingElseLoads(t *testing.T) {
	x := newXDPRig(t)
	links, err := netlink.LinkList()
	x.must(err)
	c := x.config
	c.LoadBalancer.Acceleration, c.Prefilter, c.BPFFS = AccelerationNative, true, t.TempDir()
	x.must(unix.Mount("bpf", c.BPFFS, "bpf", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(c.BPFFS, unix.MNT_DETACH) })
	plans, err := planXDP(c, links)
	x.must(err)
	c.xdpPrograms = xdpPrograms(plans)
	k := &kernel{config: c, options: options{log: slog.New(slog.DiscardHandler)}, xdp: plans}
	x.must(os.MkdirAll(k.mapDirectory(), 0o700))
	k.makeSpec = func() (*spec, error) {
		s, err := newSpec(k.config, 1, 1450, true)
		if err == nil && len(k.config.xdpPrograms) > 0 {
			for _, p := range s.collections["xdp_netdev"].Programs {
				p.Instructions = asm.Instructions{asm.Mov.Reg(asm.R0, asm.R9), asm.Return()}
			}
		}
		return s, err
	}
	if err := k.loadAll(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.objects.close)
	if k.objects.programs["from_netdev"] == nil || k.objects.programs[xdpBoth] != nil || k.objects.maps["xdp_devices"] != nil {
		t.Error("not what should be loaded")
	}
	for _, d := range k.XDP() {
		if d.Services || d.Prefilter || !strings.Contains(d.Why, "refuses") || !strings.Contains(d.PrefilterWhy, "refuses") {
			t.Errorf("%+v", d)
		}
	}
	// What is wrong with everything else is said as it is.
	k.objects.close()
	k.makeSpec = func() (*spec, error) { return nil, errClosed }
	if err := k.loadAll(); !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
}
