package agent

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/nodes"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
)

func kubernetesNode(cidrs []string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func TestNodeFrom(t *testing.T) {
	both := []string{"10.77.1.0/24", "fd00:10:77:1::/64"}
	for _, test := range []struct {
		name    string
		node    *corev1.Node
		v4, v6  bool
		primary string
		cidrs   string
		err     string
	}{
		{"both families", kubernetesNode(both, "192.0.2.1", "2001:db8::1"), true, true, "192.0.2.1", "10.77.1.0/24 fd00:10:77:1::/64", ""},
		{"ranges in the other order", kubernetesNode([]string{both[1], both[0]}, "2001:db8::1", "192.0.2.1"), true, true, "192.0.2.1", "10.77.1.0/24 fd00:10:77:1::/64", ""},
		{"IPv6 is off", kubernetesNode(both, "192.0.2.1", "2001:db8::1"), true, false, "192.0.2.1", "10.77.1.0/24", ""},
		{"only IPv6", kubernetesNode(both[1:], "2001:db8::1"), false, true, "2001:db8::1", "fd00:10:77:1::/64", ""},
		{"pods of IPv6 on nodes without", kubernetesNode(both, "192.0.2.1"), true, true, "192.0.2.1", "10.77.1.0/24 fd00:10:77:1::/64", ""},
		{"no range of IPv6", kubernetesNode(both[:1], "192.0.2.1"), true, true, "", "", "no pod CIDR of IPv6"},
		{"no address", kubernetesNode(both), true, true, "", "", "no InternalIP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := nodeFrom(test.node, test.v4, test.v6)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var cidrs []string
			for _, p := range n.podCIDRs() {
				cidrs = append(cidrs, p.String())
			}
			if n.primary().String() != test.primary || strings.Join(cidrs, " ") != test.cidrs {
				t.Errorf("%s, %v", n.primary(), cidrs)
			}
			// As it is saved for a start without API server.
			text, err := json.Marshal(n)
			if err != nil {
				t.Fatal(err)
			}
			var back thisNode
			if err := json.Unmarshal(text, &back); err != nil || back != n {
				t.Errorf("saved as %s, read as %+v, %v", text, back, err)
			}
		})
	}
}

// What one node publishes is what the others read.
func TestNodeSpecRoundTrip(t *testing.T) {
	c := datapath.Config{
		NodeAddress: netip.MustParseAddr("192.0.2.1"), NodeAddress6: netip.MustParseAddr("2001:db8::1"),
		RouterAddress: netip.MustParseAddr("10.77.1.1"), RouterAddress6: netip.MustParseAddr("fd00:10:77:1::1"),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("fd00:10:77:1::/64")},
	}
	n, ok := nodes.FromCilium(&ciliumv2.CiliumNode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: nodeSpec(c, true)})
	if n.HealthAddress != c.RouterAddress || n.HealthAddress6 != c.RouterAddress6 {
		t.Errorf("health addresses %s, %s", n.HealthAddress, n.HealthAddress6)
	}
	if !ok || n.Address != c.NodeAddress || n.Address6 != c.NodeAddress6 || n.RouterAddress != c.RouterAddress ||
		n.RouterAddress6 != c.RouterAddress6 || len(n.PodCIDRs) != 2 || n.PodCIDRs[1] != c.PodCIDRs[1] {
		t.Errorf("%+v", n)
	}
	c.NodeAddress, c.RouterAddress, c.PodCIDRs = netip.Addr{}, netip.Addr{}, c.PodCIDRs[1:]
	n, ok = nodes.FromCilium(&ciliumv2.CiliumNode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: nodeSpec(c, false)})
	if n.HealthAddress.IsValid() || n.HealthAddress6.IsValid() {
		t.Errorf("health addresses %s, %s of a node that is not to be probed", n.HealthAddress, n.HealthAddress6)
	}
	if !ok || n.Primary() != c.NodeAddress6 || n.Address.IsValid() || len(n.PodCIDRs) != 1 {
		t.Errorf("%+v", n)
	}
}

func TestHealthComponent(t *testing.T) {
	up := nodes.Answer{Reachable: true}
	at := func(text string, http, icmp nodes.Answer) nodes.Path {
		return nodes.Path{Address: netip.MustParseAddr(text), HTTP: http, ICMP: icmp}
	}
	fine := nodes.Health{Node: "b", Host: at("192.0.2.2", up, up), Endpoint: at("10.0.2.1", up, up)}
	alone := nodes.Health{Node: "c", Host: at("192.0.2.3", up, up)}
	if c := healthComponent([]nodes.Health{fine, alone}); c.State != api.StateOK || c.Fix != "" || !strings.Contains(c.Message, "2 other nodes") {
		t.Errorf("%+v", c)
	}
	broken := nodes.Health{Node: "d", Host: at("192.0.2.4", up, nodes.Answer{Err: "no echo"}), Endpoint: at("10.0.4.1", nodes.Answer{}, up)}
	c := healthComponent([]nodes.Health{fine, broken})
	if c.State != api.StateDegraded || c.Fix == "" || !strings.HasSuffix(c.Message, "no answer: HTTP of d (its pods' network, 10.0.4.1), ICMP of d (the node, 192.0.2.4)") {
		t.Errorf("%+v", c)
	}
}
