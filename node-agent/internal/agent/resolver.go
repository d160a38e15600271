package agent

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/internal/services"
	"fairlead.dev/node-agent/policy"
)

// resolver answers the flows' questions from memory.
type resolver struct {
	cache      *ipcache.Cache
	registry   *identities.Registry
	policies   *policies.Manager
	services   func() *services.Manager
	interfaces interfaceNames
	// local keeps the labels of this node's CIDR identities, so that the same slice is handed out every time.
	local sync.Map
}

var _ flows.Resolver = (*resolver)(nil)

// ByAddress implements flows.Resolver.
func (r *resolver) ByAddress(address netip.Addr, identity uint32) flows.EndpointInfo {
	info := flows.EndpointInfo{Identity: identity}
	if e, ok := r.cache.Lookup(address); ok {
		if identity == 0 {
			info.Identity = e.Identity
		}
		// What the datapath saw may be older than what is known now: an address changes hands.
		if info.Identity == e.Identity || e.Owner.PodName == "" {
			info.ID, info.Namespace, info.PodName = e.Owner.EndpointID, e.Owner.Namespace, e.Owner.PodName
			info.WorkloadName, info.WorkloadKind, info.NodeName = e.Owner.WorkloadName, e.Owner.WorkloadKind, e.Owner.NodeName
		}
	} else if identity == 0 {
		info.Identity = uint32(policy.WorldIdentity(address))
	}
	info.Labels = r.labels(info.Identity)
	if info.Namespace == "" && info.Identity >= uint32(policy.IdentityUserMin) {
		if labels, ok := r.registry.Labels(policy.NumericIdentity(info.Identity)); ok {
			info.Namespace, _ = labels.Get(policy.LabelNamespace)
		}
	}
	return info
}

func (r *resolver) labels(identity uint32) []string {
	if texts := r.registry.Texts(policy.NumericIdentity(identity)); texts != nil {
		return texts
	}
	if kept, ok := r.local.Load(identity); ok {
		return kept.([]string)
	}
	labels, ok := r.policies.Labels(policy.NumericIdentity(identity))
	if !ok {
		return nil
	}
	kept, _ := r.local.LoadOrStore(identity, labels.Strings())
	return kept.([]string)
}

// Version implements flows.Resolver. Each part only grows, and the manager of services, once there, stays. What this node
// numbers itself, address ranges of policies, has its place in the cache.
func (r *resolver) Version() uint64 {
	version := r.cache.Version() + r.registry.Version()
	if s := r.services(); s != nil {
		version += 1 + s.Version()
	}
	return version
}

// HasService implements flows.Resolver.
func (r *resolver) HasService(address netip.Addr) bool {
	s := r.services()
	return s != nil && s.Has(address)
}

// Service implements flows.Resolver.
func (r *resolver) Service(address netip.Addr, port uint16, protocol uint8) (flows.ServiceInfo, bool) {
	s := r.services()
	if s == nil {
		return flows.ServiceInfo{}, false
	}
	key, ok := s.Find(address, port, protocol)
	return flows.ServiceInfo{Namespace: key.Namespace, Name: key.Name}, ok
}

// Policy implements flows.Resolver.
func (r *resolver) Policy(rule uint32) (flows.PolicyInfo, bool) { return r.policies.Rule(rule) }

// PoliciesEnforcing implements flows.Resolver.
func (r *resolver) PoliciesEnforcing(endpoint uint32, egress bool) []flows.PolicyInfo {
	return r.policies.Enforcing(endpoint, egress)
}

// InterfaceName implements flows.Resolver.
func (r *resolver) InterfaceName(index uint32) string { return r.interfaces.get(index) }

// interfaceNames reads the node's interfaces at most once per second.
type interfaceNames struct {
	mu    sync.Mutex
	names map[uint32]string
	read  time.Time
}

func (n *interfaceNames) get(index uint32) string {
	if index == 0 {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if name, ok := n.names[index]; ok || time.Since(n.read) < time.Second {
		return name
	}
	n.read = time.Now()
	list, err := net.Interfaces()
	if err != nil {
		return ""
	}
	n.names = make(map[uint32]string, len(list))
	for _, i := range list {
		n.names[uint32(i.Index)] = i.Name
	}
	return n.names[index]
}
