package config

import (
	"errors"
	"strings"
	"testing"
)

const nativeRouting = "routingMode: native\nipv4NativeRoutingCIDR: 10.0.0.0/8\n"

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		// field of the problem that is expected; "" for none.
		field string
	}{
		{"empty", ``, ""},
		{"all defaults written out", "routingMode: \"\"\nMTU: 0\ndevices: []\nk8sServicePort: 0\nipv4NativeRoutingCIDR: \"\"\n", ""},
		{"native", "routingMode: native\nipv4NativeRoutingCIDR: 10.0.0.0/8\nautoDirectNodeRoutes: true\n", ""},
		{"both families", "ipv6: {enabled: true}\nroutingMode: native\nipv4NativeRoutingCIDR: 10.0.0.0/8\nipv6NativeRoutingCIDR: fd00::/48\n", ""},
		{"only IPv6", "ipv4: {enabled: false}\nipv6: {enabled: true}\nroutingMode: native\nipv6NativeRoutingCIDR: fd00::/48\n", ""},
		{"no family", "ipv4: {enabled: false}\n", "ipv4.enabled"},
		{"native without a range of IPv6", "ipv6: {enabled: true}\nroutingMode: native\nipv4NativeRoutingCIDR: 10.0.0.0/8\n", "ipv6NativeRoutingCIDR"},
		{"a range of the other family", "ipv6NativeRoutingCIDR: 10.0.0.0/8\n", "ipv6NativeRoutingCIDR"},
		{"Geneve", "tunnelProtocol: geneve\ntunnelPort: 6082\nendpointRoutes: {enabled: false}\n", ""},
		{"no such tunnel", "tunnelProtocol: gre\n", "tunnelProtocol"},
		{"no such port", "tunnelPort: 70000\n", "tunnelPort"},
		{"native without range", "routingMode: native\n", "ipv4NativeRoutingCIDR"},
		{"range is none", "ipv4NativeRoutingCIDR: 10.0.0.0\n", "ipv4NativeRoutingCIDR"},
		{"direct routes in a tunnel", "autoDirectNodeRoutes: true\n", "autoDirectNodeRoutes"},
		{"masquerading", "bpf: {masquerade: false, natMax: 65536}\nenableIPv6Masquerade: false\nipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [10.0.0.0/8], masqLinkLocal: true}}\n", ""},
		{"masquerading beside kube-proxy", "kubeProxyReplacement: false\n", ""},
		{"programs beside kube-proxy", "kubeProxyReplacement: false\nbpf: {masquerade: true}\n", "bpf.masquerade"},
		{"untracked pods", "installNoConntrackIptablesRules: true\n", ""},
		{"untracked pods with nftables", "installNoConntrackIptablesRules: true\nbpf: {masquerade: false}\n", "installNoConntrackIptablesRules"},
		{"untracked pods beside kube-proxy", "installNoConntrackIptablesRules: true\nkubeProxyReplacement: false\n", "installNoConntrackIptablesRules"},
		{"rules for nothing", "ipMasqAgent: {enabled: true}\nenableIPv4Masquerade: false\nenableIPv6Masquerade: false\n", "ipMasqAgent.enabled"},
		{"rule that is no range", "ipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [ten]}}\n", "ipMasqAgent.config"},
		{"small table of flows", "bpf: {natMax: 7}\n", "bpf.natMax"},
		{"unknown mode", "routingMode: carrier-pigeon\n", "routingMode"},
		{"unknown IPAM", "ipam: {mode: eni}\n", "ipam.mode"},
		{"unknown field", "hubble: {relay: true}\n", "hubble.relay"},
		{"small MTU", "MTU: 576\n", "MTU"},
		{"host without port", "k8sServiceHost: 10.0.0.1\n", "k8sServicePort"},
		{"services", "loadBalancer: {mode: snat, algorithm: maglev, acceleration: best-effort}\nmaglev: {tableSize: 1021, hashSeed: JLfvgnHc2kaSUFaI}\nnodePort: {range: \"30000,31000\"}\nsocketLB: {hostNamespaceOnly: true}\nexternalIPs: {enabled: false}\n", ""},
		{"direct server return in a tunnel", "loadBalancer: {mode: dsr}\n", "loadBalancer.mode"},
		{"unknown algorithm", "loadBalancer: {algorithm: dice}\n", "loadBalancer.algorithm"},
		{"XDP in a tunnel", "loadBalancer: {acceleration: native}\n", ""},
		{"XDP beside kube-proxy", nativeRouting + "kubeProxyReplacement: false\nloadBalancer: {acceleration: native}\n", "loadBalancer.acceleration"},
		{"XDP", nativeRouting + "loadBalancer: {acceleration: native, mode: dsr}\n", ""},
		{"direct server return beside kube-proxy", nativeRouting + "kubeProxyReplacement: false\nloadBalancer: {mode: hybrid}\n", "loadBalancer.mode"},
		{"direct server return by Geneve", nativeRouting + "loadBalancer: {mode: dsr, dsrDispatch: geneve}\n", "loadBalancer.dsrDispatch"},
		{"prefilter", "enableXDPPrefilter: true\nxdpPrefilter: {cidrs: [203.0.113.0/24, \"2001:db8:bad::/48\"], cidrGroups: [bad]}\n", ""},
		{"prefilter that is off", "xdpPrefilter: {cidrGroups: [bad]}\n", "enableXDPPrefilter"},
		{"prefilter of everybody", "enableXDPPrefilter: true\nxdpPrefilter: {cidrs: [\"::/0\"]}\n", "xdpPrefilter.cidrs[0]"},
		{"prefilter of nothing", "enableXDPPrefilter: true\nxdpPrefilter: {cidrs: [203.0.113.9]}\n", "xdpPrefilter.cidrs[0]"},
		{"table size", "maglev: {tableSize: 1000}\n", "maglev.tableSize"},
		{"seed", "maglev: {hashSeed: short}\n", "maglev.hashSeed"},
		{"node ports", "nodePort: {range: \"32767,30000\"}\n", "nodePort.range"},
		{"few frontends", "bpf: {lbMapMax: 5}\n", "bpf.lbMapMax"},
		{"cluster name", "cluster: {name: Big_One}\n", "cluster.name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if tt.field == "" {
				if err != nil {
					t.Fatalf("unexpected: %v", err)
				}
				return
			}
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatalf("got %v, want a problem", err)
			}
			if p.Field != tt.field || p.Why == "" || p.Fix == "" {
				t.Fatalf("got %+v, want field %s with why and fix", p, tt.field)
			}
		})
	}
}

func TestParseReportsAllProblems(t *testing.T) {
	_, err := Parse([]byte("routingMode: native\nMTU: 5\nbpf: {natMax: 3}\n"))
	for _, field := range []string{"ipv4NativeRoutingCIDR", "MTU", "bpf.natMax"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is missing in %v", field, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.RoutingMode != "tunnel" || !*c.KubeProxyReplacement || !*c.EnableIPv4Masquerade || c.Prometheus.Port != 9962 || c.Cluster.Name != "default" {
		t.Fatalf("got %+v", c)
	}
}
