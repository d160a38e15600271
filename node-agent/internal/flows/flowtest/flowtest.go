// Package flowtest has the cluster that tests of flows happen in: two nodes, the empire's and the alliance's pods.
package flowtest

import (
	"net/netip"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
)

// Addresses of the cluster.
var (
	Deathstar  = netip.MustParseAddr("10.0.1.10")
	Tiefighter = netip.MustParseAddr("10.0.1.20")
	Xwing      = netip.MustParseAddr("10.0.2.30")
	World      = netip.MustParseAddr("192.0.2.7")
	Node1      = netip.MustParseAddr("172.18.0.2")
	Node2      = netip.MustParseAddr("172.18.0.3")
	Service    = netip.MustParseAddr("10.96.0.77")
)

// Numbers of the cluster.
const (
	DeathstarID      = 11
	TiefighterID     = 12
	EmpireIdentity   = 4001
	TieIdentity      = 4002
	AllianceIdentity = 4003
	AllowRule        = 7
	DenyRule         = 8
	TieCgroup        = 1234
)

// Resolver is the cluster's; it never changes.
type Resolver struct{}

var endpoints = map[netip.Addr]flows.EndpointInfo{
	Deathstar: {
		ID: DeathstarID, Identity: EmpireIdentity, Namespace: "default", PodName: "deathstar-6c94", NodeName: "node1",
		Labels:       []string{"k8s:class=deathstar", "k8s:io.kubernetes.pod.namespace=default", "k8s:org=empire"},
		WorkloadName: "deathstar", WorkloadKind: "Deployment",
	},
	Tiefighter: {
		ID: TiefighterID, Identity: TieIdentity, Namespace: "default", PodName: "tiefighter", NodeName: "node1",
		Labels: []string{"k8s:class=tiefighter", "k8s:io.kubernetes.pod.namespace=default", "k8s:org=empire"},
	},
	Xwing: {
		Identity: AllianceIdentity, Namespace: "rebels", PodName: "xwing", NodeName: "node2",
		Labels: []string{"k8s:class=xwing", "k8s:io.kubernetes.pod.namespace=rebels", "k8s:org=alliance"},
	},
	Node1: {Identity: 1, Labels: []string{"reserved:host"}, NodeName: "node1"},
	Node2: {Identity: 6, Labels: []string{"reserved:remote-node"}, NodeName: "node2"},
}

var world = flows.EndpointInfo{Identity: 2, Labels: []string{"reserved:world"}}

// ByAddress knows the pods and nodes; everybody else is the world.
func (Resolver) ByAddress(a netip.Addr, _ uint32) flows.EndpointInfo {
	if e, ok := endpoints[a]; ok {
		return e
	}
	return world
}

// Version never changes, as the cluster does not.
func (Resolver) Version() uint64 { return 0 }

// HasService knows the deathstar's service.
func (Resolver) HasService(a netip.Addr) bool { return a == Service }

// Service knows the deathstar's.
func (Resolver) Service(a netip.Addr, port uint16, protocol uint8) (flows.ServiceInfo, bool) {
	return flows.ServiceInfo{Namespace: "default", Name: "deathstar"}, a == Service && port == 80 && protocol == 6
}

var policies = map[uint32]flows.PolicyInfo{
	AllowRule: {
		Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "rule1", Revision: 3, Section: "spec.ingress[0]",
		Labels: []string{"k8s:io.cilium.k8s.policy.name=rule1"},
	},
	DenyRule: {Kind: "CiliumClusterwideNetworkPolicy", Name: "no-rebels", Revision: 4, Section: "spec.ingressDeny[0]"},
}

// Policy knows AllowRule and DenyRule.
func (Resolver) Policy(rule uint32) (flows.PolicyInfo, bool) { p, ok := policies[rule]; return p, ok }

var enforcing = []flows.PolicyInfo{policies[AllowRule]}

// PoliciesEnforcing says that rule1 isolates the deathstar's ingress.
func (Resolver) PoliciesEnforcing(endpoint uint32, egress bool) []flows.PolicyInfo {
	if endpoint == DeathstarID && !egress {
		return enforcing
	}
	return nil
}

// InterfaceName of index 5 is that of the deathstar's veth.
func (Resolver) InterfaceName(index uint32) string {
	if index == 5 {
		return "lxc5"
	}
	return ""
}

// AddressOfCgroup knows the tiefighter's.
func (Resolver) AddressOfCgroup(cgroup uint64) (netip.Addr, bool) {
	return Tiefighter, cgroup == TieCgroup
}

// Node is where the tests happen.
func Node() flows.NodeInfo {
	return flows.NodeInfo{Name: "node1", Cluster: "default", Version: "0.1.0-test", Address: Node1, Started: time.Now()}
}

// NewStore makes a store of this cluster; 0 means the default capacity.
func NewStore(capacity int) *flows.Store {
	return flows.New(flows.Options{Resolver: Resolver{}, Node: Node(), Capacity: capacity})
}

// Delivered is a packet from the tiefighter that reached the deathstar.
func Delivered(at time.Time, port uint16, flags uint8) datapath.Event {
	return datapath.Event{
		Time: at, Type: datapath.EventTrace, TraceReason: uint8(flowpb.TraceReason_NEW), ReplyKnown: true,
		Endpoint: DeathstarID, SourceIdentity: TieIdentity, DestIdentity: EmpireIdentity,
		Source: Tiefighter, Destination: Deathstar, SourcePort: port, DestPort: 80, Protocol: 6, TCPFlags: flags,
		Interface: 5, Length: 74, SourceMAC: [6]byte{2, 0, 0, 0, 0, 1}, DestMAC: [6]byte{2, 0, 0, 0, 0, 2},
	}
}

// Answered is the deathstar's reply, as it reached the tiefighter.
func Answered(at time.Time, port uint16) datapath.Event {
	return datapath.Event{
		Time: at, Type: datapath.EventTrace, TraceReason: uint8(flowpb.TraceReason_REPLY), Reply: true, ReplyKnown: true,
		Endpoint: TiefighterID, SourceIdentity: EmpireIdentity, DestIdentity: TieIdentity,
		Source: Deathstar, Destination: Tiefighter, SourcePort: 80, DestPort: port, Protocol: 6, TCPFlags: 0x12, Length: 74,
	}
}

// Allowed is the verdict that let the tiefighter in.
func Allowed(at time.Time, port uint16) datapath.Event {
	e := Delivered(at, port, 0x02)
	e.Type, e.TraceReason, e.MatchType, e.Rule = datapath.EventPolicyVerdict, 0, 2, AllowRule
	return e
}

// Denied are the two events of the xwing's being refused by default deny: the verdict and the drop.
func Denied(at time.Time, port uint16) []datapath.Event {
	verdict := datapath.Event{
		Time: at, Type: datapath.EventPolicyVerdict, Denied: true, Direction: datapath.Ingress, Endpoint: DeathstarID,
		SourceIdentity: AllianceIdentity, DestIdentity: EmpireIdentity, Source: Xwing, Destination: Deathstar,
		SourcePort: port, DestPort: 80, Protocol: 6, TCPFlags: 0x02, Length: 74,
	}
	drop := verdict
	drop.Type, drop.Denied, drop.SubType = datapath.EventDrop, false, uint8(flowpb.DropReason_POLICY_DENIED)
	drop.File, drop.Line = 2, 123
	return []datapath.Event{verdict, drop}
}

// Connected are the two socket events of the tiefighter's connecting to the deathstar's service.
func Connected(at time.Time) []datapath.Event {
	before := datapath.Event{
		Time: at, Type: datapath.EventSocket, SubType: 1, Direction: datapath.Egress,
		Source: netip.IPv4Unspecified(), Destination: Service, DestPort: 80, Protocol: 6, SocketCookie: 99,
		CgroupID: TieCgroup,
	}
	after := before
	after.SubType, after.Destination = 2, Deathstar
	return []datapath.Event{before, after}
}
