package commandline

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/ipam"
)

func statusCommand() *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use: "status", Short: "What runs on this node, and how well", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := client.GetStatus(ctx, &fairleadv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				maps, err := client.ListMaps(ctx, &fairleadv1.ListMapsRequest{})
				if err != nil {
					return err
				}
				return s.print(command.OutOrStdout(), answer, func(w io.Writer) error { return printStatus(w, answer, maps.GetMaps()) })
			})
		},
	}
	s.bind(command)
	return command
}

// printStatus is the page of ACCEPTANCE B7 and B8: configuration as running, allocations, node health, map pressure.
func printStatus(w io.Writer, status *fairleadv1.GetStatusResponse, maps []*fairleadv1.MapInfo) error {
	state := "not ready"
	if status.GetReady() {
		state = "ready"
	}
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-24s %s\n", name+":", fmt.Sprintf(format, values...))
	}
	line("Agent", "%s on %s, version %s, up %s, %s resident", state, status.GetNodeName(), status.GetVersion(),
		time.Since(status.GetStarted().AsTime()).Round(time.Second), bytesText(status.GetResidentMemoryBytes()))
	line("Kernel", "%s", status.GetKernel())
	replacement := status.GetKubeProxyReplacement()
	if len(status.GetDevices()) > 0 {
		replacement += " [" + strings.Join(status.GetDevices(), ", ") + " " + strings.ReplaceAll(status.GetNodeAddress(), ",", " ") + "]"
	}
	line("KubeProxyReplacement", "%s", replacement)
	line("Routing", "%s", routing(status))
	line("Masquerading", "%s", status.GetMasquerade())
	line("MTU", "%d", status.GetMtu())
	line("IPAM", "%s", strings.Join(allocated(status), "; "))
	for _, allocation := range status.GetAllocations() {
		fmt.Fprintf(w, "  %-16s %s\n", allocation.GetAddress(), allocation.GetOwner())
	}
	line("Policy", "enforcement %s, revision %d", status.GetPolicyEnforcementMode(), status.GetPolicyRevision())
	line("Endpoints", "%d, identities %d, services %d", status.GetEndpoints(), status.GetIdentities(), status.GetServices())
	line("Hubble", "%d flows seen, %.1f per second, %d lost", status.GetFlowsSeen(), status.GetFlowsPerSecond(), status.GetFlowsLost())
	reachable := 0
	for _, node := range status.GetNodes() {
		if node.GetReachable() {
			reachable++
		}
	}
	if slices.ContainsFunc(status.GetComponents(), func(c *fairleadv1.Component) bool { return c.GetName() == "node-health" && c.GetState() == "off" }) {
		line("Node health", "off (healthChecking is false)")
	} else {
		line("Node health", "%d/%d reachable", reachable, len(status.GetNodes()))
	}
	for _, node := range status.GetNodes() {
		seen := "never"
		if t := node.GetLastSeen(); t != nil {
			seen = time.Since(t.AsTime()).Round(time.Second).String() + " ago"
		}
		http := &fairleadv1.ProbeAnswer{Reachable: node.GetReachable(), LatencyMilliseconds: node.GetLatencyMilliseconds(), Error: node.GetError()}
		fmt.Fprintf(w, "  %-16s %-16s http %s, icmp %s; seen %s\n", node.GetName(), node.GetAddress(), answerText(http), answerText(node.GetIcmp()), seen)
		if node.GetEndpointAddress() != "" {
			fmt.Fprintf(w, "  %-16s %-16s http %s, icmp %s\n", "  pods' network", node.GetEndpointAddress(), answerText(node.GetEndpointHttp()), answerText(node.GetEndpointIcmp()))
		}
		for _, path := range node.GetMorePaths() {
			fmt.Fprintf(w, "  %-16s %-16s http %s, icmp %s\n", "  IPv6", path.GetAddress(), answerText(path.GetHttp()), answerText(path.GetIcmp()))
		}
	}
	fmt.Fprintln(w, "Map pressure:")
	for _, m := range maps {
		if m.GetEntries() >= 0 && m.GetMaxEntries() > 0 {
			fmt.Fprintf(w, "  %-28s %5.1f %%  %d of %d\n", m.GetName(), float64(m.GetEntries())*100/float64(m.GetMaxEntries()), m.GetEntries(), m.GetMaxEntries())
		}
	}
	fmt.Fprintln(w, "Components:")
	for _, component := range status.GetComponents() {
		fmt.Fprintf(w, "  %-16s %-9s %s\n", component.GetName(), component.GetState(), component.GetMessage())
		if component.GetFix() != "" {
			fmt.Fprintf(w, "  %-16s %-9s fix: %s\n", "", "", component.GetFix())
		}
	}
	return nil
}

// allocated says of each family's range how much of it is in use.
func allocated(status *fairleadv1.GetStatusResponse) []string {
	var out []string
	for text := range strings.SplitSeq(status.GetPodCidr(), ",") {
		pool, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		used := 0
		for _, allocation := range status.GetAllocations() {
			if a, err := netip.ParseAddr(allocation.GetAddress()); err == nil && pool.Contains(a) {
				used++
			}
		}
		family := "IPv4"
		if pool.Addr().Is6() {
			family = "IPv6"
		}
		out = append(out, fmt.Sprintf("%s: %d/%d allocated from %s", family, used, ipam.CapacityOf(pool), pool))
	}
	return out
}

func routing(status *fairleadv1.GetStatusResponse) string {
	if status.GetRoutingMode() != "native" {
		return fmt.Sprintf("%s (%s)", status.GetRoutingMode(), status.GetTunnelProtocol())
	}
	direct := ""
	if status.GetAutoDirectNodeRoutes() {
		direct = ", direct node routes"
	}
	return fmt.Sprintf("native, CIDR %s%s", status.GetNativeRoutingCidr(), direct)
}

func answerText(a *fairleadv1.ProbeAnswer) string {
	switch {
	case a == nil:
		return "not asked"
	case a.GetReachable():
		return fmt.Sprintf("%.2f ms", a.GetLatencyMilliseconds())
	}
	return "unreachable: " + a.GetError()
}
