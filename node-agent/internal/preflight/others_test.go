package preflight

import (
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
)

func TestOthersAreNamed(t *testing.T) {
	clean := datapath.Leftovers{}
	for name, o := range map[string]Outcome{"leftovers": leftovers(clean), "forwarding": forwarding(clean)} {
		if o.Status != "pass" || o.Fix != "" {
			t.Errorf("%s of a clean node: %+v", name, o)
		}
	}
	l := datapath.Leftovers{Interfaces: []string{"cilium_host (Cilium)"}, Programs: []string{"cil_from_netdev on eth0"}, ForwardDrops: []string{"iptables-legacy filter FORWARD"}}
	if o := leftovers(l); o.Status != "warn" || !strings.Contains(o.Found, "cilium_host (Cilium), cil_from_netdev on eth0") || o.Fix == "" {
		t.Errorf("leftovers: %+v", o)
	}
	if o := forwarding(l); o.Status != "warn" || !strings.Contains(o.Found, "iptables-legacy filter FORWARD") || o.Fix == "" {
		t.Errorf("forwarding: %+v", o)
	}
}
