package agent

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/nodes"
)

const nodeHealthComponent = "node-health"

// serveNodeHealth answers the probes of the other nodes' agents.
func (a *agent) serveNodeHealth(ctx context.Context) {
	if !*a.config.HealthChecking {
		a.components.set(nodeHealthComponent, api.StateOff, "healthChecking is false: nodes do not probe each other", "")
		return
	}
	port := strconv.Itoa(nodes.HealthPort)
	if a.healthErr = a.serveHTTP(ctx, nodeHealthComponent, ":"+port, nodes.HealthHandler()); a.healthErr != nil {
		a.components.set(nodeHealthComponent, api.StateDegraded, a.healthErr.Error(), "Free port "+port+" on the node.")
	}
}

// reportNodeHealth says in status which nodes answer.
func (a *agent) reportNodeHealth(p *api.Parts) {
	if *a.config.HealthChecking && a.healthErr == nil {
		c := healthComponent(p.Prober.Results())
		a.components.set(c.Name, c.State, c.Message, c.Fix)
	}
}

// healthComponent is the line of status.
func healthComponent(results []nodes.Health) api.Component {
	out := api.Component{Name: nodeHealthComponent, State: api.StateOK}
	var silent []string
	for _, h := range results {
		for path, at := range h.Paths() {
			where := "the node"
			if strings.HasPrefix(path, "endpoint") {
				where = "its pods' network"
			}
			for name, answer := range map[string]nodes.Answer{"HTTP": at.HTTP, "ICMP": at.ICMP} {
				if !answer.Reachable {
					silent = append(silent, fmt.Sprintf("%s of %s (%s, %s)", name, h.Node, where, at.Address))
				}
			}
		}
	}
	out.Message = fmt.Sprintf("%d other nodes are probed by HTTP and ICMP, at their addresses and in their pods' network", len(results))
	if len(silent) > 0 {
		slices.Sort(silent)
		out.State, out.Message = api.StateDegraded, out.Message+"; no answer: "+strings.Join(silent, ", ")
		out.Fix = fmt.Sprintf("Between nodes TCP %d and ICMP have to pass, and the tunnel's UDP port where there is one.", nodes.HealthPort)
	}
	return out
}
