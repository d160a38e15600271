package flows

import (
	"net/netip"
	"slices"
	"unsafe"
)

// internMax bounds each table of the interner. A full table is dropped as a whole: records keep what they point to, and
// what is still in use comes back with the next event.
const internMax = 16384

type endpointKey struct {
	address  netip.Addr
	identity uint32
}

type enforcingKey struct {
	endpoint uint32
	egress   bool
}

// interner asks the resolver about every event and hands out one shared copy of each distinct answer, so that a record
// costs a few pointers instead of a few hundred bytes and steady traffic allocates nothing. The answer itself is never
// cached: an address that changed hands is noticed with its first event.
type interner struct {
	resolver  Resolver
	endpoints map[endpointKey]*EndpointInfo
	services  map[ServiceInfo]*ServiceInfo
	rules     map[uint32]*policySet
	enforcing map[enforcingKey]*policySet
}

func newInterner(resolver Resolver) *interner {
	return &interner{
		resolver:  resolver,
		endpoints: map[endpointKey]*EndpointInfo{},
		services:  map[ServiceInfo]*ServiceInfo{},
		rules:     map[uint32]*policySet{},
		enforcing: map[enforcingKey]*policySet{},
	}
}

// nobody stands for a side without an address.
var nobody = &EndpointInfo{}

func (i *interner) endpoint(address netip.Addr, identity uint32) *EndpointInfo {
	if !address.IsValid() && identity == 0 {
		return nobody
	}
	info := i.resolver.ByAddress(address, identity)
	if identity != 0 {
		// What the datapath judged by is what is reported, even where the agent has learned better since.
		info.Identity = identity
	}
	key := endpointKey{address, info.Identity}
	if known := i.endpoints[key]; known != nil && sameEndpoint(known, &info) {
		return known
	}
	if len(i.endpoints) >= internMax {
		clear(i.endpoints)
	}
	fresh := info // only this copy is on the heap
	i.endpoints[key] = &fresh
	return &fresh
}

func (i *interner) service(address netip.Addr, port uint16, protocol uint8) *ServiceInfo {
	info, ok := i.resolver.Service(address, port, protocol)
	if !ok {
		return nil
	}
	if known := i.services[info]; known != nil {
		return known
	}
	if len(i.services) >= internMax {
		clear(i.services)
	}
	fresh := info
	i.services[info] = &fresh
	return &fresh
}

// policy is the set that a deciding rule belongs to; nil when the rule is not known.
func (i *interner) policy(rule uint32) *policySet {
	info, ok := i.resolver.Policy(rule)
	if !ok {
		return nil
	}
	if known := i.rules[rule]; known != nil && samePolicy(&known.policies[0], &info) {
		return known
	}
	if len(i.rules) >= internMax {
		clear(i.rules)
	}
	set := &policySet{policies: []PolicyInfo{info}}
	i.rules[rule] = set
	return set
}

// defaultDeny is the set of policies that put default deny on for the endpoint; nil when there is none.
func (i *interner) defaultDeny(endpoint uint32, egress bool) *policySet {
	policies := i.resolver.PoliciesEnforcing(endpoint, egress)
	if len(policies) == 0 {
		return nil
	}
	key := enforcingKey{endpoint, egress}
	if known := i.enforcing[key]; known != nil && slices.EqualFunc(known.policies, policies, func(a, b PolicyInfo) bool {
		return samePolicy(&a, &b)
	}) {
		return known
	}
	if len(i.enforcing) >= internMax {
		clear(i.enforcing)
	}
	set := &policySet{policies: slices.Clone(policies)}
	i.enforcing[key] = set
	return set
}

// sameLabels is true at once for the very same slice, which is what a resolver that keeps its answers returns.
func sameLabels(a, b []string) bool {
	if len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b) {
		return true
	}
	return slices.Equal(a, b)
}

func sameEndpoint(a, b *EndpointInfo) bool {
	return a.ID == b.ID && a.Identity == b.Identity && a.PodName == b.PodName && a.Namespace == b.Namespace &&
		a.NodeName == b.NodeName && a.WorkloadName == b.WorkloadName && a.WorkloadKind == b.WorkloadKind &&
		sameLabels(a.Labels, b.Labels)
}

func samePolicy(a, b *PolicyInfo) bool {
	return a.Name == b.Name && a.Namespace == b.Namespace && a.Kind == b.Kind && a.Revision == b.Revision &&
		a.Section == b.Section && sameLabels(a.Labels, b.Labels)
}
