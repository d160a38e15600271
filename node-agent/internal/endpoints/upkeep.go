package endpoints

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// Retry does again what the API server refused; it returns how much is left.
func (m *Manager) Retry(ctx context.Context) int {
	m.mu.RLock()
	var publish []datapath.EndpointID
	for id := range m.unpublished {
		publish = append(publish, id)
	}
	withdrawals := make([]Endpoint, 0, len(m.withdrawals))
	for _, e := range m.withdrawals {
		withdrawals = append(withdrawals, e)
	}
	m.mu.RUnlock()
	for _, id := range publish {
		if x := m.get(id); x != nil {
			x.publication.Lock()
			e, published := x.endpoint, x.published
			x.publication.Unlock()
			if published {
				m.publish(ctx, e)
			}
		}
	}
	for _, e := range withdrawals {
		if m.Cluster.Withdraw(ctx, e) == nil {
			m.mu.Lock()
			delete(m.withdrawals, e.ContainerID)
			m.mu.Unlock()
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.unpublished) + len(m.withdrawals)
}

// Collect removes endpoints whose container is not among the valid ones (the runtime's GC).
func (m *Manager) Collect(ctx context.Context, valid map[string]struct{}) error {
	var errs []error
	for _, e := range m.List() {
		if _, ok := valid[containerKey(e.ContainerID, e.NetworkInterface)]; !ok {
			errs = append(errs, m.Detach(ctx, e.ContainerID, e.NetworkInterface))
		}
	}
	return errors.Join(errs...)
}

// List gives all endpoints, sorted by number.
func (m *Manager) List() []Endpoint {
	all := m.entries()
	out := make([]Endpoint, 0, len(all))
	for _, x := range all {
		x.publication.Lock()
		out = append(out, x.endpoint)
		x.publication.Unlock()
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Count is how many endpoints there are.
func (m *Manager) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.byID)
}

// State gives the endpoint's state and whether default deny is on.
func (m *Manager) State(id datapath.EndpointID) (state string, enforced [2]bool) {
	if x := m.get(id); x != nil {
		x.publication.Lock()
		defer x.publication.Unlock()
		return x.state, x.enforced
	}
	return "disconnected", [2]bool{}
}

// ByContainer finds an endpoint for CHECK.
func (m *Manager) ByContainer(containerID, networkInterface string) (Endpoint, bool) {
	m.mu.RLock()
	x := m.byContainer[containerKey(containerID, networkInterface)]
	m.mu.RUnlock()
	if x == nil {
		return Endpoint{}, false
	}
	x.publication.Lock()
	defer x.publication.Unlock()
	return x.endpoint, x.published
}

// Sweep removes reservations that never became endpoints: a plugin that was killed half way.
func (m *Manager) Sweep(ctx context.Context, started map[datapath.EndpointID]time.Time, now time.Time) {
	for _, x := range m.entries() {
		x.publication.Lock()
		id, published := x.endpoint.ID, x.published
		x.publication.Unlock()
		if published {
			delete(started, id)
			continue
		}
		if since, ok := started[id]; !ok {
			started[id] = now
		} else if now.Sub(since) > 2*time.Minute {
			x.operation.Lock()
			if err := m.remove(ctx, x); err != nil {
				m.Log.Warn("an abandoned reservation could not be removed", "endpoint", id, "error", err)
			}
			x.operation.Unlock()
			delete(started, id)
		}
	}
}
