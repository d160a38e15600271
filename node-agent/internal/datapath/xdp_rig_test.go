package datapath

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
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
	return newXDPRigOf(t, newRigOf, adjust...)
}

// newXDPRigOf is the same on a rig that newRigOf or newOwnRigOf makes.
func newXDPRigOf(t *testing.T, rigOf func(testing.TB, Config) *rig, adjust ...func(*Config)) *xdpRig {
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
	x.rig = rigOf(t, c)
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
	for _, name := range []string{"connections", "openings", "nat", "nat_openings", "fragments", "affinity"} {
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
