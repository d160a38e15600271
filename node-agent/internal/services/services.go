package services

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"fairlead.dev/node-agent/internal/datapath"
)

// owner is who has frontends: a Kubernetes service, or a pod with host ports.
type owner struct {
	Key
	pod bool
}

// Manager keeps the datapath's services equal to the cluster's. All methods are safe for concurrent use.
type Manager struct {
	mu     sync.RWMutex
	dp     datapath.Datapath
	node   Node
	health *Health

	services map[Key]*corev1.Service
	slices   map[Key]map[string]*discoveryv1.EndpointSlice
	// pods are those with host ports.
	pods map[Key]*corev1.Pod
	// written is what the datapath has, per owner.
	written map[owner]map[datapath.ServiceID]datapath.Service
	// frontends finds who has an address for flows; waiting are those who want one that somebody else has.
	frontends map[frontend]owner
	waiting   map[frontend][]owner
	// addresses counts the frontends of each.
	addresses map[netip.Addr]int
	version   atomic.Uint64
	dirty     map[owner]struct{}
	live      bool
	log       *slog.Logger
}

type frontend struct {
	address  netip.Addr
	port     uint16
	protocol uint8
}

func nameOf(f datapath.Frontend) frontend { return frontend{f.Address, f.Port, f.Protocol} }

// New makes a manager that only remembers until Start. health may be nil.
func New(dp datapath.Datapath, node Node, health *Health, log *slog.Logger) *Manager {
	return &Manager{dp: dp, node: node, health: health, log: log, services: map[Key]*corev1.Service{}, slices: map[Key]map[string]*discoveryv1.EndpointSlice{},
		pods: map[Key]*corev1.Pod{}, written: map[owner]map[datapath.ServiceID]datapath.Service{}, frontends: map[frontend]owner{}, addresses: map[netip.Addr]int{},
		waiting: map[frontend][]owner{}, dirty: map[owner]struct{}{}}
}

// Start writes everything and removes from the datapath what is not there any more. To be called when Services,
// EndpointSlices, Nodes and Pods have all synced: pruning on half of the picture would cut connections.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = true
	err := m.syncAll(ctx)
	return errors.Join(err, m.dp.PruneServices(ctx))
}

// everybody lists all owners, older services first: of two that want one address the older has it, on every node.
func (m *Manager) everybody() (out []owner) {
	for key := range m.services {
		out = append(out, owner{Key: key})
	}
	slices.SortFunc(out, func(a, b owner) int {
		x, y := m.services[a.Key], m.services[b.Key]
		if c := x.CreationTimestamp.Compare(y.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	for key := range m.pods {
		out = append(out, owner{key, true})
	}
	return out
}

func (m *Manager) syncAll(ctx context.Context) error {
	var errs []error
	for _, who := range m.everybody() {
		errs = append(errs, m.sync(ctx, who))
	}
	return errors.Join(errs...)
}

func (m *Manager) build(who owner) []datapath.Service {
	if who.pod {
		return HostPorts(m.pods[who.Key], m.node)
	}
	list := make([]*discoveryv1.EndpointSlice, 0, len(m.slices[who.Key]))
	for _, s := range m.slices[who.Key] {
		list = append(list, s)
	}
	result := Build(m.services[who.Key], list, m.node)
	if m.health != nil {
		m.health.set(who.Key, result.HealthPort, result.LocalEndpoints)
	}
	return result.Services
}

// claim leaves a service those frontends that nobody else has, and lets it wait for the others.
func (m *Manager) claim(who owner, s *datapath.Service) {
	s.Frontends = slices.DeleteFunc(s.Frontends, func(f datapath.Frontend) bool {
		name := nameOf(f)
		if has, taken := m.frontends[name]; taken && has != who {
			if !slices.Contains(m.waiting[name], who) {
				m.waiting[name] = append(m.waiting[name], who)
				m.log.Warn("an address of a service is another's already", "service", who.Namespace+"/"+who.Name, "address", netip.AddrPortFrom(f.Address, f.Port), "has", has.Namespace+"/"+has.Name)
			}
			return true
		}
		return false
	})
}

// sync writes what changed of one owner.
func (m *Manager) sync(ctx context.Context, who owner) error {
	if !m.live {
		return nil
	}
	var errs []error
	wanted := map[datapath.ServiceID]struct{}{}
	for _, s := range m.build(who) {
		m.claim(who, &s)
		wanted[s.ServiceID] = struct{}{}
		old, known := m.written[who][s.ServiceID]
		if known && reflect.DeepEqual(old, s) {
			continue
		}
		if err := m.dp.UpsertService(ctx, s); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, f := range old.Frontends {
			if !slices.ContainsFunc(s.Frontends, func(n datapath.Frontend) bool { return nameOf(n) == nameOf(f) }) {
				m.release(who, f)
			}
		}
		for _, f := range s.Frontends {
			// One that is there is this owner's already (claim).
			if _, known := m.frontends[nameOf(f)]; !known {
				m.frontends[nameOf(f)] = who
				m.addresses[f.Address]++
				m.version.Add(1)
			}
		}
		if m.written[who] == nil {
			m.written[who] = map[datapath.ServiceID]datapath.Service{}
		}
		m.written[who][s.ServiceID] = s
	}
	for id, s := range m.written[who] {
		if _, ok := wanted[id]; ok {
			continue
		}
		if err := m.dp.DeleteService(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(m.written[who], id)
		for _, f := range s.Frontends {
			m.release(who, f)
		}
	}
	if len(m.written[who]) == 0 {
		delete(m.written, who)
	}
	if len(errs) > 0 {
		m.dirty[who] = struct{}{}
	} else {
		delete(m.dirty, who)
	}
	return errors.Join(errs...)
}

// release frees an address; the turn of those who wait for it comes with Retry.
func (m *Manager) release(who owner, f datapath.Frontend) {
	name := nameOf(f)
	if m.frontends[name] == who {
		delete(m.frontends, name)
		if m.addresses[f.Address]--; m.addresses[f.Address] == 0 {
			delete(m.addresses, f.Address)
		}
		m.version.Add(1)
	}
	for _, other := range m.waiting[name] {
		if other != who {
			m.dirty[other] = struct{}{}
		}
	}
	delete(m.waiting, name)
}

// SetService is called for a new or changed service; nil for a deleted one.
func (m *Manager) SetService(ctx context.Context, key Key, s *corev1.Service) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == nil {
		delete(m.services, key)
	} else {
		m.services[key] = s
	}
	return m.sync(ctx, owner{Key: key})
}

// SetSlice is called for a new or changed slice; deleted tells that it is gone.
func (m *Manager) SetSlice(ctx context.Context, slice *discoveryv1.EndpointSlice, deleted bool) error {
	key := Key{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}
	if key.Name == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if deleted {
		delete(m.slices[key], slice.Name)
		if len(m.slices[key]) == 0 {
			delete(m.slices, key)
		}
	} else {
		if m.slices[key] == nil {
			m.slices[key] = map[string]*discoveryv1.EndpointSlice{}
		}
		m.slices[key][slice.Name] = slice
	}
	return m.sync(ctx, owner{Key: key})
}

// SetPod is called for pods of this node, for their host ports; nil for a deleted one.
func (m *Manager) SetPod(ctx context.Context, key Key, p *corev1.Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.pods[key]
	if len(HostPorts(p, m.node)) == 0 {
		if !known {
			return nil
		}
		delete(m.pods, key)
	} else {
		m.pods[key] = p
	}
	return m.sync(ctx, owner{key, true})
}

// SetNode is called when this node's zone or addresses change.
func (m *Manager) SetNode(ctx context.Context, change func(*Node)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.node
	node.Addresses = slices.Clone(node.Addresses)
	change(&node)
	if node.Zone == m.node.Zone && slices.Equal(node.Addresses, m.node.Addresses) {
		return nil
	}
	m.node = node
	return m.syncAll(ctx)
}

// Retry writes again what the datapath refused; it returns how many services are still behind.
func (m *Manager) Retry(ctx context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Asked every 2 s: who has nothing waiting must not be put in order for it.
	if len(m.dirty) == 0 {
		return 0, nil
	}
	var errs []error
	for _, who := range m.everybody() {
		if _, ok := m.dirty[who]; ok {
			errs = append(errs, m.sync(ctx, who))
		}
	}
	for who := range m.dirty {
		// Gone, and not yet out of the datapath.
		errs = append(errs, m.sync(ctx, who))
	}
	return len(m.dirty), errors.Join(errs...)
}

// Version grows after each change of what Find and Has say.
func (m *Manager) Version() uint64 { return m.version.Load() }

// Has tells whether any frontend has an address.
func (m *Manager) Has(address netip.Addr) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.addresses[address] > 0
}

// Find gives the service behind an address and port.
func (m *Manager) Find(address netip.Addr, port uint16, protocol uint8) (Key, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	who, ok := m.frontends[frontend{address, port, protocol}]
	return who.Key, ok
}

// Count is how many frontends there are.
func (m *Manager) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.frontends)
}
