// Package datapath is the seam between the agent's control plane and the kernel.
//
// Everything above this package speaks in plain comparable values (the *spec*: what should be); everything below it
// owns file descriptors, pins and links (the *object*: what is in the kernel). The control plane never touches a map.
package datapath

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// RoutingMode says how packets travel between nodes.
type RoutingMode string

const (
	// RoutingTunnel encapsulates in VXLAN (UDP 8472); the source identity rides in the VNI.
	RoutingTunnel RoutingMode = "tunnel"
	// RoutingNative sends pod addresses on the wire; the receiver finds the identity in its ipcache.
	RoutingNative RoutingMode = "native"
)

// Config is everything the programs are specialised with at load time. Equal Config values give equal programs.
type Config struct {
	// NodeName is the Kubernetes name of this node; used in log lines and events only.
	NodeName string
	// NodeAddress is this node's InternalIP: tunnel source, masquerade source, identity host. NodeAddress6 is its
	// InternalIP of version 6. One of the two may be missing.
	NodeAddress, NodeAddress6 netip.Addr
	// RouterAddress is this node's own address out of its pod CIDR (CiliumInternalIP): the pods' gateway; of each
	// family that pods have.
	RouterAddress, RouterAddress6 netip.Addr
	// PodCIDRs are the ranges out of which this node's pods get their addresses, one per family.
	PodCIDRs []netip.Prefix
	// NativeRoutingCIDR is never masqueraded and, in native mode, is routed as it is.
	NativeRoutingCIDR, NativeRoutingCIDR6 netip.Prefix
	Routing                               RoutingMode
	// TunnelProtocol and TunnelPort of tunnel routing; their zero values are VXLAN and the protocol's own port.
	TunnelProtocol TunnelProtocol
	TunnelPort     uint16
	// EndpointRoutes gives the host a route per pod of its own; without, its packets find pods by the pods' range.
	EndpointRoutes bool
	// AutoDirectNodeRoutes installs a kernel route per remote node's pod CIDR (native mode, nodes on one link).
	AutoDirectNodeRoutes bool
	// Devices are the node's outward interfaces, by name; never empty.
	Devices []string
	// MTU of pod interfaces' routes in bytes; 0 lets the datapath work it out from the devices and the encapsulation.
	MTU int
	// Masquerade makes traffic that leaves the cluster carry the address of the device that it leaves by; Masquerade6 is
	// the same for version 6.
	Masquerade, Masquerade6 bool
	// BPFMasquerade has the programs do it, past the host's stack; otherwise nftables does.
	BPFMasquerade bool
	// NATFirst is the first port that is given to masqueraded flows, above the node ports; 0 means 32768.
	NATFirst uint16
	// NoConntrack exempts pods' packets from the kernel's connection tracking. It needs BPFMasquerade where packets are
	// masqueraded, since nftables translates only what is tracked.
	NoConntrack bool
	// L7Proxy lets policy lines send connections to the agent's proxies.
	L7Proxy bool
	// hostIfindex is fairlead_host's, once it is there.
	hostIfindex int
	// bandwidth is what BandwidthManager comes to on this node.
	bandwidth BandwidthMode
	// untunnel has packets taken out of the tunnel in native routing, too; see modes.go.
	untunnel bool
	// natLowest is the lowest port that a translated flow has from a former range; 0 where none has one.
	natLowest uint16
	// Prefilter drops what comes from refused networks before the stack sees it; see SetRefused.
	Prefilter bool
	// xdpPrograms are those of xdp_netdev.bpf.c that some device is to have.
	xdpPrograms []string
	// KubeProxyReplacement turns service translation on (socket hooks and per-packet); LoadBalancer is how it is done.
	KubeProxyReplacement bool
	LoadBalancer         LoadBalancer
	// NetnsDirectory has a file for each pod's network namespace; empty: sockets of pods are not ended when their backend
	// goes.
	NetnsDirectory string
	// CgroupRoot is the mounted cgroup2 directory whose processes get the socket hooks.
	CgroupRoot string
	// BPFFS is the mounted bpf file system; pins live below BPFFS/fairlead.
	BPFFS string
	// NATMax is the size of the table of translated sources, two entries per flow; 0 means the default.
	NATMax int
	// ConntrackMax, PolicyMax, IPCacheMax are map sizes in entries; 0 means the default.
	ConntrackMax, PolicyMax, IPCacheMax int
	// MapDynamicSizeRatio is the share of the memory that the tables of connections get where it is more than their
	// default size; 0 leaves that.
	MapDynamicSizeRatio float64
	// ConntrackGCInterval is how often tables are cleaned; 0 goes by how full they are.
	ConntrackGCInterval time.Duration
	// HostFirewall lets policies govern the node itself; see UpsertHost.
	HostFirewall bool
	// BandwidthManager enforces the limits of endpoints' bandwidth; without it they are only remembered.
	BandwidthManager bool
	// MonitorAggregation throttles trace events of a connection to: new, first sight of a TCP flag, and one per Interval.
	// False emits one event per packet (debugging only).
	MonitorAggregation         bool
	MonitorAggregationInterval time.Duration
}

// PodCIDR is the range of one family; the zero Prefix where pods have no such addresses.
func (c Config) PodCIDR(v6 bool) netip.Prefix { return ofFamily(c.PodCIDRs, v6) }

// PodCIDRText lists the ranges, separated by commas.
func (c Config) PodCIDRText() string {
	var out []string
	for _, p := range c.PodCIDRs {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// RouterAddressText lists the routers' addresses, separated by commas.
func (c Config) RouterAddressText() string { return addressesText(c.RouterAddress, c.RouterAddress6) }

// NodeAddressText lists the node's addresses, separated by commas; the first is Primary.
func (c Config) NodeAddressText() string { return addressesText(c.NodeAddress, c.NodeAddress6) }

// addressesText lists those that are there.
func addressesText(addresses ...netip.Addr) string {
	var out []string
	for _, a := range addresses {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ",")
}

// Owns says whether the address is one of this node's, pods' included.
func (c Config) Owns(a netip.Addr) bool {
	return a == c.NodeAddress || a == c.NodeAddress6 || slices.ContainsFunc(c.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// EndpointID is local to a node: 1..65534 for pods, and HostEndpoint. It keys the endpoint's policy.
type EndpointID uint16

// HostEndpoint is the node itself, where policies govern it (host firewall).
const HostEndpoint EndpointID = 65535

// Endpoint is one pod's attachment on this node.
type Endpoint struct {
	ID EndpointID
	// Interface is the name of the veth's host side.
	Interface string
	// InterfaceIndex of the host side.
	InterfaceIndex int
	Addresses      []netip.Addr
	// PodMAC is the address inside the pod, HostMAC that of the host side; packets with another source are dropped.
	PodMAC, HostMAC [6]byte
	Identity        uint32
	// NetnsCookie identifies the pod's network namespace in socket hooks; 0 if unknown.
	NetnsCookie uint64
	// PolicyIngress and PolicyEgress say whether default deny is on in that direction.
	PolicyIngress, PolicyEgress bool
	// Audit lets what policy would drop pass; the verdict's event says so.
	Audit bool
	// IngressBandwidth and EgressBandwidth are the pod's limits in bytes per second; 0: none. See Config.BandwidthManager.
	IngressBandwidth, EgressBandwidth uint64
}

// Host says how policies govern the node itself: the flags of an Endpoint.
type Host struct {
	PolicyIngress, PolicyEgress, Audit bool
}

// Direction of policy, as seen from the endpoint.
type Direction uint8

const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// PolicyKey is one line of an endpoint's policy. Identity 0 means any peer, Protocol 0 any protocol.
// The port of ICMP is its type.
type PolicyKey struct {
	Endpoint  EndpointID
	Identity  uint32
	Direction Direction
	Protocol  uint8
	Port      uint16
	// PortPrefix is how many leading bits of Port count: 16 exact, 0 any port.
	PortPrefix uint8
}

// PolicyValue is what a line decides. Rule is an index into the agent's rule table and comes back in flow events.
type PolicyValue struct {
	Deny bool
	Rule uint32
	// ProxyPort is where the agent's proxy accepts what the line lets pass; 0 where none looks into it.
	ProxyPort uint16
}

// PolicyEntry is a key with its value.
type PolicyEntry struct {
	PolicyKey
	PolicyValue
}

// IPEntry maps addresses to who is behind them.
type IPEntry struct {
	Prefix   netip.Prefix
	Identity uint32
	// TunnelEndpoint is the node that hosts the prefix; the zero Addr where there is none (this node, or the world).
	TunnelEndpoint netip.Addr
}

// Node is another machine of the cluster.
type Node struct {
	Name     string
	Address  netip.Addr
	PodCIDRs []netip.Prefix
	// RouterAddress of that node (its CiliumInternalIP).
	RouterAddress netip.Addr
	// Address6 and RouterAddress6 are those of version 6; of Address and Address6 one may be missing.
	Address6, RouterAddress6 netip.Addr
	// HealthAddress and HealthAddress6 are where the node says that it answers probes through the pods' network.
	HealthAddress, HealthAddress6 netip.Addr
	// Routing is what the node says that it does; empty: as this one.
	Routing RoutingMode
}

// Addresses lists the node's own addresses, its router's first.
func (n Node) Addresses() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{n.RouterAddress, n.RouterAddress6, n.Address, n.Address6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// Primary is the address by which the node is reached.
func (n Node) Primary() netip.Addr {
	if n.Address.IsValid() {
		return n.Address
	}
	return n.Address6
}

// MapInfo describes one pinned map for `status` and for the console.
type MapInfo struct {
	Name string
	Type string
	// ID is the kernel's.
	ID         uint32
	MaxEntries uint32
	// Entries is the present count, or -1 where counting is not cheap.
	Entries              int
	MemoryBytes          uint64
	PinPath              string
	KeyBytes, ValueBytes uint32
	// Grows tells that it is made larger when it fills up.
	Grows bool
}

// Pressure is how full the map is, 0 to 1; -1 where that is not counted.
func (m MapInfo) Pressure() float64 {
	if m.Entries < 0 || m.MaxEntries == 0 {
		return -1
	}
	return float64(m.Entries) / float64(m.MaxEntries)
}

// ProgramInfo describes one loaded program and where it is attached.
type ProgramInfo struct {
	Name, Type string
	ID         uint32
	// Attach is e.g. "tcx ingress eth0" or "cgroup connect4 /sys/fs/cgroup".
	Attach      []string
	LoadedAt    time.Time
	RunCount    uint64
	RunTime     time.Duration
	MemoryBytes uint64
}

// ConntrackEntry is one line of the connection table, for `bpf ct list`.
type ConntrackEntry struct {
	Source, Destination   netip.AddrPort
	Protocol              uint8
	Direction             Direction
	Flags                 string
	SourceIdentity        uint32
	PacketsOut, PacketsIn uint64
	BytesOut, BytesIn     uint64
	Expires               time.Duration
	// TranslatedFrom is the service address that the packet was sent to, if any.
	TranslatedFrom netip.AddrPort
}

// DropCount is a counter per reason and direction. Reason numbers are Hubble's flow.DropReason.
type DropCount struct {
	Reason         uint8
	Forwarded      bool
	Direction      Direction
	Packets, Bytes uint64
	// Suppressed counts events of this reason that were held back, of both directions.
	Suppressed uint64
}

// Datapath is the object in the kernel. All methods are safe for concurrent use and idempotent: applying a value twice
// changes nothing. An error leaves what was there before.
type Datapath interface {
	// UpsertEndpoint attaches the programs to the endpoint's interface and publishes it. The endpoint's policy must have
	// been applied before (ApplyPolicy), so that no packet is judged by an empty table.
	UpsertEndpoint(ctx context.Context, e Endpoint) error
	// RemoveEndpoint detaches, forgets addresses, and deletes the endpoint's policy and conntrack lines.
	RemoveEndpoint(ctx context.Context, id EndpointID) error
	// UpsertHost publishes the node itself as endpoint HostEndpoint. Without Config.HostFirewall no program looks at it.
	UpsertHost(ctx context.Context, h Host) error
	// Endpoints lists what the kernel holds (restored after a restart).
	Endpoints() ([]Endpoint, error)

	// ApplyPolicy adds, then deletes lines; additions come first so that what is allowed before and after never drops.
	ApplyPolicy(ctx context.Context, add []PolicyEntry, remove []PolicyKey) error
	// Policy lists an endpoint's lines.
	Policy(id EndpointID) ([]PolicyEntry, error)

	// UpsertBlocks publishes ranges of ipBlocks; their lines must have been applied before.
	UpsertBlocks(ctx context.Context, blocks ...Block) error
	DeleteBlocks(ctx context.Context, prefixes ...netip.Prefix) error
	Blocks() ([]Block, error)

	UpsertIP(ctx context.Context, entries ...IPEntry) error
	DeleteIP(ctx context.Context, prefixes ...netip.Prefix) error
	IPs() ([]IPEntry, error)

	// UpsertService makes the service's frontends and backends exactly those given, without a moment in which it has none
	// of them. Backends that stay keep their numbers, and connections their backends. A frontend has one service: one that
	// another service has moves over.
	UpsertService(ctx context.Context, s Service) error
	DeleteService(ctx context.Context, id ServiceID) error
	// PruneServices removes what an earlier run left and no UpsertService has taken over since.
	PruneServices(ctx context.Context) error
	Services() ([]Service, error)

	// UpsertNode installs routes (native) or tunnel entries for the node's pod CIDRs.
	UpsertNode(ctx context.Context, n Node) error
	DeleteNode(ctx context.Context, n Node) error

	// Bandwidth tells how limits of endpoints' bandwidth are enforced; Rates lists them with what they passed and dropped.
	Bandwidth() Bandwidth
	Rates() ([]Rate, error)

	// SetUnmasqueraded makes the destinations that pods reach with their own addresses by the operator's rules exactly
	// those given. Connections that are open keep what they have.
	SetUnmasqueraded(ctx context.Context, prefixes []netip.Prefix) error
	// Masquerading tells how what leaves the cluster is translated, and what others did to it.
	Masquerading() Masquerading
	// XDP tells what happens on each device before the kernel's stack sees a packet, and why.
	XDP() []XDPDevice
	// SetRefused makes the networks that the prefilter drops exactly those given; Refused counts what came from them.
	SetRefused(ctx context.Context, networks []netip.Prefix) error
	Refused() ([]Refused, error)
	// NAT lists translated sources, at most limit where that is not 0.
	NAT(limit int) ([]NATEntry, error)

	Conntrack(limit int) ([]ConntrackEntry, error)
	Maps() ([]MapInfo, error)
	// Pressure tells how full maps are, as of the last time that they were cleaned; the fullest first.
	Pressure() []MapPressure
	// CarriedOver tells what became of the maps that an agent of another version left; nil where there was none.
	CarriedOver() []Carried
	// Explain tells what would become of a packet, by a run of the programs that leaves no trace.
	Explain(ctx context.Context, t Trial) (Explanation, error)
	Programs() ([]ProgramInfo, error)
	// Drops counts by reason, forwarded packets (reason 0) included; of all reasons, or of those given alone.
	Drops(only ...uint8) ([]DropCount, error)
	// KernelDrops counts what the kernel itself dropped of pods' packets; an error says why that is not seen.
	KernelDrops() ([]KernelDrop, error)
	// SeesKernelDrops gives KernelDrops' error without counting.
	SeesKernelDrops() error

	// Events streams the datapath's events until ctx ends. lost is called with the number of events that the kernel
	// could not deliver since the last call; it is exact.
	Events(ctx context.Context, handle func(Event), lost func(n uint64)) error

	// MTU is the resulting MTU of pod routes.
	MTU() int
	// Close releases file descriptors. Programs, links and maps stay pinned and keep serving traffic.
	Close() error
}

// EventType equals Hubble's monitor message types.
type EventType uint8

const (
	EventDrop          EventType = 1
	EventTrace         EventType = 4
	EventPolicyVerdict EventType = 5
	EventSocket        EventType = 7
)

// Event is one thing the datapath saw. Numbers are Hubble's (observation points, drop reasons, trace reasons, socket
// translation points), so that nothing has to be translated above.
type Event struct {
	Time time.Time
	Type EventType
	// SubType: EventDrop → drop reason; EventTrace → observation point (TO_ENDPOINT is 0 here); EventSocket →
	// SocketTranslationPoint; EventPolicyVerdict → 0.
	SubType uint8
	// TraceReason: 1 new, 2 established, 3 reply, 4 related; 0 unknown.
	TraceReason uint8
	Direction   Direction
	// Reply is the state of conntrack; ReplyKnown is false where no lookup was made.
	Reply, ReplyKnown bool
	// Denied and Audited are meaningful for EventPolicyVerdict: audited is what would have been denied, and passed.
	Denied, Audited bool
	// MatchType is Hubble's policy_match_type (0 none, 1 L3, 2 L3-L4, 3 L4, 4 all, 5 L3-proto, 6 proto).
	MatchType uint8
	// Rule is the deciding PolicyValue.Rule; 0 where no line matched (default deny or no policy).
	Rule                         uint32
	Endpoint                     EndpointID
	SourceIdentity, DestIdentity uint32
	Source, Destination          netip.Addr
	SourcePort, DestPort         uint16
	// SourceTranslated is the source after masquerade, when known.
	SourceTranslated netip.Addr
	Protocol         uint8
	// TCPFlags as in the header's byte 13; ICMP type and code in SourcePort/DestPort are NOT used: see ICMPType, ICMPCode.
	TCPFlags           uint8
	ICMPType, ICMPCode uint8
	Interface          uint32
	Length             uint32
	SourceMAC, DestMAC [6]byte
	// Tunnel endpoint and VNI when the packet came from or goes to the overlay.
	TunnelRemote netip.Addr
	TunnelVNI    uint32
	// SocketCookie and CgroupID for EventSocket.
	SocketCookie, CgroupID uint64
	// File and Line of the BPF source that decided (drops).
	File uint8
	Line uint16
	// L7 is set for EventL7 only.
	L7 *L7
	// KernelReason is the kernel's own number of a drop with reason DropKernel; KernelDropReason names it.
	KernelReason uint32
	// Suppressed counts events of the same endpoint, reason and direction that were held back before this one.
	Suppressed uint32
}
