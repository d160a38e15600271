// Package masqagent reads the rules of ip-masq-agent: destinations that pods reach with their own addresses.
package masqagent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Config is the file's content, under the names that ip-masq-agent and Cilium's chart have for it.
type Config struct {
	NonMasqueradeCIDRs []string `json:"nonMasqueradeCIDRs,omitempty"`
	// MasqLinkLocal and MasqLinkLocalIPv6 masquerade towards link-local addresses as well.
	MasqLinkLocal     bool `json:"masqLinkLocal,omitempty"`
	MasqLinkLocalIPv6 bool `json:"masqLinkLocalIPv6,omitempty"`
}

// defaults are the ranges of ip-masq-agent where none are configured: private, shared and documentation addresses.
var defaults = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
}

const (
	linkLocal     = "169.254.0.0/16"
	linkLocalIPv6 = "fe80::/10"
)

// Parse reads YAML or JSON strictly; an empty text is an empty Config.
func Parse(text []byte) (Config, error) {
	var c Config
	document, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Config{}, fmt.Errorf("reading the rules of ip-masq-agent: %w", err)
	}
	strict, err := json.UnmarshalStrict(document, &c)
	if err := errors.Join(append(strict, err)...); err != nil {
		return Config{}, fmt.Errorf("reading the rules of ip-masq-agent: %w", err)
	}
	_, err = c.Prefixes()
	return c, err
}

// Prefixes lists the destinations, sorted, each once. Where no range is configured the defaults count.
func (c Config) Prefixes() ([]netip.Prefix, error) {
	texts := slices.Clone(c.NonMasqueradeCIDRs)
	if len(texts) == 0 {
		texts = slices.Clone(defaults)
	}
	if !c.MasqLinkLocal {
		texts = append(texts, linkLocal)
	}
	if !c.MasqLinkLocalIPv6 {
		texts = append(texts, linkLocalIPv6)
	}
	var out []netip.Prefix
	var failed []error
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			failed = append(failed, fmt.Errorf("nonMasqueradeCIDRs: %q is no range of addresses: %w", t, err))
			continue
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return slices.Compact(out), errors.Join(failed...)
}
