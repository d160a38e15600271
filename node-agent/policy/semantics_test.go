package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The peers and the governed pod of the tables below. Numbers are what an agent would use.
const (
	sameNamespace  NumericIdentity = 1001 // app=client in galaxy
	otherNamespace NumericIdentity = 1002 // app=client in elsewhere, whose namespace is labelled team=one
	hostLabelled   NumericIdentity = 1003 // a pod in galaxy that carries a label named host
	insideTen      NumericIdentity = IdentityLocalMin + 1
	insideHole     NumericIdentity = IdentityLocalMin + 2
	stranger       NumericIdentity = 60000
)

func testEngine(t *testing.T, documents ...string) *Engine {
	t.Helper()
	e := NewEngine()
	namespace := func(name string, labels map[string]string) map[string]string {
		labels["kubernetes.io/metadata.name"] = name
		return labels
	}
	galaxy, elsewhere := namespace("galaxy", map[string]string{}), namespace("elsewhere", map[string]string{"team": "one"})
	e.AddIdentity(sameNamespace, LabelsForPod("galaxy", map[string]string{"app": "client"}, galaxy, "default", ""))
	e.AddIdentity(otherNamespace, LabelsForPod("elsewhere", map[string]string{"app": "client"}, elsewhere, "default", ""))
	e.AddIdentity(hostLabelled, LabelsForPod("galaxy", map[string]string{"host": "", "world": ""}, galaxy, "default", ""))
	for i, document := range documents {
		if !strings.Contains(document, "metadata:") {
			document = fmt.Sprintf("metadata: {name: p%d, namespace: galaxy}\n", i) + document
		}
		if !strings.Contains(document, "apiVersion:") {
			document = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n" + document
		}
		json, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		p, problems := Parse(KindAuto, json)
		if !p.Valid() {
			t.Fatalf("the policy is invalid: %v\n%s", problems, document)
		}
		for n, prefix := range p.Prefixes() {
			id := IdentityLocalMin + 100 + NumericIdentity(n)
			switch prefix.String() {
			case "10.0.0.0/8":
				id = insideTen
			case "10.1.0.0/16":
				id = insideHole
			}
			e.AddIdentity(id, LabelsForCIDR(prefix))
		}
		if _, err := e.Upsert(p); err != nil {
			t.Fatal(err)
		}
	}
	e.SetIdentityPorts(sameNamespace, NamedPorts{"web": {{ProtocolTCP, 8080}}})
	e.AddSubject(1, LabelsForPod("galaxy", map[string]string{"app": "server"}, galaxy, "default", ""),
		NamedPorts{"web": {{ProtocolTCP, 8080}}, "dns": {{ProtocolUDP, 5353}}})
	return e
}

const networkPolicy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
const clusterwide = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: wide}\n"

// TestSemantics has the rules of the APIs one by one. A case lists what may pass; everything else of the peers and packets
// below must not.
func TestSemantics(t *testing.T) {
	peers := map[string]NumericIdentity{"same": sameNamespace, "other": otherNamespace, "labelled": hostLabelled, "host": IdentityHost,
		"world": IdentityWorld, "remote-node": IdentityRemoteNode, "apiserver": IdentityKubeAPIServer, "stranger": stranger,
		"ten": insideTen, "hole": insideHole}
	packets := map[string]struct {
		protocol uint8
		port     uint16
	}{"80": {ProtocolTCP, 80}, "8080": {ProtocolTCP, 8080}, "udp5353": {ProtocolUDP, 5353}, "udp80": {ProtocolUDP, 80}, "sctp80": {ProtocolSCTP, 80},
		"ping": {ProtocolICMP, 8}}
	const everybody = "same other labelled host world remote-node apiserver stranger ten hole"
	cases := []struct {
		name      string
		policies  []string
		direction Direction
		// allowed is "peers/packets; peers/packets"; * is all of them.
		allowed string
	}{
		{"no policy", nil, Ingress, "*/*"},
		{"a policy for other pods", []string{"spec: {endpointSelector: {matchLabels: {app: x}}, ingress: [{}]}"}, Ingress, "*/*"},
		{"a policy of another namespace", []string{"metadata: {name: p, namespace: elsewhere}\nspec: {endpointSelector: {}, ingress: [{}]}"}, Ingress, "*/*"},
		{"an empty element is deny-all, but for the node", []string{"spec: {endpointSelector: {}, ingress: [{}]}"}, Ingress, "host/*"},
		{"… and says nothing of the other direction", []string{"spec: {endpointSelector: {}, ingress: [{}]}"}, Egress, "*/*"},
		{"egress has no exception for the node", []string{"spec: {endpointSelector: {}, egress: [{}]}"}, Egress, ""},
		{"an empty selector is the namespace", []string{"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"}, Ingress, "host/*; same labelled/*"},
		{"… and in a cluster-wide policy all pods", []string{clusterwide + "spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"}, Ingress, "host/*; same other labelled/*"},
		{"a list without peers is nobody", []string{"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: \"80\"}]}]}]}"}, Ingress, "host/*"},
		{"no list of peers is anybody", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]}"}, Ingress, "host/*; */80"},
		{"ANY is TCP, UDP and SCTP, not ICMP", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"80\"}]}]}]}"}, Ingress, "host/*; */80 udp80 sctp80"},
		{"port 0 is every port", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"0\", protocol: TCP}]}]}]}"}, Ingress, "host/*; */80 8080"},
		{"a range", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"81\", endPort: 9000, protocol: TCP}]}]}]}"}, Ingress, "host/*; */8080"},
		{"peers and ports hold at once, elements are alternatives", []string{`
spec:
  endpointSelector: {}
  ingress:
  - {fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}
  - {fromEntities: [world], toPorts: [{ports: [{port: "8080", protocol: TCP}]}]}`}, Ingress, "host/*; same/80; world/8080"},
		{"icmp", []string{"spec: {endpointSelector: {}, ingress: [{fromEntities: [all], icmps: [{fields: [{type: EchoRequest}]}]}]}"}, Ingress, "host/*; */ping"},
		{"another namespace by name", []string{"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: elsewhere}}]}]}"}, Ingress, "host/*; other/*"},
		{"any: is a label of whatever source", []string{"spec: {endpointSelector: {matchLabels: {any:app: server}}, ingress: [{fromEndpoints: [{matchLabels: {any:app: client}}]}]}"}, Ingress, "host/*; same/*"},
		{"k8s: is a label of the pod", []string{"spec: {endpointSelector: {matchLabels: {k8s:app: server}}, ingress: [{fromEndpoints: [{matchLabels: {k8s:app: client}}]}]}"}, Ingress, "host/*; same/*"},
		{"another source selects no pod", []string{"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {node:app: client}}]}]}"}, Ingress, "host/*"},
		{"another namespace by its labels", []string{"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.team: one}}]}]}"}, Ingress, "host/*; other/*"},
		{"a pod's label is not an entity", []string{"spec: {endpointSelector: {}, egress: [{toEndpoints: [{matchLabels: {reserved:host: \"\"}}]}]}"}, Egress, "host/*"},
		{"… nor an entity a pod's label", []string{"spec: {endpointSelector: {}, egress: [{toEndpoints: [{matchExpressions: [{key: host, operator: Exists}]}]}]}"}, Egress, "labelled/*"},
		{"… not even without namespace", []string{clusterwide + "spec: {endpointSelector: {}, egress: [{toEndpoints: [{matchExpressions: [{key: host, operator: Exists}]}]}]}"}, Egress, "labelled/*"},
		{"absence of a label selects pods only", []string{"spec: {endpointSelector: {}, egress: [{toEndpoints: [{matchExpressions: [{key: host, operator: DoesNotExist}]}]}]}"}, Egress, "same/*"},
		{"entity all", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [all]}]}"}, Egress, "*/*"},
		{"entity world has the address ranges", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [world], toPorts: []}]}",
			"spec: {endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], toPorts: [{ports: [{port: \"1\"}]}]}]}"}, Egress, "world ten hole/*"},
		{"entity cluster", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [cluster]}]}"}, Egress, "same other labelled host remote-node apiserver/*"},
		{"entity kube-apiserver", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}"}, Egress, "apiserver/*"},
		{"entity remote-node has the API server's node", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [remote-node]}]}"}, Egress, "remote-node apiserver/*"},
		{"entity none", []string{"spec: {endpointSelector: {}, egress: [{toEntities: [none]}]}"}, Egress, ""},
		{"a range with a hole", []string{"spec: {endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}"}, Egress, "ten/*"},
		{"a range has the ranges inside of it", []string{"spec: {endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/8]}, {toCIDR: [10.1.0.0/16], toPorts: [{ports: [{port: \"1\"}]}]}]}"}, Egress, "ten hole/*"},
		{"all addresses are the world, not pods or nodes", []string{"spec: {endpointSelector: {}, egress: [{toCIDR: [0.0.0.0/0]}]}",
			"spec: {endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], toPorts: [{ports: [{port: \"1\"}]}]}]}"}, Egress, "world ten hole/*"},
		{"all addresses but some", []string{"spec: {endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]}]}"}, Egress, "world/*"},
		{"a deny wins over a narrower allow", []string{`
spec:
  endpointSelector: {}
  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
  ingressDeny: [{fromEndpoints: [{}]}]`}, Ingress, "host/*"},
		{"a deny for anybody wins over an allow for one", []string{
			"spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}",
			clusterwide + "spec: {endpointSelector: {}, ingressDeny: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]}"},
			Ingress, "same labelled host/8080 udp5353 udp80 sctp80 ping"},
		{"a deny wins over an allow of another kind of policy", []string{
			networkPolicy + "spec: {podSelector: {}, ingress: [{}]}",
			"spec: {endpointSelector: {}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]}"},
			Ingress, "other labelled host world remote-node apiserver stranger ten hole/*"},
		{"a deny alone denies all", []string{"spec: {endpointSelector: {}, egressDeny: [{toEntities: [world]}]}"}, Egress, ""},
		{"… unless default deny is off", []string{"spec: {endpointSelector: {}, enableDefaultDeny: {egress: false}, egressDeny: [{toEntities: [world]}]}"}, Egress,
			"same other labelled host remote-node apiserver stranger ten hole/*"},
		{"default deny of one policy is enough", []string{
			"spec: {endpointSelector: {}, enableDefaultDeny: {egress: false}, egress: [{toEntities: [world]}]}",
			"spec: {endpointSelector: {}, egress: [{toEntities: [host]}]}"}, Egress, "world host/*"},
		{"default deny without a section", []string{"spec: {endpointSelector: {}, enableDefaultDeny: {egress: true}, ingress: [{}]}"}, Egress, ""},
		{"an explicit deny reaches the node too", []string{"spec: {endpointSelector: {}, ingressDeny: [{fromEntities: [host], toPorts: [{ports: [{port: \"80\"}]}]}]}"}, Ingress, "host/8080 udp5353 ping"},
		{"named ports of the governed pod", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: WEB}, {port: dns, protocol: TCP}]}]}]}"}, Ingress, "host/*; */8080"},
		{"named ports of the peer", []string{"spec: {endpointSelector: {}, egress: [{toPorts: [{ports: [{port: web}]}]}]}"}, Egress, "same/8080"},
		{"a port name that nobody has", []string{"spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: nope}]}]}]}"}, Ingress, "host/*"},
		{"NetworkPolicy: an empty element allows all", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{}]}"}, Ingress, "*/*"},
		{"NetworkPolicy: no element denies all", []string{networkPolicy + "spec: {podSelector: {}}"}, Ingress, "host/*"},
		{"NetworkPolicy: without egress section egress is free", []string{networkPolicy + "spec: {podSelector: {}}"}, Egress, "*/*"},
		{"NetworkPolicy: policyTypes switches it on", []string{networkPolicy + "spec: {podSelector: {}, policyTypes: [Egress]}"}, Egress, ""},
		{"NetworkPolicy: … and leaves ingress alone", []string{networkPolicy + "spec: {podSelector: {}, policyTypes: [Egress]}"}, Ingress, "*/*"},
		{"NetworkPolicy: podSelector is this namespace", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"}, Ingress, "host/*; same labelled/*"},
		{"NetworkPolicy: namespaceSelector is all pods there", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"}, Ingress, "host/*; same other labelled/*"},
		{"NetworkPolicy: both together", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: one}}, podSelector: {matchLabels: {app: client}}}]}]}"}, Ingress, "host/*; other/*"},
		{"NetworkPolicy: both together, one does not hold", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: one}}, podSelector: {matchLabels: {app: x}}}]}]}"}, Ingress, "host/*"},
		{"NetworkPolicy: two peers are alternatives", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: one}}}, {podSelector: {matchLabels: {app: client}}}]}]}"}, Ingress, "host/*; same other/*"},
		{"NetworkPolicy: a namespace without a label", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}]}]}"}, Ingress, "host/*; same labelled/*"},
		{"NetworkPolicy: ipBlock", []string{networkPolicy + "spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}"}, Egress, "ten/*"},
		{"NetworkPolicy: a port is TCP", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}"}, Ingress, "host/*; */80"},
		{"NetworkPolicy: a protocol without port", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}"}, Ingress, "host/*; */udp80 udp5353"},
		{"NetworkPolicy: named port and range", []string{networkPolicy + "spec: {podSelector: {}, ingress: [{ports: [{port: web}, {port: 70, endPort: 90}]}]}"}, Ingress, "host/*; */8080 80"},
		{"NetworkPolicy: pods without a label", []string{networkPolicy + "spec: {podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [server]}]}}"}, Ingress, "*/*"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := testEngine(t, c.policies...)
			allowed := map[string]bool{}
			for _, part := range strings.Split(c.allowed, ";") {
				who, what, _ := strings.Cut(strings.TrimSpace(part), "/")
				if who == "*" {
					who = everybody
				}
				if what == "*" {
					what = "80 8080 udp5353 udp80 sctp80 ping"
				}
				for _, peer := range strings.Fields(who) {
					for _, packet := range strings.Fields(what) {
						allowed[peer+"/"+packet] = true
					}
				}
			}
			entries, enforced := e.Entries(1)
			for peer, id := range peers {
				for packet, p := range packets {
					want := allowed[peer+"/"+packet]
					if got := e.Verdict(1, c.direction, id, netip.Addr{}, p.protocol, p.port); got.Allowed != want {
						t.Errorf("%s %s: rules say %+v", peer, packet, got)
					}
					if got, line := LookupKernel(entries, enforced, c.direction, id, AnyPeer, p.protocol, p.port); got != want {
						t.Errorf("%s %s: kernel says allowed=%v by %+v", peer, packet, got, line)
					}
				}
			}
		})
	}
}
