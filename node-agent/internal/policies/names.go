package policies

import (
	"context"
	"errors"
	"net/netip"

	"fairlead.dev/node-agent/policy"
)

// Names lists what policies in force select peers by name with.
func (m *Manager) Names() []policy.NameRule { return m.engine.Names() }

// labelsOf a range: its own, those of the names that DNS gave it for, and that the API server is there.
func (m *Manager) labelsOf(prefix netip.Prefix) policy.Labels {
	labels := policy.LabelsForCIDR(prefix)
	for _, name := range m.names[prefix] {
		labels = append(labels, policy.LabelForName(name))
	}
	if m.isAPIServer(prefix) {
		labels = append(labels, policy.Label{Source: policy.SourceReserved, Key: "kube-apiserver"})
	}
	return policy.NewLabels(labels...)
}

// isAPIServer tells whether the range is the API server's address, and no node's.
func (m *Manager) isAPIServer(prefix netip.Prefix) bool {
	_, is := m.nodes.outside[prefix]
	return is
}

// SetNames tells by which rules' names addresses are selected now; an empty list is none. When it returns, the kernel's lines
// are complete and the addresses published.
func (m *Manager) SetNames(ctx context.Context, addresses map[netip.Addr][]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	gone := false
	for address, names := range addresses {
		prefix := netip.PrefixFrom(address, address.BitLen())
		if len(names) == 0 {
			delete(m.names, prefix)
			gone = true
		} else {
			m.names[prefix] = names
		}
		if id, known := m.prefixes[prefix]; known {
			errs = append(errs, m.apply(ctx, m.engine.AddIdentity(id, m.labelsOf(prefix))))
		} else if len(names) > 0 {
			errs = append(errs, m.addPrefix(ctx, prefix))
		}
	}
	if gone {
		errs = append(errs, m.prunePrefixes(ctx))
	}
	return errors.Join(errs...)
}
