package policies

import (
	"context"
	"errors"

	"fairlead.dev/node-agent/policy"
)

// SetCIDRGroup takes in a new or changed group of address ranges. Like a policy's, its ranges get their identities, lines and
// places in the ipcache before any policy names them.
func (m *Manager) SetCIDRGroup(ctx context.Context, g policy.CIDRGroup) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision.Add(1)
	var errs []error
	for _, prefix := range m.engine.GroupPrefixes(g) {
		errs = append(errs, m.addPrefix(ctx, prefix))
	}
	return errors.Join(append(errs, m.apply(ctx, m.engine.SetCIDRGroup(g)), m.prunePrefixes(ctx))...)
}

// RemoveCIDRGroup forgets a group: policies that refer to it select nobody there.
func (m *Manager) RemoveCIDRGroup(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision.Add(1)
	return errors.Join(m.apply(ctx, m.engine.RemoveCIDRGroup(name)), m.prunePrefixes(ctx))
}

// SetService takes in what a service stands for in toServices; like SetCIDRGroup.
func (m *Manager) SetService(ctx context.Context, s policy.ServicePeers) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, prefix := range m.engine.ServicePrefixes(s) {
		errs = append(errs, m.addPrefix(ctx, prefix))
	}
	return errors.Join(append(errs, m.apply(ctx, m.engine.SetService(s)), m.prunePrefixes(ctx))...)
}

// RemoveService forgets a service.
func (m *Manager) RemoveService(ctx context.Context, name policy.ServiceName) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.apply(ctx, m.engine.RemoveService(name)), m.prunePrefixes(ctx))
}
