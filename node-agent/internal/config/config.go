// Package config reads the agent's configuration: a YAML file with the names of Cilium's chart.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Config is the content of config.yaml. A zero field means the default.
type Config struct {
	Debug          bool    `json:"debug,omitempty"`
	Cluster        Cluster `json:"cluster,omitempty"`
	RoutingMode    string  `json:"routingMode,omitempty"`
	TunnelProtocol string  `json:"tunnelProtocol,omitempty"`
	// TunnelPort is a UDP port; 0 is the protocol's own.
	TunnelPort int `json:"tunnelPort,omitempty"`
	// IPv4 is on by default, IPv6 off; pods get an address of each that is on.
	IPv4 Family `json:"ipv4,omitempty"`
	IPv6 struct {
		Enabled bool `json:"enabled,omitempty"`
	} `json:"ipv6,omitempty"`
	EndpointRoutes        EndpointRoutes `json:"endpointRoutes,omitempty"`
	AutoDirectNodeRoutes  bool           `json:"autoDirectNodeRoutes,omitempty"`
	IPv4NativeRoutingCIDR string         `json:"ipv4NativeRoutingCIDR,omitempty"`
	IPv6NativeRoutingCIDR string         `json:"ipv6NativeRoutingCIDR,omitempty"`
	KubeProxyReplacement  *bool          `json:"kubeProxyReplacement,omitempty"`
	KubernetesHost        string         `json:"k8sServiceHost,omitempty"`
	KubernetesPort        int            `json:"k8sServicePort,omitempty"`
	EnableIPv4Masquerade  *bool          `json:"enableIPv4Masquerade,omitempty"`
	BPF                   BPF            `json:"bpf,omitempty"`
	IPAM                  IPAM           `json:"ipam,omitempty"`
	PolicyEnforcementMode string         `json:"policyEnforcementMode,omitempty"`
	// PolicyCIDRMatchMode lists what CIDR rules match beside the world: nodes.
	PolicyCIDRMatchMode []string `json:"policyCIDRMatchMode,omitempty"`
	// PolicyAuditMode reports what policy would drop and lets it pass.
	PolicyAuditMode bool `json:"policyAuditMode,omitempty"`
	// NodeSelectorLabels lets fromNodes and toNodes select nodes by their labels.
	NodeSelectorLabels bool         `json:"nodeSelectorLabels,omitempty"`
	HostFirewall       HostFirewall `json:"hostFirewall,omitempty"`
	// HealthChecking has agents probe each other; on by default.
	HealthChecking *bool `json:"healthChecking,omitempty"`
	// BandwidthManager enforces pods' bandwidth annotations.
	BandwidthManager struct {
		Enabled bool `json:"enabled,omitempty"`
	} `json:"bandwidthManager,omitempty"`
	MTU int `json:"MTU,omitempty"`
	// ConntrackGCInterval is how often the tables of connections are cleaned, as "30s"; "0s" or nothing goes by how full
	// they are.
	ConntrackGCInterval string     `json:"conntrackGCInterval,omitempty"`
	Devices             []string   `json:"devices,omitempty"`
	Hubble              Hubble     `json:"hubble,omitempty"`
	Prometheus          Prometheus `json:"prometheus,omitempty"`
	CNI                 CNI        `json:"cni,omitempty"`
	ServiceOptions
	ProxyOptions
	MasqueradeOptions
	XDPOptions
}

// Family says whether pods have addresses of it.
type Family struct {
	Enabled *bool `json:"enabled,omitempty"`
}

// EndpointRoutes are host routes per local pod; on by default. Without, pods are found by their range.
type EndpointRoutes struct {
	Enabled *bool `json:"enabled,omitempty"`
}

// Cluster names the cluster.
type Cluster struct {
	Name string `json:"name,omitempty"`
}

// BPF tunes the programs.
type BPF struct {
	// Masquerade in the programs, past the host's stack; otherwise nftables does it.
	Masquerade *bool `json:"masquerade,omitempty"`
	// NATMax is how many entries the table of translated flows has, two per flow. That of flows that are being opened has
	// half as many.
	NATMax int `json:"natMax,omitempty"`
	// MonitorAggregation is medium (default) or none: one flow event per packet, for debugging.
	MonitorAggregation string `json:"monitorAggregation,omitempty"`
	// CTTCPMax, PolicyMapMax and IPCacheMax are map sizes in entries.
	CTTCPMax     int `json:"ctTcpMax,omitempty"`
	PolicyMapMax int `json:"policyMapMax,omitempty"`
	IPCacheMax   int `json:"ipcacheMax,omitempty"`
	// LBMapMax is how many frontends of services fit; four times as many backends do.
	LBMapMax int `json:"lbMapMax,omitempty"`
	// MapDynamicSizeRatio is the share of the node's memory for the tables of connections, where that is more than their
	// least size.
	MapDynamicSizeRatio *float64 `json:"mapDynamicSizeRatio,omitempty"`
}

// IPAM says where pods' addresses come from.
type IPAM struct {
	Mode string `json:"mode,omitempty"`
}

// HostFirewall says whether policies may govern nodes.
type HostFirewall struct {
	Enabled bool `json:"enabled,omitempty"`
	// AuditMode reports what the nodes' policies would drop and lets it pass: to try one out without locking anybody out.
	AuditMode bool `json:"auditMode,omitempty"`
}

// Hubble is the flow server.
type Hubble struct {
	Enabled       *bool  `json:"enabled,omitempty"`
	ListenAddress string `json:"listenAddress,omitempty"`
	// EventBufferCapacity is how many flows a node remembers; rounded up to a power of two minus one.
	EventBufferCapacity int `json:"eventBufferCapacity,omitempty"`
}

// Prometheus is the metrics server.
type Prometheus struct {
	Enabled *bool `json:"enabled,omitempty"`
	Port    int   `json:"port,omitempty"`
}

// CNI is how the agent behaves beside other CNI configurations.
type CNI struct {
	// Exclusive sets other configurations aside instead of refusing to start beside them.
	Exclusive bool `json:"exclusive,omitempty"`
}

// Problem is something wrong with a configuration.
type Problem struct {
	// Field is the path of the field, e.g. hubble.listenAddress.
	Field          string
	What, Why, Fix string
}

// Error gives the whole text on one line.
func (p *Problem) Error() string {
	return fmt.Sprintf("%s: %s %s %s", p.Field, p.What, p.Why, p.Fix)
}

// Load reads and checks a file; a missing file is an error. The result has every default filled in.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)

// Parse reads and checks YAML. All problems are returned at once, joined; each is a *Problem or says what cannot be read.
func Parse(text []byte) (Config, error) {
	var c Config
	document, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Config{}, fmt.Errorf("not valid YAML: %w", err)
	}
	strict, err := json.UnmarshalStrict(document, &c)
	if err != nil {
		return Config{}, fmt.Errorf("a value has the wrong type: %w", err)
	}
	for i, err := range strict {
		if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
			strict[i] = &Problem{Field: m[1], What: "There is no such field.",
				Why: "A mistyped field would silently keep its default.", Fix: "Remove it or correct its name; names are those of Cilium's chart."}
		}
	}
	if len(strict) > 0 {
		return Config{}, errors.Join(strict...)
	}
	c.fill()
	return c, c.check()
}

func (c *Config) fill() {
	fill(&c.Cluster.Name, "default")
	fill(&c.RoutingMode, "tunnel")
	fill(&c.TunnelProtocol, "vxlan")
	fill(&c.IPAM.Mode, "kubernetes")
	fill(&c.PolicyEnforcementMode, "default")
	fill(&c.Hubble.ListenAddress, ":4244")
	fill(&c.Hubble.EventBufferCapacity, 4095)
	fill(&c.Prometheus.Port, 9962)
	fill(&c.BPF.MonitorAggregation, "medium")
	c.fillServices()
	c.ProxyOptions.fill()
	ratio := 0.0025
	if c.BPF.MapDynamicSizeRatio == nil {
		c.BPF.MapDynamicSizeRatio = &ratio
	}
	yes := true
	for _, b := range []**bool{&c.IPv4.Enabled, &c.EndpointRoutes.Enabled, &c.KubeProxyReplacement, &c.EnableIPv4Masquerade, &c.EnableIPv6Masquerade, &c.Hubble.Enabled, &c.Prometheus.Enabled, &c.HealthChecking} {
		if *b == nil {
			*b = &yes
		}
	}
	if c.BPF.Masquerade == nil {
		// Beside kube-proxy pods' packets have to pass the host's stack.
		c.BPF.Masquerade = c.KubeProxyReplacement
	}
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var clusterName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

func (c *Config) check() error {
	var problems []error
	refuse := func(field, what, why, fix string) {
		problems = append(problems, &Problem{Field: field, What: what, Why: why, Fix: fix})
	}
	oneOf := func(field, value string, allowed ...string) {
		for _, a := range allowed {
			if value == a {
				return
			}
		}
		refuse(field, fmt.Sprintf("%q is not one of %s.", value, strings.Join(allowed, ", ")), "The agent knows no other.", "Use one of them.")
	}
	oneOf("routingMode", c.RoutingMode, "tunnel", "native")
	oneOf("tunnelProtocol", c.TunnelProtocol, "vxlan", "geneve")
	oneOf("ipam.mode", c.IPAM.Mode, "kubernetes")
	oneOf("policyEnforcementMode", c.PolicyEnforcementMode, "default", "always", "never")
	oneOf("bpf.monitorAggregation", c.BPF.MonitorAggregation, "medium", "none")
	c.checkServices(refuse, oneOf)
	if c.HostFirewall.Enabled && *c.EnableIPv4Masquerade && !*c.BPF.Masquerade {
		refuse("hostFirewall.enabled", "The host firewall needs bpf.masquerade.",
			"Answers to what netfilter masquerades are for pods and look as if they were for the node; it would refuse them.",
			"Set bpf.masquerade: true, or enableIPv4Masquerade: false.")
	}
	for i, mode := range c.PolicyCIDRMatchMode {
		oneOf(fmt.Sprintf("policyCIDRMatchMode[%d]", i), mode, "nodes")
	}
	native := c.RoutingMode == "native"
	if !*c.IPv4.Enabled && !c.IPv6.Enabled {
		refuse("ipv4.enabled", "Pods would have no addresses.", "Both families are off.", "Turn one on.")
	}
	if native && c.IPv6.Enabled && c.IPv6NativeRoutingCIDR == "" {
		refuse("ipv6NativeRoutingCIDR", "Native routing needs a range that is routed as it is.",
			"Without it the agent cannot tell which addresses to masquerade.", "Set it to a range that contains every node's pod CIDR of IPv6.")
	}
	if c.IPv6NativeRoutingCIDR != "" {
		if p, err := netip.ParsePrefix(c.IPv6NativeRoutingCIDR); err != nil || !p.Addr().Is6() {
			refuse("ipv6NativeRoutingCIDR", fmt.Sprintf("%q is not an IPv6 range.", c.IPv6NativeRoutingCIDR),
				"A range is an address and a length.", "Write it as fd00::/48.")
		}
	}
	if native && *c.IPv4.Enabled && c.IPv4NativeRoutingCIDR == "" {
		refuse("ipv4NativeRoutingCIDR", "Native routing needs a range that is routed as it is.",
			"Without it the agent cannot tell which addresses to masquerade.", "Set it to a range that contains every node's pod CIDR.")
	}
	if c.IPv4NativeRoutingCIDR != "" {
		if p, err := netip.ParsePrefix(c.IPv4NativeRoutingCIDR); err != nil || !p.Addr().Is4() {
			refuse("ipv4NativeRoutingCIDR", fmt.Sprintf("%q is not an IPv4 range.", c.IPv4NativeRoutingCIDR),
				"A range is an address and a length.", "Write it as 10.0.0.0/8.")
		}
	}
	if c.AutoDirectNodeRoutes && !native {
		refuse("autoDirectNodeRoutes", "Direct node routes need routingMode native.",
			"In tunnel mode packets between nodes travel inside of the tunnel.", "Set routingMode: native, or autoDirectNodeRoutes: false.")
	}
	c.checkMasquerade(refuse)
	c.checkXDP(refuse)
	c.ProxyOptions.check(refuse)
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		refuse("MTU", fmt.Sprintf("%d is no usable MTU.", c.MTU), "It has to be 1280 to 65535.", "Use 0 to have it worked out.")
	}
	if r := *c.BPF.MapDynamicSizeRatio; r < 0 || r > 0.5 {
		refuse("bpf.mapDynamicSizeRatio", fmt.Sprintf("%v is no usable share of the memory.", r), "It has to be 0 to 0.5.", "Leave it out for 0.0025.")
	}
	for field, n := range map[string]int{"bpf.ctTcpMax": c.BPF.CTTCPMax, "bpf.policyMapMax": c.BPF.PolicyMapMax, "bpf.ipcacheMax": c.BPF.IPCacheMax} {
		if n != 0 && (n < 1024 || n > 1<<24) {
			refuse(field, fmt.Sprintf("%d is no usable size.", n), "It has to be 1024 to 16777216 entries.", "Leave it out for the default.")
		}
	}
	if d, err := time.ParseDuration(c.ConntrackGCInterval); c.ConntrackGCInterval != "" && (err != nil || d < 0 || d > 0 && d < time.Second) {
		refuse("conntrackGCInterval", fmt.Sprintf("%q is no usable interval.", c.ConntrackGCInterval), "It is a duration of at least a second.", "Write it as 30s, or leave it out.")
	}
	if (c.KubernetesHost == "") != (c.KubernetesPort == 0) {
		refuse("k8sServicePort", "k8sServiceHost and k8sServicePort belong together.", "One of them alone is no address.", "Set both or neither.")
	}
	for field, port := range map[string]int{"k8sServicePort": c.KubernetesPort, "prometheus.port": c.Prometheus.Port, "tunnelPort": c.TunnelPort} {
		if port < 0 || port > 65535 {
			refuse(field, fmt.Sprintf("%d is not a port.", port), "Ports are 1 to 65535.", "Correct it.")
		}
	}
	if !clusterName.MatchString(c.Cluster.Name) {
		refuse("cluster.name", fmt.Sprintf("%q is not a cluster name.", c.Cluster.Name),
			"It becomes part of names in certificates.", "Use at most 32 lower-case letters, digits and dashes.")
	}
	return errors.Join(problems...)
}

// GCInterval is the parsed interval; 0 where the tables' fill decides.
func (c Config) GCInterval() time.Duration {
	d, _ := time.ParseDuration(c.ConntrackGCInterval)
	return d
}

// NativeRoutingCIDR6 is the parsed range of IPv6; the zero Prefix where none is set.
func (c Config) NativeRoutingCIDR6() netip.Prefix {
	p, _ := netip.ParsePrefix(c.IPv6NativeRoutingCIDR)
	return p
}

// NativeRoutingCIDR is the parsed range; the zero Prefix where none is set.
func (c Config) NativeRoutingCIDR() netip.Prefix {
	p, _ := netip.ParsePrefix(c.IPv4NativeRoutingCIDR)
	return p
}
