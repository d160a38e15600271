package datapath_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// setLink changes an interface of the space.
func (s *space) setLink(t testing.TB, device string, change func(netlink.Link) error) {
	t.Helper()
	must(t, s.in(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return change(l)
	}))
}

// servedByXDP asks a service 20 times, and says whether the node's XDP sent the questions on and the answers back.
func (n *node) servedByXDP(t testing.TB, outside *space, to string) bool {
	t.Helper()
	conn, err := outside.dial("tcp", to)
	if err != nil {
		return false
	}
	defer conn.Close()
	before := n.sentByXDP(t, "eth0", "eth1")
	exchange(t, conn, 20)
	return n.sentByXDP(t, "eth0", "eth1")-before >= 36
}

func (n *node) xdpOf(device string) datapath.XDPDevice {
	all := n.datapath.XDP()
	if i := slices.IndexFunc(all, func(d datapath.XDPDevice) bool { return d.Device == device }); i >= 0 {
		return all[i]
	}
	return datapath.XDPDevice{}
}

// A device that gets another hardware address goes on serving by XDP; one that goes is said to be gone, and one of its name that
// comes is taken in: programs, addresses, XDP, without a restart.
func TestDevicesAreFollowed(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	outside := withXDP(t, c, "snat")
	n, server := c.nodes[0], c.nodes[1].pods[0]
	server.space.lines(t, 7000)
	c.publish(t, echoService(unix.IPPROTO_TCP, backend(server, 7000)))
	const to = vip + ":80"
	within(t, "XDP does not serve to begin with", func() bool { return n.servedByXDP(t, outside, to) })

	for i, device := range []string{"eth1", "eth0"} {
		n.space.setLink(t, device, func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0x5e, 0, 0, byte(i + 1)})
		})
		within(t, "XDP does not serve any more after "+device+" got another hardware address", func() bool { return n.servedByXDP(t, outside, to) })
	}

	n.space.setLink(t, "eth1", netlink.LinkDel)
	within(t, "nobody says that eth1 is gone", func() bool { d := n.xdpOf("eth1"); return d.Absent && !d.Services })
	if d := n.xdpOf("eth0"); !d.Services {
		t.Errorf("eth0 serves no more, because eth1 went: %s", d.Why)
	}
	plugOutside(t, n, outside)
	within(t, "a service is not served by the device that came back", func() bool { _, err := outside.try("tcp", to); return err == nil })
	if d := n.xdpOf("eth1"); d.Absent || d.Services || !strings.Contains(d.Why, "gro on") {
		t.Errorf("the other end takes no frames: %+v", d)
	}
	outside.asCards(t, "eth0")
	n.space.asCards(t, "eth1")
	n.space.setLink(t, "eth1", netlink.LinkSetDown)
	n.space.setLink(t, "eth1", netlink.LinkSetUp)
	within(t, "XDP does not serve by the device that came back", func() bool { return n.servedByXDP(t, outside, to) })
	if got := n.datapath.Masquerading().Sources["eth1"]; !slices.Contains(got, addr(nodeOutside)) {
		t.Errorf("what leaves by the device that came back gets %v", got)
	}
}

// The MTU of pods and programs follows that of the devices, and so does what a driver makes of XDP.
func TestMTUIsFollowed(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	mtu := func(of int) {
		for _, other := range c.nodes {
			other.space.setLink(t, "eth0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, of) })
		}
	}
	c.nodes[1].space.asCards(t, "eth0")
	mtu(9000)
	d := n.reopen(t, acceleration(datapath.AccelerationNative))
	if d.Services || !strings.Contains(d.Why, "MTU 9000") || n.datapath.MTU() != 8950 {
		t.Fatalf("with an MTU of 9000: %+v, pods %d", d, n.datapath.MTU())
	}
	c.tellOf(t, 1, datapath.RoutingTunnel)
	mtu(1400)
	within(t, "XDP is not tried again with an MTU of 1400", func() bool { return n.xdpOf("eth0").Services })
	if got := n.datapath.MTU(); got != 1350 {
		t.Errorf("pods' MTU is %d, want 1350", got)
	}
	must(t, n.space.in(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: ipNet(prefix("10.77.2.0/24"))}, netlink.RT_FILTER_DST)
		if err != nil {
			return err
		}
		if len(routes) != 1 || routes[0].MTU != 1350 {
			t.Errorf("the node's route to the other's pods: %v", routes)
		}
		return nil
	}))
	// What pods had is larger: they are told, by the programs that know the new one.
	client, server := n.pods[0], c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	conn, err := client.space.dial("tcp4", server.address.String()+":7000")
	must(t, err)
	defer conn.Close()
	long := strings.Repeat("x", 30000)
	if got, err := askAll(conn, long); err != nil || !strings.HasSuffix(got, long) {
		t.Errorf("%d bytes came back, %v; drops %v", len(got), err, drops(t, n))
	}
}
