package flows

import (
	"net/netip"

	"fairlead.dev/node-agent/internal/datapath"
)

// Bits of record.bits.
const (
	bitReply = 1 << iota
	bitReplyKnown
	bitDenied
	bitEgress
	bitLost
	bitAudited
)

// record is a datapath.Event in the form in which the ring keeps it: a third of the size, and with pointers to who was
// who when it was seen, because addresses are reused by other pods long before the ring has turned over. It becomes a
// flow.Flow only when somebody reads it.
type record struct {
	// time is nanoseconds since the epoch; for a loss record the last loss.
	time int64
	// cookie is the socket's; for a loss record the number of events lost.
	cookie uint64
	// cgroup is the socket's; for a loss record the time of the first loss; of drops and denials how many events of the same
	// kind were held back before it.
	cgroup              uint64
	source, destination *EndpointInfo
	// sourceService and destinationService are nil where the address is not a service's.
	sourceService, destinationService *ServiceInfo
	// policies decided; nil where none is known.
	policies *policySet
	// l7 is set for what a proxy saw.
	l7                                  *datapath.L7
	sourceAddress, destinationAddress   [16]byte
	translated, tunnel                  [16]byte
	sourceIdentity, destinationIdentity uint32
	rule, interfaceIndex, length, vni   uint32
	sourcePort, destinationPort         uint16
	endpoint, line                      uint16
	sourceMAC, destinationMAC           [6]byte
	eventType                           datapath.EventType
	subType, traceReason, matchType     uint8
	protocol, tcpFlags                  uint8
	icmpType, icmpCode, file, bits      uint8
}

// policySet is the policies that one decision is due to.
type policySet struct{ policies []PolicyInfo }

func packAddress(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// unpackAddress gives v4-mapped addresses back as v4; all zero bytes mean that there is none.
func unpackAddress(b [16]byte) netip.Addr {
	if b == ([16]byte{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(b).Unmap()
}

func (r *record) has(bit uint8) bool { return r.bits&bit != 0 }

// pack fills everything that comes from the event itself.
func (r *record) pack(e *datapath.Event) {
	*r = record{
		time: e.Time.UnixNano(), cookie: e.SocketCookie, cgroup: e.CgroupID,
		sourceAddress: packAddress(e.Source), destinationAddress: packAddress(e.Destination),
		translated: packAddress(e.SourceTranslated), tunnel: packAddress(e.TunnelRemote),
		sourceIdentity: e.SourceIdentity, destinationIdentity: e.DestIdentity,
		rule: e.Rule, interfaceIndex: e.Interface, length: e.Length, vni: e.TunnelVNI,
		sourcePort: e.SourcePort, destinationPort: e.DestPort,
		endpoint: uint16(e.Endpoint), line: e.Line, file: e.File,
		sourceMAC: e.SourceMAC, destinationMAC: e.DestMAC,
		eventType: e.Type, subType: e.SubType, traceReason: e.TraceReason, matchType: e.MatchType,
		l7: e.L7, protocol: e.Protocol, tcpFlags: e.TCPFlags, icmpType: e.ICMPType, icmpCode: e.ICMPCode,
	}
	if e.Type == datapath.EventDrop || e.Type == datapath.EventPolicyVerdict {
		r.cgroup = uint64(e.Suppressed)
	}
	if e.Type == datapath.EventDrop && e.SubType == datapath.DropKernel {
		r.vni = e.KernelReason
	}
	if e.Reply {
		r.bits |= bitReply
	}
	if e.ReplyKnown {
		r.bits |= bitReplyKnown
	}
	if e.Denied {
		r.bits |= bitDenied
	}
	if e.Audited {
		r.bits |= bitAudited
	}
	if e.Direction == datapath.Egress {
		r.bits |= bitEgress
	}
}
