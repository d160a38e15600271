package datapath_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// relabel gives the pins of a node's maps the names that an agent of another version would have given them.
func (n *node) relabel(t *testing.T, version int) {
	t.Helper()
	directory := filepath.Join(n.config.BPFFS, "fairlead", "maps")
	pins, err := os.ReadDir(directory)
	must(t, err)
	for _, p := range pins {
		i := strings.LastIndex(p.Name(), "_v")
		must(t, os.Rename(filepath.Join(directory, p.Name()), filepath.Join(directory, fmt.Sprintf("%s_v%d", p.Name()[:i], version))))
	}
}

// An agent of the next version, and one of the version before, take over endpoints, policy, connections and translations: nothing
// that is open is cut, and nothing of the other version is left.
func TestVersionsBesideOurs(t *testing.T) {
	for name, version := range map[string]int{"upgrade": 1, "downgrade": 3} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, datapath.RoutingTunnel)
			n, client := c.nodes[0], c.nodes[1].pods[0]
			server := n.pods[0]
			server.space.echoTCP(t, ":7001")
			must(t, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{line(server, client.endpoint.Identity, datapath.Ingress, unix.IPPROTO_TCP, 7001, false, 9)}, nil))
			// Without its entry the server's answers would be connections of its own, which are denied.
			e := server.endpoint
			e.PolicyIngress, e.PolicyEgress = true, true
			must(t, n.datapath.UpsertEndpoint(ctx, e))
			conn, err := client.space.dial("tcp4", server.address.String()+":7001")
			must(t, err)
			defer conn.Close()
			_, err = ask(conn, "before")
			must(t, err)
			c.nodes[1].space.echoTCP(t, world+":7201")
			outside, err := n.pods[1].space.dial("tcp4", world+":7201")
			must(t, err)
			defer outside.Close()
			_, err = ask(outside, "before")
			must(t, err)
			must(t, n.datapath.Close())
			n.relabel(t, version)
			n.open()
			translations, err := n.datapath.NAT(0)
			must(t, err)
			if !slices.ContainsFunc(translations, func(e datapath.NATEntry) bool { return e.Source.Addr() == n.pods[1].address && e.Flags == "replied" }) {
				t.Errorf("the translation of an open connection was not taken over: %+v", translations)
			}
			if _, err := ask(outside, "after"); err != nil {
				t.Errorf("a masqueraded connection was cut: %v", err)
			}
			if _, err := ask(conn, "after"); err != nil {
				t.Errorf("an open connection was cut: %v", err)
			}
			restored, err := n.datapath.Endpoints()
			must(t, err)
			lines, err := n.datapath.Policy(server.endpoint.ID)
			must(t, err)
			if len(restored) != 2 || len(lines) != 1 {
				t.Errorf("%d endpoints and %d lines of policy were taken over", len(restored), len(lines))
			}
			left, err := filepath.Glob(filepath.Join(n.config.BPFFS, "fairlead", "maps", fmt.Sprintf("*_v%d", version)))
			must(t, err)
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// After a reboot there are no pins: everything is made anew, and the agent's own state is enough.
func TestReboot(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	a, b := n.pods[0], n.pods[1]
	b.space.echoTCP(t, ":7000")
	must(t, n.datapath.Close())
	must(t, os.RemoveAll(filepath.Join(n.config.BPFFS, "fairlead")))
	n.open()
	if left, err := n.datapath.Endpoints(); err != nil || len(left) > 0 {
		t.Errorf("endpoints out of nowhere: %v, %v", left, err)
	}
	for _, p := range n.pods {
		must(t, n.datapath.UpsertEndpoint(ctx, p.endpoint))
		must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(p.address, 32), Identity: p.endpoint.Identity}))
	}
	if _, err := a.space.try("tcp4", b.address.String()+":7000"); err != nil {
		t.Error(err)
	}
}
