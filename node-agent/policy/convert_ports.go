package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// maxPorts is the API's limit on ports of one toPorts element, and on fields of one icmps element.
const maxPorts = 40

// convertPorts fills e's ports. It returns false where neither toPorts nor icmps has an element.
func (c *converter) convertPorts(s *sectionElement, e *element) bool {
	if len(s.ports) > 0 && len(s.icmps) > 0 {
		c.fail("icmps-with-ports", s.path+".icmps", "stands beside toPorts",
			"A packet has a port or an ICMP type, never both, so the element would match nothing.",
			"Make one element for each: elements are alternatives.")
	}
	for i := range s.ports {
		at := item(s.path+".toPorts", i)
		p := &s.ports[i]
		if len(p.Ports) > maxPorts {
			c.fail("too-many-ports", at+".ports", fmt.Sprintf("has %d ports, the limit is %d", len(p.Ports), maxPorts),
				"The API allows no more in one element.", "Make a second element, or use endPort for a range.")
		}
		if len(p.Ports) == 0 {
			c.warn("allows-nothing", at+".ports", "is empty", "An element of toPorts without ports matches no port.",
				"Add ports; for all ports remove toPorts.")
		}
		l7 := c.checkL7(at, p, s)
		for j := range p.Ports {
			for _, m := range c.convertPort(item(at+".ports", j), &p.Ports[j]) {
				// SCTP, which ANY includes, is no protocol of a proxy.
				if l7 == nil || m.protocol != ProtocolSCTP {
					m.l7 = l7
					e.ports = append(e.ports, m)
				}
			}
		}
	}
	for i, icmp := range s.icmps {
		at := item(s.path+".icmps", i)
		if len(icmp.Fields) > maxPorts {
			c.fail("too-many-ports", at+".fields", fmt.Sprintf("has %d types, the limit is %d", len(icmp.Fields), maxPorts),
				"The API allows no more in one element.", "Make a second element.")
		}
		for j, field := range icmp.Fields {
			if m, ok := c.convertICMP(item(at+".fields", j), field); ok {
				e.ports = append(e.ports, m)
			}
		}
	}
	if len(s.ports) == 0 && len(s.icmps) == 0 {
		e.anyPort = true
		return false
	}
	return true
}

var protocolNumbers = map[string][]uint8{
	"TCP": {ProtocolTCP}, "UDP": {ProtocolUDP}, "SCTP": {ProtocolSCTP},
	"ANY": {ProtocolTCP, ProtocolUDP, ProtocolSCTP}, "": {ProtocolTCP, ProtocolUDP, ProtocolSCTP},
}

// serviceName is an IANA service name: up to 15 letters, digits and single hyphens inside, with at least one letter.
var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$`)
	hasLetter   = regexp.MustCompile(`[A-Za-z]`)
)

func isServiceName(s string) bool {
	return len(s) <= 15 && serviceName.MatchString(s) && hasLetter.MatchString(s)
}

func (c *converter) convertPort(path string, p *spec.PortProtocol) []portMatch {
	protocols, ok := c.convertProtocol(path+".protocol", p)
	if !ok {
		return nil
	}
	if p.Port == "" {
		c.fail("missing-port", path+".port", "is missing", "It is not said which port is meant.",
			"Write a number in quotes, a name, or \"0\" for every port.")
		return nil
	}
	if isServiceName(p.Port) {
		if p.EndPort != 0 {
			c.fail("invalid-range", path+".endPort", "stands beside the named port "+p.Port,
				"A range goes from a number to a number.", "Remove endPort, or write port as a number.")
			return nil
		}
		protocol := ProtocolAny
		if len(protocols) == 1 {
			protocol = protocols[0]
		}
		return []portMatch{{protocol: protocol, name: strings.ToLower(p.Port)}}
	}
	number, err := strconv.ParseUint(p.Port, 10, 16)
	if err != nil {
		c.fail("invalid-port", path+".port", fmt.Sprintf("%q is neither a port number nor a port name", p.Port),
			"Nothing would be matched.", "Write a number from 1 to 65535 in quotes, or a name of up to 15 letters, digits and hyphens.")
		return nil
	}
	first, last := uint16(number), uint16(number)
	switch {
	case p.EndPort < 0 || p.EndPort > 65535:
		c.fail("invalid-range", path+".endPort", fmt.Sprintf("is %d", p.EndPort), "A port is at most 65535.", "Correct it.")
		return nil
	case number == 0 && p.EndPort != 0:
		c.fail("invalid-range", path+".endPort", "stands beside port 0", "Port 0 means every port already.", "Remove endPort.")
		return nil
	case number == 0:
		last = 65535
	case p.EndPort != 0 && p.EndPort < int32(number):
		c.fail("invalid-range", path+".endPort", fmt.Sprintf("%d is before port %d", p.EndPort, number),
			"The range would be empty.", "Make endPort the larger one.")
		return nil
	case p.EndPort != 0:
		last = uint16(p.EndPort)
	}
	out := make([]portMatch, 0, len(protocols))
	for _, protocol := range protocols {
		out = append(out, portMatch{protocol: protocol, first: first, last: last})
	}
	return out
}

func (c *converter) convertProtocol(path string, p *spec.PortProtocol) ([]uint8, bool) {
	if numbers, ok := protocolNumbers[p.Protocol]; ok {
		return numbers, true
	}
	switch p.Protocol {
	case "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH":
		if p.Port != "" && p.Port != "0" {
			c.fail("invalid-port", strings.TrimSuffix(path, "protocol")+"port", "must be empty or \"0\" with "+p.Protocol,
				"The protocol has no ports.", "Remove the port.")
		}
		c.unsupported(path, "a rule on the protocol "+p.Protocol, "Remove it; TCP, UDP, SCTP and ICMP can be governed.")
	default:
		fix := "Write TCP, UDP, SCTP or ANY."
		if strings.EqualFold(p.Protocol, "ICMP") || strings.EqualFold(p.Protocol, "ICMPv6") {
			fix = "Use `icmps:` in an element of its own."
		} else if _, ok := protocolNumbers[strings.ToUpper(p.Protocol)]; ok {
			fix = "Write `" + strings.ToUpper(p.Protocol) + "`, in capitals."
		}
		c.fail("invalid-protocol", path, fmt.Sprintf("%q is not a protocol", p.Protocol), "Nothing would be matched.", fix)
	}
	return nil, false
}

var icmpTypes = map[string]map[string]uint8{
	"IPv4": {"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8,
		"RouterAdvertisement": 9, "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13,
		"TimestampReply": 14, "Photuris": 40, "ExtendedEcho Request": 42, "ExtendedEcho Reply": 43},
	"IPv6": {"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128,
		"EchoReply": 129, "MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132,
		"RouterSolicitation": 133, "RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136,
		"RedirectMessage": 137, "RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
		"InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
		"HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146,
		"MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
		"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161},
}

func (c *converter) convertICMP(path string, f spec.ICMPField) (portMatch, bool) {
	family, protocol := f.Family, ProtocolICMP
	switch family {
	case "":
		family = "IPv4"
	case "IPv4":
	case "IPv6":
		protocol = ProtocolICMPv6
	default:
		c.fail("invalid-value", path+".family", fmt.Sprintf("is %q", family), "The families are IPv4 and IPv6.", "Write one of these.")
		return portMatch{}, false
	}
	text := f.Type.String()
	number, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		named, ok := icmpTypes[family][text]
		if !ok {
			c.fail("invalid-icmp-type", path+".type", fmt.Sprintf("%q is not an ICMP type of %s", text, family),
				"Nothing would be matched.", "Write a number from 0 to 255, or a name such as EchoRequest.")
			return portMatch{}, false
		}
		number = uint64(named)
	}
	return portMatch{protocol: protocol, first: uint16(number), last: uint16(number)}, true
}
