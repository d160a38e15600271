package policy

import (
	"net/netip"
	"slices"
)

// Work counts what an engine did since it was made, so that a test or a metric can tell what a change cost.
type Work struct {
	// SelectorsTried against an identity, IdentitiesTried against a new selector, SubjectsTried against a rule (or the
	// reverse), PeersResolved into lines.
	SelectorsTried, IdentitiesTried, SubjectsTried, PeersResolved uint64
}

// Total adds everything up.
func (w Work) Total() uint64 {
	return w.SelectorsTried + w.IdentitiesTried + w.SubjectsTried + w.PeersResolved
}

// Work gives the counts so far.
func (e *Engine) Work() Work {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.work
}

// Resolve gives the policy with its references replaced by what they stand for now, as Upsert would take it.
func (e *Engine) Resolve(p Policy) Policy {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return p.Resolve(e.references)
}

// GroupPrefixes lists, sorted, the ranges that policies in force would name with the group as it is given: what needs an
// identity before SetCIDRGroup.
func (e *Engine) GroupPrefixes(g CIDRGroup) []netip.Prefix {
	return e.referencePrefixes(func(r reference) []peer {
		if !r.namesGroup(g) {
			return nil
		}
		return r.expandGroup(nil, g)
	})
}

// ServicePrefixes is GroupPrefixes for a service.
func (e *Engine) ServicePrefixes(s ServicePeers) []netip.Prefix {
	return e.referencePrefixes(func(r reference) []peer {
		if !r.namesService(s) {
			return nil
		}
		return s.peers()
	})
}

func (e *Engine) referencePrefixes(expand func(reference) []peer) []netip.Prefix {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []netip.Prefix
	for key := range e.referring {
		for _, r := range e.policies[key].rules {
			for _, element := range r.rule.elements {
				for _, ref := range element.references {
					for _, p := range expand(ref) {
						if p.isRange() {
							out = append(out, p.prefixes()...)
						}
					}
				}
			}
		}
	}
	return sortPrefixes(out)
}

// SetCIDRGroup makes a group known or changes it. Only the parts of policies that the group adds or takes away are wired
// anew: the cost follows the change.
func (e *Engine) SetCIDRGroup(g CIDRGroup) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, known := e.references.groups[g.Name]
	e.references.groups[g.Name] = g
	return e.refresh(func(r reference) bool { return r.namesGroup(g) || (known && r.namesGroup(old)) })
}

// RemoveCIDRGroup forgets a group.
func (e *Engine) RemoveCIDRGroup(name string) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, known := e.references.groups[name]
	if !known {
		return nil
	}
	delete(e.references.groups, name)
	return e.refresh(func(r reference) bool { return r.namesGroup(old) })
}

// SetService makes a service known or changes it; like SetCIDRGroup.
func (e *Engine) SetService(s ServicePeers) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, known := e.references.services[s.ServiceName]
	e.references.services[s.ServiceName] = s
	return e.refresh(func(r reference) bool { return r.namesService(s) || (known && r.namesService(old)) })
}

// RemoveService forgets a service.
func (e *Engine) RemoveService(name ServiceName) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, known := e.references.services[name]
	if !known {
		return nil
	}
	delete(e.references.services, name)
	return e.refresh(func(r reference) bool { return r.namesService(old) })
}

// refresh wires the parts of policies anew that come of references for which concerned is true.
func (e *Engine) refresh(concerned func(reference) bool) []Change {
	tx := e.begin()
	for key := range e.referring {
		live := e.policies[key]
		if !live.policy.anyReference(concerned) {
			continue
		}
		next := live.policy.Resolve(e.references)
		e.holdRanges(next)
		for i := range next.rules {
			e.rewire(tx, next.Ref, live.rules[i], &next.rules[i])
		}
		e.releaseRanges(live.policy)
		live.policy = next
	}
	return tx.commit()
}

// rewire turns a rule into a later edition that differs in the parts of its elements only.
func (e *Engine) rewire(tx *transaction, ref Ref, live *liveRule, next *rule) {
	have := make(map[string]*liveElement, len(live.elements))
	for _, le := range live.elements {
		have[le.part] = le
	}
	live.rule = next
	var elements []*liveElement
	for i := range next.elements {
		for _, p := range partsOf(&next.elements[i], i) {
			if le := have[p.key]; le != nil {
				delete(have, p.key)
				elements = append(elements, le)
				continue
			}
			le := e.wirePart(ref, live, &next.elements[i], p)
			elements = append(elements, le)
			for profile := range live.profiles {
				tx.addElement(profile, le)
			}
		}
	}
	for _, le := range have {
		for profile := range live.profiles {
			tx.removeElement(profile, le)
		}
		e.unwireElement(le)
	}
	live.elements = elements
}

func (e *Engine) unwireElement(le *liveElement) {
	if le.selector != nil {
		e.selectors.release(le, le.selector)
	}
	e.releaseRule(le.ref)
}

// holdRanges counts the ranges that a policy names, releaseRanges takes them back.
func (e *Engine) holdRanges(p Policy) {
	for _, prefix := range p.Prefixes() {
		e.prefixes[prefix]++
	}
	for _, prefix := range p.Blocks() {
		e.blocks[prefix]++
	}
}

func (e *Engine) releaseRanges(p Policy) {
	release := func(counts map[netip.Prefix]int, prefixes []netip.Prefix) {
		for _, prefix := range prefixes {
			if counts[prefix]--; counts[prefix] == 0 {
				delete(counts, prefix)
			}
		}
	}
	release(e.prefixes, p.Prefixes())
	release(e.blocks, p.Blocks())
}

// ruleIndex finds rules by a label that every endpoint they govern carries.
type ruleIndex struct {
	byToken map[string]map[*liveRule]struct{}
	scan    map[*liveRule]struct{}
}

func newRuleIndex() ruleIndex {
	return ruleIndex{byToken: make(map[string]map[*liveRule]struct{}), scan: make(map[*liveRule]struct{})}
}

func (x ruleIndex) add(r *liveRule) {
	tokens := r.subject.indexTokens()
	if tokens == nil {
		x.scan[r] = struct{}{}
	}
	for _, t := range tokens {
		set := x.byToken[t]
		if set == nil {
			set = make(map[*liveRule]struct{})
			x.byToken[t] = set
		}
		set[r] = struct{}{}
	}
}

func (x ruleIndex) remove(r *liveRule) {
	delete(x.scan, r)
	for _, t := range r.subject.indexTokens() {
		if delete(x.byToken[t], r); len(x.byToken[t]) == 0 {
			delete(x.byToken, t)
		}
	}
}

// governing lists the rules that govern an endpoint with these labels, each once.
func (x ruleIndex) governing(labels Labels, work *Work) []*liveRule {
	var out []*liveRule
	seen := make(map[*liveRule]struct{})
	try := func(r *liveRule) {
		if _, twice := seen[r]; twice {
			return
		}
		seen[r] = struct{}{}
		work.SubjectsTried++
		if r.governs(labels) {
			out = append(out, r)
		}
	}
	for r := range x.scan {
		try(r)
	}
	labels.tokens(func(t string) {
		for r := range x.byToken[t] {
			try(r)
		}
	})
	return slices.Clip(out)
}
