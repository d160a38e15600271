package endpoints

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// Restore takes over the endpoints of before a restart: those that have a state file, and whose interface is still in
// the datapath. Others are removed, with their address, files and lines.
func (m *Manager) Restore(ctx context.Context) error {
	saved, loadErr := m.store.load()
	present, err := m.Datapath.Endpoints()
	if err != nil {
		return fmt.Errorf("reading the endpoints in the kernel: %w", err)
	}
	kernel := make(map[datapath.EndpointID]datapath.Endpoint, len(present))
	for _, e := range present {
		kernel[e.ID] = e
	}
	errs := []error{loadErr}
	for _, e := range saved {
		in, ok := kernel[e.ID]
		if !ok || slices.ContainsFunc(e.Addresses(), func(a netip.Addr) bool { return !slices.Contains(in.Addresses, a) }) || e.Link.Interface != in.Interface {
			m.Log.Info("an endpoint of before the restart is gone", "endpoint", e.ID, "pod", e.Pod())
			errs = append(errs, m.RemoveLink(e.Link.Interface), m.store.remove(e.ID))
			continue
		}
		if err := m.claim(e); err != nil {
			errs = append(errs, err, m.Datapath.RemoveEndpoint(ctx, e.ID), m.store.remove(e.ID))
			continue
		}
		delete(kernel, e.ID)
		x := &entry{endpoint: e, enforced: [2]bool{in.PolicyIngress, in.PolicyEgress}, published: true, state: "restoring"}
		labels, err := policy.ParseLabels(e.Labels)
		if err != nil {
			errs = append(errs, err)
		}
		m.mu.Lock()
		m.byID[e.ID], m.byContainer[containerKey(e.ContainerID, e.NetworkInterface)] = x, x
		m.nextID = max(m.nextID, e.ID+1)
		m.mu.Unlock()
		m.Registry.Learn(e.Identity, labels)
		errs = append(errs, m.Policies.SetIdentity(ctx, e.Identity, labels), m.Policies.AddPorts(ctx, e.Identity, e.Ports))
		if _, err := m.Policies.AddSubject(ctx, e.ID, labels, e.Ports); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, m.remember(ctx, e))
	}
	for id := range kernel {
		errs = append(errs, m.Datapath.RemoveEndpoint(ctx, id))
	}
	return errors.Join(errs...)
}

// claim takes the endpoint's addresses out of their pools. One of a family that pods do not have any more stays the
// pod's, and nobody else gets it.
func (m *Manager) claim(e Endpoint) error {
	for pool, field := range m.pools(&e) {
		if field.IsValid() {
			if err := pool.Claim(*field, e.Pod()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Restored is called when policies and ipcache are live: it takes up label changes that happened meanwhile.
func (m *Manager) Restored(ctx context.Context) {
	for _, x := range m.entries() {
		x.publication.Lock()
		x.state = "ready"
		e := x.endpoint
		x.publication.Unlock()
		m.publish(ctx, e)
		if err := m.Refresh(ctx, e.Namespace, e.PodName); err != nil {
			m.Log.Warn("an endpoint's labels could not be read again", "endpoint", e.ID, "pod", e.Pod(), "error", err)
		}
	}
}
