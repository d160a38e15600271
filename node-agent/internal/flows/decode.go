package flows

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"fairlead.dev/node-agent/internal/datapath"
)

// Numbers of Hubble that Event.SubType carries.
const (
	dropPolicyDenied = uint8(flowpb.DropReason_POLICY_DENIED) // 133: default deny
	dropPolicyDeny   = uint8(flowpb.DropReason_POLICY_DENY)   // 181: a deny rule

	pointToOverlay   = uint8(flowpb.TraceObservationPoint_TO_OVERLAY)
	pointFromOverlay = uint8(flowpb.TraceObservationPoint_FROM_OVERLAY)

	socketPreForward  = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_PRE_DIRECTION_FWD)
	socketPostForward = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_POST_DIRECTION_FWD)
	socketPreReverse  = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_PRE_DIRECTION_REV)
	socketPostReverse = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_POST_DIRECTION_REV)

	vxlanPort = 8472
)

// clusterLabel carries the cluster's name on identities of Cilium.
const clusterLabel = "k8s:io.cilium.k8s.policy.cluster="

// verdict as Hubble derives it from the event's kind.
func (r *record) verdict() flowpb.Verdict {
	if r.isL7() {
		return r.verdictL7()
	}
	switch r.eventType {
	case datapath.EventDrop:
		return flowpb.Verdict_DROPPED
	case datapath.EventTrace:
		return flowpb.Verdict_FORWARDED
	case datapath.EventPolicyVerdict:
		if r.has(bitDenied) {
			return flowpb.Verdict_DROPPED
		}
		if r.has(bitAudited) {
			return flowpb.Verdict_AUDIT
		}
		return flowpb.Verdict_FORWARDED
	case datapath.EventSocket:
		switch r.subType {
		case socketPreForward, socketPreReverse:
			return flowpb.Verdict_TRACED
		case socketPostForward, socketPostReverse:
			return flowpb.Verdict_TRANSLATED
		}
	}
	return flowpb.Verdict_VERDICT_UNKNOWN
}

// dropReason is 0 for what was not dropped.
func (r *record) dropReason() uint32 {
	switch {
	case r.isL7() && r.l7.Verdict == datapath.L7Dropped:
		return uint32(dropPolicyDenied)
	case r.eventType == datapath.EventDrop:
		return uint32(r.subType)
	case r.eventType == datapath.EventPolicyVerdict && r.has(bitDenied) && r.rule != 0:
		return uint32(dropPolicyDeny)
	case r.eventType == datapath.EventPolicyVerdict && r.has(bitDenied):
		return uint32(dropPolicyDenied)
	}
	return 0
}

// isReply: nil where it is not known, as for drops.
func (r *record) isReply() (reply, known bool) {
	switch r.eventType {
	case datapath.EventTrace:
		if r.traceReason != 0 {
			return r.traceReason == uint8(flowpb.TraceReason_REPLY), true
		}
		return r.has(bitReply), r.has(bitReplyKnown)
	case datapath.EventPolicyVerdict:
		// Verdicts are given for the first packet of a connection, which is no reply.
		return false, !r.has(bitDenied)
	case datapath.EventL7:
		return r.has(bitReply), true
	}
	return false, false
}

// trafficDirection is the direction of the connection as seen from the endpoint that the event was seen at.
func (r *record) trafficDirection() flowpb.TrafficDirection {
	egress := func(yes bool) flowpb.TrafficDirection {
		if yes {
			return flowpb.TrafficDirection_EGRESS
		}
		return flowpb.TrafficDirection_INGRESS
	}
	endpoint := uint32(r.endpoint)
	switch r.eventType {
	case datapath.EventPolicyVerdict, datapath.EventL7:
		return egress(r.has(bitEgress))
	case datapath.EventDrop:
		switch {
		case endpoint == 0:
			return flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
		case r.source.ID == endpoint:
			return flowpb.TrafficDirection_EGRESS
		case r.destination.ID == endpoint:
			return flowpb.TrafficDirection_INGRESS
		}
		return egress(r.has(bitEgress))
	case datapath.EventTrace:
		reply, known := r.isReply()
		if endpoint == 0 || !known {
			return flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
		}
		fromEndpoint := r.source.ID == endpoint
		return egress(fromEndpoint != reply || r.translated != [16]byte{})
	}
	return flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
}

// swapped is true for socket events on the way back, which Hubble shows with the service as the source.
func (r *record) swapped() bool {
	return r.eventType == datapath.EventSocket && (r.subType == socketPreReverse || r.subType == socketPostReverse)
}

// uuid is stable for a flow as long as the store lives, so that a flow can be asked for again. It has the form of a
// version 8 (vendor-specific) UUID.
func (s *Store) uuid(sequence uint64) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[0:], s.uuidPrefix)
	binary.BigEndian.PutUint64(raw[8:], sequence)
	raw[6] = raw[6]&0x0f | 0x80
	raw[8] = raw[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], raw[0:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:36], raw[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// flow decodes a record exactly as Hubble fills its flows.
func (s *Store) flow(r *record, sequence uint64) *flowpb.Flow {
	f := &flowpb.Flow{
		Time:               timestamppb.New(time.Unix(0, r.time)),
		Uuid:               s.uuid(sequence),
		Emitter:            &flowpb.Emitter{Name: "fairlead-agent", Version: s.options.Node.Version},
		Verdict:            r.verdict(),
		IP:                 r.ip(),
		L4:                 r.layer4(),
		Source:             s.endpoint(r.source),
		Destination:        s.endpoint(r.destination),
		Type:               flowpb.FlowType_L3_L4,
		NodeName:           s.AbsoluteNodeName(),
		EventType:          &flowpb.CiliumEventType{Type: int32(r.eventType), SubType: int32(r.subType)},
		SourceService:      service(r.sourceService),
		DestinationService: service(r.destinationService),
		TrafficDirection:   r.trafficDirection(),
		Summary:            r.summary(), //nolint:staticcheck // the hubble client prints it
		DropReasonDesc:     flowpb.DropReason(r.dropReason()),
		DropReason:         r.dropReason(), //nolint:staticcheck // older clients read it
	}
	if reply, known := r.isReply(); known {
		f.IsReply = wrapperspb.Bool(reply)
		f.Reply = reply //nolint:staticcheck // older clients read it
	}
	if r.sourceMAC != [6]byte{} || r.destinationMAC != [6]byte{} {
		f.Ethernet = &flowpb.Ethernet{
			Source:      net.HardwareAddr(r.sourceMAC[:]).String(),
			Destination: net.HardwareAddr(r.destinationMAC[:]).String(),
		}
	}
	switch r.eventType {
	case datapath.EventTrace:
		f.TraceReason = flowpb.TraceReason(r.traceReason)
		f.TraceObservationPoint = flowpb.TraceObservationPoint(r.subType)
		if r.subType == 0 {
			f.TraceObservationPoint = flowpb.TraceObservationPoint_TO_ENDPOINT
		}
		if r.interfaceIndex != 0 {
			name := s.options.Resolver.InterfaceName(r.interfaceIndex)
			f.Interface = &flowpb.NetworkInterface{Index: r.interfaceIndex, Name: name}
		}
		f.Tunnel = s.tunnel(r)
	case datapath.EventDrop:
		if s.options.SourceFile != nil && r.file != 0 {
			f.File = &flowpb.FileInfo{Name: s.options.SourceFile(r.file), Line: uint32(r.line)}
		}
		f.Extensions = r.extensions()
	case datapath.EventPolicyVerdict:
		f.PolicyMatchType = uint32(r.matchType)
		f.Extensions = r.extensions()
	case datapath.EventL7:
		f.Type = flowpb.FlowType_L7
		if r.isL7() {
			f.L7 = r.layer7()
		}
	case datapath.EventSocket:
		f.Type = flowpb.FlowType_SOCK
		f.SockXlatePoint = flowpb.SocketTranslationPoint(r.subType)
		f.SocketCookie = r.cookie
		f.CgroupId = r.cgroup
		if r.swapped() {
			f.Source, f.Destination = f.Destination, f.Source
			f.SourceService, f.DestinationService = f.DestinationService, f.SourceService
		}
	}
	s.attribute(f, r)
	return f
}

// kernelReason is the kernel's own name of why it dropped the packet; empty for drops of ours.
func (r *record) kernelReason() string {
	if r.eventType == datapath.EventDrop && r.subType == datapath.DropKernel {
		return datapath.KernelDropReason(r.vni)
	}
	return ""
}

// extensions are what Hubble has no field for: the kernel's reason, and how many events like this one were held back
// before it. nil where there is nothing to say.
func (r *record) extensions() *anypb.Any {
	fields := map[string]any{}
	if reason := r.kernelReason(); reason != "" {
		fields["kernel_drop_reason"] = reason
	}
	if r.cgroup > 0 {
		fields["suppressed_events"] = float64(r.cgroup)
	}
	if len(fields) == 0 {
		return nil
	}
	value, err := structpb.NewStruct(fields)
	if err != nil {
		return nil
	}
	out, err := anypb.New(value)
	if err != nil {
		return nil
	}
	return out
}

// attribute tells which policies decided, by direction and outcome.
func (s *Store) attribute(f *flowpb.Flow, r *record) {
	if r.policies == nil {
		return
	}
	policies := make([]*flowpb.Policy, 0, len(r.policies.policies))
	for _, p := range r.policies.policies {
		policies = append(policies, &flowpb.Policy{
			Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, Revision: p.Revision, Kind: p.Kind,
		})
	}
	egress := r.has(bitEgress)
	if d := f.TrafficDirection; r.eventType != datapath.EventPolicyVerdict &&
		d != flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN {
		egress = d == flowpb.TrafficDirection_EGRESS
	}
	denied := f.Verdict == flowpb.Verdict_DROPPED
	switch {
	case denied && egress:
		f.EgressDeniedBy = policies
	case denied:
		f.IngressDeniedBy = policies
	case egress:
		f.EgressAllowedBy = policies
	default:
		f.IngressAllowedBy = policies
	}
}

func (r *record) ip() *flowpb.IP {
	source, destination := unpackAddress(r.sourceAddress), unpackAddress(r.destinationAddress)
	if !source.IsValid() && !destination.IsValid() {
		return nil
	}
	if r.swapped() {
		source, destination = destination, source
	}
	ip := &flowpb.IP{IpVersion: r.ipVersion()}
	if source.IsValid() {
		ip.Source = source.String()
	}
	if destination.IsValid() {
		ip.Destination = destination.String()
	}
	if translated := unpackAddress(r.translated); translated.IsValid() && translated != source {
		ip.SourceXlated = translated.String()
	}
	return ip
}

func (r *record) ipVersion() flowpb.IPVersion {
	a := unpackAddress(r.destinationAddress)
	if !a.IsValid() {
		a = unpackAddress(r.sourceAddress)
	}
	switch {
	case !a.IsValid():
		return flowpb.IPVersion_IP_NOT_USED
	case a.Is4():
		return flowpb.IPVersion_IPv4
	}
	return flowpb.IPVersion_IPv6
}

// ports as shown: socket events on the way back are turned round.
func (r *record) ports() (source, destination uint32) {
	if r.swapped() {
		return uint32(r.destinationPort), uint32(r.sourcePort)
	}
	return uint32(r.sourcePort), uint32(r.destinationPort)
}

func (r *record) layer4() *flowpb.Layer4 {
	source, destination := r.ports()
	switch r.protocol {
	case protocolTCP:
		tcp := &flowpb.TCP{SourcePort: source, DestinationPort: destination}
		if r.eventType != datapath.EventSocket && !r.isL7() {
			tcp.Flags = tcpFlags(r.tcpFlags)
		}
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: tcp}}
	case protocolUDP:
		udp := &flowpb.UDP{SourcePort: source, DestinationPort: destination}
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: udp}}
	case protocolSCTP:
		sctp := &flowpb.SCTP{SourcePort: source, DestinationPort: destination}
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_SCTP{SCTP: sctp}}
	case protocolICMP:
		icmp := &flowpb.ICMPv4{Type: uint32(r.icmpType), Code: uint32(r.icmpCode)}
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv4{ICMPv4: icmp}}
	case protocolICMPv6:
		icmp := &flowpb.ICMPv6{Type: uint32(r.icmpType), Code: uint32(r.icmpCode)}
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv6{ICMPv6: icmp}}
	}
	return nil
}

func tcpFlags(b uint8) *flowpb.TCPFlags {
	return &flowpb.TCPFlags{
		FIN: b&0x01 != 0, SYN: b&0x02 != 0, RST: b&0x04 != 0, PSH: b&0x08 != 0,
		ACK: b&0x10 != 0, URG: b&0x20 != 0, ECE: b&0x40 != 0, CWR: b&0x80 != 0,
	}
}

func (s *Store) endpoint(info *EndpointInfo) *flowpb.Endpoint {
	e := &flowpb.Endpoint{
		ID: info.ID, Identity: info.Identity, Namespace: info.Namespace, Labels: info.Labels, PodName: info.PodName,
		ClusterName: s.clusterName(info),
	}
	if info.WorkloadName != "" {
		e.Workloads = []*flowpb.Workload{{Name: info.WorkloadName, Kind: info.WorkloadKind}}
	}
	return e
}

// clusterName of a pod: the one on its identity, or else this node's cluster; empty for anybody who is no pod.
func (s *Store) clusterName(info *EndpointInfo) string {
	for _, label := range info.Labels {
		if name, ok := strings.CutPrefix(label, clusterLabel); ok {
			return name
		}
	}
	if info.PodName != "" {
		return s.options.Node.Cluster
	}
	return ""
}

func service(info *ServiceInfo) *flowpb.Service {
	if info == nil {
		return nil
	}
	return &flowpb.Service{Name: info.Name, Namespace: info.Namespace}
}

// tunnel describes the outer packet of what goes to or comes from the overlay.
func (s *Store) tunnel(r *record) *flowpb.Tunnel {
	remote := unpackAddress(r.tunnel)
	if !remote.IsValid() || r.subType != pointToOverlay && r.subType != pointFromOverlay {
		return nil
	}
	version := flowpb.IPVersion_IPv4
	if remote.Is6() {
		version = flowpb.IPVersion_IPv6
	}
	ip := &flowpb.IP{Destination: remote.String(), IpVersion: version}
	if local := s.options.Node.Address; local.IsValid() {
		ip.Source = local.String()
	}
	if r.subType == pointFromOverlay {
		ip.Source, ip.Destination = ip.Destination, ip.Source
	}
	return &flowpb.Tunnel{
		Protocol: flowpb.Tunnel_VXLAN, IP: ip, Vni: r.vni,
		L4: &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{DestinationPort: vxlanPort}}},
	}
}

// lostEvent turns a loss record into Hubble's message.
func lostEvent(r *record) *flowpb.LostEvent {
	return &flowpb.LostEvent{
		Source:        flowpb.LostEventSource_PERF_EVENT_RING_BUFFER,
		NumEventsLost: r.cookie,
		First:         timestamppb.New(time.Unix(0, int64(r.cgroup))),
		Last:          timestamppb.New(time.Unix(0, r.time)),
	}
}
