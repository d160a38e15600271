package datapath

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
	x.opened("the first client", f, macNode2)
	f.sourcePort++
	x.confirmed()
	if verdict, _ := x.arrive(xdpServices, x.uplink, frameTo(x.uplink, f)); verdict != xdpDrop || x.counters()[167] != 1 {
		t.Errorf("verdict %d, counters %v", verdict, x.counters())
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
		s, err := newSpec(k.config, 1, 1450, everyAbility())
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
