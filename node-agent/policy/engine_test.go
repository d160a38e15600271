package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/quick"

	"fairlead.dev/node-agent/policy/spec"
)

func mustParse(t testing.TB, document string) Policy {
	t.Helper()
	p, problems := Parse(KindAuto, []byte(document))
	if !p.Valid() {
		t.Fatalf("invalid: %v", problems)
	}
	return p
}

const landing = `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"rule1","namespace":"default","uid":"u1","resourceVersion":"7"},
"spec":{"endpointSelector":{"matchLabels":{"org":"empire","class":"deathstar"}},
"ingress":[{"fromEndpoints":[{"matchLabels":{"org":"empire"}}],"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}}`

func ship(labels map[string]string) Labels {
	return LabelsForPod("default", labels, nil, "default", "")
}

func TestDemoPolicyAsKernelLines(t *testing.T) {
	e := NewEngine()
	e.AddIdentity(300, ship(map[string]string{"org": "empire", "class": "tiefighter"}))
	e.AddIdentity(301, ship(map[string]string{"org": "alliance", "class": "xwing"}))
	added := e.AddSubject(9, ship(map[string]string{"org": "empire", "class": "deathstar"}), nil)
	if len(added) != 1 || added[0].Subject != 9 || len(added[0].Adds) != 0 || added[0].EnforcedChanged {
		t.Fatalf("without policy a new endpoint has no lines and is not enforced, got %+v", added)
	}
	changes, err := e.Upsert(mustParse(t, landing))
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 {
		t.Fatalf("one endpoint is governed, got %+v", changes)
	}
	c := changes[0]
	if c.Subject != 9 || c.Enforced != [2]bool{true, false} || !c.EnforcedChanged || len(c.Deletes) != 0 {
		t.Errorf("got %+v", c)
	}
	want := []Key{
		{Direction: Ingress, Peer: IdentityHost},
		{Direction: Ingress, Peer: 300, Protocol: ProtocolTCP, Port: 80, PortPrefix: 16},
	}
	var keys []Key
	for _, entry := range c.Adds {
		keys = append(keys, entry.Key)
	}
	if !slices.Equal(keys, want) {
		t.Fatalf("lines %+v, want %+v", keys, want)
	}
	ref, ok := e.Rule(c.Adds[1].Rule)
	if !ok || ref.String() != "CiliumNetworkPolicy/default/rule1 ingress[0]" || ref.Path != "spec.ingress[0]" || ref.Policy.UID != "u1" || ref.Policy.ResourceVersion != "7" {
		t.Errorf("the deciding rule is %v %+v", ok, ref)
	}
	if ref, _ := e.Rule(c.Adds[0].Rule); ref.String() != BuiltinAllowLocalhost || !ref.IsBuiltin() {
		t.Errorf("the node is let in by %v", ref)
	}

	// A second ship of the empire costs one line, one of the alliance none.
	if changes = e.AddIdentity(302, ship(map[string]string{"org": "empire", "class": "shuttle"})); len(changes) != 1 || len(changes[0].Adds) != 1 {
		t.Errorf("got %+v", changes)
	}
	if changes = e.AddIdentity(303, ship(map[string]string{"org": "alliance", "class": "ywing"})); len(changes) != 0 {
		t.Errorf("got %+v", changes)
	}
	changes = e.RemoveIdentity(300)
	if len(changes) != 1 || len(changes[0].Adds) != 0 || !slices.Equal(changes[0].Deletes, []Key{want[1]}) {
		t.Errorf("got %+v", changes)
	}
	if got := e.Selecting(9); len(got) != 1 || got[0].Name != "rule1" {
		t.Errorf("selecting policies %v", got)
	}
	changes = e.Delete(Ref{Kind: KindCiliumNetworkPolicy, Namespace: "default", Name: "rule1"})
	if len(changes) != 1 || len(changes[0].Deletes) != 2 || changes[0].Enforced != [2]bool{} {
		t.Errorf("after the deletion %+v", changes)
	}
	if _, ok := e.Rule(c.Adds[1].Rule); ok {
		t.Error("the rule is gone, but its number still means something")
	}
}

func TestInvalidEditionLeavesTheValidOneInForce(t *testing.T) {
	e := NewEngine()
	e.AddSubject(1, ship(map[string]string{"org": "empire", "class": "deathstar"}), nil)
	if _, err := e.Upsert(mustParse(t, landing)); err != nil {
		t.Fatal(err)
	}
	before, _ := e.Entries(1)
	broken, problems := Parse(KindAuto, []byte(strings.Replace(landing, `"port":"80"`, `"port":"80000"`, 1)))
	if broken.Valid() || len(problems) != 1 {
		t.Fatalf("problems %v", problems)
	}
	changes, err := e.Upsert(broken)
	var invalid *InvalidPolicyError
	if !errors.As(err, &invalid) || invalid.Ref.Name != "rule1" || len(invalid.Problems) != 1 || changes != nil {
		t.Fatalf("got %v, %v", changes, err)
	}
	if after, _ := e.Entries(1); !slices.Equal(before, after) {
		t.Errorf("an invalid edition changed %v into %v", before, after)
	}
}

func TestRuleNumbersSurviveARestart(t *testing.T) {
	number := func(others ...string) RuleID {
		e := NewEngine()
		for _, name := range append(others, "rule1") {
			if _, err := e.Upsert(mustParse(t, strings.Replace(landing, `"rule1"`, `"`+name+`"`, 1))); err != nil {
				t.Fatal(err)
			}
		}
		for id, n := range e.rules {
			if n.ref.Policy.Name == "rule1" {
				return id
			}
		}
		t.Fatal("rule1 has no number")
		return 0
	}
	if a, b := number(), number("x", "y", "z"); a != b || a == 0 {
		t.Errorf("the same rule is number %d and %d", a, b)
	}
}

func TestPrefixesNeedIdentities(t *testing.T) {
	document := `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p"},"spec":{"endpointSelector":{},
"egress":[{"toCIDR":["192.0.2.1","0.0.0.0/0"]},{"toCIDRSet":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}]}]}}`
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.0.2.1/32")}
	p := mustParse(t, document)
	if got := p.Prefixes(); !slices.Equal(got, want) {
		t.Errorf("the policy names %v, want %v", got, want)
	}
	e := NewEngine()
	if _, err := e.Upsert(p); err != nil {
		t.Fatal(err)
	}
	if got := e.Prefixes(); !slices.Equal(got, want) {
		t.Errorf("the engine names %v, want %v", got, want)
	}
	e.Delete(p.Ref)
	if got := e.Prefixes(); len(got) != 0 {
		t.Errorf("after the deletion the engine still names %v", got)
	}
}

func TestTypedClientsGiveTheSamePolicy(t *testing.T) {
	// What a typed client holds: nil and empty differ, and no kind.
	rule := &spec.Rule{EndpointSelector: &spec.LabelSelector{}, Ingress: []spec.IngressRule{{FromEndpoints: []spec.LabelSelector{}}}}
	p, problems := FromRules(Ref{Kind: KindCiliumNetworkPolicy, Namespace: "galaxy", Name: "p"}, rule, nil)
	if !p.Valid() || len(p.rules) != 1 || len(p.rules[0].elements) != 1 || p.rules[0].elements[0].anyPeer {
		t.Errorf("an empty list of peers is nobody, got %+v (%v)", p.rules, problems)
	}
	np, problems := FromNetworkPolicy(Ref{Kind: KindKubernetesNetworkPolicy, Namespace: "galaxy", Name: "n"},
		&spec.NetworkPolicy{Ingress: []spec.NetworkPolicyIngress{{}}})
	if !np.Valid() || !np.rules[0].elements[0].anyPeer {
		t.Errorf("an empty element is everybody, got %+v (%v)", np.rules, problems)
	}
	parsed, problems := Parse(KindKubernetesNetworkPolicy, []byte(`{"metadata":{"name":"n","namespace":"galaxy"},"spec":{"podSelector":{},"ingress":[{}]}}`))
	if !parsed.Valid() || parsed.Ref.Kind != KindKubernetesNetworkPolicy {
		t.Errorf("a document without kind is of the kind asked for, got %+v (%v)", parsed.Ref, problems)
	}
	if _, problems = Parse(KindKubernetesNetworkPolicy, []byte(landing)); !HasErrors(problems) {
		t.Error("a document of another kind than asked for is accepted")
	}
	if _, problems = FromRules(Ref{Kind: KindCiliumNetworkPolicy}, nil, nil); !HasErrors(problems) {
		t.Error("a policy without rules is accepted")
	}
}

func TestPortRangesBecomePrefixes(t *testing.T) {
	check := func(a, b uint16) bool {
		first, last := min(a, b), max(a, b)
		prefixes := portPrefixes(first, last)
		covered := 0
		next := uint32(first)
		for _, p := range prefixes {
			size := uint32(1) << (16 - p.bits)
			if uint32(p.port) != next || uint32(p.port)%size != 0 {
				return false
			}
			next += size
			covered += int(size)
		}
		return covered == int(last)-int(first)+1 && len(prefixes) <= 30
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 20000}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		first, last uint16
		want        int
	}{{0, 65535, 1}, {80, 80, 1}, {1, 65535, 16}, {1, 65534, 30}, {0, 0, 1}, {65535, 65535, 1}} {
		if got := portPrefixes(c.first, c.last); len(got) != c.want {
			t.Errorf("%d-%d becomes %v, want %d prefixes", c.first, c.last, got, c.want)
		}
	}
}

func TestLabels(t *testing.T) {
	got := LabelsForPod("galaxy", map[string]string{
		"app": "web", "app.kubernetes.io/name": "web", "pod-template-hash": "x", "controller-revision-hash": "x",
		"statefulset.kubernetes.io/pod-name": "web-0", "topology.kubernetes.io/zone": "z",
		"io.kubernetes.pod.namespace": "forged", "io.cilium.k8s.policy.serviceaccount": "forged", "k8s-app": "kept",
	}, map[string]string{"kubernetes.io/metadata.name": "galaxy"}, "sa", "")
	want := []string{"k8s:app=web", "k8s:app.kubernetes.io/name=web",
		"k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=galaxy", "k8s:io.cilium.k8s.policy.cluster=default",
		"k8s:io.cilium.k8s.policy.serviceaccount=sa", "k8s:io.kubernetes.pod.namespace=galaxy", "k8s:k8s-app=kept"}
	if !slices.Equal(got.Strings(), want) {
		t.Errorf("got %q, want %q", got.Strings(), want)
	}
	again, err := ParseLabels(got.Strings())
	if err != nil || again.String() != got.String() || LabelsFromMap(got.Map()).String() != got.String() {
		t.Errorf("labels do not survive being written and read: %v %v", again, err)
	}
	cidr := LabelsForCIDR(netip.MustParsePrefix("fd00::1/8"))
	if cidr.String() != "cidr:fd00::/8,reserved:world" {
		t.Errorf("got %s", cidr)
	}
	if again, err := ParseLabels(cidr.Strings()); err != nil || !slices.Equal(again, cidr) {
		t.Errorf("got %v %v", again, err)
	}
	for _, bad := range []string{"", "=x", ":x", "k8s:"} {
		if l, err := ParseLabel(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, l)
		}
	}
}

func TestIdentityNames(t *testing.T) {
	for id, want := range map[NumericIdentity]string{0: "unknown", 1: "host", 6: "remote-node", 300: "300"} {
		if got := id.String(); got != want {
			t.Errorf("%d is %q, want %q", uint32(id), got, want)
		}
	}
	if !IdentityLocalMin.IsLocal() || NumericIdentity(65535).IsLocal() || NumericIdentity(2<<24).IsLocal() || !IdentityIngress.IsReserved() {
		t.Error("the scopes of identities are mixed up")
	}
	e := NewEngine()
	e.AddIdentity(IdentityHost, NewLabels(Label{Source: SourceReserved, Key: "host"}, Label{Source: SourceReserved, Key: "kube-apiserver"}))
	e.RemoveIdentity(IdentityHost)
	if labels, ok := e.Identity(IdentityHost); !ok || labels.String() != "reserved:host" {
		t.Errorf("identity host is %v after its removal", labels)
	}
}

// FuzzParse: no document makes the parser fail in another way than by reporting problems, and what it accepts can be used.
func FuzzParse(f *testing.F) {
	f.Add([]byte(landing))
	f.Add([]byte(`{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{"name":"a"},"spec":{"podSelector":{},"ingress":[{"ports":[{"port":80,"endPort":90}]}]}}`))
	f.Add([]byte(`{"kind":"CiliumNetworkPolicy","spec":{"ingress":[null],"endpointSelector":null}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		p, problems := Parse(KindAuto, document)
		if p.Valid() == HasErrors(problems) {
			t.Fatal("Valid and the problems disagree")
		}
		if !p.Valid() {
			return
		}
		e := NewEngine()
		e.AddSubject(1, ship(map[string]string{"org": "empire", "class": "deathstar"}), nil)
		if _, err := e.Upsert(p); err != nil {
			t.Fatal(err)
		}
		_ = fmt.Sprint(p.Meaning(), p.SelectorText())
	})
}
