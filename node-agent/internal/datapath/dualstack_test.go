package datapath_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
)

// only6 is a cluster without IPv4: nodes reach each other by IPv6, too.
func only6(c *datapath.Config) {
	c.NodeAddress, c.RouterAddress, c.NativeRoutingCIDR = netip.Addr{}, netip.Addr{}, netip.Prefix{}
	c.PodCIDRs = []netip.Prefix{c.PodCIDR(true)}
}

func withoutEndpointRoutes(c *datapath.Config) { c.EndpointRoutes = false }

func TestIPv6Traffic(t *testing.T) {
	for _, test := range []struct {
		name    string
		routing datapath.RoutingMode
		adjust  func(*datapath.Config)
	}{
		{"tunnel", datapath.RoutingTunnel, func(*datapath.Config) {}},
		{"native", datapath.RoutingNative, func(*datapath.Config) {}},
		{"tunnel by IPv6", datapath.RoutingTunnel, only6},
		{"native without IPv4", datapath.RoutingNative, only6},
		{"tunnel without routes per pod", datapath.RoutingTunnel, withoutEndpointRoutes},
		{"native without routes per pod", datapath.RoutingNative, withoutEndpointRoutes},
	} {
		t.Run(test.name, func(t *testing.T) {
			tryTraffic6(t, newClusterWith(t, test.routing, test.adjust))
		})
	}
}

func tryTraffic6(t *testing.T, c *cluster) {
	a, b, remote := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
	n1, n2 := c.nodes[0], c.nodes[1]
	for _, p := range []*pod{a, b, remote} {
		p.space.echoTCP(t, ":7000")
		p.space.echoUDP(t, ":7000")
	}
	for _, n := range c.nodes {
		n.space.echoTCP(t, ":7100")
	}
	to := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
	type try struct {
		name    string
		from    *space
		network string
		to      string
		// seen is the source address that the server sees.
		seen netip.Addr
	}
	tries := []try{
		{"pod to pod of the same node", a.space, "tcp6", to(b.address6, 7000), a.address6},
		{"pod to pod of another node", a.space, "tcp6", to(remote.address6, 7000), a.address6},
		{"and back", remote.space, "tcp6", to(a.address6, 7000), remote.address6},
		{"datagram on the same node", a.space, "udp6", to(b.address6, 7000), netip.Addr{}},
		{"datagram to another node", a.space, "udp6", to(remote.address6, 7000), netip.Addr{}},
		{"host to own pod", n1.space, "tcp6", to(a.address6, 7000), n1.config.RouterAddress6},
		{"host to another node's pod", n1.space, "tcp6", to(remote.address6, 7000), netip.Addr{}},
		{"pod to own node", a.space, "tcp6", to(n1.config.NodeAddress6, 7100), a.address6},
		{"pod to own router address", a.space, "tcp6", to(n1.config.RouterAddress6, 7100), a.address6},
	}
	if n1.config.Routing == datapath.RoutingNative {
		tries = append(tries, try{"pod to another node", a.space, "tcp6", to(n2.config.NodeAddress6, 7100), a.address6})
	}
	for _, test := range tries {
		t.Run(test.name, func(t *testing.T) {
			answer, err := test.from.try(test.network, test.to)
			if err != nil {
				t.Fatal(err)
			}
			if test.seen.IsValid() && !strings.HasPrefix(answer, "["+test.seen.String()+"]:") {
				t.Errorf("the server saw %q, want %s", answer, test.seen)
			}
		})
	}
	t.Run("ping", func(t *testing.T) {
		if _, err := exec.LookPath("ping"); err != nil {
			t.Skip("no ping on this machine")
		}
		for _, to := range []netip.Addr{b.address6, remote.address6, n1.config.RouterAddress6} {
			if err := a.space.ping(to.String()); err != nil {
				t.Errorf("%s: %v", to, err)
			}
		}
	})
	t.Run("fragments", func(t *testing.T) {
		conn, err := a.space.dial("udp6", to(remote.address6, 7000))
		must(t, err)
		defer conn.Close()
		answer, err := ask(conn, strings.Repeat("x", 8000))
		if err != nil || len(answer) != 8000 {
			t.Errorf("a fragmented datagram: %d bytes, %v", len(answer), err)
		}
	})
	t.Run("large transfer", func(t *testing.T) {
		download(t, a.space, remote.space, remote.address6.String(), make([]byte, 4<<20))
	})
	if n1.config.NodeAddress.IsValid() {
		for _, to := range []netip.Addr{b.address, remote.address} {
			if _, err := a.space.try("tcp4", to.String()+":7000"); err != nil {
				t.Errorf("the same pods by IPv4: %v", err)
			}
		}
		if _, err := n1.space.try("tcp4", a.address.String()+":7000"); err != nil {
			t.Errorf("the host by IPv4: %v", err)
		}
	}
}
