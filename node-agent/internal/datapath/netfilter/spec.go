// Package netfilter owns what the agent wants of the kernel's packet filter: masquerading where the programs do not do
// it, exemption from connection tracking, the marks of the agent's proxies, and a way through other people's forwarding policy.
//
// A Spec says what should be, as a plain value; a Keeper makes the kernel's tables so and keeps them so.
package netfilter

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// TableName of the only table that is the agent's alone.
	TableName = "fairlead"
	// NoTrackChain and ForwardChain are the agent's chains in tables that iptables shares.
	NoTrackChain = "FAIRLEAD-NOTRACK"
	ForwardChain = "FAIRLEAD-FORWARD"
)

// Spec is what should be in the kernel's tables. The zero value wants nothing.
type Spec struct {
	// PodCIDRs are this node's pods' ranges, NativeCIDRs what is reached with pods' own addresses; of both families.
	PodCIDRs, NativeCIDRs []netip.Prefix
	// Masquerade and Masquerade6 have packets that leave by Devices carry the node's address.
	Masquerade, Masquerade6 bool
	// Devices are names of outward interfaces.
	Devices []string
	// Nodes are reached with pods' own addresses, too; Unmasqueraded are the operator's rules.
	Nodes         []netip.Addr
	Unmasqueraded []netip.Prefix
	// KeepConnections keeps the hook of a table that was there before without its rules: connections that the kernel
	// translated until now go on, new ones are left alone.
	KeepConnections bool
	// NoTrack exempts pods' packets from connection tracking.
	NoTrack bool
	// Forward lets pods' packets through where the table that iptables shares drops what is forwarded.
	Forward bool
	// Proxies marks answers to the agent's proxies; nil: there are none.
	Proxies *Marks
}

// Range is a closed interval of addresses of one family.
type Range struct{ From, To netip.Addr }

// Ranges merges prefixes of one family into ascending intervals that neither overlap nor touch: sets of intervals refuse
// anything else.
func Ranges(prefixes []netip.Prefix, v6 bool) []Range {
	var all []Range
	for _, p := range prefixes {
		p = unmapped(p)
		if p.IsValid() && p.Addr().Is6() == v6 {
			all = append(all, Range{p.Masked().Addr(), lastOf(p)})
		}
	}
	slices.SortFunc(all, func(a, b Range) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
	var out []Range
	for _, r := range all {
		if n := len(out); n > 0 {
			if next := out[n-1].To.Next(); !next.IsValid() || r.From.Compare(next) <= 0 {
				if r.To.Compare(out[n-1].To) > 0 {
					out[n-1].To = r.To
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

func unmapped(p netip.Prefix) netip.Prefix {
	if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// family of rules and sets.
type family struct {
	v6                  bool
	protocol            byte
	table               nftables.TableFamily
	source, destination uint32
	length              uint32
	key                 nftables.SetDatatype
	suffix              string
}

var (
	four = family{protocol: unix.NFPROTO_IPV4, table: nftables.TableFamilyIPv4, source: 12, destination: 16, length: 4, key: nftables.TypeIPAddr}
	six  = family{v6: true, protocol: unix.NFPROTO_IPV6, table: nftables.TableFamilyIPv6, source: 8, destination: 24, length: 16, key: nftables.TypeIP6Addr, suffix: "6"}
)

func (f family) of(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p = unmapped(p); p.IsValid() && p.Addr().Is6() == f.v6 {
			out = append(out, p.Masked())
		}
	}
	return out
}

// match compares an address with a range. In a table of both families the family is asked first.
func (f family) match(offset uint32, p netip.Prefix, both bool) []expr.Any {
	mask := make([]byte, f.length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(f.ask(both),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

func (f family) ask(both bool) []expr.Any {
	if !both {
		return nil
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
	}
}

func (f family) lookup(set *nftables.Set) []expr.Any {
	return append(f.ask(true),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.length},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID})
}

func leaving(device string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// notTracked is what `iptables -j CT --notrack` writes: struct xt_ct_target_info_v1 with XT_CT_NOTRACK. The plain
// expression would do the same, but then iptables could not list its own table any more.
func notTracked() []expr.Any {
	info := make(xtInfo, 72)
	binary.NativeEndian.PutUint16(info, 1)
	return []expr.Any{&expr.Counter{}, &expr.Target{Name: "CT", Rev: 2, Info: info.any()}}
}

// nodeElements and intervalElements fill sets.
func (f family) nodeElements(nodes []netip.Addr) []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range nodes {
		if a = a.Unmap(); a.IsValid() && a.Is6() == f.v6 {
			out = append(out, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return out
}

func (f family) intervalElements(prefixes []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for _, r := range Ranges(prefixes, f.v6) {
		out = append(out, nftables.SetElement{Key: r.From.AsSlice()})
		if end := r.To.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}
