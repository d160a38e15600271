package datapath

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// What is left to tc says so, and why; what is not, is tried.
func TestWhatIsLeftToTCSaysWhy(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:77::1")
	card, cable := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 2}}, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 2}}
	vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.5", Index: 3, ParentIndex: 2}}
	for _, test := range []struct {
		name         string
		routing      RoutingMode
		node, node6  netip.Addr
		acceleration string
		device       netlink.Link
		others       []netlink.Link
		why          string
	}{
		{"tunnel over IPv4", RoutingTunnel, v4, v6, AccelerationNative, card, nil, ""},
		{"tunnel over IPv6", RoutingTunnel, netip.Addr{}, v6, AccelerationNative, card, nil, "over IPv6"},
		{"tunnel over IPv6, best effort", RoutingTunnel, netip.Addr{}, v6, AccelerationBestEffort, card, nil, "over IPv6"},
		{"native routing with IPv6 alone", RoutingNative, netip.Addr{}, v6, AccelerationNative, card, nil, ""},
		{"virtual cable, best effort", RoutingNative, v4, v6, AccelerationBestEffort, cable, nil, "virtual cable"},
		{"virtual cable, asked for", RoutingNative, v4, v6, AccelerationNative, cable, nil, ""},
		{"VLAN, best effort", RoutingNative, v4, v6, AccelerationBestEffort, card, []netlink.Link{vlan}, "eth0.5"},
		{"off", RoutingNative, v4, v6, "", card, nil, "disabled"},
	} {
		c := Config{Routing: test.routing, NodeAddress: test.node, NodeAddress6: test.node6, KubeProxyReplacement: true, LoadBalancer: LoadBalancer{Acceleration: test.acceleration}}
		if got := withoutXDP(c, test.device, test.others); (got == "") != (test.why == "") || !strings.Contains(got, test.why) {
			t.Errorf("%s: %q, want %q", test.name, got, test.why)
		}
	}
}
