package datapath_test

import (
	"net"
	"slices"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
)

// A range of node ports that becomes larger takes ports from translations: flows that have them keep them, and new ones get
// others.
func TestTranslationsOutliveTheirRange(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) { config.Masquerade6 = true })
	n, conns := c.nodes[0], map[string]net.Conn{}
	for network, at := range map[string]string{"tcp4": world + ":7201", "tcp6": "[" + world6 + "]:7201"} {
		c.nodes[1].space.echoTCP(t, at)
		conn, err := n.pods[0].space.dial(network, at)
		must(t, err)
		defer conn.Close()
		for range 2 {
			_, err = ask(conn, "before")
			must(t, err)
		}
		conns[network] = conn
	}
	before, err := n.datapath.NAT(0)
	must(t, err)
	const last = 65400
	if len(before) < len(conns) || slices.ContainsFunc(before, func(e datapath.NATEntry) bool { return e.Translated.Port() > last }) {
		t.Skipf("by chance a flow has a port that stays in the range: %v", before)
	}
	must(t, n.datapath.Close())
	n.config.LoadBalancer.NodePortMax = last
	n.open()
	for network, conn := range conns {
		if _, err := ask(conn, "after"); err != nil {
			t.Errorf("%s: a connection with a port of the former range was cut: %v", network, err)
		}
		if _, err := n.pods[0].space.try(network, conn.RemoteAddr().String()); err != nil {
			t.Errorf("%s: a new connection: %v", network, err)
		}
	}
	after, err := n.datapath.NAT(0)
	must(t, err)
	for _, e := range after {
		old := slices.ContainsFunc(before, func(o datapath.NATEntry) bool { return o.Translated == e.Translated && o.Source == e.Source })
		if old != (e.Translated.Port() <= last) {
			t.Errorf("a flow of before: %v, has port %d", old, e.Translated.Port())
		}
	}
}
