package policy

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// Engine holds policies, identities and the governed endpoints of a node, and keeps every endpoint's kernel lines current.
// All methods are safe for concurrent use; each mutating call is one atomic step, and Changes have to be applied in the
// order in which the calls returned.
type Engine struct {
	mu         sync.RWMutex
	policies   map[RefKey]*livePolicy
	identities map[NumericIdentity]*identityState
	selectors  *selectorCache
	profiles   map[string]*profile
	subjects   map[SubjectID]*profile
	ruleIDs    map[ruleKey]*ruleNumber
	rules      map[RuleID]*ruleNumber
	prefixes   map[netip.Prefix]int
	blocks     map[netip.Prefix]int
	sequence   uint32
	work       Work
	// references are the groups and services that policies may name.
	references References
	// referring are the policies that name any.
	referring map[RefKey]struct{}
	// index finds identities by their labels.
	index     tokenIndex
	ranges    cidrIndex
	ruleIndex ruleIndex
	localhost *liveElement
	openAll   [2]*liveElement
}

type identityState struct {
	labels Labels
	ports  NamedPorts
}

// livePolicy is a policy with its elements wired to the selector cache.
type livePolicy struct {
	policy Policy
	rules  []*liveRule
}

type liveRule struct {
	*rule
	elements []*liveElement
	profiles map[*profile]struct{}
}

// liveElement is an element wired to a selector. One source element whose ports are partly named gives two on egress,
// because names can be resolved per peer only.
type liveElement struct {
	*element
	ref      RuleRef
	id       RuleID
	sequence uint32
	rule     *liveRule
	// selector is nil where anyPeer.
	selector *cachedSelector
	// perPeer: the lines depend on the peer's named ports.
	perPeer bool
	// part says which part of the source element this is.
	part string
}

type ruleKey struct {
	policy  RefKey
	rule    int
	section Section
	index   int
}

type ruleNumber struct {
	id   RuleID
	ref  RuleRef
	uses int
}

// NewEngine makes an engine that knows the reserved identities and nothing else.
func NewEngine() *Engine {
	e := &Engine{
		policies:   make(map[RefKey]*livePolicy),
		identities: make(map[NumericIdentity]*identityState),
		selectors:  newSelectorCache(),
		profiles:   make(map[string]*profile),
		subjects:   make(map[SubjectID]*profile),
		ruleIDs:    make(map[ruleKey]*ruleNumber),
		rules:      make(map[RuleID]*ruleNumber),
		prefixes:   make(map[netip.Prefix]int),
		blocks:     make(map[netip.Prefix]int),
		references: NewReferences(nil, nil),
		referring:  make(map[RefKey]struct{}),
		index:      make(tokenIndex),
		ruleIndex:  newRuleIndex(),
	}
	for _, identity := range ReservedIdentities() {
		e.identities[identity.ID] = &identityState{labels: identity.Labels}
		e.index.add(identity.ID, identity.Labels)
	}
	e.localhost = e.builtin(BuiltinAllowLocalhost, Ingress)
	e.openAll = [2]*liveElement{e.builtin(BuiltinDefaultAllow, Ingress), e.builtin(BuiltinDefaultAllow, Egress)}
	return e
}

func builtinRef(name string) RuleRef {
	return RuleRef{Policy: Ref{Kind: kindBuiltin, Name: name}, Section: SectionBuiltin}
}

func (e *Engine) builtin(name string, direction Direction) *liveElement {
	source := &element{section: SectionBuiltin, direction: direction, anyPeer: true, anyPort: true}
	return e.newElement(source, builtinRef(name), nil)
}

func (e *Engine) newElement(source *element, ref RuleRef, owner *liveRule) *liveElement {
	e.sequence++
	return &liveElement{element: source, ref: ref, id: e.acquireRule(ref), sequence: e.sequence, rule: owner}
}

func (r RuleRef) key() ruleKey {
	return ruleKey{policy: r.Policy.Key(), rule: r.Rule, section: r.Section, index: r.Index}
}

// acquireRule numbers a rule by a hash of its name; a taken number moves on to the next free one.
func (e *Engine) acquireRule(ref RuleRef) RuleID {
	key := ref.key()
	if n := e.ruleIDs[key]; n != nil {
		n.uses++
		n.ref = ref
		return n.id
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%d\x00%s\x00%d", key.policy, key.rule, key.section, key.index)
	id := RuleID(h.Sum32())
	for id == 0 || e.rules[id] != nil {
		id++
	}
	n := &ruleNumber{id: id, ref: ref, uses: 1}
	e.ruleIDs[key], e.rules[id] = n, n
	return id
}

func (e *Engine) releaseRule(ref RuleRef) {
	key := ref.key()
	n := e.ruleIDs[key]
	if n.uses--; n.uses == 0 {
		delete(e.ruleIDs, key)
		delete(e.rules, n.id)
	}
}

// Rule gives the rule behind a number out of the kernel; false where it is gone (or was 0).
func (e *Engine) Rule(id RuleID) (RuleRef, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if n := e.rules[id]; n != nil {
		return n.ref, true
	}
	return RuleRef{}, false
}

// Upsert adds a policy or replaces the edition that is there, and returns the changes of all endpoints, sorted by subject.
// An invalid policy is refused with an InvalidPolicyError and changes nothing: an earlier valid edition stays in force, so
// that a slip in an edit opens nothing. Delete it to withdraw it.
func (e *Engine) Upsert(p Policy) ([]Change, error) {
	if !p.Valid() {
		return nil, &InvalidPolicyError{Ref: p.Ref, Problems: p.Problems}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p = p.Resolve(e.references)
	tx := e.begin()
	old := e.policies[p.Ref.Key()]
	// The new edition is wired first, so that selectors and rule numbers that both editions use live on.
	live := &livePolicy{policy: p}
	for i := range p.rules {
		live.rules = append(live.rules, e.wireRule(tx, p.Ref, &p.rules[i]))
	}
	e.holdRanges(p)
	if old != nil {
		e.unwirePolicy(tx, old)
	}
	e.policies[p.Ref.Key()] = live
	if p.hasReferences() {
		e.referring[p.Ref.Key()] = struct{}{}
	} else {
		delete(e.referring, p.Ref.Key())
	}
	return tx.commit(), nil
}

// InvalidPolicyError says that a policy was not taken over, and why.
type InvalidPolicyError struct {
	Ref      Ref
	Problems []Problem
}

// Error gives the first problem.
func (e *InvalidPolicyError) Error() string {
	for _, p := range e.Problems {
		if p.Severity == SeverityError {
			return fmt.Sprintf("policy %s is not enforced: %s", e.Ref, p)
		}
	}
	return fmt.Sprintf("policy %s is not enforced", e.Ref)
}

// Delete withdraws a policy; without such a policy nothing changes.
func (e *Engine) Delete(ref Ref) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.policies[ref.Key()]
	if old == nil {
		return nil
	}
	tx := e.begin()
	e.unwirePolicy(tx, old)
	delete(e.policies, ref.Key())
	delete(e.referring, ref.Key())
	return tx.commit()
}

func (e *Engine) wireRule(tx *transaction, ref Ref, r *rule) *liveRule {
	live := &liveRule{rule: r, profiles: make(map[*profile]struct{})}
	for i := range r.elements {
		for _, p := range partsOf(&r.elements[i], i) {
			live.elements = append(live.elements, e.wirePart(ref, live, &r.elements[i], p))
		}
	}
	e.ruleIndex.add(live)
	for _, p := range e.profiles {
		e.work.SubjectsTried++
		if r.governs(p.labels) {
			tx.attach(p, live)
		}
	}
	return live
}

func (e *Engine) wirePart(ref Ref, live *liveRule, source *element, p elementPart) *liveElement {
	le := e.newElement(p.element, live.ref(ref, source), live)
	le.part = p.key
	le.perPeer = p.element.direction == Egress && slices.ContainsFunc(p.element.ports, func(m portMatch) bool { return m.name != "" })
	if !p.element.anyPeer {
		le.selector = e.selectors.acquire(le, e)
	}
	return le
}

// elementPart is what is wired on its own of an element.
type elementPart struct {
	element *element
	key     string
}

// partsOf splits an element where its parts come and go separately: by what its references stand for, and by named ports.
func partsOf(source *element, index int) []elementPart {
	var out []elementPart
	for i, e := range splitNamedPorts(source) {
		if len(e.references) == 0 {
			out = append(out, elementPart{e, part(index, i > 0, "")})
			continue
		}
		own := *e
		own.peers = e.peers[:e.own]
		out = append(out, elementPart{&own, part(index, i > 0, "")})
		seen := make(map[string]struct{})
		for j := e.own; j < len(e.peers); j++ {
			key := e.peers[j].key()
			if _, twice := seen[key]; twice {
				continue
			}
			seen[key] = struct{}{}
			one := *e
			one.peers = e.peers[j : j+1]
			out = append(out, elementPart{&one, part(index, i > 0, key)})
		}
	}
	return out
}

// splitNamedPorts: "anybody, on the port that the peer calls http" is one line per peer, not one line for all.
func splitNamedPorts(e *element) []*element {
	if e.direction != Egress || !e.anyPeer || e.anyPort {
		return []*element{e}
	}
	var named, numbered []portMatch
	for _, m := range e.ports {
		if m.name != "" {
			named = append(named, m)
		} else {
			numbered = append(numbered, m)
		}
	}
	if len(named) == 0 {
		return []*element{e}
	}
	perPeer, rest := *e, *e
	perPeer.anyPeer, perPeer.peers, perPeer.ports = false, []peer{{kind: peerEverybody}}, named
	rest.ports = numbered
	if len(numbered) == 0 {
		return []*element{&perPeer}
	}
	return []*element{&perPeer, &rest}
}

func (e *Engine) unwirePolicy(tx *transaction, old *livePolicy) {
	for _, live := range old.rules {
		for p := range live.profiles {
			tx.detach(p, live)
		}
		e.ruleIndex.remove(live)
		for _, le := range live.elements {
			e.unwireElement(le)
		}
	}
	e.releaseRanges(old.policy)
}

// AddIdentity makes a peer known, or changes its labels.
func (e *Engine) AddIdentity(id NumericIdentity, labels Labels) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id == AnyPeer {
		return nil
	}
	state := e.identities[id]
	if state != nil && slices.Equal(state.labels, labels) {
		return nil
	}
	tx := e.begin()
	var before map[*cachedSelector]struct{}
	if state == nil {
		state = &identityState{}
		e.identities[id] = state
	} else {
		before = e.selectors.matching(state.labels, &e.work)
	}
	e.index.remove(id, state.labels)
	e.ranges.remove(id, state.labels)
	e.index.add(id, labels)
	e.ranges.add(id, labels)
	state.labels = labels
	after := e.selectors.matching(labels, &e.work)
	for s := range before {
		if _, stays := after[s]; !stays {
			tx.leave(s, id)
		}
	}
	for s := range after {
		if _, was := before[s]; !was {
			tx.join(s, id)
		}
	}
	return tx.commit()
}

// SetIdentityPorts tells which container ports the pods of an identity give names to; egress rules with named ports need
// it. The identity has to be known.
func (e *Engine) SetIdentityPorts(id NumericIdentity, ports NamedPorts) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	state := e.identities[id]
	if state == nil {
		return nil
	}
	tx := e.begin()
	for _, p := range e.profiles {
		d := &p.directions[Egress]
		if set := d.peers[id]; set != nil && set.perPeer {
			tx.touch(p, Egress, id)
		}
	}
	state.ports = ports
	return tx.commit()
}

// RemoveIdentity forgets a peer. A reserved identity gets back the labels that it started with.
func (e *Engine) RemoveIdentity(id NumericIdentity) []Change {
	for _, reserved := range ReservedIdentities() {
		if reserved.ID == id {
			return e.AddIdentity(id, reserved.Labels)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	state := e.identities[id]
	if state == nil {
		return nil
	}
	tx := e.begin()
	for s := range e.selectors.matching(state.labels, &e.work) {
		tx.leave(s, id)
	}
	e.index.remove(id, state.labels)
	e.ranges.remove(id, state.labels)
	delete(e.identities, id)
	return tx.commit()
}

// Prefixes lists, sorted, the address ranges that the policies in force name: what needs a local identity.
func (e *Engine) Prefixes() []netip.Prefix {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return sortPrefixes(slices.Collect(maps.Keys(e.prefixes)))
}

// Blocks lists, sorted, the ranges that ipBlocks of policies in force name: what needs a number of its own.
func (e *Engine) Blocks() []netip.Prefix {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return sortPrefixes(slices.Collect(maps.Keys(e.blocks)))
}

// Policies lists the policies in force, sorted by reference.
func (e *Engine) Policies() []Policy {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]Policy, 0, len(e.policies))
	for _, p := range e.policies {
		out = append(out, p.policy)
	}
	slices.SortFunc(out, func(a, b Policy) int { return compareRefs(a.Ref.Key(), b.Ref.Key()) })
	return out
}

// Identity gives the labels of a known identity.
func (e *Engine) Identity(id NumericIdentity) (Labels, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if s := e.identities[id]; s != nil {
		return s.labels, true
	}
	return nil, false
}
