package config

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// ServiceOptions are the part of the configuration that is about services.
type ServiceOptions struct {
	LoadBalancer    LoadBalancer `json:"loadBalancer,omitempty"`
	Maglev          Maglev       `json:"maglev,omitempty"`
	NodePort        NodePort     `json:"nodePort,omitempty"`
	ExternalIPs     ExternalIPs  `json:"externalIPs,omitempty"`
	HostPort        Switch       `json:"hostPort,omitempty"`
	SocketLB        SocketLB     `json:"socketLB,omitempty"`
	SessionAffinity *bool        `json:"sessionAffinity,omitempty"`
}

// LoadBalancer is how clients outside of the cluster reach services.
type LoadBalancer struct {
	// Mode is snat (default), dsr or hybrid: dsr for TCP and snat for UDP.
	Mode string `json:"mode,omitempty"`
	// Algorithm is random (default) or maglev.
	Algorithm string `json:"algorithm,omitempty"`
	// Acceleration by XDP of what goes on to other nodes: best-effort (default) where it can and slows nothing else, native
	// wherever a driver has it (what cannot is degraded in status), disabled nowhere.
	Acceleration string `json:"acceleration,omitempty"`
	// DSRDispatch is how the service's address travels with DSR; opt, an option of the packet's own headers, is the only way.
	DSRDispatch string `json:"dsrDispatch,omitempty"`
}

// Maglev is the consistent hashing of loadBalancer.algorithm maglev.
type Maglev struct {
	// TableSize is a prime out of Cilium's list; 0 is 16381.
	TableSize int `json:"tableSize,omitempty"`
	// HashSeed is 12 bytes in base64, the same on all nodes.
	HashSeed string `json:"hashSeed,omitempty"`
}

// NodePort is about node ports.
type NodePort struct {
	// Range is "first,last", as the API server has it; the default is 30000,32767.
	Range string `json:"range,omitempty"`
}

// ExternalIPs is about spec.externalIPs of services.
type ExternalIPs struct {
	// Enabled, on by default, serves clients outside there.
	Enabled *bool `json:"enabled,omitempty"`
	// FromPods serves pods and nodes there too, as kube-proxy does: whoever may make a service can take any address from them
	// then (CVE-2020-8554).
	FromPods bool `json:"fromPods,omitempty"`
}

// Switch is something that is on or off; on by default.
type Switch struct {
	Enabled *bool `json:"enabled,omitempty"`
}

// SocketLB is the translation of services at the socket.
type SocketLB struct {
	// Enabled is whether sockets are translated at all; off leaves it to the packets of pods.
	Enabled *bool `json:"enabled,omitempty"`
	// HostNamespaceOnly leaves pods' sockets alone, for pods whose sockets are not the kernel's (gVisor, Kata).
	HostNamespaceOnly bool `json:"hostNamespaceOnly,omitempty"`
}

var maglevSizes = []int{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}

func (c *Config) fillServices() {
	fill(&c.LoadBalancer.Mode, "snat")
	fill(&c.LoadBalancer.Algorithm, "random")
	fill(&c.LoadBalancer.Acceleration, "best-effort")
	fill(&c.LoadBalancer.DSRDispatch, "opt")
	fill(&c.NodePort.Range, "30000,32767")
	fill(&c.Maglev.TableSize, 16381)
	yes := true
	for _, b := range []**bool{&c.ExternalIPs.Enabled, &c.HostPort.Enabled, &c.SocketLB.Enabled, &c.SessionAffinity} {
		if *b == nil {
			*b = &yes
		}
	}
}

// NodePortRange is the parsed range; false where it cannot be read.
func (c Config) NodePortRange() (first, last uint16, ok bool) {
	a, b, _ := strings.Cut(strings.ReplaceAll(c.NodePort.Range, "-", ","), ",")
	x, errX := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
	y, errY := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
	return uint16(x), uint16(y), errX == nil && errY == nil && x > 0 && x <= y
}

func (c *Config) checkServices(refuse func(field, what, why, fix string), oneOf func(field, value string, allowed ...string)) {
	oneOf("loadBalancer.mode", c.LoadBalancer.Mode, "snat", "dsr", "hybrid")
	oneOf("loadBalancer.algorithm", c.LoadBalancer.Algorithm, "random", "maglev")
	oneOf("loadBalancer.acceleration", c.LoadBalancer.Acceleration, "disabled", "native", "best-effort")
	if c.LoadBalancer.Acceleration == "native" && !*c.KubeProxyReplacement {
		refuse("loadBalancer.acceleration", "native needs kubeProxyReplacement.", "kube-proxy serves clients outside, in the kernel's stack.",
			"Set loadBalancer.acceleration: best-effort, or kubeProxyReplacement: true.")
	}
	switch c.LoadBalancer.DSRDispatch {
	case "geneve", "ipip":
		refuse("loadBalancer.dsrDispatch", fmt.Sprintf("%q is not in this version.", c.LoadBalancer.DSRDispatch),
			"The service's address travels in an option of the packet's own headers, and nothing is wrapped.", "Set loadBalancer.dsrDispatch: opt, with routingMode: native.")
	default:
		oneOf("loadBalancer.dsrDispatch", c.LoadBalancer.DSRDispatch, "opt")
	}
	if _, _, ok := c.NodePortRange(); !ok {
		refuse("nodePort.range", fmt.Sprintf("%q is not a range of ports.", c.NodePort.Range), "It is the first and the last port.", "Write it as 30000,32767.")
	}
	known := false
	for _, n := range maglevSizes {
		known = known || n == c.Maglev.TableSize
	}
	if !known {
		refuse("maglev.tableSize", fmt.Sprintf("%d is no size of a Maglev table.", c.Maglev.TableSize), "It has to be a prime that all nodes agree on.",
			fmt.Sprintf("Use one of %v.", maglevSizes))
	}
	if raw, err := base64.StdEncoding.DecodeString(c.Maglev.HashSeed); c.Maglev.HashSeed != "" && (err != nil || len(raw) != 12) {
		refuse("maglev.hashSeed", "It is not 12 bytes in base64.", "All nodes have to fill their tables in the same way.", "Make one: head -c12 /dev/urandom | base64 -w0")
	}
	if c.LoadBalancer.Mode != "snat" && c.RoutingMode != "native" {
		refuse("loadBalancer.mode", fmt.Sprintf("%q needs routingMode native.", c.LoadBalancer.Mode),
			"The service's address travels in an IP option, which a tunnel to the backend's node would hide.", "Set routingMode: native, or loadBalancer.mode: snat.")
	}
	if c.LoadBalancer.Mode != "snat" && !*c.KubeProxyReplacement {
		refuse("loadBalancer.mode", fmt.Sprintf("%q needs kubeProxyReplacement.", c.LoadBalancer.Mode),
			"kube-proxy serves clients outside, and its answers go back by the node that was asked.", "Set kubeProxyReplacement: true, or loadBalancer.mode: snat.")
	}
	if c.BPF.LBMapMax != 0 && c.BPF.LBMapMax < 1024 {
		refuse("bpf.lbMapMax", fmt.Sprintf("%d frontends are too few.", c.BPF.LBMapMax), "Every address and port of a service is one.", "Use at least 1024, or 0 for the default.")
	}
}
