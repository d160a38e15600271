package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func galaxyPods() []Pod {
	pod := func(name string, labels map[string]string) Pod {
		return Pod{Namespace: "default", Name: name, Labels: labels, ServiceAccount: "default", Node: "node1",
			Ports: NamedPorts{"http": {{ProtocolTCP, 80}}}}
	}
	agent := pod("agent", nil)
	agent.HostNetwork = true
	return []Pod{
		pod("deathstar-1", map[string]string{"org": "empire", "class": "deathstar", "pod-template-hash": "1"}),
		pod("deathstar-2", map[string]string{"org": "empire", "class": "deathstar", "pod-template-hash": "2"}),
		pod("tiefighter", map[string]string{"org": "empire", "class": "tiefighter"}),
		pod("xwing", map[string]string{"org": "alliance", "class": "xwing"}),
		agent,
	}
}

func TestConnectAsksBothSides(t *testing.T) {
	policies := []Policy{mustParse(t, landing),
		mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"grounded","namespace":"default"},
"spec":{"endpointSelector":{"matchLabels":{"class":"tiefighter"}},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}]},{"toEntities":["host"]}]}}`)}
	pods := galaxyPods()
	far := pods[4]
	far.Node = "node2"
	pods = append(pods, far)
	for _, c := range []struct {
		name            string
		from, to        Party
		port            uint16
		allowed         bool
		egress, ingress Reason
	}{
		{"the peer is admitted, but may not send", Party{Pod: new(2)}, Party{Pod: new(0)}, 80, false, ReasonDefaultDeny, ReasonAllowedByRule},
		{"the peer may send, but is not admitted", Party{Pod: new(3)}, Party{Pod: new(1)}, 80, false, ReasonNoPolicy, ReasonDefaultDeny},
		{"a pod and its own replica", Party{Pod: new(0)}, Party{Pod: new(1)}, 80, true, ReasonNoPolicy, ReasonAllowedByRule},
		{"the node of the pod", Party{Pod: new(4)}, Party{Pod: new(0)}, 22, true, "", ReasonAllowedByRule},
		{"another node", Party{Pod: new(5)}, Party{Pod: new(0)}, 80, false, "", ReasonDefaultDeny},
		{"to the own node", Party{Pod: new(2)}, Party{Pod: new(4)}, 22, true, ReasonAllowedByRule, ""},
		{"to another node", Party{Pod: new(2)}, Party{Pod: new(5)}, 22, false, ReasonDefaultDeny, ""},
		{"an address inside of the range", Party{Pod: new(2)}, Party{Address: "10.2.3.4"}, 443, true, ReasonAllowedByRule, ""},
		{"an address in the hole", Party{Pod: new(2)}, Party{Address: "10.1.3.4"}, 443, false, ReasonDefaultDeny, ""},
		{"an address outside", Party{Pod: new(2)}, Party{Address: "192.0.2.1"}, 443, false, ReasonDefaultDeny, ""},
		{"an entity", Party{Entity: "world"}, Party{Pod: new(2)}, 443, true, "", ReasonNoPolicy},
	} {
		got, err := Connect(policies, pods, Query{From: c.from, To: c.to, Protocol: ProtocolTCP, Port: c.port})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		reason := func(d *Decision) Reason {
			if d == nil {
				return ""
			}
			return d.Reason
		}
		if got.Allowed != c.allowed || reason(got.Egress) != c.egress || reason(got.Ingress) != c.ingress {
			t.Errorf("%s: allowed %v, egress %+v, ingress %+v", c.name, got.Allowed, got.Egress, got.Ingress)
		}
	}
	for _, bad := range []Party{{}, {Pod: new(17)}, {Pod: new(-1)}, {Entity: "everybody"}, {Address: "example.org"}} {
		if _, err := Connect(policies, pods, Query{From: bad, To: Party{Pod: new(0)}}); err == nil {
			t.Errorf("%+v is accepted as a party", bad)
		}
	}
}

func TestExplainTellsWhatChanges(t *testing.T) {
	pods := galaxyPods()
	candidate := mustParse(t, landing)
	out := Explain(nil, candidate, pods, 1000)
	if !slices.Equal(out.Selected, []int{0, 1}) || len(out.Groups) != 4 || !slices.Equal(out.Groups[0].Pods, []int{0, 1}) {
		t.Fatalf("selected %v, groups %+v", out.Selected, out.Groups)
	}
	var lines []string
	for _, c := range out.Changes {
		peer := c.Entity + c.CIDR
		if c.Peer != nil {
			peer = pods[out.Groups[*c.Peer].Pods[0]].Name
		}
		port := fmt.Sprint(c.Port)
		if c.Other {
			port = "other"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s/%s %v→%v", c.Direction, peer, ProtocolName(c.Protocol), port, c.Before.Allowed, c.After.Allowed))
	}
	for _, want := range []string{"ingress xwing TCP/80 true→false", "ingress tiefighter TCP/other true→false", "ingress world UDP/53 true→false",
		"ingress tiefighter ICMP/8 true→false", "ingress remote-node TCP/80 true→false"} {
		if !slices.Contains(lines, want) {
			t.Errorf("%q is not among\n%s", want, strings.Join(lines, "\n"))
		}
	}
	for _, line := range lines {
		if strings.Contains(line, "tiefighter TCP/80") || strings.Contains(line, " host ") || strings.Contains(line, "egress") {
			t.Errorf("%q is no change", line)
		}
	}
	// An edit that opens a port: only that is reported, though the earlier edition is in force.
	edited := mustParse(t, strings.Replace(landing, `{"port":"80","protocol":"TCP"}`, `{"port":"80","protocol":"TCP"},{"port":"443","protocol":"TCP"}`, 1))
	out = Explain([]Policy{candidate}, edited, pods, 1000)
	for _, c := range out.Changes {
		if c.Protocol != ProtocolTCP || c.Port != 443 || c.Before.Allowed || !c.After.Allowed {
			t.Errorf("unexpected change %+v", c)
		}
	}
	if len(out.Changes) != 2 { // from the deathstars themselves and from the tiefighter
		t.Errorf("%d changes, want 2", len(out.Changes))
	}
	if out = Explain(nil, candidate, pods, 3); !out.Truncated || len(out.Changes) != 3 {
		t.Errorf("with a limit of 3 there are %d changes, truncated=%v", len(out.Changes), out.Truncated)
	}
}

func TestExplainStaysBounded(t *testing.T) {
	var pods []Pod
	for i := range 2000 {
		pods = append(pods, Pod{Namespace: fmt.Sprintf("ns%d", i%20), Name: fmt.Sprint(i), Labels: map[string]string{"app": fmt.Sprint(i)}})
	}
	all := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"all"},"spec":{"endpointSelector":{},"ingress":[{"fromEntities":["cluster"]}]}}`)
	start := time.Now()
	out := Explain(nil, all, pods, 100_000)
	if !out.Truncated || out.Examined != examineLimit {
		t.Errorf("examined %d, truncated %v", out.Examined, out.Truncated)
	}
	t.Logf("%d questions in %v", out.Examined, time.Since(start))
}
