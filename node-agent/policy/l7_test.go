package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNamePatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, yes, no string
	}{
		{"*.example.org", "www.example.org WWW.Example.ORG. -.example.org", "example.org a.b.example.org www.example.org.evil"},
		{"**.example.org", "www.example.org a.b.example.org", "example.org evilexample.org"},
		{"*", "example.org a a.b.c", ""},
		{"www-*.example.org", "www-1.example.org www-.example.org", "www.example.org www-1.a.example.org"},
		{"a.*.example.org", "a.b.example.org", "a.b.c.example.org"},
		{"***example.org", "example.org myexample.org", "a.example.org"},
	} {
		expression, err := compilePattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		rule := NameRule{Text: test.pattern, expression: expression}
		for _, name := range strings.Fields(test.yes) {
			if !rule.Matches(name) {
				t.Errorf("%s does not match %s", test.pattern, name)
			}
		}
		for _, name := range strings.Fields(test.no) {
			if rule.Matches(name) {
				t.Errorf("%s matches %s", test.pattern, name)
			}
		}
	}
	if rule := (NameRule{Text: "example.org"}); !rule.Matches("Example.Org.") || rule.Matches("www.example.org") {
		t.Error("matchName is not compared as a whole")
	}
}

func httpPolicy(name, ingress, more string) string {
	return `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"` + name + `","namespace":"red"},
		"spec":{"endpointSelector":{},` + more + `"ingress":[` + ingress + `]}}`
}

const postOnly = `"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}],"rules":{"http":[{"method":"POST","path":"/land"}]}}]`

// TestL7Union holds what lines, verdicts and the proxy's rules make of several policies on one port.
func TestL7Union(t *testing.T) {
	const fromA, fromAny = `"fromEndpoints":[{"matchLabels":{"app":"a"}}],`, ``
	for _, test := range []struct {
		name     string
		policies []string
		// line is the kernel's, condition the verdict's, rules the proxy's.
		proxied, condition, open, denied bool
		rules                            int
	}{
		{"one rule", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, "")}, true, true, false, false, 1},
		{"two rules are a union", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, ""), httpPolicy("2", `{`+fromAny+postOnly+`}`, "")}, true, true, false, false, 2},
		{"a plain rule on the port wins", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, ""),
			httpPolicy("2", `{`+fromA+`"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}`, "")}, false, false, true, false, 1},
		{"a plain rule for anybody on the port wins", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, ""),
			httpPolicy("2", `{"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}`, "")}, false, false, true, false, 1},
		{"a plain rule for the peer wins", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, ""), httpPolicy("2", `{"fromEndpoints":[{"matchLabels":{"app":"a"}}]}`, "")}, false, false, true, false, 1},
		{"a plain rule for everything: the proxy lets all pass", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, ""), httpPolicy("2", `{"fromEntities":["all"]}`, "")}, true, false, true, false, 1},
		{"a deny wins", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, `"ingressDeny":[{"fromEndpoints":[{"matchLabels":{"app":"a"}}]}],`)}, false, false, false, true, 0},
		{"no default deny opens nothing", []string{httpPolicy("1", `{`+fromA+postOnly+`}`, `"enableDefaultDeny":{"ingress":false},`)}, true, true, false, false, 1},
		{"no default deny and a rule for anybody", []string{httpPolicy("1", `{`+postOnly+`}`, `"enableDefaultDeny":{"ingress":false},`)}, true, true, false, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := NewEngine()
			e.AddSubject(1, LabelsForPod("red", nil, nil, "default", ""), nil)
			e.AddIdentity(300, LabelsForPod("red", map[string]string{"app": "a"}, nil, "default", ""))
			for _, text := range test.policies {
				if _, err := e.Upsert(mustParse(t, text)); err != nil {
					t.Fatal(err)
				}
			}
			entries, enforced := e.Entries(1)
			_, line := LookupKernel(entries, enforced, Ingress, 300, AnyPeer, ProtocolTCP, 80)
			if (line.Proxy == ProxyHTTP) != test.proxied {
				t.Errorf("the kernel's line is %+v", line)
			}
			if d := e.Verdict(1, Ingress, 300, netip.Addr{}, ProtocolTCP, 80); (d.L7 != nil) != test.condition || d.Allowed == test.denied {
				t.Errorf("the verdict is %+v", d)
			}
			answer := e.L7(1, Ingress, 300, AnyPeer, ProtocolTCP, 80)
			if answer.Open != test.open || answer.Denied != test.denied || len(answer.HTTP) != test.rules {
				t.Errorf("the proxy hears %+v", answer)
			}
			if other := e.L7(1, Ingress, 300, AnyPeer, ProtocolTCP, 81); other.Open == other.Denied {
				t.Errorf("on another port the proxy hears %+v", other)
			}
		})
	}
}

func TestLearnedNamesSelectAddresses(t *testing.T) {
	e := NewEngine()
	e.AddSubject(1, LabelsForPod("red", nil, nil, "default", ""), nil)
	p := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"n","namespace":"red"},
		"spec":{"endpointSelector":{},"egress":[{"toFQDNs":[{"matchPattern":"*.example.org"}],"toPorts":[{"ports":[{"port":"443","protocol":"TCP"}]}]}]}}`)
	if _, err := e.Upsert(p); err != nil {
		t.Fatal(err)
	}
	if names := e.Names(); len(names) != 1 || names[0].Text != "*.example.org" {
		t.Errorf("names in force: %v", names)
	}
	const id = IdentityLocalMin + 7
	plain := NewLabels(Label{Source: SourceCIDR, Key: "192.0.2.1/32"}, Label{Source: SourceReserved, Key: "world"})
	e.AddIdentity(id, plain)
	if e.Verdict(1, Egress, id, netip.Addr{}, ProtocolTCP, 443).Allowed {
		t.Error("an address that no name gave is allowed")
	}
	if changes := e.AddIdentity(id, NewLabels(append(plain, LabelForName("*.example.org"))...)); len(changes) != 1 || len(changes[0].Adds) != 1 {
		t.Errorf("learning the name changes %+v", changes)
	}
	if !e.Verdict(1, Egress, id, netip.Addr{}, ProtocolTCP, 443).Allowed || e.Verdict(1, Egress, id, netip.Addr{}, ProtocolTCP, 80).Allowed {
		t.Error("the learned address is not allowed as the rule says")
	}
	e.Delete(p.Ref)
	if names := e.Names(); len(names) != 0 {
		t.Errorf("names of no policy: %v", names)
	}
}
