package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
)

// Kind of a policy object.
type Kind string

// The kinds that Parse reads.
const (
	// KindAuto takes the kind from the document.
	KindAuto                    Kind = ""
	KindCiliumNetworkPolicy     Kind = "CiliumNetworkPolicy"
	KindCiliumClusterwidePolicy Kind = "CiliumClusterwideNetworkPolicy"
	KindKubernetesNetworkPolicy Kind = "NetworkPolicy"
	kindBuiltin                 Kind = "Builtin"
)

// Ref names a policy object. Kind, Namespace and Name identify it (Key); UID and ResourceVersion say which edition.
type Ref struct {
	Kind            Kind   `json:"kind"`
	Namespace       string `json:"namespace,omitempty"`
	Name            string `json:"name"`
	UID             string `json:"uid,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// RefKey identifies a policy object whatever its edition; it is comparable.
type RefKey struct {
	Kind            Kind
	Namespace, Name string
}

// Key gives the identifying part.
func (r Ref) Key() RefKey { return RefKey{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name} }

// String gives kind/namespace/name, and kind/name for a kind without namespaces.
func (r Ref) String() string { return r.Key().String() }

// String gives kind/namespace/name, and kind/name for a kind without namespaces.
func (k RefKey) String() string {
	if k.Namespace == "" {
		return string(k.Kind) + "/" + k.Name
	}
	return string(k.Kind) + "/" + k.Namespace + "/" + k.Name
}

// Section is the part of a policy that a rule element stands in.
type Section string

// The sections.
const (
	SectionIngress     Section = "ingress"
	SectionIngressDeny Section = "ingressDeny"
	SectionEgress      Section = "egress"
	SectionEgressDeny  Section = "egressDeny"
	// SectionBuiltin is what the engine adds by itself.
	SectionBuiltin Section = "builtin"
)

// Names of the rules that the engine adds by itself; they are in RuleRef.Policy.Name with Section builtin.
const (
	// BuiltinAllowLocalhost lets the node reach its own pods (kubelet probes). An explicit deny still wins.
	BuiltinAllowLocalhost = "allow-localhost"
	// BuiltinDefaultAllow stands for "no policy asked for default deny in this direction", where denies exist beside it.
	BuiltinDefaultAllow = "default-allow"
)

// RuleRef is one element of a section of a policy object.
type RuleRef struct {
	Policy Ref `json:"policy"`
	// Rule numbers the policy's rules: 0 is `spec`, and those of `specs` follow (from 0 where there is no `spec`).
	Rule    int     `json:"rule"`
	Section Section `json:"section"`
	// Index of the element in its section.
	Index int `json:"index"`
	// Path is where the element stands in the document, e.g. specs[1].ingress[0]; "" for a builtin rule.
	Path string `json:"path"`
}

// String gives e.g. CiliumNetworkPolicy/default/rule1 ingress[0].
func (r RuleRef) String() string {
	if r.Section == SectionBuiltin {
		return r.Policy.Name
	}
	spec := ""
	if r.Rule > 0 {
		spec = "specs[" + strconv.Itoa(r.Rule) + "]."
	}
	return r.Policy.String() + " " + spec + string(r.Section) + "[" + strconv.Itoa(r.Index) + "]"
}

// IsBuiltin tells whether no policy object stands behind the rule.
func (r RuleRef) IsBuiltin() bool { return r.Section == SectionBuiltin }

func (r RuleRef) isDefaultAllow() bool { return r.IsBuiltin() && r.Policy.Name == BuiltinDefaultAllow }

func compareRefs(a, b RefKey) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// compareRules orders rules whatever order they arrived in, so that equal policies give equal map lines. Builtin rules come
// last: where a rule of the operator decides the same, it gets the credit.
func compareRules(a, b RuleRef) int {
	builtin := func(r RuleRef) int {
		if r.IsBuiltin() {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(builtin(a), builtin(b)), compareRefs(a.Policy.Key(), b.Policy.Key()),
		cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Section, b.Section), cmp.Compare(a.Index, b.Index))
}

// Severity of a Problem.
type Severity string

// The severities. A policy with an error is not enforced at all.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Problem is something wrong, or probably unintended, in a policy document.
type Problem struct {
	Severity Severity `json:"severity"`
	// Code groups problems of one sort, e.g. unknown-field, invalid-cidr, unsupported, selects-nothing.
	Code string `json:"code"`
	// Path is where, e.g. spec.ingress[0].fromEndpoints[1].matchLabels.
	Path string `json:"path"`
	// What is wrong, Why it matters, and how to Fix it, in plain English.
	What string `json:"what"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// String gives path: what.
func (p Problem) String() string { return p.Path + ": " + p.What }

// HasErrors tells whether any of the problems keeps the policy from being enforced.
func HasErrors(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == SeverityError })
}

// Policy is one parsed policy object. Its zero value governs nothing. It is immutable.
type Policy struct {
	Ref Ref
	// Problems are those that Parse returned, errors first.
	Problems []Problem
	rules    []rule
}

// Valid tells whether the policy can be enforced: it has no problem of severity error.
func (p Policy) Valid() bool { return !HasErrors(p.Problems) }

// Prefixes lists, sorted and without duplicates, the address ranges (with their exceptions) that the policy names. The
// agent gives each of them a local identity before it calls Engine.Upsert. The range of all addresses is not listed: it is
// the world, which has an identity.
func (p Policy) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range p.rules {
		for _, e := range r.elements {
			for _, peer := range e.peers {
				if peer.isRange() {
					out = append(out, peer.prefixes()...)
				}
			}
		}
	}
	return sortPrefixes(out)
}

// Blocks lists, sorted and without duplicates, the ranges that ipBlocks of the policy name, with their exceptions and, other
// than Prefixes, with the range of all addresses. Each needs a number, by which the kernel finds its lines.
func (p Policy) Blocks() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range p.rules {
		for _, e := range r.elements {
			for _, peer := range e.peers {
				if peer.kind == peerBlock {
					out = append(append(out, peer.prefix), peer.except...)
				}
			}
		}
	}
	return sortPrefixes(out)
}

func sortPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, comparePrefixes)
	return slices.Compact(prefixes)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Selects tells whether any rule of the policy governs an endpoint with these labels: a pod, or a node by NodeLabels.
func (p Policy) Selects(labels Labels) bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.governs(labels) })
}

// governs tells whether any rule of the policy that governs such a pod takes part in a direction.
func (p Policy) governs(labels Labels, direction Direction) bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.active[direction] && r.governs(labels) })
}

// Directions tells in which directions the policy takes part, and in which of them it switches default deny on.
func (p Policy) Directions() (ingress, egress, denyIngress, denyEgress bool) {
	for _, r := range p.rules {
		ingress = ingress || r.active[Ingress]
		egress = egress || r.active[Egress]
		denyIngress = denyIngress || r.defaultDeny[Ingress]
		denyEgress = denyEgress || r.defaultDeny[Egress]
	}
	return ingress, egress, denyIngress, denyEgress
}

// Settings that a policy may need.
const (
	// RequiresHostFirewall: the policy governs nodes.
	RequiresHostFirewall = "hostFirewall.enabled"
	// RequiresNodeSelectorLabels: the policy names nodes by their labels.
	RequiresNodeSelectorLabels = "nodeSelectorLabels"
	// RequiresL7Proxy: the policy looks at the content of connections, or at what DNS says.
	RequiresL7Proxy = "l7Proxy"
)

// Requires lists the settings of the agents without which the policy cannot be enforced.
func (p Policy) Requires() []string {
	out := []string{}
	if slices.ContainsFunc(p.rules, func(r rule) bool { return r.node }) {
		out = append(out, RequiresHostFirewall)
	}
	names := func(e element) bool {
		return slices.ContainsFunc(e.peers, func(p peer) bool { return p.kind == peerNodes })
	}
	if slices.ContainsFunc(p.rules, func(r rule) bool { return slices.ContainsFunc(r.elements, names) }) {
		out = append(out, RequiresNodeSelectorLabels)
	}
	content := func(e element) bool {
		return slices.ContainsFunc(e.peers, func(p peer) bool { return p.kind == peerName }) ||
			slices.ContainsFunc(e.ports, func(m portMatch) bool { return m.l7 != nil })
	}
	if slices.ContainsFunc(p.rules, func(r rule) bool { return slices.ContainsFunc(r.elements, content) }) {
		out = append(out, RequiresL7Proxy)
	}
	return out
}

// Lacking gives the policy as it is where a setting that it requires is off: invalid, and it says why.
func (p Policy) Lacking(setting string) Policy {
	what, fix := "names nodes by their labels, and "+setting+" is off", "Set "+setting+": true, or use the entities host and remote-node."
	if setting == RequiresHostFirewall {
		what, fix = "governs nodes, and "+setting+" is off", "Set "+setting+": true in the agents' configuration."
	}
	if setting == RequiresL7Proxy {
		what, fix = "has rules on HTTP, DNS or names, and "+setting+" is off", "Set "+setting+": true in the agents' configuration, or remove these rules."
	}
	problem := Problem{Severity: SeverityError, Code: "setting-off", Path: "spec", What: what,
		Why: "A policy is enforced as a whole or not at all, so the whole policy is not enforced.", Fix: fix}
	p.Problems, p.rules = append([]Problem{problem}, p.Problems...), nil
	return p
}
