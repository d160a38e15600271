package policy

import (
	"cmp"
	"strconv"
)

// Direction of traffic as the subject (the governed pod) sees it. The numbers are the datapath's.
type Direction uint8

// The directions.
const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// String gives ingress or egress.
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// IP protocol numbers as in the packet's header. 0 means any in a Key.
const (
	ProtocolAny    uint8 = 0
	ProtocolICMP   uint8 = 1
	ProtocolIGMP   uint8 = 2
	ProtocolIPIP   uint8 = 4
	ProtocolTCP    uint8 = 6
	ProtocolUDP    uint8 = 17
	ProtocolIPv6   uint8 = 41
	ProtocolGRE    uint8 = 47
	ProtocolESP    uint8 = 50
	ProtocolAH     uint8 = 51
	ProtocolICMPv6 uint8 = 58
	ProtocolVRRP   uint8 = 112
	ProtocolSCTP   uint8 = 132
)

var protocolNames = map[uint8]string{
	ProtocolAny: "ANY", ProtocolICMP: "ICMP", ProtocolIGMP: "IGMP", ProtocolIPIP: "IPIP", ProtocolTCP: "TCP",
	ProtocolUDP: "UDP", ProtocolIPv6: "IPV6", ProtocolGRE: "GRE", ProtocolESP: "ESP", ProtocolAH: "AH",
	ProtocolICMPv6: "ICMPv6", ProtocolVRRP: "VRRP", ProtocolSCTP: "SCTP",
}

// ProtocolName gives the name of an IP protocol number, and the number in decimal where it has no name here.
func ProtocolName(protocol uint8) string {
	if name, ok := protocolNames[protocol]; ok {
		return name
	}
	return strconv.Itoa(int(protocol))
}

// Key is one line of an endpoint's policy in the kernel. It is comparable and converts field by field to
// datapath.PolicyKey.
type Key struct {
	Direction Direction
	// Peer is the other side's identity; AnyPeer (0) matches everybody.
	Peer NumericIdentity
	// Protocol is an IP protocol number; ProtocolAny (0) matches every protocol, and then Port and PortPrefix are 0.
	Protocol uint8
	// Port is the destination port in host byte order; of ICMP and ICMPv6 the message type.
	Port uint16
	// PortPrefix is how many leading bits of Port count, 0..16; 0 matches every port.
	PortPrefix uint8
}

// covers tells whether every packet that matches b (with the same peer and direction) also matches a.
func (a Key) covers(b Key) bool {
	if a.Protocol == ProtocolAny {
		return true
	}
	if a.Protocol != b.Protocol || a.PortPrefix > b.PortPrefix {
		return false
	}
	return prefixOf(b.Port, a.PortPrefix) == a.Port
}

func prefixOf(port uint16, bits uint8) uint16 {
	if bits == 0 {
		return 0
	}
	return port &^ (1<<(16-bits) - 1)
}

// MatchType numbers what a line matches on, as Hubble's policy_match_type does.
func (a Key) MatchType() uint8 {
	peer, protocol, port := a.Peer != AnyPeer, a.Protocol != ProtocolAny, a.PortPrefix > 0
	switch {
	case peer && port:
		return MatchL3L4
	case peer && protocol:
		return MatchL3Proto
	case peer:
		return MatchL3
	case port:
		return MatchL4
	case protocol:
		return MatchProto
	default:
		return MatchAll
	}
}

// Hubble's policy_match_type.
const (
	MatchNone    uint8 = 0
	MatchL3      uint8 = 1
	MatchL3L4    uint8 = 2
	MatchL4      uint8 = 3
	MatchAll     uint8 = 4
	MatchL3Proto uint8 = 5
	MatchProto   uint8 = 6
)

// RuleID stands for a RuleRef in the kernel and in flow events; 0 is "no rule". It is derived from the rule's name, so a
// restarted agent gives the same rule the same number (unless two names collide, which costs one rewritten line).
type RuleID uint32

// Entry is a line with what it decides.
type Entry struct {
	Key
	Deny bool
	// Proxy is who has to look into the traffic that the line lets pass.
	Proxy ProxyKind
	// Rule is the deciding rule: of several that decide alike, the first by name.
	Rule RuleID
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.PortPrefix, b.PortPrefix), cmp.Compare(a.Port, b.Port))
}

func compareEntries(a, b Entry) int { return compareKeys(a.Key, b.Key) }

// SubjectID names a governed endpoint; the agent uses the datapath's EndpointID, the console the index of the pod.
type SubjectID uint32

// Change is what one endpoint's policy in the kernel needs to become current. Adds and Deletes are sorted, disjoint, and
// shared between subjects: read them only.
//
// Write them in this order: Adds; then Enforced; then Deletes. So nothing that is allowed before and after ever drops.
type Change struct {
	Subject SubjectID
	// Adds are new lines and lines whose value changed.
	Adds    []Entry
	Deletes []Key
	// Enforced says per direction (index Ingress, Egress) whether what no line allows is dropped. Always the present state.
	Enforced [2]bool
	// EnforcedChanged tells whether Enforced differs from before the call.
	EnforcedChanged bool
}

// NamedPort is what a container port's name stands for.
type NamedPort struct {
	Protocol uint8  `json:"protocol"`
	Port     uint16 `json:"port"`
}

// NamedPorts maps lower-case port names to ports. Pods of one identity may give one name to different ports.
type NamedPorts map[string][]NamedPort
