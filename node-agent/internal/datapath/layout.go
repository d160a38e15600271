package datapath

import (
	"encoding/binary"
	"net/netip"
)

// layoutVersion is part of every map's pin. Raise it when a structure in bpf/lib/types.h changes; see carry.go for what goes
// along.
const layoutVersion = 2

// The structures below mirror bpf/lib/types.h byte for byte; layout_test.go compares them with the objects' BTF.

// wireAddress is 16 bytes in network order, version 4 mapped.
type wireAddress [16]byte

// big16 is a port in network order as the kernel keeps it in memory.
type big16 [2]byte

type configLayout struct {
	NodeAddress, NodeAddress6, RouterAddress, RouterAddress6 wireAddress
	PodNet, PodMask, PodNet6, PodMask6                       wireAddress
	NativeNet, NativeMask, NativeNet6, NativeMask6           wireAddress
	TunnelIfindex, Tunnel, Underlay6                         uint32
	TunnelPort                                               big16
	MTU                                                      uint16
	Services, Aggregate, SetRetval, DryRun, Masquerade       uint32
	HostSockets, MaglevSize, DSR, ProxyIfindex, HostFirewall uint32
	NATSeed                                                  uint32
	NATFirst, Bandwidth                                      uint16
	HostCookie                                               uint64
	ReportInterval                                           uint64
	Untunnel                                                 uint32
	IPv6OnlyAt                                               uint16
	IPv6OnlyBit, Pad                                         uint8
	NATLowest                                                uint16
	Pad2                                                     [3]uint16
}

// Values of configLayout.Tunnel.
const (
	tunnelVXLAN  = 1
	tunnelGeneve = 2
)

type endpointLayout struct {
	Ifindex, Identity, Revision uint32
	ID, Flags                   uint16
	PodMAC, HostMAC             [6]byte
	Pad                         uint32
	NetnsCookie                 uint64
}

const (
	endpointPolicyIngress = 1
	endpointPolicyEgress  = 2
	endpointAudit         = 4
	endpointLimitIngress  = 8
	endpointLimitEgress   = 16
)

type rateKeyLayout struct {
	Endpoint       uint16
	Direction, Pad uint8
}

type rateLayout struct {
	BytesPerSecond, Tolerance, Next, Bytes, Dropped uint64
}

// Values of configLayout.Bandwidth.
const (
	bandwidthPace   = 1
	bandwidthPolice = 2
)

type socketOwnerLayout struct {
	Address  wireAddress
	Identity uint32
	ID, Pad  uint16
}

type ipcacheKeyLayout struct {
	PrefixLen uint32
	Address   wireAddress
}

type ipcacheValueLayout struct {
	Identity uint32
	Tunnel   [4]byte
}

type policyKeyLayout struct {
	PrefixLen, Endpoint, Identity uint32
	Direction, Protocol           uint8
	Port                          big16
}

type policyValueLayout struct {
	Rule            uint32
	Deny, PrefixLen uint8
	ProxyPort       big16
}

const (
	policyPrefixPeer     = 72
	policyPrefixProtocol = 80
)

type connectionKeyLayout struct {
	Local, Remote         wireAddress
	LocalPort, RemotePort big16
	Endpoint              uint16
	Protocol, Pad         uint8
}

type connectionLayout struct {
	Expires                  uint64
	Packets, Bytes, Reported [2]uint64
	Revision, Rule, Peer     uint32
	Tunnel                   [4]byte
	Translated               wireAddress
	TranslatedPort           big16
	Initiator, Flags         uint8
	Seen                     [2]uint8
	ProxyPort                big16
}

const (
	connectionService = 1 << iota
	connectionReverse
	connectionReplied
	connectionFinOut
	connectionFinIn
	connectionReset
	connectionWire
	connectionProxy
)

// seenReopened, in a connection's Seen[0], tells of one in `connections` that is being opened in an earlier one's place.
const seenReopened = 0x80

type serviceKeyLayout struct {
	Address       wireAddress
	Port          big16
	Protocol, Pad uint8
}

type serviceLayout struct {
	ID, Affinity uint32
	Flags        uint16
	Kind, Pad    uint8
	View         [2]struct{ List, Count uint32 }
}

type slotKeyLayout struct {
	List, Slot uint32
}

type backendLayout struct {
	Address         wireAddress
	Port            big16
	Protocol, Flags uint8
	Service         uint32
}

type affinityKeyLayout struct {
	Client             wireAddress
	Service, ByAddress uint32
}

type affinityLayout struct {
	Until        uint64
	Backend, Pad uint32
}

type socketKeyLayout struct {
	Cookie  uint64
	Address wireAddress
	Port    big16
	Pad     [3]uint16
}

type socketValueLayout struct {
	Address wireAddress
	Port    big16
	Pad     uint16
}

type rangeKeyLayout struct {
	PrefixLen, Service uint32
	Address            wireAddress
}

// Values of configLayout.Masquerade, a set of bits.
const (
	masqueradeV4 = 1
	masqueradeV6 = 2
)

type natKeyLayout struct {
	Source, Destination         wireAddress
	SourcePort, DestinationPort big16
	Protocol, Direction         uint8
	Pad                         uint16
}

// Values of natKeyLayout.Direction.
const (
	natOut = 0
	natIn  = 1
)

type natValueLayout struct {
	Expires uint64
	Address wireAddress
	Port    big16
	Flags   uint8
	Pad     [5]uint8
}

// Bits of natValueLayout.Flags.
const (
	natOwn = 1 << iota
	natReplied
	natFinOut
	natFinIn
	natReset
)

type deviceLayout struct {
	Address, Address6 wireAddress
}

// Bits of the values of the map `unmasqueraded`.
const (
	unmasqueradedNode = 1
	unmasqueradedRule = 2
)

type counterLayout struct {
	Packets, Bytes uint64
}

// toWire gives zeros for no address.
func toWire(a netip.Addr) wireAddress {
	if !a.IsValid() {
		return wireAddress{}
	}
	return a.As16()
}

func fromWire(w wireAddress) netip.Addr { return netip.AddrFrom16(w).Unmap() }

// toWire4 gives zeros for an address that is not of version 4.
func toWire4(a netip.Addr) [4]byte {
	if a = a.Unmap(); a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

func fromWire4(w [4]byte) netip.Addr {
	if w == ([4]byte{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom4(w)
}

func toPort(p uint16) (b big16) {
	binary.BigEndian.PutUint16(b[:], p)
	return b
}

func fromPort(b big16) uint16 { return binary.BigEndian.Uint16(b[:]) }

// netAndMask of a prefix, version 4 mapped; an invalid one matches no address.
func netAndMask(p netip.Prefix) (network, mask wireAddress) {
	if !p.IsValid() {
		for i := range network {
			network[i] = 255
		}
		return network, mask
	}
	k := prefixToKey(p)
	for i := range k.PrefixLen {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return k.Address, mask
}

// ofFamily is the first prefix of version 4 or 6; the zero Prefix where there is none.
func ofFamily(prefixes []netip.Prefix, v6 bool) netip.Prefix {
	for _, p := range prefixes {
		if p.Addr().Unmap().Is6() == v6 {
			return p
		}
	}
	return netip.Prefix{}
}

func prefixToKey(p netip.Prefix) ipcacheKeyLayout {
	bitCount := p.Bits()
	if p.Addr().Is4() {
		bitCount += 96
	}
	return ipcacheKeyLayout{PrefixLen: uint32(bitCount), Address: toWire(p.Masked().Addr())}
}

func keyToPrefix(k ipcacheKeyLayout) netip.Prefix {
	a, n := fromWire(k.Address), int(k.PrefixLen)
	if a.Is4() && n >= 96 {
		return netip.PrefixFrom(a, n-96)
	}
	return netip.PrefixFrom(netip.AddrFrom16(k.Address), n)
}

func policyKeyToLayout(k PolicyKey) policyKeyLayout {
	out := policyKeyLayout{PrefixLen: policyPrefixPeer, Endpoint: uint32(k.Endpoint), Identity: k.Identity, Direction: uint8(k.Direction)}
	if k.Protocol == 0 {
		return out
	}
	out.PrefixLen, out.Protocol = policyPrefixProtocol, k.Protocol
	n := min(k.PortPrefix, 16)
	out.PrefixLen += uint32(n)
	out.Port = toPort(uint16(uint32(k.Port) & (0xffff0000 >> n) & 0xffff))
	return out
}

func policyKeyFromLayout(k policyKeyLayout) PolicyKey {
	out := PolicyKey{Endpoint: EndpointID(k.Endpoint), Identity: k.Identity, Direction: Direction(k.Direction)}
	if k.PrefixLen >= policyPrefixProtocol {
		out.Protocol, out.Port, out.PortPrefix = k.Protocol, fromPort(k.Port), uint8(k.PrefixLen-policyPrefixProtocol)
	}
	return out
}

func endpointToLayout(e Endpoint, revision uint32) endpointLayout {
	out := endpointLayout{
		Ifindex: uint32(e.InterfaceIndex), Identity: e.Identity, Revision: revision, ID: uint16(e.ID),
		PodMAC: e.PodMAC, HostMAC: e.HostMAC, NetnsCookie: e.NetnsCookie,
	}
	if e.PolicyIngress {
		out.Flags |= endpointPolicyIngress
	}
	if e.PolicyEgress {
		out.Flags |= endpointPolicyEgress
	}
	if e.Audit {
		out.Flags |= endpointAudit
	}
	if e.IngressBandwidth > 0 {
		out.Flags |= endpointLimitIngress
	}
	if e.EgressBandwidth > 0 {
		out.Flags |= endpointLimitEgress
	}
	return out
}

func endpointFromLayout(l endpointLayout) Endpoint {
	return Endpoint{
		ID: EndpointID(l.ID), InterfaceIndex: int(l.Ifindex), PodMAC: l.PodMAC, HostMAC: l.HostMAC, Identity: l.Identity,
		NetnsCookie: l.NetnsCookie, PolicyIngress: l.Flags&endpointPolicyIngress != 0, PolicyEgress: l.Flags&endpointPolicyEgress != 0,
		Audit: l.Flags&endpointAudit != 0,
	}
}
