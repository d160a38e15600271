// Package flows turns datapath events into Hubble flows and serves them.
package flows

import (
	"net/netip"
	"time"
)

// EndpointInfo is who is behind an address or an identity, as far as this node knows.
type EndpointInfo struct {
	// ID of a local endpoint; 0 for anybody else.
	ID       uint32
	Identity uint32
	// Labels in Cilium's form, sorted: "k8s:app=web", "reserved:host".
	Labels    []string
	Namespace string
	PodName   string
	// Workload that owns the pod, e.g. {"deathstar", "Deployment"}; empty if unknown.
	WorkloadName, WorkloadKind string
	// NodeName that hosts the pod, or is itself the address's owner; empty if unknown.
	NodeName string
}

// ServiceInfo names a Kubernetes service.
type ServiceInfo struct{ Namespace, Name string }

// PolicyInfo is the policy that decided.
type PolicyInfo struct {
	// Kind is CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy or NetworkPolicy; "" for built-in rules.
	Kind, Namespace, Name string
	Labels                []string
	Revision              uint64
	// Section is e.g. "spec.ingress[0]"; for the console.
	Section string
}

// Resolver answers from the agent's memory; it never blocks and never asks the API server.
type Resolver interface {
	// ByAddress finds the endpoint behind an address; identity is what the datapath saw (0 if it saw none).
	ByAddress(address netip.Addr, identity uint32) EndpointInfo
	// Version changes with everything that may change an answer of ByAddress, HasService or Service. It grows only after the
	// change can be seen, so that an answer may be kept with the version that was read before the question.
	Version() uint64
	// HasService tells whether any service has this address. Service need not be asked about others.
	HasService(address netip.Addr) bool
	// Service finds the service that a frontend address and port belong to.
	Service(address netip.Addr, port uint16, protocol uint8) (ServiceInfo, bool)
	// Policy finds the policy behind a datapath rule number; ok is false for 0 and for forgotten numbers.
	Policy(rule uint32) (PolicyInfo, bool)
	// PoliciesEnforcing lists the policies that put default deny on for the endpoint in that direction (egress=true for
	// egress); they are what a default-deny drop is due to.
	PoliciesEnforcing(endpoint uint32, egress bool) []PolicyInfo
	// InterfaceName of an interface index of this node.
	InterfaceName(index uint32) string
}

// NodeInfo describes this node for ServerStatus and GetNodes.
type NodeInfo struct {
	Name, Cluster, Version string
	Address                netip.Addr
	Started                time.Time
}
