package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// rule is the normal form of one `spec`, the same for all kinds of policy. It is immutable.
type rule struct {
	// index in `specs`, and where the rule stands in the document.
	index   int
	path    string
	subject labelSelector
	// node: the rule governs nodes, by their labels, and no pods.
	node bool
	// active tells per direction whether the rule takes part; defaultDeny whether it asks for default deny there.
	active, defaultDeny [2]bool
	elements            []element
}

// element is the normal form of one element of a section: one of the peers AND one of the ports.
type element struct {
	section   Section
	index     int
	direction Direction
	deny      bool
	// anyPeer: everybody. Otherwise the peers are alternatives, and none of them is nobody.
	anyPeer bool
	peers   []peer
	// references stand for further peers; the first own peers are the element's, the others come of references.
	references []reference
	own        int
	// anyPort: every protocol and port. Otherwise the ports are alternatives, and none of them is nothing.
	anyPort bool
	ports   []portMatch
}

type peerKind uint8

const (
	// peerLabels: the identity's labels match the selector.
	peerLabels peerKind = iota
	// peerCIDR: a CIDR identity inside of prefix and outside of except.
	peerCIDR
	// peerBlock: peerCIDR outside of the cluster, and whoever has an address in prefix and outside of except in it.
	peerBlock
	// peerReserved: the identity carries one of the reserved labels.
	peerReserved
	// peerCluster: anything of the cluster, pods and nodes.
	peerCluster
	// peerPods: any pod of the cluster.
	peerPods
	// peerNodes: a node, this one or another, whose labels match the selector.
	peerNodes
	// peerEverybody is any known identity; for elements that can only be resolved per peer (named ports on egress).
	peerEverybody
	// peerName: an address that a DNS name of the rule was resolved to.
	peerName
)

type peer struct {
	kind     peerKind
	selector labelSelector
	prefix   netip.Prefix
	except   []netip.Prefix
	reserved []string
	name     NameRule
}

// key identifies what the peer selects: equal keys select alike.
func (p peer) key() string {
	switch p.kind {
	case peerLabels:
		return "l" + p.selector.key
	case peerCIDR, peerBlock:
		var b strings.Builder
		b.WriteString(map[peerKind]string{peerCIDR: "c", peerBlock: "b"}[p.kind] + p.prefix.String())
		for _, e := range p.except {
			b.WriteString("!" + e.String())
		}
		return b.String()
	case peerReserved:
		return "r" + strings.Join(p.reserved, "|")
	case peerCluster:
		return "cluster"
	case peerPods:
		return "pods"
	case peerName:
		return "n" + p.name.Text
	case peerNodes:
		return "m" + p.selector.key
	default:
		return "everybody"
	}
}

// nodeEntities are the labels of identities that are nodes.
var nodeEntities = []string{"host", "remote-node"}

var clusterEntities = []string{"host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"}

// matches decides on labels alone, so that selector cache and reference evaluator share the semantics but not the state.
func (p peer) matches(labels Labels) bool {
	if labels.isBlock() {
		return p.kind == peerBlock && p.matchesCIDR(labels)
	}
	switch p.kind {
	case peerLabels:
		return p.selector.matches(labels)
	case peerCIDR, peerBlock:
		return p.matchesCIDR(labels)
	case peerReserved:
		return slices.ContainsFunc(p.reserved, labels.HasReserved)
	case peerCluster:
		return slices.ContainsFunc(clusterEntities, labels.HasReserved) || hasKey(labels, LabelCluster)
	case peerPods:
		return hasKey(labels, LabelNamespace)
	case peerName:
		return slices.Contains(labels, LabelForName(p.name.Text))
	case peerNodes:
		return slices.ContainsFunc(nodeEntities, labels.HasReserved) && p.selector.matches(labels)
	default:
		return true
	}
}

func hasKey(labels Labels, key string) bool {
	_, ok := labels.Get(key)
	return ok
}

// matchesCIDR: a range matches the identities of ranges inside of it. The world identity, which stands for every address
// that has no identity of its own, is matched by the all-addresses range only. Pods and nodes are never matched.
func (p peer) matchesCIDR(labels Labels) bool {
	found := false
	for _, l := range labels {
		switch l.Source {
		case SourceCIDR, SourceBlock:
			prefix, err := netip.ParsePrefix(l.Key)
			if err != nil || !contains(p.prefix, prefix) {
				continue
			}
			if slices.ContainsFunc(p.except, func(e netip.Prefix) bool { return contains(e, prefix) }) {
				return false
			}
			found = true
		case SourceReserved:
			if p.prefix.Bits() != 0 {
				continue
			}
			switch l.Key {
			case "world":
				// The world identity without a cidr label; with one, the cidr label decides. It stands for IPv4.
				found = found || (p.prefix.Addr().Is4() && !hasCIDR(labels))
			case "world-ipv4":
				found = found || p.prefix.Addr().Is4()
			case "world-ipv6":
				found = found || p.prefix.Addr().Is6()
			}
		}
	}
	return found
}

// coversAddress tells whether an ipBlock means whoever has the address.
func (p peer) coversAddress(address netip.Addr) bool {
	return p.kind == peerBlock && p.prefix.Contains(address) &&
		!slices.ContainsFunc(p.except, func(e netip.Prefix) bool { return e.Contains(address) })
}

// isRange tells whether the peer is given by addresses.
func (p peer) isRange() bool { return p.kind == peerCIDR || p.kind == peerBlock }

// prefixes lists the ranges of a peerCIDR or peerBlock that need an identity.
func (p peer) prefixes() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(p.except)+1)
	for _, prefix := range append([]netip.Prefix{p.prefix}, p.except...) {
		if prefix.Bits() > 0 {
			out = append(out, prefix)
		}
	}
	return out
}

func hasCIDR(labels Labels) bool {
	return slices.ContainsFunc(labels, func(l Label) bool { return l.Source == SourceCIDR })
}

// contains tells whether inner lies in outer.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// indexTokens gives "key=value" of which any matching identity must carry at least one; nil where there is no such list.
func (p peer) indexTokens() []string {
	switch p.kind {
	case peerLabels:
		return p.selector.indexTokens()
	case peerCIDR, peerBlock:
		tokens := []string{p.prefix.String() + "="}
		if p.prefix.Bits() == 0 {
			tokens = append(tokens, "world=", "world-ipv4=", "world-ipv6=")
		}
		return tokens
	case peerReserved:
		out := make([]string, len(p.reserved))
		for i, name := range p.reserved {
			out[i] = name + "="
		}
		return out
	case peerName:
		return []string{p.name.Text + "="}
	case peerNodes:
		return []string{"host=", "remote-node="}
	default:
		return nil
	}
}

// portMatch is a protocol with a range of ports, or with a name that stands for ports.
type portMatch struct {
	// protocol is never ProtocolAny, except with a name: then the named port's own protocol counts.
	protocol    uint8
	first, last uint16
	// name, lower case, is looked up in the subject's ports (ingress) or in the peer's (egress).
	name string
	// l7 is what is asked of the application layer; nil: nothing.
	l7 *rulesL7
}

func (m portMatch) matches(protocol uint8, port uint16, names NamedPorts) bool {
	if m.name == "" {
		return m.protocol == protocol && m.first <= port && port <= m.last
	}
	return slices.ContainsFunc(names[m.name], func(n NamedPort) bool {
		return n.Protocol == protocol && n.Port == port && (m.protocol == ProtocolAny || m.protocol == n.Protocol)
	})
}

// each calls add for every line that the match amounts to.
func (m portMatch) each(names NamedPorts, add func(protocol uint8, port uint16, bits uint8)) {
	if m.name == "" {
		for _, p := range portPrefixes(m.first, m.last) {
			add(m.protocol, p.port, p.bits)
		}
		return
	}
	for _, n := range names[m.name] {
		if m.protocol == ProtocolAny || m.protocol == n.Protocol {
			add(n.Protocol, n.Port, 16)
		}
	}
}

type portPrefix struct {
	port uint16
	bits uint8
}

// portPrefixes splits the range first..last, both included, into the fewest prefixes, ascending. At most 30.
func portPrefixes(first, last uint16) []portPrefix {
	var out []portPrefix
	low, high := uint32(first), uint32(last)
	for low <= high {
		size := uint32(1) << 16
		if low != 0 {
			size = low & -low
		}
		for size > high-low+1 {
			size >>= 1
		}
		bits := uint8(16)
		for s := size; s > 1; s >>= 1 {
			bits--
		}
		out = append(out, portPrefix{port: uint16(low), bits: bits})
		low += size
	}
	return out
}

// what is the word for whom the rule governs.
func (r *rule) what() string {
	if r.node {
		return "nodes"
	}
	return "pods"
}

// governs tells whether the rule is about an endpoint with these labels: pods, or the node itself for a rule on nodes.
func (r *rule) governs(labels Labels) bool {
	return r.node == labels.HasReserved("host") && r.subject.matches(labels)
}

func (e element) matchesPeer(labels Labels, known bool) bool {
	if e.anyPeer {
		return true
	}
	return known && slices.ContainsFunc(e.peers, func(p peer) bool { return p.matches(labels) })
}

// matchesAddress tells whether one of the element's ipBlocks means whoever has the address.
func (e element) matchesAddress(address netip.Addr) bool {
	return address.IsValid() && slices.ContainsFunc(e.peers, func(p peer) bool { return p.coversAddress(address) })
}

func (e element) matchesPort(protocol uint8, port uint16, names NamedPorts) bool {
	if e.anyPort {
		return true
	}
	return slices.ContainsFunc(e.ports, func(m portMatch) bool { return m.matches(protocol, port, names) })
}

// ref names one of the rule's elements.
func (r *rule) ref(policy Ref, e *element) RuleRef {
	return RuleRef{Policy: policy, Rule: r.index, Section: e.section, Index: e.index,
		Path: item(r.path+"."+string(e.section), e.index)}
}

// peersKey identifies what all the peers together select.
func (e element) peersKey() string {
	keys := make([]string, len(e.peers))
	for i, p := range e.peers {
		keys[i] = p.key()
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(strconv.Itoa(len(k)))
		b.WriteByte(':')
		b.WriteString(k)
	}
	return b.String()
}
