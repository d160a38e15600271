package datapath_test

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// prefilterStep is what the prefilter said to a question; it has to be the first that an arriving packet meets.
func prefilterStep(t *testing.T, said datapath.Explanation) datapath.ExplainStep {
	t.Helper()
	at := slices.IndexFunc(said.Steps, func(s datapath.ExplainStep) bool { return s.Kind == "prefilter" })
	if at < 0 {
		t.Fatalf("the prefilter was not asked:%s", steps(said))
	}
	if later := slices.IndexFunc(said.Steps, func(s datapath.ExplainStep) bool { return s.Hook == "from_netdev" }); later >= 0 && later < at {
		t.Errorf("from_netdev was asked before:%s", steps(said))
	}
	return said.Steps[at]
}

// A packet that arrives from a refused network is said to end at XDP, with the network; and the question counts nowhere.
func TestExplainAsksThePrefilter(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(c *datapath.Config) { c.Prefilter = true })
	n := c.nodes[0]
	from, to := c.nodes[1].pods[0], n.pods[0]
	ask := func() datapath.Explanation {
		return c.explain(t, from, netip.AddrPortFrom(to.address, 9000), unix.IPPROTO_TCP, true)
	}
	other, network := prefix("198.51.100.0/24"), netip.PrefixFrom(from.address, 30).Masked()
	must(t, n.datapath.SetRefused(ctx, []netip.Prefix{other}))
	said := ask()
	if s := prefilterStep(t, said); said.Outcome != datapath.OutcomeDelivered || s.Found || s.Verdict != "" || s.Map != "refused4" {
		t.Errorf("a network that is not refused:%s", steps(said))
	}
	before := drops(t, n)[181]
	must(t, n.datapath.SetRefused(ctx, []netip.Prefix{other, network}))
	said = ask()
	if s := prefilterStep(t, said); !s.Found || s.Network != network || s.Verdict != "dropped" || s.Reason != 181 || datapath.SourceFile(s.File) != "xdp_netdev.bpf.c" {
		t.Errorf("a refused network: %+v%s", s, steps(said))
	}
	if said.Outcome != datapath.OutcomeDropped || said.Reason != 181 || said.Network != network {
		t.Errorf("a refused network: %+v", said)
	}
	refused, err := n.datapath.Refused()
	must(t, err)
	for _, r := range refused {
		if r.Packets != 0 {
			t.Errorf("the question was counted: %+v", r)
		}
	}
	if got := drops(t, n)[181]; got != before {
		t.Errorf("the question was counted as %d drops", got-before)
	}
	// What the question says is what happens.
	to.space.echoTCP(t, ":9000")
	if _, err := from.space.try("tcp4", to.address.String()+":9000"); err == nil {
		t.Error("a packet of a refused network arrived")
	}
	must(t, n.datapath.SetRefused(ctx, nil))
	if _, err := from.space.try("tcp4", to.address.String()+":9000"); err != nil {
		t.Error(err)
	}
	n.reopen(t, func(c *datapath.Config) { c.Prefilter = false })
	if said := ask(); slices.ContainsFunc(said.Steps, func(s datapath.ExplainStep) bool { return s.Kind == "prefilter" }) {
		t.Errorf("a prefilter that is off was asked:%s", steps(said))
	}
}
