package datapath_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"fairlead.dev/node-agent/internal/datapath"
)

// refusedWith opens a node's datapath and expects a problem of that code.
func (n *node) refusedWith(t testing.TB, code string) *datapath.Problem {
	t.Helper()
	var p *datapath.Problem
	must(t, n.space.in(func() error {
		k, err := datapath.Open(ctx, n.config, n.options...)
		if err == nil {
			k.Close()
		}
		if !errors.As(err, &p) || p.Code != code {
			t.Fatalf("got %v, want %s", err, code)
		}
		return nil
	}))
	if p.What == "" || p.Why == "" || p.Fix == "" {
		t.Errorf("it does not say what, why and what to do: %+v", p)
	}
	return p
}

// A tunnel that cannot be is refused with what to do, and takes nothing from the pods meanwhile.
func TestTunnelThatCannotBe(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	n.pods[1].space.echoTCP(t, ":7000")
	c.nodes[1].pods[0].space.lines(t, 7000)
	port := func(name string) int {
		var l netlink.Link
		must(t, n.space.in(func() (err error) { l, err = netlink.LinkByName(name); return err }))
		if g, ok := l.(*netlink.Geneve); ok {
			return int(g.Dport)
		}
		return l.(*netlink.Vxlan).Port
	}
	if got := port("fairlead_vxlan"); got != 8472 {
		t.Errorf("VXLAN by port %d", got)
	}
	t.Run("Geneve", func(t *testing.T) {
		must(t, n.datapath.Close())
		n.config.TunnelProtocol = datapath.TunnelGeneve
		defer func() {
			n.config.TunnelProtocol = datapath.TunnelVXLAN
			n.open()
		}()
		if has := n.space.in(func() error {
			probe := &netlink.Geneve{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, ID: 1, Remote: net.IPv4(192, 0, 2, 9)}
			return errors.Join(netlink.LinkAdd(probe), netlink.LinkDel(probe))
		}) == nil; has {
			n.open()
			if got := port("fairlead_geneve"); got != 6081 {
				t.Errorf("Geneve by port %d", got)
			}
			must(t, n.datapath.Close())
			return
		}
		if p := n.refusedWith(t, "kernel.no-geneve"); !strings.Contains(p.Fix, "modprobe geneve") {
			t.Errorf("fix %q", p.Fix)
		}
		if got := port("fairlead_vxlan"); got != 8472 {
			t.Errorf("the tunnel that served until now has port %d", got)
		}
		// The programs of before go on with it, also with what they leave to its device.
		conn, err := n.pods[0].space.dial("udp4", c.nodes[1].pods[0].address.String()+":7000")
		must(t, err)
		defer conn.Close()
		if answer, err := ask(conn, strings.Repeat("x", 8000)); err != nil || len(answer) != 8000 {
			t.Errorf("in fragments to another node after the refusal: %d octets, %v", len(answer), err)
		}
	})
	for _, to := range []string{n.pods[1].address.String(), c.nodes[1].pods[0].address.String()} {
		if _, err := n.pods[0].space.try("tcp4", to+":7000"); err != nil {
			t.Errorf("with VXLAN again, to %s: %v", to, err)
		}
	}
	t.Run("a port that is taken", func(t *testing.T) {
		must(t, n.datapath.Close())
		must(t, n.space.in(func() error {
			l, err := netlink.LinkByName("fairlead_vxlan")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkDel(l), exec.Command("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0").Run(),
				exec.Command("ip", "link", "set", "flannel.1", "up").Run())
		}))
		if p := n.refusedWith(t, "tunnel.port-taken"); !strings.Contains(p.Why, "8472") {
			t.Errorf("why %q", p.Why)
		}
		must(t, n.space.in(func() error { return exec.Command("ip", "link", "del", "flannel.1").Run() }))
		n.open()
	})
}

// Direct routes lead to nodes of the same link, of each family; others are refused, and without the setting nobody's table is
// touched.
func TestDirectRoutes(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	must(t, n.space.in(func() error {
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("198.51.100.0/24")), Gw: addr("192.0.2.2").AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("2001:db8:fa::/64")), Gw: addr("2001:db8:77::2").AsSlice()}))
	}))
	routes := func(p string) (out string) {
		must(t, n.space.in(func() error {
			family := "-4"
			if prefix(p).Addr().Is6() {
				family = "-6"
			}
			raw, err := exec.Command("ip", family, "route", "show", p).Output()
			out = strings.TrimSpace(string(raw))
			return err
		}))
		return out
	}
	for _, test := range []struct {
		name, code string
		node       datapath.Node
		via        string
	}{
		{"on the link", "", datapath.Node{Address: addr("192.0.2.7"), PodCIDRs: []netip.Prefix{prefix("10.77.7.0/24")}}, "192.0.2.7"},
		{"on the link, IPv6", "", datapath.Node{Address: addr("192.0.2.7"), Address6: addr("2001:db8:77::7"), PodCIDRs: []netip.Prefix{prefix("fd00:10:77:7::/64")}}, "2001:db8:77::7"},
		{"behind a router", "route.not-direct", datapath.Node{Address: addr("198.51.100.7"), PodCIDRs: []netip.Prefix{prefix("10.77.7.0/24")}}, ""},
		{"behind a router, IPv6", "route.not-direct", datapath.Node{Address: addr("192.0.2.7"), Address6: addr("2001:db8:fa::7"), PodCIDRs: []netip.Prefix{prefix("fd00:10:77:7::/64")}}, ""},
		{"without an address of the family", "route.no-address", datapath.Node{Address: addr("192.0.2.7"), PodCIDRs: []netip.Prefix{prefix("fd00:10:77:7::/64")}}, ""},
	} {
		test.node.Name = "far"
		pods := test.node.PodCIDRs[0].String()
		err := n.datapath.UpsertNode(ctx, test.node)
		var p *datapath.Problem
		switch {
		case test.code == "" && (err != nil || !strings.Contains(routes(pods), "via "+test.via+" ")):
			t.Errorf("%s: %v, route %q", test.name, err, routes(pods))
		case test.code != "" && (!errors.As(err, &p) || p.Code != test.code || p.Fix == ""):
			t.Errorf("%s: got %v, want %s", test.name, err, test.code)
		}
		must(t, n.datapath.DeleteNode(ctx, test.node))
		if left := routes(pods); left != "" {
			t.Errorf("%s: left after the node went: %s", test.name, left)
		}
	}
	must(t, n.datapath.Close())
	n.config.AutoDirectNodeRoutes = false
	n.open()
	routers := datapath.Node{Name: "far", Address: addr("198.51.100.7"), Address6: addr("2001:db8:fa::7"), PodCIDRs: []netip.Prefix{prefix("10.77.7.0/24"), prefix("fd00:10:77:7::/64")}}
	if err := n.datapath.UpsertNode(ctx, routers); err != nil {
		t.Errorf("where routers carry the pods' ranges: %v", err)
	}
	for _, p := range routers.PodCIDRs {
		if got := routes(p.String()); got != "" {
			t.Errorf("a route that nobody asked for: %s", got)
		}
	}
}
