package datapath_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// The service default/kubernetes has the addresses of nodes as backends, this one's among them, and everybody asks it: pods by
// packets and by sockets, the node's own processes by sockets.
func TestKubernetesAPIOfBothFamilies(t *testing.T) {
	const port = 6443
	try := func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		// As the agents have them: the node itself, and the other one.
		for i, at := range c.nodes {
			for j, whose := range c.nodes {
				identity := uint32(6)
				if i == j {
					identity = 1
				}
				for _, a := range []netip.Addr{whose.config.NodeAddress, whose.config.NodeAddress6} {
					must(t, at.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: identity}))
				}
			}
			// What a backend says is who asks it.
			at.space.echoTCP(t, fmt.Sprintf(":%d", port))
		}
		for _, family := range []struct {
			network, service string
			node             func(*node) netip.Addr
			pod              func(*pod) netip.Addr
		}{
			{"tcp4", "10.96.0.1", func(n *node) netip.Addr { return n.config.NodeAddress }, func(p *pod) netip.Addr { return p.address }},
			{"tcp6", "fd00:96::1", func(n *node) netip.Addr { return n.config.NodeAddress6 }, func(p *pod) netip.Addr { return p.address6 }},
		} {
			front := datapath.Frontend{Address: addr(family.service), Port: 443, Protocol: unix.IPPROTO_TCP, Kind: datapath.ServiceClusterIP}
			s := datapath.Service{
				ServiceID: datapath.ServiceID{Namespace: "default", Name: "kubernetes", PortName: "https", Protocol: unix.IPPROTO_TCP, V6: front.Address.Is6()},
				Frontends: []datapath.Frontend{front},
			}
			to := netip.AddrPortFrom(front.Address, front.Port).String()
			for _, where := range []struct {
				name string
				node *node
			}{{"this node", n}, {"the other node", c.nodes[1]}} {
				what := family.network + " to the API server on " + where.name
				s.Backends = []datapath.Backend{{Address: family.node(where.node), Port: port, Internal: true, External: true}}
				must(t, n.datapath.UpsertService(ctx, s))
				// Pods keep their address where the other node knows a way to it, and are their node to it otherwise.
				seen := family.pod(n.pods[0])
				if where.node != n && n.config.Routing == datapath.RoutingTunnel {
					seen = family.node(n)
				}
				got, err := n.pods[0].space.try(family.network, to)
				if client, parsed := netip.ParseAddrPort(strings.TrimSpace(strings.TrimSuffix(got, "hello"))); err != nil || parsed != nil || client.Addr().Unmap() != seen {
					t.Errorf("%s, by packets: %q, %v, want it asked by %s; drops %v and %v", what, got, err, seen, drops(t, n), drops(t, c.nodes[1]))
				}
				if n.cgroup == "" {
					t.Logf("%s: no cgroup2 file system is mounted, sockets are not tried", what)
					continue
				}
				for who, space := range map[string]*space{"a pod": n.pods[1].space, "the node": n.space} {
					before := socketCount(t, n)
					k, out := n.talk(t, space, family.network, to)
					if !strings.HasPrefix(out, "peer "+to+" answered ") {
						t.Errorf("%s, by a socket of %s: %s", what, who, out)
					}
					if got := socketCount(t, n) - before; got != 1 {
						t.Errorf("%s, by a socket of %s: %d sockets were translated, want one", what, who, got)
					}
					k.end()
				}
			}
			// No API server is ready: refused at once, by either way.
			s.Backends = nil
			must(t, n.datapath.UpsertService(ctx, s))
			if _, err := n.pods[0].space.try(family.network, to); err == nil || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("%s without an API server, by packets: %v", family.network, err)
			}
			if n.cgroup != "" {
				if out, err := n.inCgroupBy(family.network, n.space, to); err == nil || !strings.Contains(out, "connection refused") {
					t.Errorf("%s without an API server, by a socket: %v: %s", family.network, err, out)
				}
			}
		}
	}
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		t.Run(string(routing), func(t *testing.T) {
			try(t, newClusterWith(t, routing, func(c *datapath.Config) { c.Masquerade6 = true }))
		})
	}
}
