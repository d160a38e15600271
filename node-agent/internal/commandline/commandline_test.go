package commandline

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

// node answers as an agent would.
type node struct {
	fairleadv1.UnimplementedAgentServiceServer
}

func (node) GetStatus(context.Context, *fairleadv1.GetStatusRequest) (*fairleadv1.GetStatusResponse, error) {
	return &fairleadv1.GetStatusResponse{NodeName: "node1", Ready: true, Started: timestamppb.Now(), RoutingMode: "tunnel", TunnelProtocol: "vxlan",
		Masquerade: "nftables (v4)", KubeProxyReplacement: "true", Devices: []string{"eth0"}, NodeAddress: "172.31.77.11,fd00:172:31:77::11", PodCidr: "10.77.1.0/24,fd00:10:77:1::/64",
		Allocations: []*fairleadv1.Allocation{{Address: "10.77.1.1", Owner: "router"}, {Address: "fd00:10:77:1::1", Owner: "router"}, {Address: "10.77.1.2", Owner: "a/b"}},
		Nodes:       []*fairleadv1.NodeHealth{{Name: "node2", Address: "172.31.77.12", Reachable: true, LatencyMilliseconds: 0.31}, {Name: "node3", Error: "timed out"}},
		Components:  []*fairleadv1.Component{{Name: "hubble", State: "degraded", Message: "no certificate", Fix: "create Secret fairlead-tls"}}}, nil
}

func (node) ListMaps(context.Context, *fairleadv1.ListMapsRequest) (*fairleadv1.ListMapsResponse, error) {
	return &fairleadv1.ListMapsResponse{Maps: []*fairleadv1.MapInfo{{Name: "policy", Entries: 50, MaxEntries: 100}, {Name: "events", Entries: -1}}}, nil
}

func (node) ListEndpoints(context.Context, *fairleadv1.ListEndpointsRequest) (*fairleadv1.ListEndpointsResponse, error) {
	return &fairleadv1.ListEndpointsResponse{Endpoints: []*fairleadv1.EndpointInfo{{Id: 7, Identity: 4321, Namespace: "galaxy", PodName: "xwing", PolicyIngress: true, State: "ready"}}}, nil
}

func (node) GetEndpointPolicy(_ context.Context, request *fairleadv1.GetEndpointPolicyRequest) (*fairleadv1.GetEndpointPolicyResponse, error) {
	return &fairleadv1.GetEndpointPolicyResponse{Lines: []*fairleadv1.PolicyLine{{Direction: "ingress", Identity: request.GetEndpoint(), Protocol: 6, Port: 8080, PortPrefix: 12, Rule: "CiliumNetworkPolicy galaxy/rule1 spec.ingress[0]"}}}, nil
}

// Explain answers as an agent of before the family of a question did: about IPv4, and without saying so.
func (node) Explain(_ context.Context, r *fairleadv1.ExplainRequest) (*fairleadv1.ExplainResponse, error) {
	steps := map[string][]*fairleadv1.ExplainStep{
		"a/b":     {{Node: "node2", Map: "routing table", Key: "2001:db8::2"}, {Node: "node2", Map: "openings", Key: "endpoint 5, TCP 10.77.1.2:40000 ↔ 10.77.2.2:80"}},
		"fd00::2": {{Node: "node2", Map: "policy", Key: "endpoint 5 egress, identity 7, TCP 80"}, {Node: "node2", Map: "services", Key: "TCP [fd00:96::1]:80"}, {Node: "node2", Map: "ipcache", Key: "10.77.1.2"}},
		"a/none":  {{Node: "node2", Map: "policy", Key: "endpoint 5 egress, identity 7, TCP 80"}},
	}
	return &fairleadv1.ExplainResponse{Verdict: "delivered", Summary: "Delivered.", Steps: steps[r.GetFrom()], Family: map[string]string{"a/new": r.GetFamily()}[r.GetFrom()]}, nil
}

func run(t *testing.T, socket string, args ...string) (string, error) {
	t.Helper()
	for _, command := range Commands() {
		if command.Name() != args[0] {
			continue
		}
		var out bytes.Buffer
		command.SetOut(&out)
		command.SetErr(&out)
		command.SilenceUsage = true
		command.SetArgs(append(args[1:], "--socket", socket))
		err := command.ExecuteContext(t.Context())
		return out.String(), err
	}
	t.Fatalf("no command %s", args[0])
	return "", nil
}

func TestCommands(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fairleadv1.RegisterAgentServiceServer(server, node{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	for _, test := range []struct {
		args []string
		want []string
		fail string
	}{
		{args: []string{"status"}, want: []string{"ready on node1", "true [eth0 172.31.77.11 fd00:172:31:77::11]", "tunnel (vxlan)", "IPv4: 2/253 allocated from 10.77.1.0/24; IPv6: 1/1073741821 allocated from fd00:10:77:1::/64", "10.77.1.1        router", "1/2 reachable", "unreachable: timed out", "50.0 %", "fix: create Secret fairlead-tls"}},
		{args: []string{"status", "-o", "json"}, want: []string{`"routing_mode":`, `"tunnel"`}},
		{args: []string{"status", "-o", "yaml"}, fail: `-o takes table or json, not "yaml"`},
		{args: []string{"endpoints"}, want: []string{"ENDPOINT", "galaxy/xwing", "4321", "Enabled", "Disabled"}},
		{args: []string{"bpf", "policy", "list"}, want: []string{"8080-8095", "rule1", "allow", "TCP", "galaxy/xwing", "65535  ", "(this node)"}},
		{args: []string{"bpf", "policy", "list", "--endpoint", "65535"}, want: []string{"(this node)"}},
		{args: []string{"explain", "--from", "a/b", "--to", "c/d"}, want: []string{"DELIVERED"}},
		{args: []string{"explain", "--from", "a/b", "--to", "c/d", "--family", "IPv4"}, want: []string{"DELIVERED"}},
		{args: []string{"explain", "--from", "a/b", "--to", "c/d", "--family", "ipv6"}, fail: "the answer is about ipv4, and the question about ipv6\nwhy: the agent of node node2 is of an older version"},
		{args: []string{"explain", "--from", "fd00::2", "--to", "c/d", "--family", "ipv6"}, want: []string{"DELIVERED"}},
		{args: []string{"explain", "--from", "fd00::2", "--to", "c/d", "--family", "ipv4"}, fail: "fix: upgrade the agent, or give the sender by its address of ipv4"},
		{args: []string{"explain", "--from", "a/none", "--to", "c/d", "--family", "ipv6"}, want: []string{"note: The agent of node node2 is of an older version", "may not be about ipv6", "DELIVERED"}},
		{args: []string{"explain", "--from", "a/new", "--to", "c/d", "--family", "ipv6"}, want: []string{"DELIVERED"}},
		{args: []string{"bpf", "metrics", "list"}, fail: "does not know that question"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			out, err := run(t, socket, test.args...)
			if test.fail != "" {
				if err == nil || !strings.Contains(err.Error(), test.fail) {
					t.Fatalf("error %v, want %q", err, test.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

func TestNoAgent(t *testing.T) {
	_, err := run(t, filepath.Join(t.TempDir(), "none.sock"), "status")
	if err == nil || !strings.Contains(err.Error(), "why: no agent runs on this node") {
		t.Fatalf("error %v does not say why", err)
	}
}

func TestPortText(t *testing.T) {
	for _, test := range []struct {
		port, prefix uint32
		want         string
	}{{80, 16, "80"}, {0, 0, "ANY"}, {8080, 12, "8080-8095"}, {1024, 15, "1024-1025"}} {
		if got := portText(test.port, test.prefix); got != test.want {
			t.Errorf("portText(%d, %d) = %s, want %s", test.port, test.prefix, got, test.want)
		}
	}
}

func TestNATIsPrinted(t *testing.T) {
	var out strings.Builder
	answer := &fairleadv1.ListNATResponse{Truncated: true, Flows: []*fairleadv1.NATInfo{
		{Protocol: 6, Source: "10.77.1.11:40000", Destination: "203.0.113.9:443", Translated: "192.0.2.1:50123", Flags: "replied", ExpiresSeconds: 60},
		{Protocol: 17, Source: "192.0.2.1:40001", Destination: "203.0.113.9:53", Translated: "192.0.2.1:40001", Own: true, Flags: "own"},
	}}
	if err := printNAT(&out, answer, 2); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SEEN AS", "10.77.1.11:40000", "192.0.2.1:50123", "replied", "own", "60s", "more than 2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// Steps stand below their node and program, each with the entry that it found, a drop with its line; the answer is at the end.
func TestExplanationIsPrinted(t *testing.T) {
	var out strings.Builder
	if err := printExplanation(&out, &fairleadv1.ExplainResponse{Verdict: "dropped", Summary: "Dropped on node node2.", Notes: []string{"a note"}, Steps: []*fairleadv1.ExplainStep{
		{Node: "node1", Hook: "from_pod", Kind: "policy", Text: "allowed by a rule", Map: "policy", Key: "7 2 TCP/80", Value: "allow"},
		{Node: "node1", Hook: "from_pod", Kind: "redirect", Text: "to eth0"},
		{Node: "node2", Hook: "from_netdev", Kind: "verdict", Text: "dropped", DropReason: 133, Source: "from_netdev.bpf.c:42"},
	}}); err != nil {
		t.Fatal(err)
	}
	const want = "node node1\n  from_pod\n    policy         allowed by a rule\n                   policy[7 2 TCP/80] = allow\n    redirect       to eth0\n" +
		"node node2\n  from_netdev\n    verdict        dropped  [from_netdev.bpf.c:42]\nnote: a note\nDROPPED: Dropped on node node2.\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// The console reads the same cases: an older agent's answer is about the same family, whoever asked.
func TestFamilyIsDeducedAsByTheConsole(t *testing.T) {
	document, err := os.ReadFile("testdata/families.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Family string
		Steps        []*fairleadv1.ExplainStep
	}
	if err := json.Unmarshal(document, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, test := range cases {
		if got := deducedFamily(test.Steps); got != test.Family {
			t.Errorf("%s: %q, want %q", test.Name, got, test.Family)
		}
	}
}
