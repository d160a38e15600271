package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// cidrIndex finds the identities of address ranges inside of a range: they lie next to each other in this order.
type cidrIndex []cidrIdentity

type cidrIdentity struct {
	prefix netip.Prefix
	id     NumericIdentity
}

func compareCIDRs(a, b cidrIdentity) int {
	if c := comparePrefixes(a.prefix, b.prefix); c != 0 {
		return c
	}
	return cmp.Compare(a.id, b.id)
}

func (x *cidrIndex) add(id NumericIdentity, labels Labels) {
	eachCIDR(labels, func(prefix netip.Prefix) {
		e := cidrIdentity{prefix, id}
		if at, found := slices.BinarySearchFunc(*x, e, compareCIDRs); !found {
			*x = slices.Insert(*x, at, e)
		}
	})
}

func (x *cidrIndex) remove(id NumericIdentity, labels Labels) {
	eachCIDR(labels, func(prefix netip.Prefix) {
		if at, found := slices.BinarySearchFunc(*x, cidrIdentity{prefix, id}, compareCIDRs); found {
			*x = slices.Delete(*x, at, at+1)
		}
	})
}

// inside calls f for every identity of a range in prefix.
func (x cidrIndex) inside(prefix netip.Prefix, f func(NumericIdentity)) {
	at, _ := slices.BinarySearchFunc(x, cidrIdentity{prefix: prefix}, compareCIDRs)
	for ; at < len(x) && prefix.Contains(x[at].prefix.Addr()); at++ {
		f(x[at].id)
	}
}

func eachCIDR(labels Labels, f func(netip.Prefix)) {
	for _, l := range labels {
		if l.Source != SourceCIDR && l.Source != SourceBlock {
			continue
		}
		if prefix, err := netip.ParsePrefix(l.Key); err == nil {
			f(prefix.Masked())
		}
	}
}

// tokens calls f with every token by which a selector that matches the labels may be found: each label, each label within
// its namespace, and of a range of addresses all ranges that contain it.
func (ls Labels) tokens(f func(string)) {
	namespace, scoped := ls.Get(LabelNamespace)
	for _, l := range ls {
		simple := l.Key + "=" + l.Value
		f(simple)
		if scoped && l.Source == SourceK8s {
			f(scopedToken(namespace, simple))
		}
		if l.Source != SourceCIDR && l.Source != SourceBlock {
			continue
		}
		prefix, err := netip.ParsePrefix(l.Key)
		if err != nil {
			continue
		}
		for bits := prefix.Bits() - 1; bits >= 0; bits-- {
			f(netip.PrefixFrom(prefix.Addr(), bits).Masked().String() + "=")
		}
	}
}

func scopedToken(namespace, token string) string { return namespace + "\x00" + token }
