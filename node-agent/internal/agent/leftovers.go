package agent

import (
	"fmt"
	"strings"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/datapath"
)

// reportLeftovers says in status what other networks have on this node; configurations that came while the agent runs included.
func (a *agent) reportLeftovers(found datapath.Leftovers) {
	var all []string
	others, err := cni.Others(a.CNIConfigs)
	if err != nil {
		a.log.Debug("the CNI configurations cannot be read", "error", err)
	}
	for _, name := range others {
		all = append(all, fmt.Sprintf("configuration %s in %s", name, a.CNIConfigsOnNode))
	}
	for _, name := range found.Interfaces {
		all = append(all, "interface "+name)
	}
	for _, name := range found.Programs {
		all = append(all, "program "+name)
	}
	switch {
	case len(all) > 0:
		a.components.set("leftovers", api.StateDegraded, "another network has things on this node: "+strings.Join(all, ", "),
			"Uninstall it with its own means, or reboot the node after its removal; the agent removes nothing of others.")
	case found.Err != nil:
		a.components.set("leftovers", api.StateDegraded, "not all could be looked at: "+found.Err.Error(), "See the agent's log.")
	default:
		a.components.ok("leftovers", "nothing of another network")
	}
}
