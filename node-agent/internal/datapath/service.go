package datapath

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"os"
)

// ServiceKind says what an address of a service is.
type ServiceKind uint8

const (
	ServiceClusterIP ServiceKind = iota
	ServiceNodePort
	ServiceLoadBalancer
	ServiceExternalIP
	ServiceHostPort
)

// String is Kubernetes' word.
func (k ServiceKind) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalIP", "HostPort"}[min(k, ServiceHostPort)]
}

// Frontend is one address, port and protocol by which a service is reached. A node port or host port also has one with the
// unspecified address: sockets find it by addresses of nodes that have no frontend of their own (loopback, other nodes).
type Frontend struct {
	Address  netip.Addr
	Port     uint16
	Protocol uint8
	Kind     ServiceKind
}

// Backend is one address and port behind a service.
type Backend struct {
	Address netip.Addr
	Port    uint16
	// Terminating backends still serve; what is new goes to them only where no other is left.
	Terminating bool
	// Internal and External say which new clients may be sent here: those inside of the cluster, those outside. With
	// neither only the connections that the backend has go on.
	Internal, External bool
}

// ServiceID names one port of a Kubernetes service in one address family.
type ServiceID struct {
	Namespace, Name, PortName string
	Protocol                  uint8
	V6                        bool
}

// Service is what is behind the frontends of one port; no backend for a client means: refuse at once.
type Service struct {
	ServiceID
	Frontends []Frontend
	Backends  []Backend
	// AffinitySeconds > 0 turns ClientIP affinity on.
	AffinitySeconds uint32
	// SourceRanges limit who may come from outside to the load balancer's addresses; none is everybody.
	SourceRanges []netip.Prefix
	// ExternalLocal and InternalLocal are the traffic policies Local.
	ExternalLocal, InternalLocal bool
	// DropExternal and DropInternal: clients without a backend are left waiting instead of refused, because the service
	// has backends, only not here.
	DropExternal, DropInternal bool
	// ExternalInside has clients inside of the cluster served at external addresses that are not the node's own.
	ExternalInside bool
}

// LoadBalancer is how clients outside of the cluster reach backends. The zero value is mode snat, random, no acceleration.
type LoadBalancer struct {
	// Mode is snat, dsr or hybrid (dsr for TCP, snat for UDP).
	Mode string
	// Algorithm is random or maglev.
	Algorithm string
	// Acceleration is disabled, native or best-effort.
	Acceleration string
	// MaglevTableSize is a prime; 0 is 16381. MaglevHashSeed is 12 bytes in base64, the same on all nodes.
	MaglevTableSize int
	MaglevHashSeed  string
	// NodePortMin and NodePortMax bound the cluster's node ports; 0 is 30000 and 32767.
	NodePortMin, NodePortMax uint16
	// SocketsOff leaves all sockets alone; HostNamespaceOnly pods' sockets alone: their packets are translated one by one.
	SocketsOff, HostNamespaceOnly bool
	// ServicesMax is how many frontends fit; 0 is 65536. Four times as many backends fit.
	ServicesMax int
}

// nodePorts are the first and the last of the cluster's.
func (l LoadBalancer) nodePorts() (first, last uint16) {
	return cmp.Or(l.NodePortMin, 30000), cmp.Or(l.NodePortMax, defaultNATFirst-1)
}

const (
	dsrTCP = 1 << iota
	dsrUDP
)

// dsr says for which protocols backends on other nodes answer clients themselves.
func (l LoadBalancer) dsr() uint32 {
	switch l.Mode {
	case "dsr":
		return dsrTCP | dsrUDP
	case "hybrid":
		return dsrTCP
	}
	return 0
}

// natSeed orders the ports that are tried, so that an outsider cannot know which comes next; the same until the node starts
// again.
func natSeed() uint32 {
	h := fnv.New32a()
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	_, _ = h.Write(id)
	return h.Sum32() | 1
}
