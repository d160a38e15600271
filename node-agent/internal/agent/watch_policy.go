package agent

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/policy"
)

// policyServices keeps what toServices needs to know: services and slices are told by different informers. What is kept of
// services whose backends are pods is their selector; their slices are none of policy's business.
type policyServices struct {
	mu       sync.Mutex
	services map[policy.ServiceName]policy.ServicePeers
	// slices are the addresses by service and slice.
	slices map[policy.ServiceName]map[string][]netip.Addr
}

func (p *policyServices) of(name policy.ServiceName) (policy.ServicePeers, bool) {
	s, ok := p.services[name]
	if !ok || len(s.Selector) > 0 {
		return s, ok
	}
	s.Addresses = nil
	for _, addresses := range p.slices[name] {
		s.Addresses = append(s.Addresses, addresses...)
	}
	slices.SortFunc(s.Addresses, netip.Addr.Compare)
	s.Addresses = slices.Compact(s.Addresses)
	return s, true
}

func (w *watcher) serviceChanged(s *corev1.Service) {
	name := policy.ServiceName{Namespace: s.Namespace, Name: s.Name}
	p := &w.policyServices
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.services == nil {
		p.services, p.slices = map[policy.ServiceName]policy.ServicePeers{}, map[policy.ServiceName]map[string][]netip.Addr{}
	}
	now := policy.ServicePeers{ServiceName: name, Labels: s.Labels, Selector: s.Spec.Selector}
	if old, known := p.services[name]; known && maps.Equal(old.Labels, now.Labels) && maps.Equal(old.Selector, now.Selector) {
		return
	}
	p.services[name] = now
	if len(now.Selector) > 0 {
		delete(p.slices, name)
	}
	peers, _ := p.of(name)
	w.note("service in policies", w.parts.Policies.SetService(w.ctx, peers))
}

func (w *watcher) serviceDeleted(s *corev1.Service) {
	name := policy.ServiceName{Namespace: s.Namespace, Name: s.Name}
	w.policyServices.mu.Lock()
	defer w.policyServices.mu.Unlock()
	delete(w.policyServices.services, name)
	w.note("service in policies", w.parts.Policies.RemoveService(w.ctx, name))
}

// sliceForPolicy: the slices of services with a selector say nothing that the selector does not.
func (w *watcher) sliceForPolicy(s *discoveryv1.EndpointSlice, deleted bool) {
	name := policy.ServiceName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
	if name == (policy.ServiceName{Namespace: "default", Name: "kubernetes"}) {
		w.apiServerSlice(s, deleted)
	}
	if name.Name == "" {
		return
	}
	p := &w.policyServices
	p.mu.Lock()
	defer p.mu.Unlock()
	service, known := p.services[name]
	if known && len(service.Selector) > 0 {
		return
	}
	if p.slices == nil {
		p.services, p.slices = map[policy.ServiceName]policy.ServicePeers{}, map[policy.ServiceName]map[string][]netip.Addr{}
	}
	if deleted {
		delete(p.slices[name], s.Name)
		if len(p.slices[name]) == 0 {
			delete(p.slices, name)
		}
	} else {
		if p.slices[name] == nil {
			p.slices[name] = map[string][]netip.Addr{}
		}
		p.slices[name][s.Name] = sliceAddresses(s)
	}
	if peers, ok := p.of(name); ok {
		w.note("service in policies", w.parts.Policies.SetService(w.ctx, peers))
	}
}

func sliceAddresses(s *discoveryv1.EndpointSlice) (out []netip.Addr) {
	for _, e := range s.Endpoints {
		for _, text := range e.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}

// apiServerSlice keeps the API server's own addresses under their identity.
func (w *watcher) apiServerSlice(s *discoveryv1.EndpointSlice, deleted bool) {
	w.apiServer.mu.Lock()
	defer w.apiServer.mu.Unlock()
	if w.apiServer.bySlice == nil {
		w.apiServer.bySlice = map[string][]netip.Addr{}
	}
	w.apiServer.bySlice[s.Name] = sliceAddresses(s)
	if deleted {
		delete(w.apiServer.bySlice, s.Name)
	}
	w.publishAPIServer()
}

// apiServerAddresses are those of the API server, by endpoint slice, and what of them is in the ipcache.
type apiServerAddresses struct {
	mu        sync.Mutex
	bySlice   map[string][]netip.Addr
	published []netip.Addr
}

// publishAPIServer writes the addresses with their present identities; called with the lock held.
func (w *watcher) publishAPIServer() {
	var now []netip.Addr
	for _, addresses := range w.apiServer.bySlice {
		now = append(now, addresses...)
	}
	slices.SortFunc(now, netip.Addr.Compare)
	now = slices.Compact(now)
	identities, err := w.parts.Policies.SetAPIServer(w.ctx, now)
	w.note("API server's address", err)
	for _, a := range w.apiServer.published {
		if !slices.Contains(now, a) {
			w.note("API server's address", w.parts.Cache.Delete(w.ctx, ipcache.SourceKubernetesAPI, single(a), nil))
		}
	}
	for _, a := range now {
		w.note("API server's address", w.parts.Cache.Upsert(w.ctx, ipcache.SourceKubernetesAPI,
			ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: single(a), Identity: uint32(identities[a])}}))
	}
	w.apiServer.published = now
	w.note("API server's address", w.parts.Policies.PruneAPIServer(w.ctx))
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// node: policy first, then the addresses; the API server may run there.
func (w *watcher) node(n *corev1.Node) {
	addresses := nodes.Addresses(n)
	w.note("node in policies", w.parts.Policies.SetNode(w.ctx, n.Name, n.Labels, addresses))
	w.note("node", w.parts.Nodes.SetAddresses(w.ctx, n.Name, addresses))
	w.zone(n)
	w.apiServer.mu.Lock()
	defer w.apiServer.mu.Unlock()
	if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return slices.Contains(w.apiServer.published, a) }) {
		w.publishAPIServer()
	}
}

func (w *watcher) nodeDeleted(n *corev1.Node) {
	w.note("node", w.parts.Nodes.SetAddresses(w.ctx, n.Name, nil))
	w.note("node in policies", w.parts.Policies.RemoveNode(w.ctx, n.Name))
	w.apiServer.mu.Lock()
	defer w.apiServer.mu.Unlock()
	if slices.ContainsFunc(nodes.Addresses(n), func(a netip.Addr) bool { return slices.Contains(w.apiServer.published, a) }) {
		w.publishAPIServer()
	}
}

// group reads a CiliumCIDRGroup; a range that cannot be read is left out, and the log says so.
func (w *watcher) group(g *ciliumv2.CiliumCIDRGroup) {
	out := policy.CIDRGroup{Name: g.Name, Labels: g.Labels}
	for _, text := range g.Spec.ExternalCIDRs {
		prefix, err := netip.ParsePrefix(string(text))
		if address, bare := netip.ParseAddr(string(text)); err != nil && bare == nil {
			prefix, err = single(address.Unmap()), nil
		}
		if err != nil {
			w.log.Warn("a CIDR group has a range that cannot be read; the others count", "group", g.Name, "range", text, "error", err)
			continue
		}
		out.Prefixes = append(out.Prefixes, prefix.Masked())
	}
	slices.SortFunc(out.Prefixes, netip.Prefix.Compare)
	out.Prefixes = slices.Compact(out.Prefixes)
	w.note("CIDR group", w.parts.Policies.SetCIDRGroup(w.ctx, out))
	w.note("refused networks", w.refusals.setGroup(w.ctx, g.Name, append([]netip.Prefix{}, out.Prefixes...)))
	w.policyMoved()
}
