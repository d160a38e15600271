package api

import (
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// family is one of IP's two; empty where it does not matter.
type family string

const (
	ipv4 family = "IPv4"
	ipv6 family = "IPv6"
)

func (f family) other() family {
	if f == ipv4 {
		return ipv6
	}
	return ipv4
}

// askedFamily reads the family of a question; empty for either.
func askedFamily(text string) (family, error) {
	switch strings.ToLower(text) {
	case "":
		return "", nil
	case "ipv4":
		return ipv4, nil
	case "ipv6":
		return ipv6, nil
	}
	return "", status.Errorf(codes.InvalidArgument, "%q is no family of addresses; use ipv4 or ipv6, or none for one that both ends have", text)
}

func familyOf(a netip.Addr) family {
	if a.Unmap().Is4() {
		return ipv4
	}
	return ipv6
}

// familiesOf a sender: that of the address by which it was named, or those of its addresses, IPv4 first.
func familiesOf(name string, addresses []netip.Addr) []family {
	if a, err := netip.ParseAddr(name); err == nil {
		return []family{familyOf(a)}
	}
	var out []family
	for _, f := range []family{ipv4, ipv6} {
		if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return familyOf(a) == f }) {
			out = append(out, f)
		}
	}
	return out
}

// familiesToAsk about are those of the sender, or the one that was asked for, which the sender has to have.
func familiesToAsk(asked family, name string, addresses []netip.Addr) ([]family, error) {
	families := familiesOf(name, addresses)
	if asked == "" {
		return families, nil
	}
	if !slices.Contains(families, asked) {
		return nil, lacks("sender", name, asked, addresses)
	}
	return []family{asked}, nil
}

// choose takes the receiver's address that the sender reaches, in the family that it prefers.
func (x *explainer) choose(name string, addresses []netip.Addr) (netip.Addr, error) {
	for _, f := range x.families {
		if i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return familyOf(a) == f }); i >= 0 {
			return addresses[i], nil
		}
	}
	if x.asked != "" {
		return netip.Addr{}, lacks("receiver", name, x.asked, addresses)
	}
	return netip.Addr{}, status.Errorf(codes.InvalidArgument, "%s has no address of the sender's family (%s); a pod's name as the sender stands for each of its addresses", name, joinFamilies(x.families))
}

// lacks says that an end has no address of the family that is asked about, and what to do.
func lacks(end, name string, asked family, addresses []netip.Addr) error {
	if a, err := netip.ParseAddr(name); err == nil {
		return status.Errorf(codes.InvalidArgument, "%s %s is an address of %s, and the question is about %s; ask about %s, or give the %s by its name or its address of %s",
			end, name, familyOf(a), asked, asked.other(), end, asked)
	}
	var has []string
	for _, a := range addresses {
		has = append(has, a.Unmap().String())
	}
	return status.Errorf(codes.InvalidArgument, "%s %s has no address of %s (it has %s); ask about %s, or about a %s that has one",
		end, name, asked, orText(strings.Join(has, ", "), "none"), asked.other(), end)
}

func joinFamilies(families []family) string {
	var out []string
	for _, f := range families {
		out = append(out, string(f))
	}
	return orText(strings.Join(out, ", "), "it has no address")
}
