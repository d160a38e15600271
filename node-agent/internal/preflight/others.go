package preflight

import (
	"strings"

	"fairlead.dev/node-agent/internal/datapath"
)

// leftovers names what another network has on the node. It is a warning: a node that is migrated has both for a while.
func leftovers(l datapath.Leftovers) Outcome {
	o := Outcome{Status: "pass", Found: "none", Expected: "no interfaces and programs of another network"}
	all := append(append([]string{}, l.Interfaces...), l.Programs...)
	if len(all) > 0 {
		o.Status, o.Found = "warn", strings.Join(all, ", ")
		o.Fix = "uninstall the other network with its own means, or reboot the node after its removal; Fairlead removes nothing of others"
	}
	if l.Err != nil {
		o.Status, o.Found, o.Fix = "warn", l.Err.Error(), "run as root"
	}
	return o
}

// forwarding names chains that drop what the node forwards, whichever program made them.
func forwarding(l datapath.Leftovers) Outcome {
	o := Outcome{Status: "pass", Found: "nobody drops it by default", Expected: "a policy that accepts"}
	if len(l.ForwardDrops) > 0 {
		o.Status, o.Found = "warn", "dropped by default by "+strings.Join(l.ForwardDrops, ", ")
		o.Fix = "none needed for filter FORWARD of iptables (nft), which the agent opens for pods; elsewhere accept the pods' ranges in both directions"
	}
	return o
}
