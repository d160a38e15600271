package metrics

import (
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"fairlead.dev/node-agent/internal/flows"
)

// pointName is an observation point as the monitor writes it: "to-endpoint".
func pointName(point flowpb.TraceObservationPoint) string {
	return strings.ReplaceAll(strings.ToLower(point.String()), "_", "-")
}

func protocolName(protocol uint8) string {
	switch protocol {
	case 1:
		return "ICMPv4"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	case 0:
		return "Unknown"
	}
	return strconv.Itoa(int(protocol))
}

func icmpTypeName(family string, kind, code uint8) string {
	return flows.ICMPText(family == "IPv6", kind, code)
}
