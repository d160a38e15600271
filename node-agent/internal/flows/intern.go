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

// party is one side of an event: who it is, and what else there is to know of the address.
type party struct {
	*EndpointInfo
	// hasService tells that some service has the address.
	hasService bool
	// version is the resolver's for which this holds, if known; who has no labels is asked for each time.
	version uint64
	known   bool
	// seen is when the namespace was last told of, in nanoseconds since the epoch.
	seen int64
}

// interner asks the resolver about the sides of events and hands out one shared copy of each distinct answer, so that a
// record costs a few pointers instead of a few hundred bytes and steady traffic allocates nothing. An answer holds as long as
// the resolver's version does not change: an address that changed hands is noticed with its first event.
type interner struct {
	resolver Resolver
	// parties are the answers that hold.
	parties map[endpointKey]*party
	// endpoints are all distinct answers, also those that have to be asked for again.
	endpoints map[endpointKey]*EndpointInfo
	services  map[ServiceInfo]*ServiceInfo
	rules     map[uint32]*policySet
	enforcing map[enforcingKey]*policySet
}

func newInterner(resolver Resolver) *interner {
	return &interner{
		resolver:  resolver,
		parties:   map[endpointKey]*party{},
		endpoints: map[endpointKey]*EndpointInfo{},
		services:  map[ServiceInfo]*ServiceInfo{},
		rules:     map[uint32]*policySet{},
		enforcing: map[enforcingKey]*policySet{},
	}
}

// nobody stands for a side without an address.
var nobody = &EndpointInfo{}

// party tells who a side is, at a version that the resolver had before.
func (i *interner) party(address netip.Addr, identity uint32, version uint64) *party {
	key := endpointKey{address, identity}
	p := i.parties[key]
	if p != nil && p.known && p.version == version {
		return p
	}
	if p == nil {
		if len(i.parties) >= internMax {
			clear(i.parties)
		}
		p = &party{}
		i.parties[key] = p
	}
	if who := i.endpoint(address, identity); who != p.EndpointInfo {
		p.EndpointInfo, p.seen = who, 0
	}
	p.version, p.known = version, len(p.Labels) > 0
	p.hasService = address.IsValid() && i.resolver.HasService(address)
	return p
}

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
