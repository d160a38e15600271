package endpoints

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
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
		if !ok || !slices.Contains(in.Addresses, e.Address) || e.Link.Interface != in.Interface {
			m.Log.Info("an endpoint of before the restart is gone", "endpoint", e.ID, "pod", e.Pod())
			errs = append(errs, m.RemoveLink(e.Link.Interface), m.store.remove(e.ID))
			continue
		}
		if err := m.Pool.Claim(e.Address, e.Pod()); err != nil {
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
		errs = append(errs, m.Cache.Upsert(ctx, ipcache.SourceLocalEndpoint, m.cacheEntry(e)))
	}
	for id := range kernel {
		errs = append(errs, m.Datapath.RemoveEndpoint(ctx, id))
	}
	return errors.Join(errs...)
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
