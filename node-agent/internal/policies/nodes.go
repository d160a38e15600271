package policies

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// nodeTable is what policy knows of the machines of the cluster.
type nodeTable struct {
	self string
	all  map[string]*nodeState
	// apiServer are the addresses of the API server's own endpoints.
	apiServer []netip.Addr
	// ofTheirOwn: other nodes have identities of their own, with their labels; cidr: with their addresses.
	ofTheirOwn, cidr bool
	// host is told whether the node's own traffic is enforced; nil where the host firewall is off.
	host func(ctx context.Context, enforced [2]bool) error
	// outside are addresses of the API server that are no node's; formerlyOutside those that were, until they are withdrawn.
	outside         map[netip.Prefix]struct{}
	formerlyOutside []netip.Prefix
}

type nodeState struct {
	labels    map[string]string
	addresses []netip.Addr
	id        policy.NumericIdentity
}

func newNodeTable() nodeTable { return nodeTable{all: map[string]*nodeState{}} }

// NodeOptions say what policies may do with nodes.
type NodeOptions struct {
	// Self is this node's name.
	Self string
	// SelectorLabels lets fromNodes and toNodes select nodes by label; CIDR lets CIDR rules match nodes. Either gives every
	// other node an identity of its own.
	SelectorLabels, CIDR bool
	// Host, where given, makes policies govern this node (host firewall): it is told in which directions what no line allows is
	// dropped. It is called with the manager's lock held.
	Host func(ctx context.Context, enforced [2]bool) error
}

// UseNodes sets what policies may do with nodes; to be called before anything else.
func (m *Manager) UseNodes(o NodeOptions) {
	m.nodes.self, m.nodes.host = o.Self, o.Host
	m.nodes.ofTheirOwn, m.nodes.cidr = o.SelectorLabels || o.CIDR, o.CIDR
	m.settings[policy.RequiresNodeSelectorLabels] = o.SelectorLabels
	m.settings[policy.RequiresHostFirewall] = o.Host != nil
	if o.Host != nil {
		m.engine.AddSubject(policy.SubjectID(datapath.HostEndpoint), policy.NodeLabels(nil, nil, "host"), nil)
	}
}

// SetNode takes in a node's labels and addresses. When it returns, the kernel's lines are complete, and the node's addresses
// may be published.
func (m *Manager) SetNode(ctx context.Context, name string, labels map[string]string, addresses []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.all[name]
	if n == nil {
		n = &nodeState{}
		m.nodes.all[name] = n
	} else if maps.Equal(n.labels, labels) && slices.Equal(n.addresses, addresses) {
		return nil
	}
	n.labels, n.addresses = labels, addresses
	return m.updateNode(ctx, name, n)
}

// RemoveNode forgets a node; its addresses have to be withdrawn before.
func (m *Manager) RemoveNode(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes.all[name]
	if n == nil {
		return nil
	}
	delete(m.nodes.all, name)
	if n.id == 0 {
		return nil
	}
	m.nodeNumbers.release(n.id)
	m.unsaved = true
	return m.apply(ctx, m.engine.RemoveIdentity(n.id))
}

// NodeIdentity gives the identity of another node's addresses. Lines for it are complete.
func (m *Manager) NodeIdentity(ctx context.Context, name string) (policy.NumericIdentity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.nodes.ofTheirOwn {
		return policy.IdentityRemoteNode, nil
	}
	n := m.nodes.all[name]
	if n == nil {
		n = &nodeState{}
		m.nodes.all[name] = n
	}
	err := m.updateNode(ctx, name, n)
	if n.id == 0 {
		return policy.IdentityRemoteNode, err
	}
	return n.id, err
}

// SetAPIServer takes in the addresses of the API server's endpoints and gives the identity of each: the node's that it runs
// on, which carries the label kube-apiserver then, or the reserved one; that of its address where it runs on no node, so that
// it is the world, and a range means it, as much as the entity does. When the answer is published, PruneAPIServer is called.
func (m *Manager) SetAPIServer(ctx context.Context, addresses []netip.Addr) (map[netip.Addr]policy.NumericIdentity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := !slices.Equal(m.nodes.apiServer, addresses)
	m.nodes.apiServer = slices.Clone(addresses)
	var errs []error
	out := make(map[netip.Addr]policy.NumericIdentity, len(addresses))
	for _, a := range addresses {
		out[a] = policy.IdentityKubeAPIServer
	}
	outside := maps.Clone(out)
	for name, n := range m.nodes.all {
		if changed {
			errs = append(errs, m.updateNode(ctx, name, n))
		}
		for _, a := range n.addresses {
			delete(outside, a)
			if _, ok := out[a]; ok && n.id != 0 {
				out[a] = n.id
			}
		}
	}
	former := m.nodes.outside
	m.nodes.outside = make(map[netip.Prefix]struct{}, len(outside))
	for a := range outside {
		m.nodes.outside[netip.PrefixFrom(a, a.BitLen())] = struct{}{}
	}
	for prefix := range m.nodes.outside {
		if id, known := m.prefixes[prefix]; known {
			errs = append(errs, m.apply(ctx, m.engine.AddIdentity(id, m.labelsOf(prefix))))
		} else if err := m.addPrefix(ctx, prefix); err != nil {
			errs = append(errs, err)
		}
		if id, known := m.prefixes[prefix]; known {
			out[prefix.Addr()] = id
		}
		delete(former, prefix)
	}
	m.nodes.formerlyOutside = slices.AppendSeq(m.nodes.formerlyOutside, maps.Keys(former))
	return out, errors.Join(errs...)
}

// PruneAPIServer withdraws the identities of addresses that are the API server's no more.
func (m *Manager) PruneAPIServer(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, prefix := range m.nodes.formerlyOutside {
		if id, known := m.prefixes[prefix]; known {
			errs = append(errs, m.apply(ctx, m.engine.AddIdentity(id, m.labelsOf(prefix))))
		}
	}
	m.nodes.formerlyOutside = nil
	return errors.Join(append(errs, m.prunePrefixes(ctx))...)
}

// updateNode writes what policy sees of a node; called with mu held.
func (m *Manager) updateNode(ctx context.Context, name string, n *nodeState) error {
	entity := "remote-node"
	if name == m.nodes.self {
		entity = "host"
	}
	entities := []string{entity}
	if slices.ContainsFunc(n.addresses, func(a netip.Addr) bool { return slices.Contains(m.nodes.apiServer, a) }) {
		entities = append(entities, "kube-apiserver")
	}
	var labels map[string]string
	var addresses []netip.Addr
	if m.nodes.ofTheirOwn {
		labels = n.labels
	}
	if m.nodes.cidr {
		addresses = n.addresses
	}
	seen := policy.NodeLabels(labels, addresses, entities...)
	if name == m.nodes.self {
		err := m.apply(ctx, m.engine.AddIdentity(policy.IdentityHost, seen))
		if m.nodes.host != nil {
			// As the governed one the node has all its labels, whatever peers may see of them.
			err = errors.Join(err, m.apply(ctx, m.engine.AddSubject(policy.SubjectID(datapath.HostEndpoint), policy.NodeLabels(n.labels, nil, "host"), nil)))
			m.forget()
		}
		return err
	}
	if !m.nodes.ofTheirOwn {
		return nil
	}
	if n.id == 0 {
		// The number is the node's for as long as its first address is.
		prefix := netip.Prefix{}
		if len(n.addresses) > 0 {
			prefix = netip.PrefixFrom(n.addresses[0], n.addresses[0].BitLen())
		}
		id, err := m.nodeNumbers.take(prefix)
		if err != nil {
			return err
		}
		n.id, m.unsaved = id, true
	}
	return m.apply(ctx, m.engine.AddIdentity(n.id, seen))
}
