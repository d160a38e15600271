package policy

import (
	"slices"
	"strconv"
	"strings"
)

type operator uint8

const (
	opIn operator = iota
	opNotIn
	opExists
	opDoesNotExist
)

// requirement is one condition on a label.
type requirement struct {
	source, key string
	operator    operator
	// values are sorted; of In and NotIn.
	values []string
}

// labelSelector is a conjunction of requirements, in a canonical order. The zero value selects everything.
type labelSelector struct {
	requirements []requirement
	// key identifies what is selected.
	key string
}

func newLabelSelector(requirements []requirement) labelSelector {
	for i := range requirements {
		slices.Sort(requirements[i].values)
		requirements[i].values = slices.Compact(requirements[i].values)
	}
	keys := make([]string, len(requirements))
	for i, r := range requirements {
		keys[i] = r.identity()
	}
	order := make([]int, len(requirements))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(keys[a], keys[b]) })
	s := labelSelector{requirements: make([]requirement, 0, len(requirements))}
	var key strings.Builder
	for n, i := range order {
		if n > 0 && keys[i] == keys[order[n-1]] {
			continue
		}
		s.requirements = append(s.requirements, requirements[i])
		key.WriteString(keys[i])
	}
	s.key = key.String()
	return s
}

// identity is an unambiguous text: every part is preceded by its length.
func (r requirement) identity() string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(int(r.operator)))
	for _, part := range append([]string{r.source, r.key}, r.values...) {
		b.WriteByte(' ')
		b.WriteString(strconv.Itoa(len(part)))
		b.WriteByte(':')
		b.WriteString(part)
	}
	b.WriteByte(';')
	return b.String()
}

func (r requirement) appliesTo(l Label) bool {
	if l.Key != r.key {
		return false
	}
	if r.source == SourceAny {
		return l.Source != SourceReserved && l.Source != SourceCIDR && l.Source != SourceFQDN
	}
	return l.Source == r.source
}

func (r requirement) matches(labels Labels) bool {
	exists, in := false, false
	for _, l := range labels {
		if r.appliesTo(l) {
			exists = true
			if slices.Contains(r.values, l.Value) {
				in = true
			}
		}
	}
	switch r.operator {
	case opIn:
		return in
	case opNotIn:
		return !in
	case opExists:
		return exists
	default:
		return !exists
	}
}

func (s labelSelector) matches(labels Labels) bool {
	for _, r := range s.requirements {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

// indexTokens: see peer.indexTokens. The namespace is chosen only where nothing narrower is required.
func (s labelSelector) indexTokens() []string {
	var chosen *requirement
	for i, r := range s.requirements {
		if r.operator != opIn {
			continue
		}
		wide := r.key == LabelNamespace || r.key == LabelCluster || strings.HasPrefix(r.key, LabelNamespaceLabelPrefix)
		if chosen == nil || !wide {
			chosen = &s.requirements[i]
		}
		if !wide {
			break
		}
	}
	if chosen == nil {
		return nil
	}
	// Not nil even where no value is possible: such a selector matches nobody.
	out := make([]string, 0, len(chosen.values))
	for _, v := range chosen.values {
		out = append(out, chosen.key+"="+v)
	}
	return out
}

// cachedSelector is a set of peers with the identities that it matches now. It is shared by all elements that select alike.
type cachedSelector struct {
	key   string
	peers []peer
	// tokens is the union of the peers' indexTokens; nil: has to be tried against every identity.
	tokens []string
	ids    map[NumericIdentity]struct{}
	users  map[*liveElement]struct{}
}

func (s *cachedSelector) matches(labels Labels) bool {
	return slices.ContainsFunc(s.peers, func(p peer) bool { return p.matches(labels) })
}

// selectorCache keeps cachedSelectors current as identities come and go. The index makes a new identity cost the selectors
// that might match it, not all of them.
type selectorCache struct {
	byKey   map[string]*cachedSelector
	byToken map[string]map[*cachedSelector]struct{}
	scan    map[*cachedSelector]struct{}
}

func newSelectorCache() *selectorCache {
	return &selectorCache{
		byKey:   make(map[string]*cachedSelector),
		byToken: make(map[string]map[*cachedSelector]struct{}),
		scan:    make(map[*cachedSelector]struct{}),
	}
}

// acquire finds or makes the selector of the element's peers, and registers the element as its user.
func (c *selectorCache) acquire(e *liveElement, identities map[NumericIdentity]*identityState) *cachedSelector {
	key := e.peersKey()
	s := c.byKey[key]
	if s == nil {
		s = &cachedSelector{key: key, peers: e.peers, ids: make(map[NumericIdentity]struct{}), users: make(map[*liveElement]struct{})}
		s.tokens = unionTokens(e.peers)
		c.byKey[key] = s
		if s.tokens == nil {
			c.scan[s] = struct{}{}
		}
		for _, t := range s.tokens {
			set := c.byToken[t]
			if set == nil {
				set = make(map[*cachedSelector]struct{})
				c.byToken[t] = set
			}
			set[s] = struct{}{}
		}
		if len(s.peers) > 0 {
			for id, state := range identities {
				if s.matches(state.labels) {
					s.ids[id] = struct{}{}
				}
			}
		}
	}
	s.users[e] = struct{}{}
	return s
}

func unionTokens(peers []peer) []string {
	out := []string{}
	for _, p := range peers {
		tokens := p.indexTokens()
		if tokens == nil {
			return nil
		}
		out = append(out, tokens...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// release is the reverse of acquire.
func (c *selectorCache) release(e *liveElement, s *cachedSelector) {
	delete(s.users, e)
	if len(s.users) > 0 {
		return
	}
	delete(c.byKey, s.key)
	delete(c.scan, s)
	for _, t := range s.tokens {
		delete(c.byToken[t], s)
		if len(c.byToken[t]) == 0 {
			delete(c.byToken, t)
		}
	}
}

// matching gives the set of selectors that match the labels.
func (c *selectorCache) matching(labels Labels) map[*cachedSelector]struct{} {
	out := make(map[*cachedSelector]struct{})
	try := func(s *cachedSelector) {
		if _, found := out[s]; !found && s.matches(labels) {
			out[s] = struct{}{}
		}
	}
	for s := range c.scan {
		try(s)
	}
	for _, l := range labels {
		for s := range c.byToken[l.Key+"="+l.Value] {
			try(s)
		}
	}
	return out
}
