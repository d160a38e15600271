package endpoints

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipam"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

// Cluster is what the manager needs of the API server and of the other nodes.
type Cluster interface {
	// Pod finds a pod; uid, where not empty, has to be the pod's.
	Pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error)
	NamespaceLabels(ctx context.Context, namespace string) (map[string]string, error)
	// Publish writes the endpoint's CiliumEndpoint, Withdraw deletes it.
	Publish(ctx context.Context, e Endpoint, enforced [2]bool, mode policies.Mode) error
	Withdraw(ctx context.Context, e Endpoint) error
	// Announce tells all other nodes; it returns when they know, or after a second.
	Announce(ctx context.Context, e Endpoint)
}

// Options of a Manager; all fields are needed, but for one of the pools.
type Options struct {
	Datapath datapath.Datapath
	// Pool and Pool6 hand out addresses of each family; nil where pods have none of it.
	Pool     *ipam.Pool
	Pool6    *ipam.Pool
	Registry *identities.Registry
	Policies *policies.Manager
	Cache    *ipcache.Cache
	Cluster  Cluster
	// StateDirectory holds a file per endpoint.
	StateDirectory string
	ClusterName    string
	NodeName       string
	Mode           policies.Mode
	// Audit lets what policy would drop pass, and reports it.
	Audit bool
	Log   *slog.Logger
	// RemoveLink removes a pod's interface by its host end.
	RemoveLink func(name string) error
}

// Manager owns the endpoints of this node. All methods are safe for concurrent use.
type Manager struct {
	Options
	store store

	mu          sync.RWMutex
	byID        map[datapath.EndpointID]*entry
	byContainer map[string]*entry
	nextID      datapath.EndpointID
	// unpublished are endpoints whose CiliumEndpoint could not be written; withdrawals likewise.
	unpublished map[datapath.EndpointID]struct{}
	withdrawals map[string]Endpoint
	// reserving counts endpoints on their way to an identity, so that nobody collects it before they have it.
	reserving map[policy.NumericIdentity]int
}

// New makes a manager; Restore has to be called once before anything else.
func New(o Options) *Manager {
	m := &Manager{Options: o, store: store{o.StateDirectory}, byID: map[datapath.EndpointID]*entry{},
		byContainer: map[string]*entry{}, nextID: 1, unpublished: map[datapath.EndpointID]struct{}{}, withdrawals: map[string]Endpoint{},
		reserving: map[policy.NumericIdentity]int{}}
	o.Policies.OnEnforced(m.setEnforced)
	return m
}

func containerKey(container, networkInterface string) string {
	return container + "/" + networkInterface
}

// remember writes the endpoint's addresses into the ipcache.
func (m *Manager) remember(ctx context.Context, e Endpoint) error {
	var errs []error
	for _, a := range e.Addresses() {
		errs = append(errs, m.Cache.Upsert(ctx, ipcache.SourceLocalEndpoint, ipcache.Entry{
			IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: uint32(e.Identity)},
			Owner: ipcache.Owner{EndpointID: uint32(e.ID), Namespace: e.Namespace, PodName: e.PodName,
				WorkloadName: e.WorkloadName, WorkloadKind: e.WorkloadKind, NodeName: m.NodeName},
		}))
	}
	return errors.Join(errs...)
}

// allocate gives the endpoint an address of each family, or none.
func (m *Manager) allocate(e *Endpoint) error {
	for pool, field := range m.pools(e) {
		a, err := pool.Allocate(e.Pod())
		if err != nil {
			m.release(*e)
			return err
		}
		*field = a
	}
	return nil
}

func (m *Manager) release(e Endpoint) {
	for pool, field := range m.pools(&e) {
		if field.IsValid() {
			pool.Release(*field)
		}
	}
}

// pools gives each family's, with the endpoint's address out of it.
func (m *Manager) pools(e *Endpoint) iter.Seq2[*ipam.Pool, *netip.Addr] {
	return func(yield func(*ipam.Pool, *netip.Addr) bool) {
		_ = (m.Pool == nil || yield(m.Pool, &e.Address)) && (m.Pool6 == nil || yield(m.Pool6, &e.Address6))
	}
}

// setEnforced is called by the policy manager, which holds its lock.
func (m *Manager) setEnforced(ctx context.Context, id datapath.EndpointID, enforced [2]bool) error {
	x := m.get(id)
	if x == nil {
		return nil
	}
	x.publication.Lock()
	defer x.publication.Unlock()
	changed := x.enforced != enforced
	x.enforced = enforced
	if !x.published {
		return nil
	}
	if changed {
		m.Again(id) // the CiliumEndpoint says it too
	}
	return m.Datapath.UpsertEndpoint(ctx, x.endpoint.datapath(enforced, m.Audit))
}

func (m *Manager) get(id datapath.EndpointID) *entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byID[id]
}

func (m *Manager) entries() []*entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]*entry, 0, len(m.byID))
	for _, x := range m.byID {
		out = append(out, x)
	}
	return out
}

// Request is what a container runtime asks for.
type Request struct {
	ContainerID, NetworkInterface string
	Namespace, PodName, PodUID    string
}

// Reserve is the first half of an ADD: an address, an identity and the policy of the pod. It is repeatable.
func (m *Manager) Reserve(ctx context.Context, r Request) (Endpoint, error) {
	key := containerKey(r.ContainerID, r.NetworkInterface)
	m.mu.RLock()
	old := m.byContainer[key]
	m.mu.RUnlock()
	if old != nil {
		old.publication.Lock()
		defer old.publication.Unlock()
		return old.endpoint, nil
	}
	pod, err := m.Cluster.Pod(ctx, r.Namespace, r.PodName, r.PodUID)
	if err != nil {
		return Endpoint{}, fmt.Errorf("looking up pod %s/%s: %w", r.Namespace, r.PodName, err)
	}
	namespaceLabels, err := m.Cluster.NamespaceLabels(ctx, r.Namespace)
	if err != nil {
		return Endpoint{}, fmt.Errorf("looking up namespace %s: %w", r.Namespace, err)
	}
	labels, ports := identityOf(pod, namespaceLabels, m.ClusterName)
	identity, release, err := m.identity(ctx, labels, ports)
	if err != nil {
		return Endpoint{}, err
	}
	defer release()
	e := Endpoint{Namespace: r.Namespace, PodName: r.PodName, PodUID: string(pod.UID), ContainerID: r.ContainerID,
		NetworkInterface: r.NetworkInterface, Identity: identity, Labels: labels.Strings(), Ports: ports, ServiceAccount: pod.Spec.ServiceAccountName}
	e.WorkloadName, e.WorkloadKind = workloadOf(pod)
	if err := m.allocate(&e); err != nil {
		return Endpoint{}, err
	}
	x := &entry{endpoint: e, state: "creating"}
	m.setBandwidth(x, bandwidthOf(pod))
	e.Bandwidth = x.endpoint.Bandwidth
	m.mu.Lock()
	id, err := m.freeID()
	if err != nil {
		m.mu.Unlock()
		m.release(e)
		return Endpoint{}, err
	}
	e.ID, x.endpoint.ID = id, id
	m.byID[id], m.byContainer[key] = x, x
	m.mu.Unlock()
	if _, err := m.Policies.AddSubject(ctx, id, labels, ports); err != nil {
		_ = m.remove(ctx, x)
		return Endpoint{}, err
	}
	return e, nil
}

// identity numbers labels and makes the number known to every policy of this node. Has is true for it until release,
// which has to be called where there is no error.
func (m *Manager) identity(ctx context.Context, labels policy.Labels, ports policy.NamedPorts) (id policy.NumericIdentity, release func(), err error) {
	id, err = m.Registry.Allocate(ctx, labels)
	if err != nil {
		return 0, nil, err
	}
	m.mu.Lock()
	m.reserving[id]++
	m.mu.Unlock()
	release = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.reserving[id]--; m.reserving[id] == 0 {
			delete(m.reserving, id)
		}
	}
	// Again, for it may have been forgotten just before it was marked.
	m.Registry.Learn(id, labels)
	if err := errors.Join(m.Policies.SetIdentity(ctx, id, labels), m.Policies.AddPorts(ctx, id, ports)); err != nil {
		release()
		return 0, nil, err
	}
	return id, release, nil
}

// Has tells whether an endpoint of this node has the identity, or is about to get it.
func (m *Manager) Has(id policy.NumericIdentity) bool {
	m.mu.RLock()
	_, reserving := m.reserving[id]
	m.mu.RUnlock()
	return reserving || slices.ContainsFunc(m.entries(), func(x *entry) bool {
		x.publication.Lock()
		defer x.publication.Unlock()
		return x.endpoint.Identity == id
	})
}

// freeID gives the next number in turn; called with mu held.
func (m *Manager) freeID() (datapath.EndpointID, error) {
	for range datapath.HostEndpoint {
		id := m.nextID
		if m.nextID++; m.nextID == datapath.HostEndpoint {
			m.nextID = 1
		}
		if _, taken := m.byID[id]; !taken && id != 0 {
			return id, nil
		}
	}
	return 0, errors.New("all 65,534 endpoint numbers of this node are in use")
}

// Attach is the second half of an ADD: the pod's interface is there. When it returns, every node knows the endpoint, and
// policy lines were in the kernel before the endpoint was.
func (m *Manager) Attach(ctx context.Context, r Request, link podlink.Details) (Endpoint, error) {
	m.mu.RLock()
	x := m.byContainer[containerKey(r.ContainerID, r.NetworkInterface)]
	m.mu.RUnlock()
	if x == nil {
		return Endpoint{}, fmt.Errorf("attaching %s/%s: nothing is reserved for container %s", r.Namespace, r.PodName, r.ContainerID)
	}
	x.operation.Lock()
	defer x.operation.Unlock()
	e, err := m.attach(ctx, x, link)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.remember(ctx, e); err != nil {
		return Endpoint{}, fmt.Errorf("publishing %v: %w", e.Addresses(), err)
	}
	m.tell(ctx, e)
	return e, nil
}

func (m *Manager) attach(ctx context.Context, x *entry, link podlink.Details) (Endpoint, error) {
	x.publication.Lock()
	defer x.publication.Unlock()
	if x.removed {
		return Endpoint{}, errors.New("the endpoint was removed meanwhile")
	}
	x.endpoint.Link = link
	// The file first: what is in the kernel without a file is removed by the next start.
	if err := m.store.save(x.endpoint); err != nil {
		return Endpoint{}, err
	}
	if err := m.Datapath.UpsertEndpoint(ctx, x.endpoint.datapath(x.enforced, m.Audit)); err != nil {
		return Endpoint{}, fmt.Errorf("attaching the programs to %s: %w", link.Interface, err)
	}
	x.published, x.state = true, "ready"
	return x.endpoint, nil
}

// tell writes the CiliumEndpoint and announces the endpoint, at the same time.
func (m *Manager) tell(ctx context.Context, e Endpoint) {
	var wait sync.WaitGroup
	wait.Go(func() { m.publish(ctx, e) })
	m.Cluster.Announce(ctx, e)
	wait.Wait()
}

func (m *Manager) publish(ctx context.Context, e Endpoint) {
	// Before, so that who asks for it while it is written gets it once more.
	m.mu.Lock()
	delete(m.unpublished, e.ID)
	m.mu.Unlock()
	if err := m.Cluster.Publish(ctx, e, m.Policies.Enforced(e.ID), m.Mode); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		x := m.byID[e.ID]
		if x == nil || x != m.byContainer[containerKey(e.ContainerID, e.NetworkInterface)] {
			return // removed meanwhile
		}
		m.unpublished[e.ID] = struct{}{}
		m.Log.Warn("the CiliumEndpoint was not written; it will be tried again", "endpoint", e.ID, "pod", e.Pod(), "error", err)
	}
}

// Again has Retry write the endpoint's CiliumEndpoint anew.
func (m *Manager) Again(id datapath.EndpointID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.byID[id]; ok {
		m.unpublished[id] = struct{}{}
	}
}

// Refresh takes up changed labels of a pod or its namespace, and the pod's changed limits.
func (m *Manager) Refresh(ctx context.Context, namespace, podName string) error {
	x := m.find(namespace, podName)
	if x == nil {
		return nil
	}
	x.operation.Lock()
	defer x.operation.Unlock()
	x.publication.Lock()
	e := x.endpoint
	x.publication.Unlock()
	pod, err := m.Cluster.Pod(ctx, namespace, podName, e.PodUID)
	if err != nil {
		return err
	}
	namespaceLabels, err := m.Cluster.NamespaceLabels(ctx, namespace)
	if err != nil {
		return err
	}
	labels, ports := identityOf(pod, namespaceLabels, m.ClusterName)
	if slices.Equal(labels.Strings(), e.Labels) {
		return m.refreshBandwidth(ctx, x, pod)
	}
	identity, release, err := m.identity(ctx, labels, ports)
	if err != nil {
		return err
	}
	defer release()
	m.Log.Info("an endpoint's labels changed", "endpoint", e.ID, "pod", e.Pod(), "from", e.Identity, "to", identity)
	if _, err := m.Policies.AddSubject(ctx, e.ID, labels, ports); err != nil {
		return err
	}
	x.publication.Lock()
	m.setBandwidth(x, bandwidthOf(pod))
	if x.removed || !x.published {
		x.endpoint.Identity, x.endpoint.Labels, x.endpoint.Ports = identity, labels.Strings(), ports
		x.publication.Unlock()
		return nil
	}
	x.endpoint.Identity, x.endpoint.Labels, x.endpoint.Ports = identity, labels.Strings(), ports
	e = x.endpoint
	err = errors.Join(m.store.save(e), m.Datapath.UpsertEndpoint(ctx, e.datapath(x.enforced, m.Audit)))
	x.publication.Unlock()
	if err != nil {
		return err
	}
	if err := m.remember(ctx, e); err != nil {
		return err
	}
	m.tell(ctx, e)
	return nil
}

// refreshBandwidth takes up changed limits where nothing else has changed; nobody else has to know.
func (m *Manager) refreshBandwidth(ctx context.Context, x *entry, pod *corev1.Pod) error {
	x.publication.Lock()
	defer x.publication.Unlock()
	if !m.setBandwidth(x, bandwidthOf(pod)) || x.removed || !x.published {
		return nil
	}
	return errors.Join(m.store.save(x.endpoint), m.Datapath.UpsertEndpoint(ctx, x.endpoint.datapath(x.enforced, m.Audit)))
}

// RefreshNamespace is Refresh for every pod of a namespace.
func (m *Manager) RefreshNamespace(ctx context.Context, namespace string) error {
	var errs []error
	for _, e := range m.List() {
		if e.Namespace == namespace {
			errs = append(errs, m.Refresh(ctx, namespace, e.PodName))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) find(namespace, podName string) *entry {
	for _, x := range m.entries() {
		x.publication.Lock()
		match := x.endpoint.Namespace == namespace && x.endpoint.PodName == podName && !x.removed
		x.publication.Unlock()
		if match {
			return x
		}
	}
	return nil
}

// Detach removes what a container has; it is fine if that is nothing. networkInterface may be empty for all of them.
func (m *Manager) Detach(ctx context.Context, containerID, networkInterface string) error {
	m.mu.RLock()
	var found []*entry
	for key, x := range m.byContainer {
		if key == containerKey(containerID, networkInterface) || (networkInterface == "" && strings.HasPrefix(key, containerID+"/")) {
			found = append(found, x)
		}
	}
	m.mu.RUnlock()
	var errs []error
	for _, x := range found {
		x.operation.Lock()
		errs = append(errs, m.remove(ctx, x))
		x.operation.Unlock()
	}
	return errors.Join(errs...)
}

func (m *Manager) remove(ctx context.Context, x *entry) error {
	x.publication.Lock()
	if x.removed {
		x.publication.Unlock()
		return nil
	}
	e, published := x.endpoint, x.published
	x.publication.Unlock()
	var errs []error
	for _, a := range e.Addresses() {
		errs = append(errs, m.Cache.Delete(ctx, ipcache.SourceLocalEndpoint, netip.PrefixFrom(a, a.BitLen()), &ipcache.Owner{Namespace: e.Namespace, PodName: e.PodName}))
	}
	m.Policies.RemoveSubject(e.ID)
	// Also for one that was never published: its policy lines are there already.
	errs = append(errs, m.Datapath.RemoveEndpoint(ctx, e.ID))
	if e.Link.Interface != "" {
		errs = append(errs, m.RemoveLink(e.Link.Interface))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing endpoint %d of %s: %w", e.ID, e.Pod(), err)
	}
	if err := m.store.remove(e.ID); err != nil {
		return err
	}
	x.publication.Lock()
	x.removed, x.published = true, false
	x.publication.Unlock()
	m.mu.Lock()
	delete(m.byID, e.ID)
	delete(m.byContainer, containerKey(e.ContainerID, e.NetworkInterface))
	delete(m.unpublished, e.ID)
	m.mu.Unlock()
	m.release(e)
	if published {
		if err := m.Cluster.Withdraw(ctx, e); err != nil {
			m.mu.Lock()
			m.withdrawals[e.ContainerID] = e
			m.mu.Unlock()
			m.Log.Warn("the CiliumEndpoint was not deleted; it will be tried again", "endpoint", e.ID, "pod", e.Pod(), "error", err)
		}
	}
	return nil
}
