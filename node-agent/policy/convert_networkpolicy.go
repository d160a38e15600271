package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// convertNetworkPolicy: the Kubernetes semantics, in which an empty list of peers or ports means everybody and everything.
func (c *converter) convertNetworkPolicy(np *spec.NetworkPolicy) {
	subject := c.parseSelector("spec.podSelector", &np.PodSelector, SourceK8s, false)
	c.warnContradiction("spec.podSelector", subject)
	r := rule{path: "spec", subject: newLabelSelector(append(subject, inNamespace(c.ref.Namespace)))}
	for i, text := range np.PolicyTypes {
		switch text {
		case "Ingress":
			r.active[Ingress] = true
		case "Egress":
			r.active[Egress] = true
		default:
			c.fail("invalid-value", item("spec.policyTypes", i), fmt.Sprintf("is %q", text),
				"The types are Ingress and Egress.", "Write one of these.")
		}
	}
	if len(np.PolicyTypes) == 0 {
		r.active = [2]bool{true, len(np.Egress) > 0}
	}
	r.defaultDeny = r.active
	for direction, has := range map[Direction]bool{Ingress: len(np.Ingress) > 0, Egress: len(np.Egress) > 0} {
		if has && !r.active[direction] {
			c.warn("ignored-section", "spec."+direction.String(), "is not mentioned in policyTypes and therefore ignored",
				"The section has no effect.", "Add it to policyTypes, or remove the section.")
		}
	}
	for i, e := range np.Ingress {
		c.networkPolicyElement(item("spec.ingress", i), "from", SectionIngress, i, e.From, e.Ports, &r)
	}
	for i, e := range np.Egress {
		c.networkPolicyElement(item("spec.egress", i), "to", SectionEgress, i, e.To, e.Ports, &r)
	}
	c.rules = append(c.rules, r)
}

func (c *converter) networkPolicyElement(path, member string, section Section, index int, peers []spec.NetworkPolicyPeer,
	ports []spec.NetworkPolicyPort, r *rule) {
	e := element{section: section, index: index, anyPeer: len(peers) == 0, anyPort: len(ports) == 0}
	if section == SectionEgress {
		e.direction = Egress
	}
	for i := range peers {
		if p, ok := c.networkPolicyPeer(item(path+"."+member, i), &peers[i]); ok {
			e.peers = append(e.peers, p)
		}
	}
	for i := range ports {
		if m, ok := c.networkPolicyPort(item(path+".ports", i), &ports[i]); ok {
			e.ports = append(e.ports, m)
		}
	}
	named := slices.ContainsFunc(e.ports, func(m portMatch) bool { return m.name != "" })
	if named && e.direction == Egress && slices.ContainsFunc(e.peers, func(p peer) bool { return p.kind == peerBlock }) {
		c.warn("selects-nothing", path+".ports", "has a named port beside an ipBlock",
			"On egress a name is looked up at the pod that is reached, and a range of addresses gives no names: there the name stands for nothing.",
			"Write the port's number.")
	}
	if r.active[e.direction] {
		r.elements = append(r.elements, e)
	}
}

func (c *converter) networkPolicyPeer(path string, source *spec.NetworkPolicyPeer) (peer, bool) {
	if source.IPBlock != nil {
		if source.PodSelector != nil || source.NamespaceSelector != nil {
			c.fail("combined-peers", path, "has ipBlock together with a selector",
				"A peer is a range of addresses or pods, not both.", "Make one element of each: elements are alternatives.")
			return peer{}, false
		}
		p, ok := c.cidrPeer(path+".ipBlock", source.IPBlock.CIDR, source.IPBlock.Except)
		p.kind = peerBlock
		return p, ok
	}
	if source.PodSelector == nil && source.NamespaceSelector == nil {
		c.fail("empty-peer", path, "has none of podSelector, namespaceSelector and ipBlock",
			"It does not say who is meant.", "Add one of them; for anybody remove the whole list.")
		return peer{}, false
	}
	var requirements []requirement
	if source.PodSelector != nil {
		pods := c.parseSelector(path+".podSelector", source.PodSelector, SourceK8s, false)
		c.warnContradiction(path+".podSelector", pods)
		requirements = append(requirements, pods...)
	}
	if source.NamespaceSelector == nil {
		return peer{kind: peerLabels, selector: newLabelSelector(append(requirements, inNamespace(c.ref.Namespace)))}, true
	}
	namespaces := c.parseNamespaceSelector(path+".namespaceSelector", source.NamespaceSelector)
	c.warnContradiction(path+".namespaceSelector", namespaces)
	requirements = append(requirements, namespaces...)
	// Without this, `namespaceSelector: {}` or one with DoesNotExist would select what is in no namespace at all.
	return peer{kind: peerLabels, selector: newLabelSelector(append(requirements, inAnyNamespace))}, true
}

// parseNamespaceSelector: the labels of a pod's namespace are among the labels of its identity, behind a prefix.
func (c *converter) parseNamespaceSelector(path string, s *spec.LabelSelector) []requirement {
	prefixed := spec.LabelSelector{MatchLabels: make(map[string]string, len(s.MatchLabels))}
	for key, value := range s.MatchLabels {
		prefixed.MatchLabels[LabelNamespaceLabelPrefix+key] = value
	}
	for _, e := range s.MatchExpressions {
		prefixed.MatchExpressions = append(prefixed.MatchExpressions, spec.LabelSelectorRequirement{
			Key: LabelNamespaceLabelPrefix + e.Key, Operator: e.Operator, Values: e.Values})
	}
	before := len(c.problems)
	out := c.parseSelector(path, &prefixed, SourceK8s, false)
	// Problems speak of the key as it was written.
	for i := before; i < len(c.problems); i++ {
		c.problems[i].Path = strings.ReplaceAll(c.problems[i].Path, LabelNamespaceLabelPrefix, "")
		c.problems[i].What = strings.ReplaceAll(c.problems[i].What, LabelNamespaceLabelPrefix, "")
	}
	return out
}

func (c *converter) networkPolicyPort(path string, p *spec.NetworkPolicyPort) (portMatch, bool) {
	m := portMatch{protocol: ProtocolTCP, last: 65535}
	if p.Protocol != nil {
		numbers, ok := protocolNumbers[*p.Protocol]
		if !ok || len(numbers) != 1 {
			c.fail("invalid-protocol", path+".protocol", fmt.Sprintf("%q is not a protocol of this API", *p.Protocol),
				"Nothing would be matched.", "Write TCP, UDP or SCTP; leave it out for TCP.")
			return portMatch{}, false
		}
		m.protocol = numbers[0]
	}
	if p.Port == nil {
		if p.EndPort != nil {
			c.fail("invalid-range", path+".endPort", "has no port before it", "A range needs its first port.", "Add port.")
			return portMatch{}, false
		}
		return m, true
	}
	if p.Port.IsString {
		if p.EndPort != nil {
			c.fail("invalid-range", path+".endPort", "stands beside the named port "+p.Port.Str,
				"A range goes from a number to a number.", "Remove endPort, or write port as a number.")
			return portMatch{}, false
		}
		if !isServiceName(p.Port.Str) {
			fix := "Write a name of up to 15 letters, digits and hyphens, or a number."
			if _, err := strconv.Atoi(p.Port.Str); err == nil {
				fix = "Write the number without quotes."
			}
			c.fail("invalid-port", path+".port", fmt.Sprintf("%q is not the name of a port", p.Port.Str), "Nothing would be matched.", fix)
			return portMatch{}, false
		}
		m.name = strings.ToLower(p.Port.Str)
		return m, true
	}
	number := p.Port.Int
	if number < 1 || number > 65535 {
		c.fail("invalid-port", path+".port", fmt.Sprintf("is %d", number), "A port is between 1 and 65535.",
			"Correct it; for every port leave it out.")
		return portMatch{}, false
	}
	m.first, m.last = uint16(number), uint16(number)
	if p.EndPort != nil {
		if *p.EndPort < number || *p.EndPort > 65535 {
			c.fail("invalid-range", path+".endPort", fmt.Sprintf("%d is not between port %d and 65535", *p.EndPort, number),
				"The range would be empty.", "Correct it.")
			return portMatch{}, false
		}
		m.last = uint16(*p.EndPort)
	}
	return m, true
}

// warnConsequences reports what the policy as a whole brings about and its author may not have in mind.
func (c *converter) warnConsequences() {
	for i := range c.rules {
		r := &c.rules[i]
		c.warnLockOut(r)
		if !r.defaultDeny[Egress] || HasErrors(c.problems) {
			continue
		}
		resolves := slices.ContainsFunc(c.rules, func(other rule) bool {
			return slices.ContainsFunc(other.elements, func(e element) bool {
				return e.direction == Egress && !e.deny && (e.anyPeer || len(e.peers)+len(e.references) > 0) &&
					(e.matchesPort(ProtocolUDP, 53, nil) || slices.ContainsFunc(e.ports, func(m portMatch) bool { return strings.HasPrefix(m.name, "dns") }))
			})
		})
		if !resolves {
			c.warn("no-dns", r.path+".egress", "denies DNS: nothing in the policy allows UDP port 53",
				"The selected "+r.what()+" cannot resolve names any more, unless another policy allows it; most connections then fail before they start.",
				"Allow UDP (and TCP) port 53 to the pods of kube-dns, or keep it if that is meant.")
			return
		}
	}
}

// warnLockOut: a policy for nodes that does not let kubelet, API server or SSH through takes the node out of the cluster.
func (c *converter) warnLockOut(r *rule) {
	if !r.node || HasErrors(c.problems) {
		return
	}
	lets := func(direction Direction, port uint16) bool {
		return slices.ContainsFunc(c.rules, func(other rule) bool {
			return other.node && slices.ContainsFunc(other.elements, func(e element) bool {
				return e.direction == direction && !e.deny && (e.anyPeer || len(e.peers)+len(e.references) > 0) && e.matchesPort(ProtocolTCP, port, nil)
			})
		})
	}
	for _, need := range []struct {
		direction Direction
		port      uint16
		what, why string
	}{
		{Ingress, 22, "SSH (TCP 22)", "Whoever administers the nodes by SSH is locked out."},
		{Ingress, 10250, "the kubelet (TCP 10250)", "Logs, exec, port-forward and metrics of the nodes' pods do not work any more."},
		{Egress, 6443, "the API server (TCP 6443)", "The nodes drop out of the cluster: kubelet and agent do not reach it."},
	} {
		if r.defaultDeny[need.direction] && !lets(need.direction, need.port) {
			c.warn("host-lockout", r.path+"."+need.direction.String(), "does not let "+need.what+" through",
				need.why+" Connections that are open stay open.",
				"Allow it, or try the policy with hostFirewall.auditMode first.")
		}
	}
}

// warnDenyOnly: a deny rule beside no allow rule denies everything, which surprises most authors.
func (c *converter) warnDenyOnly(path string, source *spec.Rule, r *rule) {
	for _, d := range []struct {
		direction      Direction
		section        Section
		denies, others int
	}{
		{Ingress, SectionIngressDeny, len(source.IngressDeny), len(source.Ingress)},
		{Egress, SectionEgressDeny, len(source.EgressDeny), len(source.Egress)},
	} {
		if d.denies > 0 && d.others == 0 && r.defaultDeny[d.direction] {
			c.warn("deny-only", path+"."+string(d.section), "denies everything, not only what it lists",
				"A deny section switches default deny on; with no "+d.direction.String()+" section beside it, nothing is allowed.",
				"Write `enableDefaultDeny: {"+d.direction.String()+": false}` to deny only what is listed, or allow the rest.")
		}
	}
}
