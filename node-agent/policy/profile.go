package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// profile is the policy of all endpoints that are alike: same labels, same named ports. Replicas share one.
type profile struct {
	key        string
	labels     Labels
	ports      NamedPorts
	subjects   map[SubjectID]struct{}
	rules      map[*liveRule]struct{}
	directions [2]directionState
}

type directionState struct {
	// active and denying count the rules that take part, and those that ask for default deny.
	active, denying int
	// peers holds, per identity (and AnyPeer), what governs the traffic with it.
	peers map[NumericIdentity]*peerSet
	// sets are the distinct values of peers: thousands of identities share a few.
	sets map[string]*peerSet
}

// peerSet is what some identities have in common: the elements that name them, and the resulting lines.
type peerSet struct {
	key      string
	elements []*liveElement
	perPeer  bool
	lines    []line
	uses     int
}

// line is an Entry without direction and peer.
type line struct {
	protocol uint8
	bits     uint8
	port     uint16
	deny     bool
	proxy    ProxyKind
	rule     RuleID
}

func (l line) entry(direction Direction, peer NumericIdentity) Entry {
	return Entry{
		Key:  Key{Direction: direction, Peer: peer, Protocol: l.protocol, Port: l.port, PortPrefix: l.bits},
		Deny: l.deny, Proxy: l.proxy, Rule: l.rule,
	}
}

func compareLines(a, b line) int {
	return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.bits, b.bits), cmp.Compare(a.port, b.port))
}

// claim is what one element says about one line.
type claim struct {
	element *liveElement
	proxy   ProxyKind
}

// beats: a deny wins, then what needs no proxy, then the first by name.
func (a claim) beats(b claim) bool {
	if a.element.deny != b.element.deny {
		return a.element.deny
	}
	if a.proxy != b.proxy && (a.proxy == ProxyNone || b.proxy == ProxyNone) {
		return a.proxy == ProxyNone
	}
	if a.proxy != b.proxy {
		return a.proxy < b.proxy
	}
	return compareRules(a.element.ref, b.element.ref) < 0
}

// resolve turns the elements that name a peer into lines: of several rules for one line a deny wins, then one that asks for
// no proxy, then the first by name. A line that a broader one of the same peer makes void is left out, because the kernel's
// longest match would prefer it: an allow under a broader deny, and an allow by proxy under a broader plain allow. That
// nobody asked for default deny is no such allow: it says nothing about what the rules for the port ask for.
func resolve(elements []*liveElement, subjectPorts, peerPorts NamedPorts) []line {
	type place struct {
		protocol, bits uint8
		port           uint16
	}
	best := make(map[place]claim)
	for _, e := range elements {
		names := subjectPorts
		if e.direction == Egress {
			names = peerPorts
		}
		proxy := ProxyNone
		add := func(protocol uint8, port uint16, bits uint8) {
			at, fresh := place{protocol: protocol, bits: bits, port: port}, claim{e, proxy}
			if old, taken := best[at]; !taken || fresh.beats(old) {
				best[at] = fresh
			}
		}
		if e.anyPort {
			add(ProtocolAny, 0, 0)
			continue
		}
		for _, m := range e.ports {
			proxy = m.proxy()
			m.each(names, add)
		}
	}
	// broader tells whether any broader line fulfils a condition.
	broader := func(at place, condition func(claim) bool) bool {
		if c, ok := best[place{}]; ok && at != (place{}) && condition(c) {
			return true
		}
		for bits := uint8(0); bits < at.bits; bits++ {
			if c, ok := best[place{protocol: at.protocol, bits: bits, port: prefixOf(at.port, bits)}]; ok && condition(c) {
				return true
			}
		}
		return false
	}
	denies := func(c claim) bool { return c.element.deny }
	opens := func(c claim) bool { return !c.element.deny && c.proxy == ProxyNone && !c.element.ref.isDefaultAllow() }
	out := make([]line, 0, len(best))
	for at, c := range best {
		if !c.element.deny && (broader(at, denies) || c.proxy != ProxyNone && broader(at, opens)) {
			continue
		}
		out = append(out, line{protocol: at.protocol, bits: at.bits, port: at.port, deny: c.element.deny, proxy: c.proxy, rule: c.element.id})
	}
	slices.SortFunc(out, compareLines)
	return out
}

func profileKey(labels Labels, ports NamedPorts) string {
	names := make([]string, 0, len(ports))
	for name := range ports {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(labels.String())
	for _, name := range names {
		fmt.Fprintf(&b, "\x00%s=%v", name, ports[name])
	}
	return b.String()
}

// AddSubject makes an endpoint of this node governed, or changes its labels or named ports. The one Change that it returns
// has what to write before the endpoint is published; nil where nothing changed.
func (e *Engine) AddSubject(id SubjectID, labels Labels, ports NamedPorts) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := profileKey(labels, ports)
	old := e.subjects[id]
	if old != nil && old.key == key {
		return nil
	}
	p := e.profiles[key]
	if p == nil {
		p = e.newProfile(key, labels, ports)
	}
	p.subjects[id] = struct{}{}
	e.subjects[id] = p
	change := difference(old, p)
	change.Subject = id
	if old != nil {
		e.leaveProfile(old, id)
	}
	if old != nil && change.empty() {
		return nil
	}
	return []Change{change}
}

// RemoveSubject forgets an endpoint and returns the deletion of all its lines.
func (e *Engine) RemoveSubject(id SubjectID) []Change {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.subjects[id]
	if old == nil {
		return nil
	}
	change := difference(old, nil)
	change.Subject = id
	e.leaveProfile(old, id)
	delete(e.subjects, id)
	return []Change{change}
}

func (e *Engine) newProfile(key string, labels Labels, ports NamedPorts) *profile {
	p := &profile{key: key, labels: labels, ports: ports, subjects: make(map[SubjectID]struct{}), rules: make(map[*liveRule]struct{})}
	for d := range p.directions {
		p.directions[d].peers = make(map[NumericIdentity]*peerSet)
		p.directions[d].sets = make(map[string]*peerSet)
	}
	e.profiles[key] = p
	tx := e.begin()
	for _, r := range e.ruleIndex.governing(labels, &e.work) {
		tx.attach(p, r)
	}
	tx.commit()
	return p
}

func (e *Engine) leaveProfile(p *profile, id SubjectID) {
	delete(p.subjects, id)
	if len(p.subjects) > 0 {
		return
	}
	for r := range p.rules {
		delete(r.profiles, p)
	}
	delete(e.profiles, p.key)
}

func (p *profile) enforced() [2]bool {
	if p == nil {
		return [2]bool{}
	}
	return [2]bool{p.directions[Ingress].active > 0, p.directions[Egress].active > 0}
}

func (p *profile) entries() []Entry {
	if p == nil {
		return nil
	}
	var out []Entry
	for d := range p.directions {
		for id, set := range p.directions[d].peers {
			for _, l := range set.lines {
				out = append(out, l.entry(Direction(d), id))
			}
		}
	}
	slices.SortFunc(out, compareEntries)
	return out
}

// difference is what turns the lines of before into those of after; either may be nil.
func difference(before, after *profile) Change {
	change := Change{Enforced: after.enforced()}
	change.EnforcedChanged = before.enforced() != change.Enforced
	old := make(map[Key]Entry)
	for _, entry := range before.entries() {
		old[entry.Key] = entry
	}
	for _, entry := range after.entries() {
		if was, ok := old[entry.Key]; !ok || was != entry {
			change.Adds = append(change.Adds, entry)
		}
		delete(old, entry.Key)
	}
	for key := range old {
		change.Deletes = append(change.Deletes, key)
	}
	slices.SortFunc(change.Deletes, compareKeys)
	return change
}

func (c Change) empty() bool { return len(c.Adds) == 0 && len(c.Deletes) == 0 && !c.EnforcedChanged }

// Entries lists an endpoint's lines, sorted by key, and per direction whether it is enforced. Unknown endpoints have none.
func (e *Engine) Entries(id SubjectID) (entries []Entry, enforced [2]bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := e.subjects[id]
	return p.entries(), p.enforced()
}

// Subjects lists the governed endpoints in ascending order.
func (e *Engine) Subjects() []SubjectID {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]SubjectID, 0, len(e.subjects))
	for id := range e.subjects {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Selecting lists the policies in force that govern an endpoint, sorted by reference.
func (e *Engine) Selecting(id SubjectID) []Ref {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := e.subjects[id]
	if p == nil {
		return nil
	}
	var out []Ref
	for _, live := range e.policies {
		if slices.ContainsFunc(live.rules, func(r *liveRule) bool { _, ok := p.rules[r]; return ok }) {
			out = append(out, live.policy.Ref)
		}
	}
	slices.SortFunc(out, func(a, b Ref) int { return compareRefs(a.Key(), b.Key()) })
	return out
}
