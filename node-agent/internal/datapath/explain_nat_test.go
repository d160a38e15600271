package datapath_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// What leaves the cluster is said to be masqueraded, as what, and whether its connection has a port already; in both families.
func TestExplainTellsOfMasquerading(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(config *datapath.Config) { config.Masquerade6 = true })
	p, n := c.nodes[0].pods[0], c.nodes[0]
	for to, as := range map[string]netip.Addr{world: n.config.NodeAddress, world6: n.config.NodeAddress6} {
		said, err := n.datapath.Explain(ctx, datapath.Trial{Endpoint: p.endpoint.ID, Destination: addr(to), DestPort: 9000, Protocol: unix.IPPROTO_TCP, PerPacket: true})
		must(t, err)
		at := slices.IndexFunc(said.Steps, func(s datapath.ExplainStep) bool { return s.Kind == "nat" })
		if at < 0 {
			t.Errorf("to %s: no step tells of masquerading:%s", to, steps(said))
			continue
		}
		if s := said.Steps[at]; !strings.Contains(s.Rewrite, "→ "+strings.TrimSuffix(netip.AddrPortFrom(as, 0).String(), "0")) || s.Found || s.Map != "nat_openings" {
			t.Errorf("to %s: %q, found %v in %s; want a new port of %s", to, s.Rewrite, s.Found, s.Map, as)
		}
	}
}
