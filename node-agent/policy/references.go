package policy

import (
	"net/netip"
	"slices"
	"strconv"
)

// CIDRGroup is a CiliumCIDRGroup as far as policy is concerned.
type CIDRGroup struct {
	Name string `json:"name"`
	// Labels of the object, for cidrGroupSelector.
	Labels map[string]string `json:"labels,omitempty"`
	// Prefixes are masked; those that cannot be read are left out by whoever reads the object.
	Prefixes []netip.Prefix `json:"prefixes"`
}

// ServiceName names a Kubernetes service.
type ServiceName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// ServicePeers is a Kubernetes service as far as policy is concerned: what toServices stands for.
type ServicePeers struct {
	ServiceName
	// Labels of the object, for k8sServiceSelector.
	Labels map[string]string `json:"labels,omitempty"`
	// Selector of a service whose backends are pods; without one the Addresses count.
	Selector map[string]string `json:"selector,omitempty"`
	// Addresses are those of the endpoint slices of a service without selector.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// References are the objects that policies name beside pods. The zero value has none of them, which is possible at any
// time: a reference to what is not there selects nobody.
type References struct {
	groups   map[string]CIDRGroup
	services map[ServiceName]ServicePeers
}

// NewReferences makes References of lists.
func NewReferences(groups []CIDRGroup, services []ServicePeers) References {
	r := References{groups: make(map[string]CIDRGroup, len(groups)), services: make(map[ServiceName]ServicePeers, len(services))}
	for _, g := range groups {
		r.groups[g.Name] = g
	}
	for _, s := range services {
		r.services[s.ServiceName] = s
	}
	return r
}

// reference is a peer that another object defines; exactly one of the members is set.
type reference struct {
	group    string
	groups   *labelSelector
	service  *ServiceName
	services *labelSelector
	// namespace of services; "" is any.
	namespace string
	// except takes ranges out of a group's.
	except []netip.Prefix
}

// objectLabels gives labels of an object as selectors see them.
func objectLabels(labels map[string]string) Labels {
	out := make([]Label, 0, len(labels))
	for key, value := range labels {
		out = append(out, Label{Source: SourceK8s, Key: key, Value: value})
	}
	return out
}

// namesGroup tells whether the reference is to this group; labels are the group's.
func (r reference) namesGroup(g CIDRGroup) bool {
	return (r.group != "" && r.group == g.Name) || (r.groups != nil && r.groups.matches(objectLabels(g.Labels)))
}

func (r reference) namesService(s ServicePeers) bool {
	switch {
	case r.service != nil:
		return r.service.Name == s.Name && (r.service.Namespace == "" || r.service.Namespace == s.Namespace)
	case r.services != nil:
		return (r.namespace == "" || r.namespace == s.Namespace) && r.services.matches(objectLabels(s.Labels))
	default:
		return false
	}
}

// expand gives the peers that the reference stands for, in no order.
func (r reference) expand(all References) []peer {
	var out []peer
	switch {
	case r.group != "":
		if g, ok := all.groups[r.group]; ok {
			out = r.expandGroup(out, g)
		}
	case r.groups != nil:
		for _, g := range all.groups {
			if r.namesGroup(g) {
				out = r.expandGroup(out, g)
			}
		}
	case r.service != nil && r.service.Namespace != "":
		if s, ok := all.services[*r.service]; ok {
			out = append(out, s.peers()...)
		}
	default:
		for _, s := range all.services {
			if r.namesService(s) {
				out = append(out, s.peers()...)
			}
		}
	}
	return out
}

func (r reference) expandGroup(out []peer, g CIDRGroup) []peer {
	for _, prefix := range g.Prefixes {
		p := peer{kind: peerCIDR, prefix: prefix}
		for _, e := range r.except {
			if e.Overlaps(prefix) {
				p.except = append(p.except, e)
			}
		}
		out = append(out, p)
	}
	return out
}

// peers: the pods that the selector selects, or the addresses of the slices.
func (s ServicePeers) peers() []peer {
	if len(s.Selector) > 0 {
		requirements := []requirement{inNamespace(s.Namespace)}
		for key, value := range s.Selector {
			requirements = append(requirements, requirement{source: SourceK8s, key: key, operator: opIn, values: []string{value}})
		}
		return []peer{{kind: peerLabels, selector: newLabelSelector(requirements)}}
	}
	out := make([]peer, 0, len(s.Addresses))
	for _, a := range s.Addresses {
		a = a.Unmap()
		out = append(out, peer{kind: peerCIDR, prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	return out
}

// expandReferences gives the element with the peers that its references stand for now, behind its own.
func (e element) expandReferences(all References) element {
	if len(e.references) == 0 || e.anyPeer {
		return e
	}
	var found []peer
	for _, r := range e.references {
		found = append(found, r.expand(all)...)
	}
	sortPeers(found)
	e.peers = append(slices.Clone(e.peers[:e.own]), found...)
	return e
}

// sortPeers makes equal references give equal elements, whatever order the objects came in.
func sortPeers(peers []peer) {
	keys := make(map[int]string, len(peers))
	order := make([]int, len(peers))
	for i, p := range peers {
		order[i], keys[i] = i, p.key()
	}
	slices.SortFunc(order, func(a, b int) int {
		if keys[a] < keys[b] {
			return -1
		}
		if keys[a] > keys[b] {
			return 1
		}
		return 0
	})
	sorted := make([]peer, len(peers))
	for i, at := range order {
		sorted[i] = peers[at]
	}
	copy(peers, sorted)
}

// Resolve gives the policy with its references to groups and services replaced by what they stand for now. A policy without
// references is returned as it is.
func (p Policy) Resolve(all References) Policy {
	if !p.hasReferences() {
		return p
	}
	out := p
	out.rules = slices.Clone(p.rules)
	for i := range out.rules {
		elements := slices.Clone(out.rules[i].elements)
		for j := range elements {
			elements[j] = elements[j].expandReferences(all)
		}
		out.rules[i].elements = elements
	}
	return out
}

func (p Policy) hasReferences() bool {
	return p.anyReference(func(reference) bool { return true })
}

func (p Policy) anyReference(is func(reference) bool) bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool {
		return slices.ContainsFunc(r.elements, func(e element) bool { return slices.ContainsFunc(e.references, is) })
	})
}

// References lists, in plain words, the objects that the policy names beside pods: `CIDRGroup partners`, `service data/db`.
func (p Policy) References() []string {
	var out []string
	for _, r := range p.rules {
		for _, e := range r.elements {
			for _, ref := range e.references {
				out = append(out, ref.text())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r reference) text() string {
	switch {
	case r.group != "":
		return "the CIDR group " + r.group
	case r.groups != nil:
		labels, _, _ := r.groups.text()
		if labels == "" {
			return "all CIDR groups"
		}
		return "CIDR groups with " + labels
	case r.service != nil && r.service.Namespace == "":
		return "services named " + r.service.Name + " of all namespaces"
	case r.service != nil:
		return "the service " + r.service.Namespace + "/" + r.service.Name
	}
	labels, _, _ := r.services.text()
	out := "all services"
	if labels != "" {
		out = "services with " + labels
	}
	if r.namespace != "" {
		return out + " of namespace " + r.namespace
	}
	return out + " of all namespaces"
}

// part identifies a wired part of an element among the parts of its rule: edits of a group wire and unwire parts only.
func part(elementIndex int, named bool, suffix string) string {
	out := strconv.Itoa(elementIndex)
	if named {
		out += "n"
	}
	return out + " " + suffix
}
