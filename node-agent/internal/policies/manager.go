// Package policies keeps the policy engine fed, and the kernel's policy lines equal to what the engine says.
package policies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

// Mode is policyEnforcementMode.
type Mode string

// The modes.
const (
	// ModeDefault enforces where a policy selects a pod.
	ModeDefault Mode = "default"
	// ModeAlways denies by default everywhere.
	ModeAlways Mode = "always"
	// ModeNever enforces nothing.
	ModeNever Mode = "never"
)

// Manager serialises all changes of policies, identities and subjects. All methods are safe for concurrent use.
type Manager struct {
	// mu is held while the datapath is written: the engine's changes have to be applied in order.
	mu     sync.Mutex
	engine *policy.Engine
	dp     datapath.Datapath
	cache  *ipcache.Cache
	mode   Mode
	log    *slog.Logger
	// enforce publishes whether default deny is on for an endpoint.
	enforce func(ctx context.Context, id datapath.EndpointID, enforced [2]bool) error
	// live is false until the pinned state of before a restart was compared.
	live bool
	// dirty subjects are those whose last write failed.
	dirty    map[policy.SubjectID]struct{}
	prefixes map[netip.Prefix]policy.NumericIdentity
	blocks   blockTable
	// rangeNumbers and nodeNumbers give out node-local identities; checkpoint is where they are remembered.
	rangeNumbers, nodeNumbers *numbers
	checkpoint                string
	unsaved                   bool
	// settings that policies may require and that are on.
	settings map[string]bool
	nodes    nodeTable
	objects  map[policy.RefKey]*object
	// ports are the container ports that pods of an identity give names to.
	ports    map[policy.NumericIdentity]policy.NamedPorts
	revision atomic.Uint64
	// infos caches what the flows ask per rule and endpoint; replaced as a whole by every change.
	infos atomic.Pointer[infoCache]
	// names are those that DNS gave an address for, where policies have rules on them.
	names map[netip.Prefix][]string
	// proxies, changed and answers are of the agent's proxies.
	proxies Proxies
	changed func()
	answers atomic.Pointer[answers]
}

// object is a policy as the API server has it.
type object struct {
	policy policy.Policy
	// inForce is false for an invalid policy; an earlier edition may still be in force.
	inForce bool
	// since is the revision with which it came.
	since uint64
}

// New makes a manager that only computes until Start.
func New(dp datapath.Datapath, cache *ipcache.Cache, mode Mode, log *slog.Logger) *Manager {
	m := &Manager{engine: policy.NewEngine(), dp: dp, cache: cache, mode: mode, log: log,
		dirty: map[policy.SubjectID]struct{}{}, prefixes: map[netip.Prefix]policy.NumericIdentity{},
		rangeNumbers: newNumbers(policy.IdentityLocalMin, policy.IdentityLocalMax), nodeNumbers: newNumbers(policy.IdentityNodeMin, policy.IdentityNodeMax),
		blocks: newBlockTable(), settings: map[string]bool{}, nodes: newNodeTable(), objects: map[policy.RefKey]*object{},
		ports: map[policy.NumericIdentity]policy.NamedPorts{}, names: map[netip.Prefix][]string{}}
	m.infos.Store(newInfoCache())
	m.answers.Store(&answers{})
	return m
}

// OnEnforced sets who publishes the enforcement flags of an endpoint; to be called before Start.
func (m *Manager) OnEnforced(f func(ctx context.Context, id datapath.EndpointID, enforced [2]bool) error) {
	m.enforce = f
}

// Start makes the lines of every subject in the kernel equal to the engine's, and keeps them so from then on. What is allowed
// before and after is at no moment dropped: first every subject gets what it lacks, then ranges are published, since lines under
// their numbers are there, then default deny comes and lines go, and at last ranges that nobody names any more, with their lines.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = true
	var errs []error
	for _, id := range m.engine.Subjects() {
		adds, _, _, err := m.compare(id)
		if err == nil && len(adds) > 0 {
			err = m.dp.ApplyPolicy(ctx, adds, nil)
		}
		// What failed here is tried again right below.
		if err != nil {
			m.log.Debug("lines were refused", "endpoint", id, "error", err)
		}
	}
	errs = append(errs, m.publishBlocks(ctx))
	for _, id := range m.engine.Subjects() {
		errs = append(errs, m.reconcile(ctx, id))
	}
	return errors.Join(append(errs, m.pruneBlocks(ctx))...)
}

// entries is what the kernel should have for a subject.
func (m *Manager) entries(id policy.SubjectID) ([]policy.Entry, [2]bool) {
	if m.mode == ModeNever {
		return nil, [2]bool{}
	}
	entries, enforced := m.engine.Entries(id)
	// Never the node itself: without a policy that admits them kubelet, SSH and the agent would be cut off everywhere at once.
	if m.mode == ModeAlways && id != policy.SubjectID(datapath.HostEndpoint) {
		for d := range enforced {
			if !enforced[d] && policy.Direction(d) == policy.Ingress {
				entries = append(entries, localhostEntry)
			}
			enforced[d] = true
		}
	}
	return entries, enforced
}

// localhostEntry lets the node reach its pods (kubelet probes) where mode always denies without any policy.
var localhostEntry = policy.Entry{Key: policy.Key{Direction: policy.Ingress, Peer: policy.IdentityHost}}

// compare gives what the kernel lacks of a subject's lines, its flags, and what the kernel has too much.
func (m *Manager) compare(id policy.SubjectID) (adds []datapath.PolicyEntry, enforced [2]bool, deletes []datapath.PolicyKey, err error) {
	endpoint := datapath.EndpointID(id)
	have, err := m.dp.Policy(endpoint)
	if err != nil {
		return nil, enforced, nil, fmt.Errorf("reading the policy lines of endpoint %d: %w", id, err)
	}
	want, enforced := m.entries(id)
	there := make(map[datapath.PolicyKey]datapath.PolicyValue, len(have))
	for _, e := range have {
		there[e.PolicyKey] = e.PolicyValue
	}
	for _, e := range want {
		line := m.lineOf(endpoint, e)
		if value, ok := there[line.PolicyKey]; !ok || value != line.PolicyValue {
			adds = append(adds, line)
		}
		delete(there, line.PolicyKey)
	}
	for key := range there {
		deletes = append(deletes, key)
	}
	return adds, enforced, deletes, nil
}

// reconcile makes a subject's lines in the kernel what they should be.
func (m *Manager) reconcile(ctx context.Context, id policy.SubjectID) error {
	adds, enforced, deletes, err := m.compare(id)
	if err == nil {
		err = m.write(ctx, adds, []enforcement{{datapath.EndpointID(id), enforced}}, deletes)
	}
	if err != nil {
		m.dirty[id] = struct{}{}
		return fmt.Errorf("writing the policy of endpoint %d: %w", id, err)
	}
	delete(m.dirty, id)
	return nil
}

type enforcement struct {
	id       datapath.EndpointID
	enforced [2]bool
}

// write keeps the order that never drops what is allowed before and after.
func (m *Manager) write(ctx context.Context, adds []datapath.PolicyEntry, flags []enforcement, deletes []datapath.PolicyKey) error {
	if len(adds) > 0 {
		if err := m.dp.ApplyPolicy(ctx, adds, nil); err != nil {
			return err
		}
	}
	for _, f := range flags {
		if f.id == datapath.HostEndpoint {
			if m.nodes.host != nil {
				if err := m.nodes.host(ctx, f.enforced); err != nil {
					return err
				}
			}
			continue
		}
		if m.enforce != nil {
			if err := m.enforce(ctx, f.id, f.enforced); err != nil {
				return err
			}
		}
	}
	if len(deletes) > 0 {
		return m.dp.ApplyPolicy(ctx, nil, deletes)
	}
	return nil
}

func keyOf(endpoint datapath.EndpointID, k policy.Key) datapath.PolicyKey {
	return datapath.PolicyKey{Endpoint: endpoint, Identity: uint32(k.Peer), Direction: datapath.Direction(k.Direction),
		Protocol: k.Protocol, Port: k.Port, PortPrefix: k.PortPrefix}
}

// apply writes the engine's changes; called with mu held.
func (m *Manager) apply(ctx context.Context, changes []policy.Change) error {
	if len(changes) > 0 {
		m.answersChanged()
	}
	if !m.live || len(changes) == 0 || m.mode == ModeNever {
		return nil
	}
	if m.mode == ModeAlways {
		// The engine's changes do not know of the mode's own line and flags.
		var errs []error
		for _, c := range changes {
			errs = append(errs, m.reconcile(ctx, c.Subject))
		}
		return errors.Join(errs...)
	}
	var adds []datapath.PolicyEntry
	var flags []enforcement
	var deletes []datapath.PolicyKey
	for _, c := range changes {
		endpoint := datapath.EndpointID(c.Subject)
		for _, e := range c.Adds {
			adds = append(adds, m.lineOf(endpoint, e))
		}
		if c.EnforcedChanged {
			flags = append(flags, enforcement{endpoint, c.Enforced})
		}
		for _, k := range c.Deletes {
			deletes = append(deletes, keyOf(endpoint, k))
		}
	}
	if err := m.write(ctx, adds, flags, deletes); err != nil {
		for _, c := range changes {
			m.dirty[c.Subject] = struct{}{}
		}
		return fmt.Errorf("writing policy lines: %w", err)
	}
	return nil
}

// Retry writes again what failed; it returns how many endpoints are still behind.
func (m *Manager) Retry(ctx context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Whatever of before the restart nobody asked for by now, nobody will.
	m.rangeNumbers.forget()
	m.nodeNumbers.forget()
	m.blocks.numbers.forget()
	errs := []error{m.save()}
	for id := range m.dirty {
		if _, known := slices.BinarySearch(m.engine.Subjects(), id); !known {
			delete(m.dirty, id)
			continue
		}
		errs = append(errs, m.reconcile(ctx, id))
	}
	if m.blocks.dirty {
		errs = append(errs, m.publishBlocks(ctx))
	}
	return len(m.dirty), errors.Join(errs...)
}

// AddSubject computes an endpoint's policy and writes it; when it returns, the kernel's lines are complete. enforced says
// whether default deny is on, for the endpoint's publication.
func (m *Manager) AddSubject(ctx context.Context, id datapath.EndpointID, labels policy.Labels, ports policy.NamedPorts) (enforced [2]bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.forget()
	m.engine.AddSubject(policy.SubjectID(id), labels, ports)
	_, enforced = m.entries(policy.SubjectID(id))
	if !m.live {
		return enforced, nil
	}
	return enforced, m.reconcile(ctx, policy.SubjectID(id))
}

// RemoveSubject forgets an endpoint; the datapath deletes its lines with the endpoint.
func (m *Manager) RemoveSubject(id datapath.EndpointID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.forget()
	m.engine.RemoveSubject(policy.SubjectID(id))
	delete(m.dirty, policy.SubjectID(id))
}

// SetIdentity makes a peer known to every endpoint's policy; when it returns, the kernel's lines are complete, and the
// peer's addresses may be published.
func (m *Manager) SetIdentity(ctx context.Context, id policy.NumericIdentity, labels policy.Labels) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.engine.Identity(id); ok && slices.Equal(old, labels) {
		return nil
	}
	return m.apply(ctx, m.engine.AddIdentity(id, labels))
}

// AddPorts takes in which ports a pod of a known identity gives names to; egress rules with named ports need it. Pods of
// one identity may differ: what any of them names counts until the identity goes.
func (m *Manager) AddPorts(ctx context.Context, id policy.NumericIdentity, ports policy.NamedPorts) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.engine.Identity(id); !known {
		return nil
	}
	// A new map each time: the engine reads the one that it has.
	merged, changed := policy.NamedPorts{}, false
	for name, list := range m.ports[id] {
		merged[name] = slices.Clone(list)
	}
	for name, list := range ports {
		for _, p := range list {
			if !slices.Contains(merged[name], p) {
				merged[name], changed = append(merged[name], p), true
			}
		}
	}
	if !changed {
		return nil
	}
	m.ports[id] = merged
	return m.apply(ctx, m.engine.SetIdentityPorts(id, merged))
}

// RemoveIdentity forgets a peer.
func (m *Manager) RemoveIdentity(ctx context.Context, id policy.NumericIdentity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ports, id)
	return m.apply(ctx, m.engine.RemoveIdentity(id))
}

// Upsert brings a policy into force. An invalid one is remembered with its problems; an earlier edition stays in force.
func (m *Manager) Upsert(ctx context.Context, p policy.Policy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.forget()
	for _, setting := range p.Requires() {
		if !m.settings[setting] {
			p = p.Lacking(setting)
		}
	}
	m.objects[p.Ref.Key()] = &object{policy: p, inForce: p.Valid(), since: m.revision.Add(1)}
	if !p.Valid() {
		return nil
	}
	// A range gets its identity, its lines and its place in the ipcache before any policy names it. What is refused is
	// written by Retry; the policy comes into force all the same, as Describe says.
	var errs []error
	for _, prefix := range m.engine.Resolve(p).Prefixes() {
		errs = append(errs, m.addPrefix(ctx, prefix))
	}
	errs = append(errs, m.addBlocks(ctx, p.Blocks()))
	changes, err := m.engine.Upsert(p)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, m.apply(ctx, changes), m.prunePrefixes(ctx), m.pruneBlocks(ctx))...)
}

// Delete withdraws a policy.
func (m *Manager) Delete(ctx context.Context, ref policy.Ref) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.forget()
	m.revision.Add(1)
	delete(m.objects, ref.Key())
	return errors.Join(m.apply(ctx, m.engine.Delete(ref)), m.prunePrefixes(ctx), m.pruneBlocks(ctx))
}

// Enforced tells whether default deny is on for an endpoint, per direction.
func (m *Manager) Enforced(id datapath.EndpointID) [2]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, enforced := m.entries(policy.SubjectID(id))
	return enforced
}

// Revision counts changes of policies.
func (m *Manager) Revision() uint64 { return m.revision.Load() }

// Labels gives an identity's labels.
func (m *Manager) Labels(id policy.NumericIdentity) (policy.Labels, bool) {
	return m.engine.Identity(id)
}
