package policy

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
)

const blockPolicy = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"block","namespace":"default"},
"spec":{"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Ingress"],
"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/16","except":["10.0.3.0/24"]}}],"ports":[{"port":80}]}]}}`

// TestIPBlockMeansAddresses: an ipBlock lets in whoever has an address in it, pods and nodes too; a fromCIDR means what is
// outside of the cluster, as Cilium has it.
func TestIPBlockMeansAddresses(t *testing.T) {
	cilium := `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"range","namespace":"default"},
"spec":{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromCIDRSet":[{"cidr":"10.0.0.0/16","except":["10.0.3.0/24"]}],
"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}}`
	pods := []Pod{
		{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.1")}},
		{Namespace: "default", Name: "in", Labels: map[string]string{"app": "client"}, Addresses: []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.0.2.2")}},
		{Namespace: "default", Name: "excepted", Labels: map[string]string{"app": "client"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.3.3")}},
		{Namespace: "default", Name: "elsewhere", Labels: map[string]string{"app": "client"}, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.4")}},
		{Namespace: "default", Name: "unknown", Labels: map[string]string{"app": "client"}},
		{Namespace: "kube-system", Name: "proxy", Node: "two", HostNetwork: true, Addresses: []netip.Addr{netip.MustParseAddr("10.0.9.9")}},
	}
	index := func(i int) Party { return Party{Pod: &i} }
	for _, test := range []struct {
		from                Party
		kubernetes, outside bool
	}{
		{index(1), true, false}, {index(2), false, false}, {index(3), false, false}, {index(4), false, false}, {index(5), true, false},
		{Party{Address: "10.0.200.1"}, true, true}, {Party{Address: "10.0.3.200"}, false, false}, {Party{Address: "203.0.113.1"}, false, false},
		{Party{Entity: "remote-node"}, false, false},
	} {
		for document, want := range map[string]bool{blockPolicy: test.kubernetes, cilium: test.outside} {
			p := mustParse(t, document)
			c, err := Connect([]Policy{p}, pods, Query{From: test.from, To: index(0), Protocol: ProtocolTCP, Port: 80})
			if err != nil || c.Allowed != want {
				t.Errorf("%s: %+v allowed=%v (%v), want %v", p.Ref, test.from, c.Allowed, err, want)
			}
		}
	}
}

// TestIPBlockOpensWhatAProxyWouldSee: an ipBlock asks for nothing of the application layer, so that a peer in it passes unseen
// where another rule has it pass as far as a proxy allows; a deny wins all the same.
func TestIPBlockOpensWhatAProxyWouldSee(t *testing.T) {
	e := NewEngine()
	addBlocks(e)
	block := IdentityBlockMin + NumericIdentity(slices.Index(testBlocks, netip.MustParsePrefix("10.0.0.0/8")))
	e.AddSubject(1, ship(map[string]string{"app": "web"}), nil)
	e.AddIdentity(300, ship(map[string]string{"app": "client"}))
	upsert := func(document string) {
		t.Helper()
		if _, err := e.Upsert(mustParse(t, document)); err != nil {
			t.Fatal(err)
		}
	}
	upsert(`{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"l7","namespace":"default"},
"spec":{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"client"}}],
"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}],"rules":{"http":[{"method":"GET"}]}}]}]}}`)
	state := func() (Decision, Entry, AnswerL7) {
		entries, enforced := e.Entries(1)
		_, line := LookupKernel(entries, enforced, Ingress, 300, block, ProtocolTCP, 80)
		return e.Verdict(1, Ingress, 300, netip.MustParseAddr("10.0.0.1"), ProtocolTCP, 80), line, e.L7(1, Ingress, 300, block, ProtocolTCP, 80)
	}
	if d, line, answer := state(); d.L7 == nil || line.Proxy != ProxyHTTP || answer.Open {
		t.Fatalf("without ipBlock: %+v, %+v, %+v", d, line, answer)
	}
	upsert(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"block","namespace":"default"},
"spec":{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}]}]}}`)
	d, line, answer := state()
	if !d.Allowed || d.L7 != nil || line.Proxy != ProxyNone || line.Peer != block || !answer.Open || answer.Rule != line.Rule || d.MatchType != MatchL3 {
		t.Errorf("with an ipBlock: %+v, %+v, %+v", d, line, answer)
	}
	upsert(`{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"deny","namespace":"default"},
"spec":{"endpointSelector":{"matchLabels":{"app":"web"}},"ingressDeny":[{"fromEndpoints":[{"matchLabels":{"app":"client"}}]}]}}`)
	if d, line, answer := state(); d.Allowed || !line.Deny || !answer.Denied {
		t.Errorf("with a deny beside: %+v, %+v, %+v", d, line, answer)
	}
}

// TestOnlyIPBlocksSelectTheirNumbers: selectors that are met by the absence of labels, and entities, do not select the number
// of a range: whoever has an address in it would have their lines.
func TestOnlyIPBlocksSelectTheirNumbers(t *testing.T) {
	for _, peers := range []string{
		`"fromEndpoints":[{"matchExpressions":[{"key":"k8s:io.kubernetes.pod.namespace","operator":"NotIn","values":["x"]}]}]`,
		`"fromEndpoints":[{"matchExpressions":[{"key":"k8s:io.kubernetes.pod.namespace","operator":"DoesNotExist"}]}]`,
		`"fromCIDR":["10.0.0.0/8"]`, `"fromCIDR":["0.0.0.0/0"]`, `"fromEntities":["world"]`, `"fromEntities":["cluster"]`,
	} {
		e := NewEngine()
		addBlocks(e)
		e.AddSubject(1, ship(map[string]string{"app": "web"}), nil)
		if _, err := e.Upsert(mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"p"},
"spec":{"endpointSelector":{},"ingress":[{`+peers+`}],"ingressDeny":[{`+peers+`}]}}`)); err != nil {
			t.Fatal(err)
		}
		entries, _ := e.Entries(1)
		if slices.ContainsFunc(entries, func(l Entry) bool { return l.Peer.IsBlock() }) {
			t.Errorf("%s selects the number of an ipBlock: %v", peers, entries)
		}
	}
}

// TestWhatIfTellsPodsApartByAddress: pods of the same labels are of one group only while no ipBlock separates them.
func TestWhatIfTellsPodsApartByAddress(t *testing.T) {
	request, err := json.Marshal(map[string]any{"policies": []any{}, "candidate": json.RawMessage(blockPolicy), "pods": []map[string]any{
		{"namespace": "default", "name": "web", "labels": map[string]string{"app": "web"}, "addresses": []string{"10.0.1.1"}},
		{"namespace": "default", "name": "in", "labels": map[string]string{"app": "client"}, "addresses": []string{"10.0.2.2"}},
		{"namespace": "default", "name": "also-in", "labels": map[string]string{"app": "client"}, "addresses": []string{"10.0.4.2"}},
		{"namespace": "default", "name": "excepted", "labels": map[string]string{"app": "client"}, "addresses": []string{"10.0.3.3"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := Call("explain", request)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Groups  []Group
		Changes []struct {
			Peer *int
			Port uint16
		}
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Groups) != 3 || !slices.Equal(got.Groups[1].Pods, []int{1, 2}) {
		t.Fatalf("groups: %+v", got.Groups)
	}
	closed := map[int]bool{}
	for _, c := range got.Changes {
		if c.Peer != nil && c.Port == 80 {
			closed[*c.Peer] = true
		}
	}
	if closed[1] || !closed[2] {
		t.Errorf("port 80 is closed for groups %v; the pods in the block keep it, the excepted one does not", closed)
	}
}

// TestNamedPortBesideIPBlock: what cannot work is said.
func TestNamedPortBesideIPBlock(t *testing.T) {
	for section, warned := range map[string]bool{`"egress":[{"to"`: true, `"ingress":[{"from"`: false} {
		p := mustParse(t, `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p","namespace":"default"},
"spec":{"podSelector":{},`+section+`:[{"ipBlock":{"cidr":"10.0.0.0/8"}}],"ports":[{"port":"web"}]}]}}`)
		if got := slices.ContainsFunc(p.Problems, func(p Problem) bool { return p.Code == "selects-nothing" }); got != warned {
			t.Errorf("%s: warned %v, want %v: %v", section, got, warned, p.Problems)
		}
	}
}
