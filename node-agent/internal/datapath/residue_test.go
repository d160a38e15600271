package datapath_test

import (
	"context"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
)

// What a scan calls residue is there while the datapath is, and gone after a cleanup: it is not blind.
func TestResidueIsSeenAndGoneAfterACleanup(t *testing.T) {
	for name, routing := range map[string]datapath.RoutingMode{"tunnel": datapath.RoutingTunnel, "native": datapath.RoutingNative, "native, nftables": datapath.RoutingNative} {
		t.Run(name, func(t *testing.T) {
			c := newClusterWith(t, routing, func(c *datapath.Config) { c.BPFMasquerade = !strings.Contains(name, "nftables") })
			n := c.nodes[0]
			scan := func() []string {
				var found []string
				cgroups := []string{}
				if n.cgroup != "" {
					cgroups = append(cgroups, n.cgroup)
				}
				must(t, n.space.in(func() error {
					found = datapath.Residue(n.config.BPFFS, cgroups)
					return nil
				}))
				return found
			}
			before := strings.Join(scan(), "\n")
			wanted := []string{"pin ", "program from_pod", "program from_netdev on interface eth0", "route to 10.77.1.11/32", "route to fd00:10:77:1::11/128", "directory "}
			if !n.config.BPFMasquerade {
				wanted = append(wanted, "nftables table fairlead")
			}
			if n.cgroup != "" {
				wanted = append(wanted, "on cgroup ")
			}
			for _, want := range wanted {
				if !strings.Contains(before, want) {
					t.Errorf("the scan does not see %q; it sees\n%s", want, before)
				}
			}
			if strings.Contains(before, "could not be looked at") {
				t.Errorf("not everything was looked at:\n%s", before)
			}
			must(t, n.datapath.Close())
			must(t, n.space.in(func() error { return datapath.Cleanup(context.Background(), n.config.BPFFS) }))
			if left := scan(); len(left) > 0 {
				t.Errorf("after the cleanup remains\n%s", strings.Join(left, "\n"))
			}
		})
	}
}
