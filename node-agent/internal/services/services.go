// Package services turns Kubernetes Services and EndpointSlices into what the datapath translates.
package services

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"fairlead.dev/node-agent/internal/datapath"
)

// Key names a service.
type Key struct{ Namespace, Name string }

// proxyNameLabel hands a service to another implementation.
const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

var protocols = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132, "": 6}

// Build computes the datapath's services of one Kubernetes service. It is pure. nodeAddress is where node ports are.
func Build(s *corev1.Service, slices []*discoveryv1.EndpointSlice, nodeAddress netip.Addr) []datapath.Service {
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName || s.Labels[proxyNameLabel] != "" {
		return nil
	}
	clusterIP, err := netip.ParseAddr(s.Spec.ClusterIP)
	if err != nil { // headless
		return nil
	}
	var affinity uint32
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		affinity = 10800
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			affinity = uint32(*c.ClientIP.TimeoutSeconds)
		}
	}
	var out []datapath.Service
	for _, port := range s.Spec.Ports {
		protocol, ok := protocols[port.Protocol]
		if !ok {
			continue
		}
		backends := backendsOf(slices, port.Name, protocol, s.Spec.PublishNotReadyAddresses)
		add := func(address netip.Addr, number int32, kind datapath.ServiceKind) {
			out = append(out, datapath.Service{
				Frontend:  datapath.Frontend{Address: address, Port: uint16(number), Protocol: protocol, Kind: kind},
				Namespace: s.Namespace, Name: s.Name, PortName: port.Name, Backends: backends, AffinitySeconds: affinity,
			})
		}
		add(clusterIP, port.Port, datapath.ServiceClusterIP)
		if port.NodePort != 0 && nodeAddress.IsValid() {
			add(nodeAddress, port.NodePort, datapath.ServiceNodePort)
		}
		for _, text := range s.Spec.ExternalIPs {
			if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
				add(a, port.Port, datapath.ServiceExternalIP)
			}
		}
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(ingress.IP); err == nil && a.Is4() {
				add(a, port.Port, datapath.ServiceLoadBalancer)
			}
		}
	}
	return out
}

// backendsOf lists the ready backends, and the terminating ones that still serve, of one port, sorted.
func backendsOf(list []*discoveryv1.EndpointSlice, portName string, protocol uint8, notReady bool) []datapath.Backend {
	byAddress := map[netip.AddrPort]datapath.Backend{}
	for _, slice := range list {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || deref(p.Name, "") != portName || protocols[deref(p.Protocol, corev1.ProtocolTCP)] != protocol {
				continue
			}
			for _, e := range slice.Endpoints {
				ready := deref(e.Conditions.Ready, true) || notReady
				terminating := deref(e.Conditions.Terminating, false)
				if !ready && !(terminating && deref(e.Conditions.Serving, false)) {
					continue
				}
				for _, text := range e.Addresses {
					a, err := netip.ParseAddr(text)
					if err != nil {
						continue
					}
					key := netip.AddrPortFrom(a, uint16(*p.Port))
					// An endpoint can be in two slices for a moment; the better state counts.
					if old, ok := byAddress[key]; !ok || old.Terminating {
						byAddress[key] = datapath.Backend{Address: a, Port: uint16(*p.Port), Terminating: terminating && !deref(e.Conditions.Ready, false)}
					}
				}
			}
		}
	}
	out := make([]datapath.Backend, 0, len(byAddress))
	for _, b := range byAddress {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b datapath.Backend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// Manager keeps the datapath's services equal to the cluster's. All methods are safe for concurrent use.
type Manager struct {
	mu          sync.RWMutex
	dp          datapath.Datapath
	nodeAddress netip.Addr
	services    map[Key]*corev1.Service
	slices      map[Key]map[string]*discoveryv1.EndpointSlice
	// written is what the datapath has, per service; frontends finds services by address for flows.
	written   map[Key]map[datapath.Frontend]datapath.Service
	frontends map[frontend]Key
	dirty     map[Key]struct{}
	live      bool
	log       *slog.Logger
}

type frontend struct {
	address  netip.Addr
	port     uint16
	protocol uint8
}

// New makes a manager that only remembers until Start.
func New(dp datapath.Datapath, nodeAddress netip.Addr, log *slog.Logger) *Manager {
	return &Manager{dp: dp, nodeAddress: nodeAddress, log: log, services: map[Key]*corev1.Service{},
		slices: map[Key]map[string]*discoveryv1.EndpointSlice{}, written: map[Key]map[datapath.Frontend]datapath.Service{},
		frontends: map[frontend]Key{}, dirty: map[Key]struct{}{}}
}

// Start writes everything and removes from the datapath what is not there any more. To be called when Services and
// EndpointSlices have both synced: pruning on half of the picture would cut connections.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	present, err := m.dp.Services()
	if err != nil {
		return err
	}
	have := make(map[datapath.Frontend]datapath.Service, len(present))
	for _, s := range present {
		have[s.Frontend] = s
	}
	m.live = true
	var errs []error
	wanted := map[datapath.Frontend]struct{}{}
	for key := range m.services {
		for _, s := range m.build(key) {
			wanted[s.Frontend] = struct{}{}
			if old, ok := have[s.Frontend]; ok && same(old, s) {
				m.note(key, s)
			}
		}
		errs = append(errs, m.sync(ctx, key))
	}
	for f := range have {
		if _, ok := wanted[f]; !ok {
			errs = append(errs, m.dp.DeleteService(ctx, f))
		}
	}
	return errors.Join(errs...)
}

func same(a, b datapath.Service) bool {
	return a.Frontend == b.Frontend && a.Namespace == b.Namespace && a.Name == b.Name && a.PortName == b.PortName &&
		a.AffinitySeconds == b.AffinitySeconds && slices.Equal(a.Backends, b.Backends)
}

func (m *Manager) build(key Key) []datapath.Service {
	list := make([]*discoveryv1.EndpointSlice, 0, len(m.slices[key]))
	for _, s := range m.slices[key] {
		list = append(list, s)
	}
	return Build(m.services[key], list, m.nodeAddress)
}

func (m *Manager) note(key Key, s datapath.Service) {
	if m.written[key] == nil {
		m.written[key] = map[datapath.Frontend]datapath.Service{}
	}
	m.written[key][s.Frontend] = s
	m.frontends[frontend{s.Frontend.Address, s.Frontend.Port, s.Frontend.Protocol}] = key
}

// sync writes what changed of one service.
func (m *Manager) sync(ctx context.Context, key Key) error {
	if !m.live {
		return nil
	}
	var errs []error
	wanted := map[datapath.Frontend]struct{}{}
	for _, s := range m.build(key) {
		wanted[s.Frontend] = struct{}{}
		if old, ok := m.written[key][s.Frontend]; ok && same(old, s) {
			continue
		}
		if err := m.dp.UpsertService(ctx, s); err != nil {
			errs = append(errs, err)
			continue
		}
		m.note(key, s)
	}
	for f := range m.written[key] {
		if _, ok := wanted[f]; ok {
			continue
		}
		name := frontend{f.Address, f.Port, f.Protocol}
		if owner, ok := m.frontends[name]; ok && owner != key {
			// Another service has written itself there since.
			delete(m.written[key], f)
			continue
		}
		if err := m.dp.DeleteService(ctx, f); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(m.written[key], f)
		delete(m.frontends, name)
		// Of two services with one external address the datapath has had one; the other's turn comes with Retry.
		for other := range m.services {
			if other == key {
				continue
			}
			for _, s := range m.build(other) {
				if (frontend{s.Frontend.Address, s.Frontend.Port, s.Frontend.Protocol}) == name {
					delete(m.written[other], s.Frontend)
					m.dirty[other] = struct{}{}
				}
			}
		}
	}
	if len(m.written[key]) == 0 {
		delete(m.written, key)
	}
	if len(errs) > 0 {
		m.dirty[key] = struct{}{}
	} else {
		delete(m.dirty, key)
	}
	return errors.Join(errs...)
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
	return m.sync(ctx, key)
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
	return m.sync(ctx, key)
}

// Retry writes again what the datapath refused; it returns how many services are still behind.
func (m *Manager) Retry(ctx context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for key := range m.dirty {
		errs = append(errs, m.sync(ctx, key))
	}
	return len(m.dirty), errors.Join(errs...)
}

// Find gives the service behind an address and port.
func (m *Manager) Find(address netip.Addr, port uint16, protocol uint8) (Key, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	key, ok := m.frontends[frontend{address, port, protocol}]
	return key, ok
}

// Count is how many frontends there are.
func (m *Manager) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.frontends)
}
