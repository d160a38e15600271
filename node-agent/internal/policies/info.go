package policies

import (
	"cmp"
	"slices"
	"sync"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/policy"
)

// infoCache answers the flows' questions: they come with every event, the answers change with policies only.
type infoCache struct {
	rules     sync.Map // uint32 → flows.PolicyInfo
	enforcing sync.Map // enforcingKey → []flows.PolicyInfo
}

type enforcingKey struct {
	endpoint uint32
	egress   bool
}

func newInfoCache() *infoCache { return &infoCache{} }

// forget drops the cached answers; called with every change of a policy or subject.
func (m *Manager) forget() {
	m.infos.Store(newInfoCache())
	m.answersChanged()
}

// Rule names the policy behind a rule number of the kernel; false for 0 and for forgotten ones.
func (m *Manager) Rule(rule uint32) (flows.PolicyInfo, bool) {
	if rule == 0 {
		return flows.PolicyInfo{}, false
	}
	cache := m.infos.Load()
	if info, ok := cache.rules.Load(rule); ok {
		return info.(flows.PolicyInfo), true
	}
	ref, ok := m.engine.Rule(policy.RuleID(rule))
	if !ok {
		return flows.PolicyInfo{}, false
	}
	info := flows.PolicyInfo{Name: ref.Policy.Name, Section: string(ref.Section)}
	if !ref.IsBuiltin() {
		info = infoOf(ref.Policy, m.Revision())
		info.Section = ref.Path
	}
	cache.rules.Store(rule, info)
	return info, true
}

func infoOf(ref policy.Ref, revision uint64) flows.PolicyInfo {
	// The labels are those that Cilium derives, so that filters written for it work.
	labels := []string{"k8s:io.cilium.k8s.policy.derived-from=" + string(ref.Kind), "k8s:io.cilium.k8s.policy.name=" + ref.Name}
	if ref.Namespace != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.namespace="+ref.Namespace)
	}
	if ref.UID != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.uid="+ref.UID)
	}
	return flows.PolicyInfo{Kind: string(ref.Kind), Namespace: ref.Namespace, Name: ref.Name, Labels: labels, Revision: revision}
}

// Enforcing lists the policies that switch default deny on for an endpoint.
func (m *Manager) Enforcing(endpoint uint32, egress bool) []flows.PolicyInfo {
	cache := m.infos.Load()
	key := enforcingKey{endpoint, egress}
	if list, ok := cache.enforcing.Load(key); ok {
		return list.([]flows.PolicyInfo)
	}
	selecting := map[policy.RefKey]struct{}{}
	for _, ref := range m.engine.Selecting(policy.SubjectID(endpoint)) {
		selecting[ref.Key()] = struct{}{}
	}
	list := []flows.PolicyInfo{}
	if len(selecting) > 0 {
		for _, p := range m.engine.Policies() {
			if _, ok := selecting[p.Ref.Key()]; !ok {
				continue
			}
			_, _, ingress, out := p.Directions()
			if (egress && out) || (!egress && ingress) {
				list = append(list, infoOf(p.Ref, m.Revision()))
			}
		}
	}
	cache.enforcing.Store(key, list)
	return list
}

// Description is what a policy does on this node.
type Description struct {
	Ref      policy.Ref
	Revision uint64
	Valid    bool
	Problems []policy.Problem
	// Selects are the endpoints of this node that it governs.
	Selects []datapath.EndpointID
	// Entries is how many kernel lines of this node it decides.
	Entries uint64
}

// Describe lists all policies, sorted by kind, namespace and name.
func (m *Manager) Describe() []Description {
	selects := map[policy.RefKey][]datapath.EndpointID{}
	entries := map[policy.RefKey]uint64{}
	for _, id := range m.engine.Subjects() {
		for _, ref := range m.engine.Selecting(id) {
			selects[ref.Key()] = append(selects[ref.Key()], datapath.EndpointID(id))
		}
		lines, _ := m.engine.Entries(id)
		for _, line := range lines {
			if ref, ok := m.engine.Rule(line.Rule); ok && !ref.IsBuiltin() {
				entries[ref.Policy.Key()]++
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Description, 0, len(m.objects))
	for key, o := range m.objects {
		out = append(out, Description{Ref: o.policy.Ref, Revision: o.since, Valid: o.inForce, Problems: o.policy.Problems,
			Selects: selects[key], Entries: entries[key]})
	}
	slices.SortFunc(out, func(a, b Description) int {
		return cmp.Or(cmp.Compare(a.Ref.Kind, b.Ref.Kind), cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name))
	})
	return out
}
