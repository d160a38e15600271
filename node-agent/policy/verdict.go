package policy

import (
	"net/netip"
	"slices"
)

// Reason says why traffic passes or not.
type Reason string

// The reasons.
const (
	// ReasonAllowedByRule: a rule (also a builtin one) allows it and none denies it.
	ReasonAllowedByRule Reason = "allowed-by-rule"
	// ReasonNoPolicy: nothing asks for default deny in this direction, and no rule denies it.
	ReasonNoPolicy Reason = "no-policy"
	// ReasonDefaultDeny: default deny is on and no rule allows it.
	ReasonDefaultDeny Reason = "default-deny"
	// ReasonDeniedByRule: a deny rule matches.
	ReasonDeniedByRule Reason = "denied-by-rule"
)

// Decision is the answer to one question.
type Decision struct {
	Allowed bool   `json:"allowed"`
	Reason  Reason `json:"reason"`
	// Rules are all the rules that decide so, sorted: with ReasonDeniedByRule the denies, with ReasonAllowedByRule the
	// allows, with ReasonDefaultDeny none.
	Rules []RuleRef `json:"rules"`
	// Policies lists, with ReasonDefaultDeny, the policies that switched default deny on; sorted.
	Policies []Ref `json:"policies"`
	// MatchType is Hubble's policy_match_type of the deciding match; MatchNone where no rule matched.
	MatchType uint8 `json:"matchType"`
	// L7 is set where the traffic passes only as far as the application layer's rules allow; nil: without condition.
	L7 *ConditionL7 `json:"l7,omitempty"`
}

// ConditionL7 is what the proxy asks for.
type ConditionL7 struct {
	// Kind is http or dns.
	Kind string `json:"kind"`
	// Rules are alternatives, e.g. `POST /v1/request-landing`.
	Rules []string `json:"rules"`
}

// Question is the part of a packet that policy looks at, from one side.
type Question struct {
	Subject      Labels
	SubjectPorts NamedPorts
	Direction    Direction
	// Peer's labels; PeerKnown false stands for an identity that nobody knows the labels of.
	Peer      Labels
	PeerKnown bool
	PeerPorts NamedPorts
	// PeerAddress is what ipBlocks of Kubernetes NetworkPolicies look at; where it is not valid they mean ranges outside only.
	PeerAddress netip.Addr
	// Protocol is an IP protocol number, Port the destination port (of ICMP the type).
	Protocol uint8
	Port     uint16
}

// Decide evaluates the policies' rules one by one on a single question. It shares neither the selector cache nor the
// computation of kernel lines with Engine, and therefore serves as their reference. Invalid policies are passed over.
func Decide(policies []Policy, q Question) Decision {
	var allows, denies, opens []decidingMatch
	var denyers []Ref
	active := false
	for _, p := range policies {
		if !p.Valid() {
			continue
		}
		for i := range p.rules {
			r := &p.rules[i]
			if !r.governs(q.Subject) {
				continue
			}
			active = active || r.active[q.Direction]
			if r.defaultDeny[q.Direction] {
				denyers = append(denyers, p.Ref)
			}
			for j := range r.elements {
				e := &r.elements[j]
				m, ok := e.decides(q)
				if !ok {
					continue
				}
				m.ref = r.ref(p.Ref, e)
				if e.deny {
					denies = append(denies, m)
				} else {
					allows = append(allows, m)
				}
			}
		}
	}
	if active && q.Direction == Ingress && q.PeerKnown && q.Peer.HasReserved("host") {
		allows = append(allows, decidingMatch{ref: builtinRef(BuiltinAllowLocalhost), peer: true})
	}
	if active && len(denyers) == 0 {
		opens = append(opens, decidingMatch{ref: builtinRef(BuiltinDefaultAllow)})
	}
	switch {
	case len(denies) > 0:
		return decision(false, ReasonDeniedByRule, denies)
	case len(allows) > 0:
		return decision(true, ReasonAllowedByRule, allows)
	case len(denyers) == 0:
		return decision(true, ReasonNoPolicy, opens)
	default:
		d := decision(false, ReasonDefaultDeny, nil)
		slices.SortFunc(denyers, func(a, b Ref) int { return compareRefs(a.Key(), b.Key()) })
		d.Policies = slices.CompactFunc(denyers, func(a, b Ref) bool { return a.Key() == b.Key() })
		return d
	}
}

type decidingMatch struct {
	ref RuleRef
	// peer: the match names the peer; specificity: 0 any protocol, 1 + bits of the port otherwise.
	peer        bool
	specificity int
	// byAddress: the peer's address is in an ipBlock, whatever its identity.
	byAddress bool
	// l7 is nil for a match without condition.
	l7 []*rulesL7
}

// before tells whether the kernel goes by a and not b: by what needs no proxy, then by the line that names the peer, then by
// the longer one. A line for anybody and any port does not keep a peer's own line from the proxy, which then lets all pass.
func (a decidingMatch) before(b decidingMatch) bool {
	if aProxy, bProxy := a.l7 != nil, b.l7 != nil; aProxy != bProxy {
		if aProxy {
			return a.peer && b.wide()
		}
		return !b.peer || !a.wide()
	}
	if a.peer != b.peer {
		return a.peer
	}
	return a.specificity > b.specificity
}

func (a decidingMatch) wide() bool { return !a.peer && a.specificity == 0 }

func (e *element) decides(q Question) (decidingMatch, bool) {
	if e.direction != q.Direction {
		return decidingMatch{}, false
	}
	names := q.SubjectPorts
	if q.Direction == Egress {
		names = q.PeerPorts
	}
	if e.matchesPeer(q.Peer, q.PeerKnown) {
		if m, ok := e.decidesPort(q, names); ok {
			return m, true
		}
	}
	if !e.matchesAddress(q.PeerAddress) {
		return decidingMatch{}, false
	}
	// A range of addresses gives no names to ports.
	if q.Direction == Egress {
		names = nil
	}
	m, ok := e.decidesPort(q, names)
	m.byAddress = true
	return m, ok
}

// decidesPort is decides for a peer that is meant.
func (e *element) decidesPort(q Question, names NamedPorts) (decidingMatch, bool) {
	if !e.matchesPort(q.Protocol, q.Port, names) {
		return decidingMatch{}, false
	}
	m := decidingMatch{peer: !e.anyPeer}
	found := false
	for _, port := range e.ports {
		if !port.matches(q.Protocol, q.Port, names) {
			continue
		}
		one := decidingMatch{peer: !e.anyPeer || port.name != "" && q.Direction == Egress}
		if port.l7 != nil {
			one.l7 = []*rulesL7{port.l7}
		}
		port.each(names, func(protocol uint8, first uint16, bits uint8) {
			if protocol == q.Protocol && prefixOf(q.Port, bits) == first {
				one.specificity = max(one.specificity, 1+int(bits))
			}
		})
		switch {
		case !found || one.before(m):
			if m.l7 != nil && one.l7 != nil {
				one.l7 = append(one.l7, m.l7...)
			}
			m, found = one, true
		case m.l7 != nil && one.l7 != nil:
			m.l7 = append(m.l7, one.l7...)
		}
	}
	return m, true
}

func decision(allowed bool, reason Reason, matches []decidingMatch) Decision {
	d := Decision{Allowed: allowed, Reason: reason, Rules: []RuleRef{}, Policies: []Ref{}}
	var best, inBlock *decidingMatch
	for i := range matches {
		m := &matches[i]
		d.Rules = append(d.Rules, m.ref)
		of := &best
		if m.byAddress {
			of = &inBlock
		}
		if *of == nil || m.before(**of) {
			*of = m
		}
	}
	// The kernel asks by address where nothing else allows, or only as far as a proxy lets it pass.
	if inBlock != nil && (best == nil || best.l7 != nil) {
		best = inBlock
	}
	if len(matches) > 0 && !slices.ContainsFunc(matches, func(m decidingMatch) bool { return m.l7 == nil }) {
		d.L7 = conditionOf(matches)
	}
	if best != nil {
		key := Key{}
		if best.peer {
			key.Peer = IdentityWorld
		}
		if best.specificity > 0 {
			key.Protocol, key.PortPrefix = ProtocolTCP, uint8(best.specificity-1)
		}
		d.MatchType = key.MatchType()
	}
	slices.SortFunc(d.Rules, compareRules)
	d.Rules = slices.CompactFunc(d.Rules, func(a, b RuleRef) bool { return a.key() == b.key() })
	return d
}

func conditionOf(matches []decidingMatch) *ConditionL7 {
	out := &ConditionL7{Rules: []string{}}
	for _, m := range matches {
		for _, rules := range m.l7 {
			out.Kind = rules.kind.String()
			out.Rules = append(out.Rules, rules.texts()...)
		}
	}
	slices.Sort(out.Rules)
	out.Rules = slices.Compact(out.Rules)
	return out
}

// Verdict decides on traffic between an endpoint of this node and a peer from the rules themselves, not from the kernel's
// lines. address is the peer's, for ipBlocks; port is the destination port after service translation; of ICMP the type. An
// unknown subject has no policy.
func (e *Engine) Verdict(subject SubjectID, direction Direction, peer NumericIdentity, address netip.Addr, protocol uint8, port uint16) Decision {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := e.subjects[subject]
	if p == nil {
		return decision(true, ReasonNoPolicy, nil)
	}
	q := Question{Subject: p.labels, SubjectPorts: p.ports, Direction: direction, PeerAddress: address, Protocol: protocol, Port: port}
	if state := e.identities[peer]; state != nil {
		q.Peer, q.PeerKnown, q.PeerPorts = state.labels, true, state.ports
	}
	policies := make([]Policy, 0, len(e.policies))
	for _, live := range e.policies {
		policies = append(policies, live.policy)
	}
	return Decide(policies, q)
}

// LookupKernel does what the BPF program (bpf/lib/policy.h) does with an endpoint's lines: the longest match with the peer's
// identity, the longest match with AnyPeer, and of the two a deny wins. entry is the deciding line, the zero Entry where none
// matched; of two lines that allow, the one that names the peer decides, unless only the other one needs no proxy and names a
// protocol. block is the number of the longest ipBlock around the peer's address, 0 where there is none: its lines, which only
// allow, are asked where these two do not let the traffic pass, or not unseen.
func LookupKernel(entries []Entry, enforced [2]bool, direction Direction, peer, block NumericIdentity, protocol uint8, port uint16) (allowed bool, entry Entry) {
	exact, exactOK := longestPrefix(entries, direction, peer, protocol, port)
	wild, wildOK := longestPrefix(entries, direction, AnyPeer, protocol, port)
	switch {
	case exactOK && exact.Deny:
		return false, exact
	case wildOK && wild.Deny:
		return false, wild
	case exactOK && (exact.Proxy == ProxyNone || !wildOK || wild.Proxy != ProxyNone || wild.Protocol == ProtocolAny):
		allowed, entry = true, exact
	case wildOK:
		allowed, entry = true, wild
	default:
		allowed = !enforced[direction]
	}
	if block != AnyPeer && (!allowed || entry.Proxy != ProxyNone) {
		if inBlock, ok := longestPrefix(entries, direction, block, protocol, port); ok {
			return true, inBlock
		}
	}
	return allowed, entry
}

func (a Key) specificity() int {
	if a.Protocol == ProtocolAny {
		return 0
	}
	return 1 + int(a.PortPrefix)
}

func longestPrefix(entries []Entry, direction Direction, peer NumericIdentity, protocol uint8, port uint16) (best Entry, found bool) {
	packet := Key{Direction: direction, Peer: peer, Protocol: protocol, Port: port, PortPrefix: 16}
	for _, entry := range entries {
		if entry.Direction != direction || entry.Peer != peer || !entry.covers(packet) {
			continue
		}
		if !found || entry.specificity() > best.specificity() {
			best, found = entry, true
		}
	}
	return best, found
}
