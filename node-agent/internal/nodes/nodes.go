// Package nodes knows the machines of the cluster: it publishes this one, tells the datapath of the others, and tries
// whether they answer.
package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/statefile"
	"fairlead.dev/node-agent/policy"
)

// RoutingAnnotation of a CiliumNode says how the node sends to other nodes' pods, so that those of another mode, while the
// cluster changes node by node, are met in a form that they understand.
const RoutingAnnotation = "fairlead.dev/routing"

// FromCilium reads a CiliumNode; ok is false for one without an InternalIP.
func FromCilium(n *ciliumv2.CiliumNode) (datapath.Node, bool) {
	out := datapath.Node{Name: n.Name, Routing: datapath.RoutingMode(n.Annotations[RoutingAnnotation])}
	for _, a := range n.Spec.Addresses {
		address, err := netip.ParseAddr(a.IP)
		if err != nil {
			continue
		}
		switch {
		case a.Type == ciliumv2.NodeInternalIP && address.Is4():
			out.Address = address
		case a.Type == ciliumv2.NodeInternalIP:
			out.Address6 = address
		case a.Type == ciliumv2.NodeCiliumInternalIP && address.Is4():
			out.RouterAddress = address
		case a.Type == ciliumv2.NodeCiliumInternalIP:
			out.RouterAddress6 = address
		}
	}
	// A text that is no address gives none.
	out.HealthAddress, _ = netip.ParseAddr(n.Spec.HealthAddressing.IPv4)
	out.HealthAddress6, _ = netip.ParseAddr(n.Spec.HealthAddressing.IPv6)
	for _, text := range n.Spec.IPAM.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, p)
		}
	}
	return out, out.Primary().IsValid()
}

// Addresses lists a Node's addresses.
func Addresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if address, err := netip.ParseAddr(a.Address); err == nil && !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	return out
}

// Manager keeps the datapath's nodes equal to the cluster's. All methods are safe for concurrent use.
type Manager struct {
	mu    sync.RWMutex
	self  string
	dp    datapath.Datapath
	cache *ipcache.Cache
	// path of the file that remembers the nodes, so that one that went while the agent was away is removed.
	path  string
	nodes map[string]datapath.Node
	dirty map[string]struct{}
	// addresses of Kubernetes Nodes, by name.
	addresses map[string][]netip.Addr
	live      bool
	log       *slog.Logger
	// OnChange, where set before the first call, is told about other nodes; deleted for those that went.
	OnChange func(n datapath.Node, deleted bool)
	// Identity, where set before the first call, gives the identity of another node's addresses; remote-node otherwise.
	Identity func(ctx context.Context, name string) (policy.NumericIdentity, error)
}

func (m *Manager) identity(ctx context.Context, name string) (uint32, error) {
	if m.Identity == nil {
		return uint32(policy.IdentityRemoteNode), nil
	}
	id, err := m.Identity(ctx, name)
	return uint32(id), err
}

// New makes a manager that only remembers until Start.
func New(self string, dp datapath.Datapath, cache *ipcache.Cache, stateDirectory string, log *slog.Logger) *Manager {
	return &Manager{self: self, dp: dp, cache: cache, path: filepath.Join(stateDirectory, "nodes.json"), log: log,
		nodes: map[string]datapath.Node{}, dirty: map[string]struct{}{}, addresses: map[string][]netip.Addr{}}
}

// Start writes all nodes, and removes those of before a restart that are not there any more.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = true
	var errs []error
	before := map[string]datapath.Node{}
	text, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("the nodes of before the restart cannot be read", "error", err)
	}
	for name, n := range before {
		if _, ok := m.nodes[name]; !ok {
			errs = append(errs, m.dp.DeleteNode(ctx, n), m.cache.Rewrite(ctx, prefixes(n)...))
		}
	}
	for _, n := range m.nodes {
		errs = append(errs, m.write(ctx, n))
	}
	return errors.Join(append(errs, m.save())...)
}

func (m *Manager) save() error {
	text, err := json.Marshal(m.nodes)
	if err == nil {
		err = statefile.Write(m.path, text)
	}
	if err != nil {
		return fmt.Errorf("remembering the nodes: %w", err)
	}
	return nil
}

func (m *Manager) write(ctx context.Context, n datapath.Node) error {
	if err := m.dp.UpsertNode(ctx, n); err != nil {
		m.dirty[n.Name] = struct{}{}
		return fmt.Errorf("telling the datapath of node %s: %w", n.Name, err)
	}
	delete(m.dirty, n.Name)
	return nil
}

// Set is called for a new or changed node.
func (m *Manager) Set(ctx context.Context, n datapath.Node) error {
	if n.Name == m.self {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, known := m.nodes[n.Name]
	if known && reflect.DeepEqual(old, n) {
		return nil
	}
	m.nodes[n.Name] = n
	var errs []error
	if known {
		errs = append(errs, m.forget(ctx, old, prefixes(n)))
	}
	identity, err := m.identity(ctx, n.Name)
	errs = append(errs, err)
	for _, prefix := range prefixes(n) {
		e := ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: prefix, Identity: identity, TunnelEndpoint: n.Primary()}, Owner: ipcache.Owner{NodeName: n.Name}}
		if !prefix.IsSingleIP() {
			// Pods of the range that are not known yet: reachable, and nobody.
			e.Identity, e.Owner = uint32(policy.WorldIdentity(prefix.Addr())), ipcache.Owner{}
		}
		errs = append(errs, m.cache.Upsert(ctx, ipcache.SourceRemoteNode, e))
	}
	if m.live {
		errs = append(errs, m.write(ctx, n), m.save())
		if known {
			// Taking back the node's former entries, the datapath may have taken what others say of the same addresses.
			errs = append(errs, m.cache.Rewrite(ctx, append(prefixes(old), prefixes(n)...)...))
		}
	}
	if m.OnChange != nil {
		m.OnChange(n, false)
	}
	return errors.Join(errs...)
}

// Remove is called for a node that went.
func (m *Manager) Remove(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, known := m.nodes[name]
	if !known {
		return nil
	}
	delete(m.nodes, name)
	delete(m.dirty, name)
	errs := []error{m.forget(ctx, old, nil)}
	if m.live {
		errs = append(errs, m.dp.DeleteNode(ctx, old), m.cache.Rewrite(ctx, append(prefixes(old), nodeHosts(old)...)...), m.save())
	}
	if m.OnChange != nil {
		m.OnChange(old, true)
	}
	return errors.Join(errs...)
}

// prefixes are what a node tells of itself: its router's address and its pods' ranges.
func prefixes(n datapath.Node) []netip.Prefix {
	out := slices.Clone(n.PodCIDRs)
	for _, a := range []netip.Addr{n.RouterAddress, n.RouterAddress6} {
		if a.IsValid() {
			out = append(out, host(a))
		}
	}
	return out
}

// nodeHosts are the node's own addresses.
func nodeHosts(n datapath.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range []netip.Addr{n.Address, n.Address6} {
		if a.IsValid() {
			out = append(out, host(a))
		}
	}
	return out
}

// forget withdraws what a node told of itself, but for what is kept.
func (m *Manager) forget(ctx context.Context, n datapath.Node, keep []netip.Prefix) error {
	var errs []error
	for _, prefix := range prefixes(n) {
		if !slices.Contains(keep, prefix) {
			errs = append(errs, m.cache.Delete(ctx, ipcache.SourceRemoteNode, prefix, nil))
		}
	}
	return errors.Join(errs...)
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// SetAddresses gives a Kubernetes Node's addresses their identity: host for this node, remote-node for others. Without
// addresses the node went.
func (m *Manager) SetAddresses(ctx context.Context, name string, addresses []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	source, identity := ipcache.SourceLocalHost, uint32(policy.IdentityHost)
	if name != m.self {
		var err error
		source = ipcache.SourceRemoteNode
		identity, err = m.identity(ctx, name)
		errs = append(errs, err)
	}
	for _, old := range m.addresses[name] {
		if !slices.Contains(addresses, old) {
			errs = append(errs, m.cache.Delete(ctx, source, host(old), nil))
		}
	}
	for _, a := range addresses {
		errs = append(errs, m.cache.Upsert(ctx, source, ipcache.Entry{
			IPEntry: datapath.IPEntry{Prefix: host(a), Identity: identity}, Owner: ipcache.Owner{NodeName: name}}))
	}
	m.addresses[name] = addresses
	if len(addresses) == 0 {
		delete(m.addresses, name)
	}
	return errors.Join(errs...)
}

// NameOf finds a node by its address.
func (m *Manager) NameOf(address netip.Addr) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for name, n := range m.nodes {
		if n.Address == address || n.Address6 == address {
			return name
		}
	}
	return ""
}

// Others lists the other nodes, sorted by name.
func (m *Manager) Others() []datapath.Node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]datapath.Node, 0, len(m.nodes))
	for _, n := range m.nodes {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b datapath.Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Retry tells the datapath again what it refused; it returns how many nodes are still behind.
func (m *Manager) Retry(ctx context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for name := range m.dirty {
		errs = append(errs, m.write(ctx, m.nodes[name]))
	}
	return len(m.dirty), errors.Join(errs...)
}
