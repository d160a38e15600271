package policy

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

type mirror struct {
	entries  map[SubjectID]map[Key]Entry
	enforced map[SubjectID][2]bool
}

func newMirror() *mirror {
	return &mirror{entries: make(map[SubjectID]map[Key]Entry), enforced: make(map[SubjectID][2]bool)}
}

// apply does what the agent does with changes, and checks that none of them is superfluous.
func (m *mirror) apply(t *testing.T, changes []Change) {
	t.Helper()
	for _, c := range changes {
		lines := m.entries[c.Subject]
		if lines == nil {
			lines = make(map[Key]Entry)
			m.entries[c.Subject] = lines
		}
		for _, e := range c.Adds {
			if lines[e.Key] == e {
				t.Errorf("subject %d: line %+v is added, but it is there already", c.Subject, e)
			}
			lines[e.Key] = e
		}
		for _, k := range c.Deletes {
			if _, ok := lines[k]; !ok {
				t.Errorf("subject %d: line %+v is deleted, but it is not there", c.Subject, k)
			}
			delete(lines, k)
		}
		if changed := m.enforced[c.Subject] != c.Enforced; changed != c.EnforcedChanged {
			t.Errorf("subject %d: EnforcedChanged is %v, enforced went from %v to %v", c.Subject, c.EnforcedChanged, m.enforced[c.Subject], c.Enforced)
		}
		m.enforced[c.Subject] = c.Enforced
	}
}

func (m *mirror) compare(t *testing.T, e *Engine) {
	t.Helper()
	for _, id := range e.Subjects() {
		want, enforced := e.Entries(id)
		got := slices.SortedFunc(maps.Values(m.entries[id]), compareEntries)
		if !slices.Equal(got, want) {
			t.Errorf("subject %d: the changes add up to\n%v\nbut the engine has\n%v", id, got, want)
		}
		if m.enforced[id] != enforced {
			t.Errorf("subject %d: enforced by changes %v, by the engine %v", id, m.enforced[id], enforced)
		}
	}
}

var testPackets = []struct {
	protocol uint8
	port     uint16
}{
	{ProtocolTCP, 1}, {ProtocolTCP, 53}, {ProtocolTCP, 80}, {ProtocolTCP, 443}, {ProtocolTCP, 8000}, {ProtocolTCP, 8050},
	{ProtocolTCP, 8080}, {ProtocolTCP, 8101}, {ProtocolTCP, 65535}, {ProtocolUDP, 53}, {ProtocolUDP, 80}, {ProtocolUDP, 9000},
	{ProtocolSCTP, 80}, {ProtocolICMP, 0}, {ProtocolICMP, 8}, {ProtocolICMPv6, 128}, {ProtocolGRE, 0},
}

// testBlocks are the ranges of the generator's ipBlocks; their numbers are in this order.
var testBlocks = prefixesOf("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0")

func prefixesOf(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// addBlocks makes the ranges of ipBlocks known, as an agent does before the policies that name them.
func addBlocks(e *Engine) {
	for i, prefix := range testBlocks {
		e.AddIdentity(IdentityBlockMin+NumericIdentity(i), LabelsForBlock(prefix))
	}
}

// blockAround does what the kernel does with an address; only ranges that policies in force name are there.
func blockAround(e *Engine, address netip.Addr) NumericIdentity {
	best, found := longestAround(e.Blocks(), address)
	if !found {
		return AnyPeer
	}
	return IdentityBlockMin + NumericIdentity(slices.Index(testBlocks, best))
}

// addressesOf gives addresses that a peer with these labels may have; the invalid one stands for "not asked by address".
func addressesOf(labels Labels) []netip.Addr {
	out := []netip.Addr{{}}
	switch {
	case hasCIDR(labels):
		eachCIDR(labels, func(p netip.Prefix) {
			if longest, ok := longestAround(prefixesOf(testPrefixes...), p.Addr()); !ok || longest.Bits() <= p.Bits() {
				out = append(out, p.Addr())
			}
		})
	case labels.HasReserved("world"), labels.HasReserved("world-ipv4"):
		out = append(out, netip.MustParseAddr("203.0.113.1"))
	case labels.HasReserved("world-ipv6"):
		out = append(out, netip.MustParseAddr("2001:4860::1"))
	default:
		for _, text := range []string{"10.1.2.3", "10.2.2.3", "172.16.0.1", "fd00::7"} {
			out = append(out, netip.MustParseAddr(text))
		}
	}
	return out
}

// agree checks, for every endpoint, peer and packet, that the kernel's lookup on the engine's lines and the evaluation of
// the rules say the same, that the kernel's rule is one of those that decide, and that a deny is never overruled.
func agree(t *testing.T, e *Engine, peers []NumericIdentity) (denied, allowed int) {
	t.Helper()
	for _, subject := range e.Subjects() {
		entries, enforced := e.Entries(subject)
		for _, direction := range []Direction{Ingress, Egress} {
			for _, peer := range peers {
				labels, _ := e.Identity(peer)
				addresses := addressesOf(labels)
				for i, packet := range testPackets {
					address := addresses[(int(peer)+i)%len(addresses)]
					want := e.Verdict(subject, direction, peer, address, packet.protocol, packet.port)
					got, line := LookupKernel(entries, enforced, direction, peer, blockAround(e, address), packet.protocol, packet.port)
					if want.Allowed {
						allowed++
					} else {
						denied++
					}
					where := func() {
						t.Errorf("subject %d (%s) %s peer %s (%s) at %s %s/%d", subject, e.subjects[subject].labels, direction, peer, labels, address,
							ProtocolName(packet.protocol), packet.port)
					}
					if got != want.Allowed {
						where()
						t.Fatalf("kernel says allowed=%v by %+v, rules say %+v", got, line, want)
					}
					if line.Rule == 0 {
						if len(want.Rules) > 0 {
							where()
							t.Fatalf("kernel has no rule, rules say %+v", want)
						}
						continue
					}
					ref, ok := e.Rule(line.Rule)
					if !ok || !slices.ContainsFunc(want.Rules, func(r RuleRef) bool { return r.key() == ref.key() }) {
						where()
						t.Fatalf("kernel's rule %s is not among the deciding %v", ref, want.Rules)
					}
					if line.MatchType() != want.MatchType {
						where()
						t.Fatalf("kernel matches as %d by %+v, rules as %d: %+v", line.MatchType(), line, want.MatchType, want)
					}
				}
			}
		}
	}
	return denied, allowed
}

func peersOf(identities []Identity) []NumericIdentity {
	out := []NumericIdentity{4242} // Nobody has told the engine about this one.
	for _, identity := range append(ReservedIdentities(), identities...) {
		out = append(out, identity.ID)
	}
	return out
}

func TestKernelLinesAgreeWithRules(t *testing.T) {
	rounds := 600
	if testing.Short() {
		rounds = 60
	}
	denied, allowed := 0, 0
	for seed := range uint64(rounds) {
		w := newWorld(t, seed)
		e := NewEngine()
		addBlocks(e)
		identities := w.identities()
		for _, identity := range identities {
			e.AddIdentity(identity.ID, identity.Labels)
			e.SetIdentityPorts(identity.ID, w.namedPorts())
		}
		for i := range 2 {
			e.AddSubject(SubjectID(i), w.subject(), w.namedPorts())
		}
		for range 3 {
			e.SetCIDRGroup(w.group())
			e.SetService(w.service())
		}
		for i := range 1 + w.IntN(6) {
			if _, err := e.Upsert(w.policy(i)); err != nil {
				t.Fatal(err)
			}
		}
		d, a := agree(t, e, peersOf(identities))
		denied, allowed = denied+d, allowed+a
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d questions denied, %d allowed", denied, allowed)
	if denied < allowed/20 || allowed < denied/20 {
		t.Errorf("the generator is one-sided: %d denied, %d allowed", denied, allowed)
	}
}

func TestIncrementalEqualsFromScratch(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for seed := range uint64(rounds) {
		w := newWorld(t, 1_000_000+seed)
		e, m := NewEngine(), newMirror()
		addBlocks(e)
		identities := w.identities()
		policies := map[RefKey]Policy{}
		present := map[NumericIdentity]Labels{}
		ports := map[NumericIdentity]NamedPorts{}
		type subject struct {
			labels Labels
			ports  NamedPorts
		}
		subjects := map[SubjectID]subject{}
		groups, services := map[string]CIDRGroup{}, map[ServiceName]ServicePeers{}
		for range 60 {
			switch w.IntN(11) {
			case 8:
				g := w.group()
				m.apply(t, e.SetCIDRGroup(g))
				groups[g.Name] = g
			case 9:
				s := w.service()
				m.apply(t, e.SetService(s))
				services[s.ServiceName] = s
			case 10:
				g, s := w.group(), w.service()
				m.apply(t, e.RemoveCIDRGroup(g.Name))
				m.apply(t, e.RemoveService(s.ServiceName))
				delete(groups, g.Name)
				delete(services, s.ServiceName)
			case 0, 1:
				p := w.policy(w.IntN(6))
				changes, err := e.Upsert(p)
				if err != nil {
					t.Fatal(err)
				}
				m.apply(t, changes)
				policies[p.Ref.Key()] = p
			case 2:
				for key, p := range policies {
					m.apply(t, e.Delete(p.Ref))
					delete(policies, key)
					break
				}
			case 3, 4:
				identity := identities[w.IntN(len(identities))]
				if w.often(15) && !identity.ID.IsLocal() {
					identity.Labels = w.podLabels() // A number that changed hands.
				}
				m.apply(t, e.AddIdentity(identity.ID, identity.Labels))
				present[identity.ID] = identity.Labels
			case 5:
				id := identities[w.IntN(len(identities))].ID
				if w.often(50) {
					m.apply(t, e.RemoveIdentity(id))
					delete(present, id)
					delete(ports, id)
				} else if _, ok := present[id]; ok {
					ports[id] = w.namedPorts()
					m.apply(t, e.SetIdentityPorts(id, ports[id]))
				}
			case 6:
				id := SubjectID(w.IntN(4))
				s := subject{w.subject(), w.namedPorts()}
				m.apply(t, e.AddSubject(id, s.labels, s.ports))
				subjects[id] = s
			case 7:
				id := SubjectID(w.IntN(4))
				m.apply(t, e.RemoveSubject(id))
				if len(m.entries[id]) > 0 {
					t.Errorf("subject %d left lines behind: %v", id, m.entries[id])
				}
				delete(subjects, id)
			}
		}
		m.compare(t, e)

		// The same world, told in another order (maps are walked at random).
		fresh := NewEngine()
		if w.often(50) {
			addBlocks(fresh)
		}
		for id, s := range subjects {
			if w.often(50) {
				fresh.AddSubject(id, s.labels, s.ports)
			}
		}
		for _, p := range policies {
			if _, err := fresh.Upsert(p); err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range groups {
			fresh.SetCIDRGroup(g)
		}
		for _, s := range services {
			fresh.SetService(s)
		}
		addBlocks(fresh)
		for id, labels := range present {
			fresh.AddIdentity(id, labels)
			fresh.SetIdentityPorts(id, ports[id])
		}
		for id, s := range subjects {
			fresh.AddSubject(id, s.labels, s.ports)
		}
		for id := range subjects {
			got, gotEnforced := e.Entries(id)
			want, wantEnforced := fresh.Entries(id)
			if !slices.Equal(got, want) || gotEnforced != wantEnforced {
				t.Errorf("subject %d: grown step by step\n%v %v\nfrom scratch\n%v %v", id, got, gotEnforced, want, wantEnforced)
			}
		}
		if got, want := e.Prefixes(), fresh.Prefixes(); !slices.Equal(got, want) {
			t.Errorf("prefixes grown %v, from scratch %v", got, want)
		}
		if got, want := e.Blocks(), fresh.Blocks(); !slices.Equal(got, want) {
			t.Errorf("blocks grown %v, from scratch %v", got, want)
		}
		if got, want := len(e.selectors.byKey), len(fresh.selectors.byKey); got != want {
			t.Errorf("%d selectors are cached, %d are in use", got, want)
		}
		if got, want := len(e.index), len(fresh.index); got != want || len(e.ranges) != len(fresh.ranges) {
			t.Errorf("%d tokens and %d ranges are indexed, %d and %d are in use", got, len(e.ranges), want, len(fresh.ranges))
		}
		if got, want := len(e.ruleIndex.byToken)+len(e.ruleIndex.scan), len(fresh.ruleIndex.byToken)+len(fresh.ruleIndex.scan); got != want {
			t.Errorf("%d rules are indexed, %d are in use", got, want)
		}
		if got, want := len(e.rules), len(fresh.rules); got != want {
			t.Errorf("%d rules are numbered, %d are in use", got, want)
		}
		for _, p := range e.profiles {
			for d := range p.directions {
				used := map[*peerSet]bool{}
				for _, set := range p.directions[d].peers {
					used[set] = true
				}
				if len(p.directions[d].sets) != len(used) {
					t.Errorf("%d peer sets are kept, %d are in use", len(p.directions[d].sets), len(used))
				}
			}
		}
		agree(t, e, peersOf(identities))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestRewritingWithoutChangeWritesNothing(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(t, 2_000_000+seed)
		e := NewEngine()
		for _, identity := range w.identities() {
			e.AddIdentity(identity.ID, identity.Labels)
		}
		e.AddSubject(1, w.podLabels(), w.namedPorts())
		p := w.policy(1)
		for n := range 2 {
			changes, err := e.Upsert(p)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 && len(changes) > 0 {
				t.Fatalf("seed %d: the same policy again changes %+v", seed, changes)
			}
		}
		e.Delete(p.Ref)
		if entries, enforced := e.Entries(1); len(entries) > 0 || enforced != [2]bool{} {
			t.Fatalf("seed %d: after the deletion of the only policy there is %v %v", seed, entries, enforced)
		}
	}
}
