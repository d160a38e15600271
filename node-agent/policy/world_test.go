package policy

import (
	"net/netip"
	"testing"
)

// TestFamiliesOfTheWorld: 0.0.0.0/0 opens IPv4 only and ::/0 IPv6 only; the entity world is both.
func TestFamiliesOfTheWorld(t *testing.T) {
	for peers, want := range map[string][2]bool{
		`"toCIDR":["0.0.0.0/0"]`: {true, false}, `"toCIDR":["::/0"]`: {false, true}, `"toEntities":["world"]`: {true, true},
		`"toCIDR":["::ffff:0.0.0.0/96"]`:                      {true, false},
		`"toCIDRSet":[{"cidr":"::/0","except":["fd00::/8"]}]`: {false, true}, `"toCIDR":["203.0.113.0/24"]`: {false, false},
	} {
		e := NewEngine()
		e.AddSubject(1, ship(map[string]string{"app": "web"}), nil)
		p := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p","namespace":"default"},
"spec":{"endpointSelector":{},"egress":[{`+peers+`}]}}`)
		if _, err := e.Upsert(p); err != nil {
			t.Fatal(err)
		}
		entries, enforced := e.Entries(1)
		for i, address := range []string{"192.0.2.1", "2001:db8::1"} {
			id := WorldIdentity(netip.MustParseAddr(address))
			got, _ := LookupKernel(entries, enforced, Egress, id, AnyPeer, ProtocolTCP, 443)
			if verdict := e.Verdict(1, Egress, id, netip.Addr{}, ProtocolTCP, 443); got != want[i] || verdict.Allowed != want[i] {
				t.Errorf("%s: %s allowed by lines %v, by rules %v, want %v", peers, address, got, verdict.Allowed, want[i])
			}
			zero := 0
			c, err := Connect([]Policy{p}, []Pod{{Namespace: "default", Name: "web"}}, Query{From: Party{Pod: &zero}, To: Party{Address: address}, Protocol: ProtocolTCP, Port: 443})
			if err != nil || c.Allowed != want[i] {
				t.Errorf("%s: %s allowed in the console: %v (%v), want %v", peers, address, c.Allowed, err, want[i])
			}
		}
	}
}

// TestLabelsAreNoEntities: a pod or a node may carry labels named like entities, in every combination of sources, and no
// entity, selector of nodes or policy for nodes takes it for one.
func TestLabelsAreNoEntities(t *testing.T) {
	names := []string{"host", "world", "remote-node", "kube-apiserver", "health", "init", "all", "cluster"}
	pod := map[string]string{}
	for _, name := range names {
		pod[name] = ""
	}
	labels := LabelsForPod("default", pod, pod, "default", "")
	for _, entity := range names {
		document := `{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"p"},
"spec":{"endpointSelector":{"matchLabels":{"` + entity + `":""}},"ingress":[{"fromEntities":["` + entity + `"]}]}}`
		p := mustParse(t, document)
		if !p.Selects(labels) {
			t.Errorf("the label %s does not select the pod: its policy would silently not be enforced", entity)
		}
		e := NewEngine()
		e.AddSubject(1, labels, nil)
		e.AddIdentity(300, labels)
		if _, err := e.Upsert(p); err != nil {
			t.Fatal(err)
		}
		want := entity == "all" || entity == "cluster"
		if _, enforced := e.Entries(1); !enforced[Ingress] {
			t.Errorf("%s: not enforced", entity)
		}
		if v := e.Verdict(1, Ingress, 300, netip.Addr{}, ProtocolTCP, 80); v.Allowed != want {
			t.Errorf("a pod with the label %s is let in as the entity: %+v", entity, v)
		}
	}
	host := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"n"},"spec":{"nodeSelector":{},"ingress":[{}]}}`)
	if host.Selects(labels) {
		t.Error("a policy for nodes governs a pod with the label host")
	}
	pods := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"n"},"spec":{"endpointSelector":{},"ingress":[{}]}}`)
	if node := NodeLabels(map[string]string{"app": "x", "host": ""}, nil, "host"); pods.Selects(node) || !host.Selects(node) {
		t.Error("a policy for pods governs the node, or one for nodes does not")
	}
}

// TestHostNetworkPodsAreTheNode: no selector selects them, as peer or as governed; the console says so by leaving them out.
func TestHostNetworkPodsAreTheNode(t *testing.T) {
	pods := []Pod{{Namespace: "default", Name: "web", Node: "one"}, {Namespace: "default", Name: "exporter", Node: "one", HostNetwork: true},
		{Namespace: "default", Name: "exporter", Node: "two", HostNetwork: true}}
	p := mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p","namespace":"default"},
"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}]}]}}`)
	if selected := Selected(p, pods); len(selected) != 1 || selected[0] != 0 {
		t.Errorf("selected %v", selected)
	}
	for from, want := range map[int]bool{1: true, 2: false} {
		zero := 0
		c, err := Connect([]Policy{p}, pods, Query{From: Party{Pod: &from}, To: Party{Pod: &zero}, Protocol: ProtocolTCP, Port: 80})
		if err != nil || c.Allowed != want || c.Egress != nil {
			t.Errorf("from the pod with host network on node %s: %+v (%v)", pods[from].Node, c, err)
		}
	}
}
