package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Meaning says in plain sentences what the policy does: whom it governs, what it allows and denies, and what becomes of the
// rest. Nothing for an invalid policy.
func (p Policy) Meaning() []string {
	out := []string{}
	for i := range p.rules {
		r := &p.rules[i]
		if r.node {
			out = append(out, "Governs "+r.subject.nodeText()+" (host firewall).")
		} else {
			out = append(out, "Governs "+r.subject.podText()+".")
		}
		for _, direction := range []Direction{Ingress, Egress} {
			if r.active[direction] {
				out = append(out, r.directionText(direction)...)
			}
		}
	}
	return out
}

// SelectorText gives the governed pods in short, e.g. "class=deathstar, org=empire"; "all pods" where nothing is required.
// Several rules are joined by " or ".
func (p Policy) SelectorText() string {
	var out []string
	for _, r := range p.rules {
		text, _, _ := r.subject.text()
		switch {
		case r.node:
			text = r.subject.nodeText()
		case text == "":
			text = "all pods"
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, " or ")
}

func (r *rule) directionText(direction Direction) []string {
	var out []string
	verb, rest := "receive", "Everything else that they would receive is dropped."
	if direction == Egress {
		verb, rest = "send", "Everything else that they would send is dropped."
	}
	allows, everything := false, false
	for _, e := range r.elements {
		if e.direction != direction {
			continue
		}
		permission := "may"
		if e.deny {
			permission = "must not"
		} else {
			allows = true
			everything = everything || (e.anyPeer && e.anyPort)
		}
		preposition := "from"
		if direction == Egress {
			preposition = "to"
		}
		out = append(out, fmt.Sprintf("They %s %s %s %s %s.", permission, verb, e.portsText(), preposition, e.peersText()))
	}
	switch {
	case !r.defaultDeny[direction]:
		out = append(out, "Whatever else they "+verb+" is left to other policies.")
	case !allows && direction == Ingress:
		out = append(out, "They receive nothing, unless another policy allows it; only their own node still reaches them.")
	case !allows:
		out = append(out, "They send nothing, unless another policy allows it.")
	case !everything:
		out = append(out, rest)
	}
	return out
}

// text gives the requirements on labels, apart from those on the namespace; anyNamespace tells that any will do.
func (s labelSelector) text() (labels string, namespaces []string, anyNamespace bool) {
	var parts []string
	anyNamespace = true
	for _, r := range s.requirements {
		switch {
		case r.key == LabelNamespace && r.operator == opIn:
			namespaces, anyNamespace = append(namespaces, "namespace "+strings.Join(r.values, " or ")), false
		case r.key == LabelNamespace && r.operator == opExists:
		case strings.HasPrefix(r.key, LabelNamespaceLabelPrefix):
			short := r
			short.key = strings.TrimPrefix(r.key, LabelNamespaceLabelPrefix)
			namespaces, anyNamespace = append(namespaces, "namespaces with "+short.text()), false
		default:
			parts = append(parts, r.text())
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", "), namespaces, anyNamespace
}

func (r requirement) text() string {
	key := r.key
	if r.source == SourceReserved || r.source == SourceCIDR {
		key = r.source + ":" + key
	}
	switch {
	case r.operator == opIn && r.source == SourceReserved:
		return key
	case r.operator == opIn && len(r.values) == 1:
		return key + "=" + r.values[0]
	case r.operator == opIn:
		return key + " in (" + strings.Join(r.values, ", ") + ")"
	case r.operator == opNotIn:
		return key + " not in (" + strings.Join(r.values, ", ") + ")"
	case r.operator == opExists:
		return "any " + key
	default:
		return "no " + key
	}
}

func (s labelSelector) nodeText() string {
	labels, _, _ := s.text()
	if labels == "" {
		return "all nodes"
	}
	return "nodes with " + labels
}

func (s labelSelector) podText() string {
	labels, namespaces, everywhere := s.text()
	out := "all pods"
	if labels != "" {
		out = "pods with " + labels
	}
	if everywhere {
		return out + " of all namespaces"
	}
	return out + " of " + strings.Join(namespaces, " and ")
}

func (e element) peersText() string {
	if e.anyPeer {
		return "anybody"
	}
	if e.own+len(e.references) == 0 && len(e.peers) == 0 {
		return "nobody"
	}
	var out []string
	own := e.peers
	if len(e.references) > 0 {
		own = e.peers[:e.own]
	}
	for _, p := range own {
		out = append(out, p.text())
	}
	for _, r := range e.references {
		out = append(out, r.text())
	}
	return strings.Join(out, " or ")
}

func (p peer) text() string {
	switch p.kind {
	case peerLabels:
		if mentionsReserved(p.selector.requirements) {
			labels, _, _ := p.selector.text()
			return labels
		}
		return p.selector.podText()
	case peerCIDR, peerBlock:
		out := p.prefix.String()
		if p.kind == peerBlock {
			out = "whoever has an address in " + out
		}
		if len(p.except) > 0 {
			var holes []string
			for _, hole := range p.except {
				holes = append(holes, hole.String())
			}
			out += " except " + strings.Join(holes, ", ")
		}
		return out
	case peerReserved:
		switch p.reserved[0] {
		case "world":
			return "the world outside of the cluster"
		case "host":
			return "their own node"
		case "remote-node":
			return "other nodes"
		case "kube-apiserver":
			return "the API server"
		default:
			return "the entity " + p.reserved[0]
		}
	case peerNodes:
		return p.selector.nodeText()
	case peerCluster:
		return "anything in the cluster"
	case peerName:
		return "what DNS says " + p.name.Text + " is"
	default:
		return "any pod"
	}
}

func (e element) portsText() string {
	if e.anyPort {
		return "anything"
	}
	if len(e.ports) == 0 {
		return "nothing"
	}
	var out []string
	for i := 0; i < len(e.ports); i++ {
		m := e.ports[i]
		name := ProtocolName(m.protocol)
		// The three protocols that ANY stands for follow each other.
		if m.name == "" && m.protocol == ProtocolTCP && i+2 < len(e.ports) &&
			e.ports[i+1] == (portMatch{protocol: ProtocolUDP, first: m.first, last: m.last}) &&
			e.ports[i+2] == (portMatch{protocol: ProtocolSCTP, first: m.first, last: m.last}) {
			name = "TCP, UDP or SCTP"
			i += 2
		} else if m.l7 != nil && m.name == "" && m.protocol == ProtocolTCP && i+1 < len(e.ports) &&
			e.ports[i+1] == (portMatch{protocol: ProtocolUDP, first: m.first, last: m.last, l7: m.l7}) {
			name = "TCP or UDP"
			i++
		}
		text := m.text(name)
		if m.l7 != nil {
			text += " (only " + strings.ToUpper(m.l7.kind.String()) + ": " + strings.Join(m.l7.texts(), "; ") + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func (m portMatch) text(protocol string) string {
	switch {
	case m.name != "" && m.protocol == ProtocolAny:
		return fmt.Sprintf("on the port named %s", m.name)
	case m.name != "":
		return fmt.Sprintf("%s on the port named %s", protocol, m.name)
	case m.protocol == ProtocolICMP || m.protocol == ProtocolICMPv6:
		return fmt.Sprintf("%s of type %d", protocol, m.first)
	case m.first == 0 && m.last == 65535:
		return protocol
	case m.first == m.last:
		return fmt.Sprintf("%s %d", protocol, m.first)
	default:
		return fmt.Sprintf("%s %d-%d", protocol, m.first, m.last)
	}
}
