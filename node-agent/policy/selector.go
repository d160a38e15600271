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
		return l.Source != SourceReserved && l.Source != SourceCIDR && l.Source != SourceFQDN && l.Source != SourceBlock
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

// scopedTokens bounds how many tokens a selector is filed under for the sake of its namespaces.
const scopedTokens = 16

// indexTokens: see peer.indexTokens. The namespace is chosen only where nothing narrower is required, and goes with what is.
func (s labelSelector) indexTokens() []string {
	var chosen, namespaces *requirement
	wide := true
	for i, r := range s.requirements {
		if r.operator != opIn {
			continue
		}
		if r.key == LabelNamespace && r.source == SourceK8s {
			namespaces = &s.requirements[i]
		}
		isWide := r.key == LabelNamespace || r.key == LabelCluster || strings.HasPrefix(r.key, LabelNamespaceLabelPrefix)
		if chosen == nil || (wide && !isWide) {
			chosen, wide = &s.requirements[i], isWide
		}
	}
	if chosen == nil {
		return nil
	}
	// Not nil even where no value is possible: such a selector matches nobody.
	out := make([]string, 0, len(chosen.values))
	scoped := namespaces != nil && !wide && (chosen.source == SourceK8s || chosen.source == SourceAny) &&
		len(namespaces.values)*len(chosen.values) <= scopedTokens
	for _, v := range chosen.values {
		token := chosen.key + "=" + v
		if !scoped {
			out = append(out, token)
			continue
		}
		for _, namespace := range namespaces.values {
			out = append(out, scopedToken(namespace, token))
		}
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
func (c *selectorCache) acquire(le *liveElement, e *Engine) *cachedSelector {
	key := le.peersKey()
	s := c.byKey[key]
	if s == nil {
		s = &cachedSelector{key: key, peers: le.peers, ids: make(map[NumericIdentity]struct{}), users: make(map[*liveElement]struct{})}
		s.tokens = unionTokens(le.peers)
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
		e.findMembers(s)
	}
	s.users[le] = struct{}{}
	return s
}

// findMembers fills a new selector with the identities that it matches, asking only those that it may match.
func (e *Engine) findMembers(s *cachedSelector) {
	try := func(id NumericIdentity) {
		e.work.IdentitiesTried++
		if state := e.identities[id]; state != nil && s.matches(state.labels) {
			s.ids[id] = struct{}{}
		}
	}
	for _, p := range s.peers {
		tokens := p.indexTokens()
		switch p.kind {
		case peerLabels:
			var narrowed bool
			if tokens, narrowed = e.index.narrowest(p.selector); !narrowed {
				tokens = nil
			}
		case peerCIDR, peerBlock:
			e.ranges.inside(p.prefix, try)
		}
		if tokens == nil {
			for id := range e.identities {
				try(id)
			}
		}
		for _, t := range tokens {
			for _, id := range e.index[t] {
				try(id)
			}
		}
	}
}

// tokenIndex finds identities that have a label by "key=value"; the lists are sorted.
type tokenIndex map[string][]NumericIdentity

func (x tokenIndex) add(id NumericIdentity, labels Labels) {
	for _, l := range labels {
		token := l.Key + "=" + l.Value
		if at, found := slices.BinarySearch(x[token], id); !found {
			x[token] = slices.Insert(x[token], at, id)
		}
	}
}

func (x tokenIndex) remove(id NumericIdentity, labels Labels) {
	for _, l := range labels {
		token := l.Key + "=" + l.Value
		at, found := slices.BinarySearch(x[token], id)
		if !found {
			continue
		}
		if x[token] = slices.Delete(x[token], at, at+1); len(x[token]) == 0 {
			delete(x, token)
		}
	}
}

// narrowest gives the tokens of the requirement that the fewest identities meet; false where any identity may match.
func (x tokenIndex) narrowest(s labelSelector) (best []string, narrowed bool) {
	fewest := 0
	for _, r := range s.requirements {
		if r.operator != opIn {
			continue
		}
		tokens, n := make([]string, 0, len(r.values)), 0
		for _, v := range r.values {
			token := r.key + "=" + v
			tokens, n = append(tokens, token), n+len(x[token])
		}
		if !narrowed || n < fewest {
			best, fewest, narrowed = tokens, n, true
		}
	}
	return best, narrowed
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
func (c *selectorCache) matching(labels Labels, work *Work) map[*cachedSelector]struct{} {
	out := make(map[*cachedSelector]struct{})
	try := func(s *cachedSelector) {
		work.SelectorsTried++
		if _, found := out[s]; !found && s.matches(labels) {
			out[s] = struct{}{}
		}
	}
	for s := range c.scan {
		try(s)
	}
	labels.tokens(func(t string) {
		for s := range c.byToken[t] {
			try(s)
		}
	})
	return out
}
