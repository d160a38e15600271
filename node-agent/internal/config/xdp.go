package config

import (
	"fmt"
	"net/netip"
)

// XDPOptions are the part of the configuration that is about refusing networks before the kernel's stack.
type XDPOptions struct {
	// EnableXDPPrefilter drops what comes from refused networks in the driver of each device that has XDP.
	EnableXDPPrefilter bool         `json:"enableXDPPrefilter,omitempty"`
	XDPPrefilter       XDPPrefilter `json:"xdpPrefilter,omitempty"`
}

// XDPPrefilter says which networks are refused.
type XDPPrefilter struct {
	// CIDRs are refused always; CIDRGroups are names of CiliumCIDRGroups, whose ranges are refused as they change.
	CIDRs      []string `json:"cidrs,omitempty"`
	CIDRGroups []string `json:"cidrGroups,omitempty"`
}

// RefusedNetworks are the parsed CIDRs.
func (c Config) RefusedNetworks() (out []netip.Prefix) {
	for _, text := range c.XDPPrefilter.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (c *Config) checkXDP(refuse func(field, what, why, fix string)) {
	for i, text := range c.XDPPrefilter.CIDRs {
		p, err := netip.ParsePrefix(text)
		field := fmt.Sprintf("xdpPrefilter.cidrs[%d]", i)
		switch {
		case err != nil || p.Addr().Is4In6():
			refuse(field, fmt.Sprintf("%q is not a range.", text), "A range is an address and a length.", "Write it as 203.0.113.0/24 or 2001:db8::/32.")
		case p.Bits() == 0:
			refuse(field, fmt.Sprintf("%s is everybody.", text), "The node could not be reached by anyone, the API server included.", "Name the networks that are to be refused.")
		}
	}
	if !c.EnableXDPPrefilter && len(c.XDPPrefilter.CIDRs)+len(c.XDPPrefilter.CIDRGroups) > 0 {
		refuse("enableXDPPrefilter", "Networks are to be refused, and the prefilter is off.", "Nothing would be refused.", "Set enableXDPPrefilter: true, or leave xdpPrefilter out.")
	}
}
