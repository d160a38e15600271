package api

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

const requestsAndNames = `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"content","namespace":"a"},"spec":{"endpointSelector":{},
	"ingress":[{"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}],"rules":{"http":[{"method":"GET","path":"/public/.*","host":"web[.]example[.]org"}]}}]}],
	"egress":[{"toPorts":[{"ports":[{"port":"53","protocol":"UDP"}],"rules":{"dns":[{"matchPattern":"*.example.org"}]}}]}]}}`

// Where a proxy decides, explain answers as the proxy would for what is asked for, and names the rule; without a question it says
// that there is one to ask.
func TestExplainAsksTheProxysRules(t *testing.T) {
	ctx := context.Background()
	proxied := datapath.Proxied{Endpoint: 1, Direction: datapath.Ingress, Peer: 2, Address: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Port: 80}
	s := explaining(t, true, func(datapath.Trial) (datapath.Explanation, error) {
		return datapath.Explanation{Outcome: datapath.OutcomeProxy, ProxyPort: 4001, Proxied: proxied, Steps: []datapath.ExplainStep{{Hook: "from_netdev", Kind: "proxy"}}}, nil
	})
	manager := s.Agent.Parts.Load().Policies
	manager.UseProxies(policies.Proxies{HTTP: [2]uint16{4001, 4002}, DNS: [2]uint16{0, 4003}}, nil)
	labels, err := policy.ParseLabels([]string{"k8s:io.kubernetes.pod.namespace=a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manager.AddSubject(ctx, 1, labels, nil); err != nil {
		t.Fatal(err)
	}
	p, problems := policy.Parse(policy.KindAuto, []byte(requestsAndNames))
	if !p.Valid() {
		t.Fatal(problems)
	}
	if err := manager.Upsert(ctx, p); err != nil {
		t.Fatal(err)
	}
	names := proxied
	names.Direction, names.Protocol, names.Port = datapath.Egress, 17, 53
	for _, test := range []struct {
		question string
		of       datapath.Proxied
		verdict  string
		says     string
	}{
		{"GET http://web.example.org/public/a", proxied, "proxy", "lets it pass: allowed by CiliumNetworkPolicy a/content"},
		{"POST http://web.example.org/public/a", proxied, "dropped", "refuses it: no rule allows POST http://web.example.org/public/a"},
		{"GET http://web.example.org/private", proxied, "dropped", "refuses it"},
		{"GET http://web.example.org/public/../private", proxied, "dropped", "refuses it"},
		{"GET http://other.example.org/public/a", proxied, "dropped", "refuses it"},
		{"DNS www.example.org", names, "proxy", "lets it pass: allowed by CiliumNetworkPolicy a/content"},
		{"DNS www.example.com", names, "dropped", "refuses it"},
		{"", proxied, "proxy", "Goes to the proxy of node node1 at port 4001"},
	} {
		proxied := test.of
		s.Agent.Parts.Load().Datapath.(interface {
			SetExplain(func(datapath.Trial) (datapath.Explanation, error))
		}).SetExplain(func(datapath.Trial) (datapath.Explanation, error) {
			return datapath.Explanation{Outcome: datapath.OutcomeProxy, ProxyPort: 4001, Proxied: proxied}, nil
		})
		got, err := s.Explain(ctx, &fairleadv1.ExplainRequest{L7: test.question, Arrival: &fairleadv1.ExplainArrival{Frame: []byte("frame")}})
		if err != nil || got.GetVerdict() != test.verdict || !strings.Contains(got.GetSummary(), test.says) {
			t.Errorf("%q: %s, %q, %v; want %s, %q", test.question, got.GetVerdict(), got.GetSummary(), err, test.verdict, test.says)
			continue
		}
		steps := got.GetSteps()
		if test.question == "" {
			if len(steps) != 0 || len(got.GetNotes()) != 1 || !strings.Contains(got.GetNotes()[0], "Say what is asked for") {
				t.Errorf("without a question: %v", got)
			}
			continue
		}
		if len(steps) != 1 || steps[0].GetKind() != "l7" || steps[0].GetKey() != test.question || (steps[0].GetRule() != "") != (test.verdict == "proxy") {
			t.Errorf("%q: steps %v", test.question, steps)
		}
	}
	if _, err = s.Explain(ctx, &fairleadv1.ExplainRequest{L7: "nothing", Arrival: &fairleadv1.ExplainArrival{Frame: []byte("frame")}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a word that is no question: %v", err)
	}
}
