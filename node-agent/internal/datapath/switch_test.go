package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// Changing the routing mode goes node by node: while one node has the new mode and the other the old, their pods do not
// reach each other. Pods of the same node do not notice, and connections go on afterwards. Prints the interruption.
func TestModeSwitch(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	client, near, far := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
	far.space.echoTCP(t, ":7000")
	near.space.echoTCP(t, ":7000")
	tell := func() {
		for i, n := range c.nodes {
			other := c.nodes[1-i]
			must(t, n.datapath.UpsertNode(ctx, datapath.Node{
				Name: other.name, Address: other.config.NodeAddress, Address6: other.config.NodeAddress6, PodCIDRs: other.config.PodCIDRs,
				RouterAddress: other.config.RouterAddress, RouterAddress6: other.config.RouterAddress6,
			}))
			for _, p := range other.pods {
				for _, a := range p.endpoint.Addresses {
					e := datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: p.endpoint.Identity}
					if n.config.Routing == datapath.RoutingTunnel {
						e.TunnelEndpoint = other.primary()
					}
					must(t, n.datapath.UpsertIP(ctx, e))
				}
			}
		}
	}
	for _, routing := range []datapath.RoutingMode{datapath.RoutingNative, datapath.RoutingTunnel} {
		for name, to := range map[string]netip.Addr{"IPv4": far.address, "IPv6": far.address6} {
			if _, err := client.space.try("tcp", netip.AddrPortFrom(to, 7000).String()); err != nil {
				t.Fatalf("before, by %s: %v", name, err)
			}
		}
		held, err := client.space.dial("tcp4", far.address.String()+":7000")
		must(t, err)
		defer held.Close()
		if _, err := ask(held, "before"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, n := range c.nodes {
			must(t, n.datapath.Close())
			n.config.Routing = routing
			n.open()
			if _, err := client.space.try("tcp4", near.address.String()+":7000"); err != nil {
				t.Errorf("to a pod of the same node meanwhile: %v", err)
			}
		}
		tell()
		for {
			if _, err := client.space.try("tcp4", far.address.String()+":7000"); err == nil {
				break
			}
			if time.Since(start) > 20*time.Second {
				t.Fatalf("no way to the other node by %s", routing)
			}
		}
		t.Logf("to %s: at most %s without a way between the two nodes", routing, time.Since(start).Round(time.Millisecond))
		if _, err := ask(held, "after"); err != nil {
			t.Errorf("a connection of before did not go on: %v", err)
		}
		if _, err := client.space.try("tcp6", netip.AddrPortFrom(far.address6, 7000).String()); err != nil {
			t.Errorf("by IPv6: %v", err)
		}
	}
}
