package config

import "fairlead.dev/node-agent/internal/masqagent"

// MasqueradeOptions say what addresses the packets that leave the cluster have.
type MasqueradeOptions struct {
	EnableIPv6Masquerade *bool       `json:"enableIPv6Masquerade,omitempty"`
	IPMasqAgent          IPMasqAgent `json:"ipMasqAgent,omitempty"`
	// InstallNoConntrackIptablesRules exempts pods' packets from the kernel's connection tracking.
	InstallNoConntrackIptablesRules bool `json:"installNoConntrackIptablesRules,omitempty"`
}

// IPMasqAgent exempts destinations from masquerading, by the rules of ip-masq-agent. They are read again when the file
// changes.
type IPMasqAgent struct {
	Enabled bool             `json:"enabled,omitempty"`
	Config  masqagent.Config `json:"config,omitempty"`
}

func (c *Config) checkMasquerade(refuse func(field, what, why, fix string)) {
	masquerades := *c.EnableIPv4Masquerade || *c.EnableIPv6Masquerade
	if c.InstallNoConntrackIptablesRules {
		if masquerades && !*c.BPF.Masquerade {
			refuse("installNoConntrackIptablesRules", "Pods' packets cannot be exempted from tracking while nftables masquerades them.",
				"It translates only what is tracked.", "Set bpf.masquerade: true, or installNoConntrackIptablesRules: false.")
		}
		if !*c.KubeProxyReplacement {
			refuse("installNoConntrackIptablesRules", "Pods' packets cannot be exempted from tracking beside kube-proxy.",
				"Its rules translate only what is tracked.", "Set kubeProxyReplacement: true, or installNoConntrackIptablesRules: false.")
		}
	}
	if *c.BPF.Masquerade && !*c.KubeProxyReplacement {
		refuse("bpf.masquerade", "The programs cannot masquerade beside kube-proxy.",
			"Pods' packets would leave past the host's stack, where its rules are.", "Set kubeProxyReplacement: true, or bpf.masquerade: false.")
	}
	if c.IPMasqAgent.Enabled && !masquerades {
		refuse("ipMasqAgent.enabled", "There is nothing to exempt from masquerading.",
			"enableIPv4Masquerade and enableIPv6Masquerade are false.", "Set one of them to true, or ipMasqAgent.enabled: false.")
	}
	if _, err := c.IPMasqAgent.Config.Prefixes(); err != nil {
		refuse("ipMasqAgent.config", err.Error()+".", "A range is an address and a length.", "Write it as 10.0.0.0/8.")
	}
	if c.BPF.NATMax != 0 && (c.BPF.NATMax < 1024 || c.BPF.NATMax > 1<<24) {
		refuse("bpf.natMax", "It has to be 1,024 to 16,777,216.", "Each masqueraded flow has two entries there.", "Leave it out for the default.")
	}
}
