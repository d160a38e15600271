package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/policy/spec"
)

// world makes random policies, peers and endpoints out of a small vocabulary, so that they meet often.
type world struct {
	*rand.Rand
	t *testing.T
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{Rand: rand.New(rand.NewPCG(seed, 1)), t: t}
}

func pick[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

func (w *world) often(percent int) bool { return w.IntN(100) < percent }

var testNamespaces = map[string]map[string]string{
	"red":  {"kubernetes.io/metadata.name": "red", "team": "one"},
	"blue": {"kubernetes.io/metadata.name": "blue", "team": "two"},
}

func (w *world) podLabels() Labels {
	pod := map[string]string{}
	if w.often(80) {
		pod["app"] = pick(w, "a", "b", "c")
	}
	if w.often(50) {
		pod["tier"] = pick(w, "x", "y")
	}
	if w.often(10) {
		pod["host"] = "" // Must not be mistaken for the entity.
	}
	namespace := pick(w, "red", "blue")
	return LabelsForPod(namespace, pod, testNamespaces[namespace], "default", "")
}

var testPrefixes = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "fd00::/8"}

func (w *world) namedPorts() NamedPorts {
	ports := NamedPorts{}
	if w.often(60) {
		ports["web"] = []NamedPort{{ProtocolTCP, pick[uint16](w, 80, 8080)}}
	}
	if w.often(30) {
		ports["dns"] = []NamedPort{{ProtocolUDP, 53}, {ProtocolTCP, 53}}
	}
	return ports
}

func (w *world) selector(prefixes bool) spec.LabelSelector {
	s := spec.LabelSelector{MatchLabels: map[string]string{}}
	key := func(k string) string {
		if prefixes && w.often(30) {
			return pick(w, "k8s:", "any:") + k
		}
		return k
	}
	if w.often(50) {
		s.MatchLabels[key("app")] = pick(w, "a", "b", "c")
	}
	if w.often(30) {
		e := spec.LabelSelectorRequirement{Key: key("tier"), Operator: pick(w, "In", "NotIn", "Exists", "DoesNotExist")}
		if e.Operator == "In" || e.Operator == "NotIn" {
			e.Values = pick(w, []string{"x"}, []string{"y"}, []string{"x", "y"})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	if prefixes && w.often(20) {
		s.MatchLabels["k8s:io.kubernetes.pod.namespace"] = pick(w, "red", "blue")
	}
	if prefixes && w.often(10) {
		s.MatchLabels[LabelNamespaceLabelPrefix+"team"] = pick(w, "one", "two")
	}
	return s
}

func (w *world) someSelectors() []spec.LabelSelector {
	out := []spec.LabelSelector{}
	for range w.IntN(3) {
		if w.often(10) {
			out = append(out, spec.LabelSelector{MatchLabels: map[string]string{"reserved:" + pick(w, "host", "world", "remote-node"): ""}})
			continue
		}
		out = append(out, w.selector(true))
	}
	return out
}

func (w *world) ports() []spec.PortRule {
	var out []spec.PortRule
	for range w.IntN(3) {
		var rule spec.PortRule
		for range w.IntN(3) {
			p := spec.PortProtocol{Port: pick(w, "80", "443", "8080", "53", "0", "web", "dns"), Protocol: pick(w, "TCP", "UDP", "ANY", "", "SCTP")}
			if w.often(30) {
				p.Port, p.EndPort = pick(w, "1", "80", "8000"), pick[int32](w, 8000, 8080, 8100, 65535)
			}
			rule.Ports = append(rule.Ports, p)
		}
		if w.often(30) {
			// What HTTP rules need.
			for i := range rule.Ports {
				rule.Ports[i].Protocol = "TCP"
				if rule.Ports[i].Port == "0" {
					rule.Ports[i].Port = "80"
				}
			}
			rule.Rules = &spec.L7Rules{HTTP: []spec.HTTPRule{{Method: pick(w, "GET", "POST"), Path: pick(w, "/a", "/b.*")}}}
		}
		out = append(out, rule)
	}
	return out
}

func (w *world) icmps() []spec.ICMPRule {
	return []spec.ICMPRule{{Fields: []spec.ICMPField{pick(w, spec.ICMPField{Type: spec.IntOrString{Int: pick[int32](w, 0, 8)}},
		spec.ICMPField{Family: "IPv6", Type: spec.IntOrString{IsString: true, Str: "EchoRequest"}})}}}
}

func (w *world) cidrSet() []spec.CIDRRule {
	return []spec.CIDRRule{pick(w, spec.CIDRRule{CIDRGroupRef: pick(w, "g0", "g1")},
		spec.CIDRRule{CIDRGroupRef: "g0", Except: []string{"10.1.0.0/16"}},
		spec.CIDRRule{CIDRGroupSelector: &spec.LabelSelector{MatchLabels: map[string]string{"trust": pick(w, "high", "low")}}},
		spec.CIDRRule{CIDR: "::/0", Except: []string{"fd00::/8"}},
		spec.CIDRRule{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}},
		spec.CIDRRule{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}, spec.CIDRRule{CIDR: "10.1.0.0/16"})}
}

func (w *world) services() []spec.ServiceSelector {
	return []spec.ServiceSelector{pick(w,
		spec.ServiceSelector{K8sService: &spec.K8sServiceName{ServiceName: pick(w, "s0", "s1"), Namespace: pick(w, "red", "blue", "")}},
		spec.ServiceSelector{K8sServiceSelector: &spec.K8sServiceSelector{Namespace: pick(w, "red", ""),
			Selector: spec.LabelSelector{MatchLabels: map[string]string{"trust": pick(w, "high", "low")}}}})}
}

func (w *world) nodes() []spec.LabelSelector {
	return []spec.LabelSelector{pick(w, spec.LabelSelector{}, spec.LabelSelector{MatchLabels: map[string]string{"zone": pick(w, "a", "b")}},
		spec.LabelSelector{MatchExpressions: []spec.LabelSelectorRequirement{{Key: "node:zone", Operator: "NotIn", Values: []string{"a"}}}})}
}

// group and service are the objects that policies refer to.
func (w *world) group() CIDRGroup {
	g := CIDRGroup{Name: pick(w, "g0", "g1", "g2"), Labels: map[string]string{"trust": pick(w, "high", "low")}}
	for _, text := range testPrefixes {
		if w.often(40) {
			g.Prefixes = append(g.Prefixes, netip.MustParsePrefix(text))
		}
	}
	return g
}

func (w *world) service() ServicePeers {
	s := ServicePeers{ServiceName: ServiceName{Namespace: pick(w, "red", "blue"), Name: pick(w, "s0", "s1")},
		Labels: map[string]string{"trust": pick(w, "high", "low")}}
	if w.often(50) {
		s.Selector = map[string]string{"app": pick(w, "a", "b", "c")}
	} else {
		s.Addresses = []netip.Addr{netip.MustParseAddr(pick(w, "192.0.2.1", "198.51.100.7"))}
	}
	return s
}

func (w *world) nodeLabels(entities ...string) Labels {
	return NodeLabels(map[string]string{"zone": pick(w, "a", "b"), "host": ""}, []netip.Addr{netip.MustParseAddr("10.1.2.7")}, entities...)
}

func (w *world) entities() []spec.Entity {
	return []spec.Entity{pick(w, spec.EntityAll, spec.EntityWorld, spec.EntityCluster, spec.EntityHost, spec.EntityRemoteNode,
		spec.EntityNone, spec.EntityKubeAPIServer)}
}

func (w *world) ciliumRule(clusterwide bool) *spec.Rule {
	selector := w.selector(true)
	delete(selector.MatchLabels, "k8s:io.kubernetes.pod.namespace")
	r := &spec.Rule{EndpointSelector: &selector}
	if clusterwide && w.often(25) {
		r.EndpointSelector, r.NodeSelector = nil, &w.nodes()[0]
	}
	for range w.IntN(3) {
		e := spec.IngressRule{ToPorts: w.ports()}
		switch w.IntN(7) {
		case 5:
			e.FromNodes = w.nodes()
		case 0, 1:
			e.FromEndpoints = w.someSelectors()
		case 2:
			e.FromEntities = w.entities()
		case 3:
			e.FromCIDRSet = w.cidrSet()
		case 4:
			e.FromCIDR = []string{pick(w, testPrefixes...)}
		}
		if w.often(10) {
			e.ToPorts, e.ICMPs = nil, w.icmps()
		}
		r.Ingress = append(r.Ingress, e)
	}
	for range w.IntN(3) {
		e := spec.EgressRule{ToPorts: w.ports()}
		switch w.IntN(8) {
		case 6:
			e.ToServices = w.services()
		case 5:
			e.ToNodes = w.nodes()
		case 0, 1:
			e.ToEndpoints = w.someSelectors()
		case 2:
			e.ToEntities = w.entities()
		case 3:
			e.ToCIDRSet = w.cidrSet()
		case 4:
			e.ToFQDNs = []spec.FQDNSelector{pick(w, spec.FQDNSelector{MatchName: "www.example.org"}, spec.FQDNSelector{MatchPattern: "*.example.org"})}
		}
		if w.often(10) {
			e.ToPorts = append(e.ToPorts, spec.PortRule{Ports: []spec.PortProtocol{{Port: "53", Protocol: pick(w, "UDP", "ANY")}},
				Rules: &spec.L7Rules{DNS: []spec.FQDNSelector{{MatchPattern: "*"}}}})
		}
		r.Egress = append(r.Egress, e)
	}
	if w.often(40) {
		e := spec.IngressDenyRule{FromEndpoints: w.someSelectors()}
		if w.often(30) {
			e.FromEndpoints, e.FromEntities = nil, w.entities()
		}
		for _, p := range w.ports() {
			e.ToPorts = append(e.ToPorts, spec.PortDenyRule{Ports: p.Ports})
		}
		r.IngressDeny = append(r.IngressDeny, e)
	}
	if w.often(30) {
		e := spec.EgressDenyRule{}
		for _, p := range w.ports() {
			e.ToPorts = append(e.ToPorts, spec.PortDenyRule{Ports: p.Ports})
		}
		switch w.IntN(6) {
		case 0, 1, 2:
			e.ToEndpoints = w.someSelectors()
		case 3:
			e.ToCIDRSet = w.cidrSet()
		case 4:
			e.ToServices = w.services()
		}
		r.EgressDeny = append(r.EgressDeny, e)
	}
	if len(r.Ingress)+len(r.IngressDeny)+len(r.Egress)+len(r.EgressDeny) == 0 {
		r.Ingress = []spec.IngressRule{{}}
	}
	if w.often(30) {
		r.EnableDefaultDeny = &spec.DefaultDeny{}
		if w.often(50) {
			r.EnableDefaultDeny.Ingress = new(w.often(30))
		}
		if w.often(50) {
			r.EnableDefaultDeny.Egress = new(w.often(30))
		}
	}
	return r
}

func (w *world) kubernetesRule() spec.NetworkPolicy {
	np := spec.NetworkPolicy{PodSelector: w.selector(false)}
	peers := func() (out []spec.NetworkPolicyPeer) {
		for range w.IntN(3) {
			var p spec.NetworkPolicyPeer
			if w.often(35) {
				p.IPBlock = new(pick(w, spec.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}, spec.IPBlock{CIDR: "10.1.0.0/16"},
					spec.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}, spec.IPBlock{CIDR: "::/0"}))
			} else {
				p.PodSelector = new(w.selector(false))
				if w.often(40) {
					p.NamespaceSelector = &spec.LabelSelector{}
					if w.often(60) {
						p.NamespaceSelector.MatchLabels = map[string]string{"team": pick(w, "one", "two")}
					}
				}
			}
			out = append(out, p)
		}
		return out
	}
	ports := func() (out []spec.NetworkPolicyPort) {
		for range w.IntN(3) {
			p := spec.NetworkPolicyPort{}
			if w.often(50) {
				p.Protocol = new(pick(w, "TCP", "UDP", "SCTP"))
			}
			switch w.IntN(3) {
			case 0:
				p.Port = &spec.IntOrString{Int: pick[int32](w, 80, 443, 8080)}
				if w.often(30) {
					p.EndPort = new(int32(9000))
				}
			case 1:
				p.Port = &spec.IntOrString{IsString: true, Str: pick(w, "web", "dns")}
			}
			out = append(out, p)
		}
		return out
	}
	for range w.IntN(3) {
		np.Ingress = append(np.Ingress, spec.NetworkPolicyIngress{From: peers(), Ports: ports()})
	}
	for range w.IntN(2) {
		np.Egress = append(np.Egress, spec.NetworkPolicyEgress{To: peers(), Ports: ports()})
	}
	if w.often(40) {
		np.PolicyTypes = pick(w, []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"})
	}
	return np
}

// policy makes a valid policy of the given number, by way of JSON as it comes from the API server.
func (w *world) policy(number int) Policy {
	for {
		kind := pick(w, KindCiliumNetworkPolicy, KindCiliumNetworkPolicy, KindCiliumClusterwidePolicy, KindKubernetesNetworkPolicy)
		clusterwide := kind == KindCiliumClusterwidePolicy
		metadata := map[string]any{"name": fmt.Sprintf("p%d", number)}
		if kind != KindCiliumClusterwidePolicy {
			metadata["namespace"] = pick(w, "red", "blue")
		}
		document := map[string]any{"apiVersion": apiVersions[kind], "kind": kind, "metadata": metadata}
		switch {
		case kind == KindKubernetesNetworkPolicy:
			document["spec"] = w.kubernetesRule()
		case w.often(20):
			document["specs"] = []*spec.Rule{w.ciliumRule(clusterwide), w.ciliumRule(clusterwide)}
		default:
			document["spec"] = w.ciliumRule(clusterwide)
		}
		text, err := json.Marshal(document)
		if err != nil {
			w.t.Fatal(err)
		}
		p, problems := Parse(KindAuto, text)
		if p.Valid() {
			return p
		}
		// The generator makes ranges that end before they start; nothing else may be wrong.
		for _, problem := range problems {
			if problem.Severity == SeverityError && problem.Code != "invalid-range" {
				w.t.Fatalf("generated policy is invalid: %s (%s)\n%s", problem, problem.Why, text)
			}
		}
	}
}

// testIdentities are the peers of a random test: pods, address ranges, and the reserved ones that every engine knows.
func (w *world) identities() []Identity {
	var out []Identity
	for i := range 12 {
		out = append(out, Identity{ID: IdentityUserMin + NumericIdentity(i), Labels: w.podLabels()})
	}
	for i, p := range testPrefixes {
		if prefix := netip.MustParsePrefix(p); prefix.Bits() > 0 {
			out = append(out, Identity{ID: IdentityLocalMin + NumericIdentity(i), Labels: LabelsForCIDR(prefix)})
		}
	}
	for i, names := range [][]string{{"*.example.org"}, {"*.example.org", "www.example.org"}} {
		labels := LabelsForCIDR(netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", 10+i)))
		for _, name := range names {
			labels = append(labels, LabelForName(name))
		}
		out = append(out, Identity{ID: IdentityLocalMin + NumericIdentity(100+i), Labels: NewLabels(labels...)})
	}
	for i := range 2 {
		out = append(out, Identity{ID: IdentityNodeMin + NumericIdentity(i), Labels: w.nodeLabels("remote-node")})
	}
	return out
}

// subject gives the labels of a pod, or of the node itself.
func (w *world) subject() Labels {
	if w.often(20) {
		return w.nodeLabels("host")
	}
	return w.podLabels()
}
