package flows

import (
	"fmt"
	"strings"

	"fairlead.dev/node-agent/internal/datapath"
)

// IP protocol numbers.
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

// tcpFlagNames in the order in which Hubble lists them.
var tcpFlagNames = []struct {
	bit  uint8
	name string
}{
	{0x02, "SYN"}, {0x10, "ACK"}, {0x04, "RST"}, {0x01, "FIN"},
	{0x08, "PSH"}, {0x20, "URG"}, {0x40, "ECE"}, {0x80, "CWR"},
}

// icmpNames are type names with the names of their codes, as the packet library behind Hubble writes them.
type icmpName struct {
	name  string
	codes map[uint8]string
}

var icmpv4Names = map[uint8]icmpName{
	0: {name: "EchoReply"},
	3: {"DestinationUnreachable", map[uint8]string{
		0: "Net", 1: "Host", 2: "Protocol", 3: "Port", 4: "FragmentationNeeded", 5: "SourceRoutingFailed",
		6: "NetUnknown", 7: "HostUnknown", 8: "SourceIsolated", 9: "NetAdminProhibited", 10: "HostAdminProhibited",
		11: "NetTOS", 12: "HostTOS", 13: "CommAdminProhibited", 14: "HostPrecedence", 15: "PrecedenceCutoff",
	}},
	4:  {name: "SourceQuench"},
	5:  {"Redirect", map[uint8]string{0: "Net", 1: "Host", 2: "TOS+Net", 3: "TOS+Host"}},
	8:  {name: "EchoRequest"},
	9:  {name: "RouterAdvertisement"},
	10: {name: "RouterSolicitation"},
	11: {"TimeExceeded", map[uint8]string{0: "TTLExceeded", 1: "FragmentReassemblyTimeExceeded"}},
	12: {"ParameterProblem", map[uint8]string{0: "PointerIndicatesError", 1: "MissingOption", 2: "BadLength"}},
	13: {name: "TimestampRequest"},
	14: {name: "TimestampReply"},
	15: {name: "InfoRequest"},
	16: {name: "InfoReply"},
	17: {name: "AddressMaskRequest"},
	18: {name: "AddressMaskReply"},
}

var icmpv6Names = map[uint8]icmpName{
	1: {"DestinationUnreachable", map[uint8]string{
		0: "NoRouteToDst", 1: "AdminProhibited", 2: "BeyondScopeOfSrc", 3: "AddressUnreachable", 4: "PortUnreachable",
		5: "SrcAddressFailedPolicy", 6: "RejectRouteToDst", 7: "SrcRoutingHeaderError",
	}},
	2: {name: "PacketTooBig"},
	3: {"TimeExceeded", map[uint8]string{0: "HopLimitExceeded", 1: "FragmentReassemblyTimeExceeded"}},
	4: {"ParameterProblem", map[uint8]string{
		0: "ErroneousHeader", 1: "UnrecognizedNextHeader", 2: "UnrecognizedIPv6Option",
	}},
	128: {name: "EchoRequest"},
	129: {name: "EchoReply"},
	133: {name: "RouterSolicitation"},
	134: {name: "RouterAdvertisement"},
	135: {name: "NeighborSolicitation"},
	136: {name: "NeighborAdvertisement"},
	137: {name: "Redirect"},
}

func icmpText(names map[uint8]icmpName, kind, code uint8) string {
	known, ok := names[kind]
	switch {
	case !ok:
		return fmt.Sprintf("%d(%d)", kind, code)
	case known.codes == nil && code == 0:
		return known.name
	case known.codes[code] == "":
		return fmt.Sprintf("%s(Code: %d)", known.name, code)
	}
	return known.name + "(" + known.codes[code] + ")"
}

// summary is the text in parentheses at the end of a line of `hubble observe`.
func (r *record) summary() string {
	if r.isL7() {
		return r.summaryL7()
	}
	if reason := r.kernelReason(); reason != "" {
		return "kernel: " + reason + "; " + r.packetSummary()
	}
	return r.packetSummary()
}

func (r *record) packetSummary() string {
	if r.eventType == datapath.EventSocket {
		switch r.protocol {
		case protocolTCP:
			return "TCP"
		case protocolUDP:
			return "UDP"
		}
		return "Unknown"
	}
	switch r.protocol {
	case protocolTCP:
		var names []string
		for _, flag := range tcpFlagNames {
			if r.tcpFlags&flag.bit != 0 {
				names = append(names, flag.name)
			}
		}
		return "TCP Flags: " + strings.Join(names, ", ")
	case protocolUDP:
		return "UDP"
	case protocolSCTP:
		return "SCTP"
	case protocolICMP:
		return "ICMPv4 " + icmpText(icmpv4Names, r.icmpType, r.icmpCode)
	case protocolICMPv6:
		return "ICMPv6 " + icmpText(icmpv6Names, r.icmpType, r.icmpCode)
	}
	if a := unpackAddress(r.destinationAddress); a.Is4() {
		return "IPv4"
	} else if a.Is6() {
		return "IPv6"
	}
	return "Ethernet"
}

// ICMPText names an ICMP type and code, e.g. "EchoRequest" or "DestinationUnreachable(Port)".
func ICMPText(v6 bool, kind, code uint8) string {
	if v6 {
		return icmpText(icmpv6Names, kind, code)
	}
	return icmpText(icmpv4Names, kind, code)
}
