package policy

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// transaction collects which (profile, direction, peer) a call touches, and resolves each of them once at the end. What was
// removed and added again therefore leaves no trace in the Changes.
type transaction struct {
	engine   *Engine
	profiles map[*profile]*touched
}

type touched struct {
	enforced [2]bool
	peers    [2]map[NumericIdentity][]*liveElement
}

func (e *Engine) begin() *transaction {
	return &transaction{engine: e, profiles: make(map[*profile]*touched)}
}

func (tx *transaction) of(p *profile) *touched {
	t := tx.profiles[p]
	if t == nil {
		t = &touched{enforced: p.enforced()}
		tx.profiles[p] = t
	}
	return t
}

// touch makes the elements of a peer modifiable and marks it for resolution.
func (tx *transaction) touch(p *profile, d Direction, id NumericIdentity) map[NumericIdentity][]*liveElement {
	t := tx.of(p)
	if t.peers[d] == nil {
		t.peers[d] = make(map[NumericIdentity][]*liveElement)
	}
	if _, ok := t.peers[d][id]; !ok {
		var elements []*liveElement
		if set := p.directions[d].peers[id]; set != nil {
			elements = slices.Clone(set.elements)
		}
		t.peers[d][id] = elements
	}
	return t.peers[d]
}

func bySequence(e *liveElement, sequence uint32) int { return cmp.Compare(e.sequence, sequence) }

func (tx *transaction) add(p *profile, e *liveElement, id NumericIdentity) {
	peers := tx.touch(p, e.direction, id)
	if at, found := slices.BinarySearchFunc(peers[id], e.sequence, bySequence); !found {
		peers[id] = slices.Insert(peers[id], at, e)
	}
}

func (tx *transaction) remove(p *profile, e *liveElement, id NumericIdentity) {
	peers := tx.touch(p, e.direction, id)
	if at, found := slices.BinarySearchFunc(peers[id], e.sequence, bySequence); found {
		peers[id] = slices.Delete(peers[id], at, at+1)
	}
}

// attach makes a rule govern a profile.
func (tx *transaction) attach(p *profile, r *liveRule) {
	tx.of(p)
	p.rules[r] = struct{}{}
	r.profiles[p] = struct{}{}
	tx.count(p, r, 1)
	for _, e := range r.elements {
		tx.addElement(p, e)
	}
}

func (tx *transaction) addElement(p *profile, e *liveElement) {
	if e.selector == nil {
		tx.add(p, e, AnyPeer)
		return
	}
	for id := range e.selector.ids {
		tx.add(p, e, id)
	}
}

func (tx *transaction) removeElement(p *profile, e *liveElement) {
	if e.selector == nil {
		tx.remove(p, e, AnyPeer)
		return
	}
	for id := range e.selector.ids {
		tx.remove(p, e, id)
	}
}

// detach is the reverse of attach.
func (tx *transaction) detach(p *profile, r *liveRule) {
	tx.of(p)
	delete(p.rules, r)
	delete(r.profiles, p)
	tx.count(p, r, -1)
	for _, e := range r.elements {
		tx.removeElement(p, e)
	}
}

// count keeps the number of rules that take part and that ask for default deny, and with it the builtin rules: where rules
// take part the kernel is told to enforce, and where none of them asks for default deny a line that allows all goes first.
func (tx *transaction) count(p *profile, r *liveRule, by int) {
	for d := range p.directions {
		state := &p.directions[d]
		wasActive, wasOpen := state.active > 0, state.active > 0 && state.denying == 0
		if r.active[d] {
			state.active += by
		}
		if r.defaultDeny[d] {
			state.denying += by
		}
		isActive, isOpen := state.active > 0, state.active > 0 && state.denying == 0
		tx.toggle(p, tx.engine.openAll[d], AnyPeer, wasOpen, isOpen)
		if Direction(d) == Ingress {
			tx.toggle(p, tx.engine.localhost, IdentityHost, wasActive, isActive)
		}
	}
}

func (tx *transaction) toggle(p *profile, e *liveElement, id NumericIdentity, was, is bool) {
	switch {
	case is && !was:
		tx.add(p, e, id)
	case was && !is:
		tx.remove(p, e, id)
	}
}

// join makes an identity match a selector.
func (tx *transaction) join(s *cachedSelector, id NumericIdentity) {
	s.ids[id] = struct{}{}
	for e := range s.users {
		for p := range e.rule.profiles {
			tx.add(p, e, id)
		}
	}
}

// leave is the reverse of join.
func (tx *transaction) leave(s *cachedSelector, id NumericIdentity) {
	delete(s.ids, id)
	for e := range s.users {
		for p := range e.rule.profiles {
			tx.remove(p, e, id)
		}
	}
}

// commit resolves what was touched and gives the changes of all subjects, sorted.
func (tx *transaction) commit() []Change {
	var out []Change
	for p, t := range tx.profiles {
		change := Change{Enforced: p.enforced()}
		change.EnforcedChanged = change.Enforced != t.enforced
		for d := range t.peers {
			tx.commitDirection(p, Direction(d), t.peers[d], &change)
		}
		if change.empty() {
			continue
		}
		slices.SortFunc(change.Adds, compareEntries)
		slices.SortFunc(change.Deletes, compareKeys)
		for id := range p.subjects {
			change.Subject = id
			out = append(out, change)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Subject, b.Subject) })
	return out
}

type lineChange struct {
	adds    []line
	deletes []line
}

func (tx *transaction) commitDirection(p *profile, d Direction, peers map[NumericIdentity][]*liveElement, change *Change) {
	state := &p.directions[d]
	type pair struct{ before, after *peerSet }
	known := make(map[pair]lineChange)
	var discarded []*peerSet
	for id, elements := range peers {
		tx.engine.work.PeersResolved++
		before := state.peers[id]
		after := tx.set(p, state, id, elements)
		step, ok := known[pair{before, after}]
		if !ok {
			step = compareSets(before, after)
			known[pair{before, after}] = step
		}
		for _, l := range step.adds {
			change.Adds = append(change.Adds, l.entry(d, id))
		}
		for _, l := range step.deletes {
			change.Deletes = append(change.Deletes, l.entry(d, id).Key)
		}
		if after == nil {
			delete(state.peers, id)
		} else {
			after.uses++
			state.peers[id] = after
		}
		if before != nil {
			before.uses--
			discarded = append(discarded, before)
		}
	}
	for _, set := range discarded {
		// A per-peer set may have been replaced under its key by a newer one.
		if set.uses == 0 && state.sets[set.key] == set {
			delete(state.sets, set.key)
		}
	}
}

// set finds or makes the set of these elements; nil where there are none.
func (tx *transaction) set(p *profile, state *directionState, id NumericIdentity, elements []*liveElement) *peerSet {
	if len(elements) == 0 {
		return nil
	}
	perPeer := slices.ContainsFunc(elements, func(e *liveElement) bool { return e.perPeer })
	key := make([]byte, 0, 4*len(elements)+5)
	for _, e := range elements {
		key = binary.LittleEndian.AppendUint32(key, e.sequence)
	}
	if perPeer {
		key = append(binary.LittleEndian.AppendUint32(key, uint32(id)), 'p')
	}
	if set := state.sets[string(key)]; set != nil && !perPeer {
		return set
	}
	var peerPorts NamedPorts
	if identity := tx.engine.identities[id]; identity != nil {
		peerPorts = identity.ports
	}
	set := &peerSet{key: string(key), elements: elements, perPeer: perPeer, lines: resolve(elements, p.ports, peerPorts)}
	state.sets[set.key] = set
	return set
}

func compareSets(before, after *peerSet) lineChange {
	var step lineChange
	if before == after {
		return step
	}
	type place struct {
		protocol, bits uint8
		port           uint16
	}
	old := make(map[place]line)
	if before != nil {
		for _, l := range before.lines {
			old[place{l.protocol, l.bits, l.port}] = l
		}
	}
	if after != nil {
		for _, l := range after.lines {
			at := place{l.protocol, l.bits, l.port}
			if was, ok := old[at]; !ok || was != l {
				step.adds = append(step.adds, l)
			}
			delete(old, at)
		}
	}
	step.deletes = slices.Collect(maps.Values(old))
	return step
}
