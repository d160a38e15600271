package commandline

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

func bpfCommand() *cobra.Command {
	command := &cobra.Command{Use: "bpf", Short: "What is in the kernel: maps and programs"}
	for _, m := range []struct {
		name, short string
		list        *cobra.Command
	}{
		{"ct", "Connections", conntrackList()},
		{"nat", "Flows whose source is translated", natList()},
		{"bandwidth", "Limits of pods' bandwidth", bandwidthList()},
		{"policy", "Policy lines of this node's endpoints", policyList()},
		{"ipcache", "Who is behind which address", ipcacheList()},
		{"lb", "Service frontends and backends", list("list", "List frontends and backends", services, serviceHeader, serviceRows)},
		{"maps", "Pinned maps and their pressure", mapsList()},
		{"metrics", "Packets forwarded and dropped, by reason", metricsList()},
		{"programs", "Loaded programs and where they attach", programsList()},
	} {
		group := &cobra.Command{Use: m.name, Short: m.short}
		group.AddCommand(m.list)
		command.AddCommand(group)
	}
	return command
}

func conntrackList() *cobra.Command {
	var s settings
	var limit uint32
	command := &cobra.Command{
		Use: "list", Short: "List connections", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := client.ListConntrack(ctx, &fairleadv1.ListConntrackRequest{Limit: limit})
				if err != nil {
					return err
				}
				return s.print(command.OutOrStdout(), answer, func(w io.Writer) error {
					var rows [][]string
					for _, c := range answer.GetConnections() {
						rows = append(rows, []string{protocolName(c.GetProtocol()), c.GetDirection(), c.GetSource(), c.GetDestination(), c.GetTranslatedFrom(), fmt.Sprint(c.GetSourceIdentity()),
							c.GetFlags(), fmt.Sprintf("%ds", c.GetExpiresSeconds()), fmt.Sprintf("%d/%s", c.GetPacketsOut(), bytesText(c.GetBytesOut())), fmt.Sprintf("%d/%s", c.GetPacketsIn(), bytesText(c.GetBytesIn()))})
					}
					if err := columns(w, "PROTOCOL|DIRECTION|SOURCE|DESTINATION|SERVICE|IDENTITY|STATE|EXPIRES|OUT|IN", rows); err != nil {
						return err
					}
					if answer.GetTruncated() {
						fmt.Fprintf(w, "... more than %d; raise --limit to see them\n", limit)
					}
					return nil
				})
			})
		},
	}
	s.bind(command)
	command.Flags().Uint32Var(&limit, "limit", 1000, "list at most so many")
	return command
}

func natList() *cobra.Command {
	var s settings
	var limit uint32
	command := &cobra.Command{
		Use: "list", Short: "List flows whose source is translated, and ports kept for the node's own sockets", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := client.ListNAT(ctx, &fairleadv1.ListNATRequest{Limit: limit})
				if err != nil {
					return err
				}
				return s.print(command.OutOrStdout(), answer, func(w io.Writer) error { return printNAT(w, answer, limit) })
			})
		},
	}
	s.bind(command)
	command.Flags().Uint32Var(&limit, "limit", 1000, "list at most so many")
	return command
}

func printNAT(w io.Writer, answer *fairleadv1.ListNATResponse, limit uint32) error {
	var rows [][]string
	for _, f := range answer.GetFlows() {
		rows = append(rows, []string{protocolName(f.GetProtocol()), f.GetSource(), f.GetDestination(), f.GetTranslated(), f.GetFlags(), fmt.Sprintf("%ds", f.GetExpiresSeconds())})
	}
	if err := columns(w, "PROTOCOL|SOURCE|DESTINATION|SEEN AS|STATE|EXPIRES", rows); err != nil {
		return err
	}
	if answer.GetTruncated() {
		fmt.Fprintf(w, "... more than %d; raise --limit to see them\n", limit)
	}
	return nil
}

// hostEndpoint is the number of the node itself among the endpoints.
const hostEndpoint = 65535

func policyList() *cobra.Command {
	var s settings
	var only uint32
	command := &cobra.Command{
		Use: "list", Short: "List policy lines with the rules they come from", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return ask(command.Context(), s.socket, func(ctx context.Context, client fairleadv1.AgentServiceClient) error {
				answer, err := client.ListEndpoints(ctx, &fairleadv1.ListEndpointsRequest{})
				if err != nil {
					return err
				}
				endpoints := answer.GetEndpoints()
				slices.SortFunc(endpoints, func(a, b *fairleadv1.EndpointInfo) int { return int(a.GetId()) - int(b.GetId()) })
				// The node itself has lines where the host firewall governs it.
				endpoints = append(endpoints, &fairleadv1.EndpointInfo{Id: hostEndpoint})
				all := &fairleadv1.GetEndpointPolicyResponse{}
				var rows [][]string
				for _, endpoint := range endpoints {
					if only != 0 && endpoint.GetId() != only {
						continue
					}
					policy, err := client.GetEndpointPolicy(ctx, &fairleadv1.GetEndpointPolicyRequest{Endpoint: endpoint.GetId()})
					if err != nil {
						return err
					}
					all.Lines = append(all.Lines, policy.GetLines()...)
					pod := endpoint.GetNamespace() + "/" + endpoint.GetPodName()
					if endpoint.GetId() == hostEndpoint {
						pod = "(this node)"
					}
					for _, l := range policy.GetLines() {
						verdict := "allow"
						if l.GetDeny() {
							verdict = "deny"
						}
						rows = append(rows, []string{fmt.Sprint(endpoint.GetId()), pod, l.GetDirection(), verdict,
							fmt.Sprint(l.GetIdentity()), protocolName(l.GetProtocol()), portText(l.GetPort(), l.GetPortPrefix()), l.GetRule(), strings.Join(l.GetLabels(), " ")})
					}
				}
				return s.print(command.OutOrStdout(), all, func(w io.Writer) error {
					return columns(w, "ENDPOINT|POD|DIRECTION|VERDICT|IDENTITY|PROTOCOL|PORT|RULE|LABELS", rows)
				})
			})
		},
	}
	s.bind(command)
	command.Flags().Uint32Var(&only, "endpoint", 0, "only this endpoint; 65535 is the node itself")
	return command
}

func bandwidthList() *cobra.Command {
	return list("list", "List limits of pods' bandwidth and what they let pass",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListBandwidthResponse, error) {
			return client.ListBandwidth(ctx, &fairleadv1.ListBandwidthRequest{})
		},
		"ENDPOINT|POD|DIRECTION|LIMIT|MODE|PASSED|DROPPED PACKETS|AHEAD",
		func(answer *fairleadv1.ListBandwidthResponse) [][]string {
			var rows [][]string
			for _, l := range answer.GetLimits() {
				rows = append(rows, []string{fmt.Sprint(l.GetEndpoint()), l.GetNamespace() + "/" + l.GetPodName(), l.GetDirection(), bitsText(l.GetBitsPerSecond()),
					l.GetMode(), bytesText(l.GetBytes()), fmt.Sprint(l.GetDroppedPackets()), time.Duration(l.GetAheadNanoseconds()).Round(time.Microsecond).String()})
			}
			return rows
		})
}

func bitsText(n uint64) string {
	return strings.TrimSpace(resource.NewQuantity(int64(n), resource.DecimalSI).String()) + "bit/s"
}

func ipcacheList() *cobra.Command {
	return list("list", "List prefixes, their identities and tunnel endpoints",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListIPsResponse, error) {
			return client.ListIPs(ctx, &fairleadv1.ListIPsRequest{})
		},
		"PREFIX|IDENTITY|TUNNEL ENDPOINT|OWNER",
		func(answer *fairleadv1.ListIPsResponse) [][]string {
			var rows [][]string
			for _, ip := range answer.GetIps() {
				rows = append(rows, []string{ip.GetPrefix(), fmt.Sprint(ip.GetIdentity()), ip.GetTunnelEndpoint(), ip.GetOwner()})
			}
			return rows
		})
}

func mapsList() *cobra.Command {
	return list("list", "List pinned maps",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListMapsResponse, error) {
			return client.ListMaps(ctx, &fairleadv1.ListMapsRequest{})
		},
		"MAP|TYPE|ID|ENTRIES|MAXIMUM|PRESSURE|MEMORY|PIN",
		func(answer *fairleadv1.ListMapsResponse) [][]string {
			var rows [][]string
			for _, m := range answer.GetMaps() {
				entries, pressure := "", ""
				if m.GetEntries() >= 0 {
					entries = fmt.Sprint(m.GetEntries())
				}
				if m.GetPressure() >= 0 && m.GetMaxEntries() > 0 {
					pressure = fmt.Sprintf("%.1f %%", m.GetPressure()*100)
					if m.GetGrows() {
						pressure += " (grows)"
					}
				}
				rows = append(rows, []string{m.GetName(), m.GetType(), fmt.Sprint(m.GetId()), entries, fmt.Sprint(m.GetMaxEntries()), pressure, bytesText(m.GetMemoryBytes()), m.GetPinPath()})
			}
			return rows
		})
}

func metricsList() *cobra.Command {
	return list("list", "List counters of forwarded and dropped packets",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListCountersResponse, error) {
			return client.ListCounters(ctx, &fairleadv1.ListCountersRequest{})
		},
		"REASON|DIRECTION|PACKETS|BYTES|EVENTS HELD BACK",
		func(answer *fairleadv1.ListCountersResponse) [][]string {
			var rows [][]string
			for _, c := range answer.GetCounters() {
				rows = append(rows, []string{c.GetName(), c.GetDirection(), fmt.Sprint(c.GetPackets()), fmt.Sprint(c.GetBytes()), fmt.Sprint(c.GetSuppressedEvents())})
			}
			return rows
		})
}

func programsList() *cobra.Command {
	return list("list", "List programs, their attachments and run counts",
		func(ctx context.Context, client fairleadv1.AgentServiceClient) (*fairleadv1.ListProgramsResponse, error) {
			return client.ListPrograms(ctx, &fairleadv1.ListProgramsRequest{})
		},
		"PROGRAM|TYPE|ID|RUNS|TIME|MEMORY|ATTACHED TO",
		func(answer *fairleadv1.ListProgramsResponse) [][]string {
			var rows [][]string
			for _, p := range answer.GetPrograms() {
				average := ""
				if p.GetRunCount() > 0 {
					average = fmt.Sprintf("%d ns each", p.GetRunTimeNanoseconds()/p.GetRunCount())
				}
				rows = append(rows, []string{p.GetName(), p.GetType(), fmt.Sprint(p.GetId()), fmt.Sprint(p.GetRunCount()), average, bytesText(p.GetMemoryBytes()), strings.Join(p.GetAttach(), ", ")})
			}
			return rows
		})
}
