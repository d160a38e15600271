package api

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/certificates"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/policy"
)

// Service implements AgentService.
type Service struct {
	fairleadv1.UnimplementedAgentServiceServer
	Agent *Agent
	// Local tells that callers come by the node's own socket, which only root may open.
	Local bool
}

// parts gives what the handlers need, or says that it is not there yet.
func (s *Service) parts() (*Parts, error) {
	if p := s.Agent.Parts.Load(); p != nil {
		return p, nil
	}
	for _, c := range s.Agent.Components() {
		if c.State == StateFailing {
			return nil, status.Errorf(codes.Unavailable, "the agent of %s does not serve yet: %s: %s %s", s.Agent.NodeName, c.Name, c.Message, c.Fix)
		}
	}
	return nil, status.Errorf(codes.Unavailable, "the agent of %s is starting", s.Agent.NodeName)
}

func internal(doing string, err error) error {
	return status.Errorf(codes.Internal, "%s: %v", doing, err)
}

// GetStatus answers as far as is known, also while the agent starts or fails.
func (s *Service) GetStatus(context.Context, *fairleadv1.GetStatusRequest) (*fairleadv1.GetStatusResponse, error) {
	a := s.Agent
	out := &fairleadv1.GetStatusResponse{NodeName: a.NodeName, Version: a.Version, Started: timestamppb.New(a.Started),
		Kernel: kernelRelease(), ResidentMemoryBytes: ResidentMemory(), Ready: a.Ready()}
	for _, c := range a.Components() {
		out.Components = append(out.Components, &fairleadv1.Component{Name: c.Name, State: string(c.State), Message: c.Message, Fix: c.Fix})
	}
	if c := a.Config.Load(); c != nil {
		out.ClusterName, out.RoutingMode, out.AutoDirectNodeRoutes = c.Cluster.Name, c.RoutingMode, c.AutoDirectNodeRoutes
		out.NativeRoutingCidr, out.PolicyEnforcementMode = nativeRoutingText(c), c.PolicyEnforcementMode
		if c.RoutingMode == "tunnel" {
			out.TunnelProtocol = c.TunnelProtocol
		}
		out.Masquerade = masquerade(c)
		out.KubeProxyReplacement = strconv.FormatBool(*c.KubeProxyReplacement)
	}
	p := a.Parts.Load()
	if p == nil {
		return out, nil
	}
	out.Devices, out.NodeAddress, out.RouterAddress = p.Settings.Devices, p.Settings.NodeAddressText(), p.Settings.RouterAddressText()
	out.PodCidr, out.Mtu = p.Settings.PodCIDRText(), int32(p.Datapath.MTU())
	for _, pool := range p.Pools() {
		for _, x := range pool.Allocations() {
			out.Allocations = append(out.Allocations, &fairleadv1.Allocation{Address: x.Address.String(), Owner: x.Owner})
		}
		out.AllocationsCapacity += uint32(pool.Capacity())
	}
	for _, h := range p.Prober.Results() {
		out.Nodes = append(out.Nodes, nodeHealth(h))
	}
	out.PolicyRevision = p.Policies.Revision()
	stats := p.Flows.Stats()
	out.FlowsSeen, out.FlowsLost, out.FlowsPerSecond = stats.Seen, stats.KernelLost+stats.RingLost, stats.PerSecond
	out.Endpoints, out.Identities, out.Services = uint32(len(p.Endpoints.List())), uint32(p.Registry.Count()), uint32(p.Services.Count())
	return out, nil
}

func nodeHealth(h nodes.Health) *fairleadv1.NodeHealth {
	answer := func(a nodes.Answer) *fairleadv1.ProbeAnswer {
		return &fairleadv1.ProbeAnswer{Reachable: a.Reachable, LatencyMilliseconds: float64(a.Latency) / float64(time.Millisecond), Error: a.Err}
	}
	host := answer(h.Host.HTTP)
	out := &fairleadv1.NodeHealth{Name: h.Node, Address: h.Host.Address.String(), Reachable: host.GetReachable(),
		LatencyMilliseconds: host.GetLatencyMilliseconds(), Error: host.GetError(), Icmp: answer(h.Host.ICMP)}
	if h.Endpoint.Address.IsValid() {
		out.EndpointAddress, out.EndpointHttp, out.EndpointIcmp = h.Endpoint.Address.String(), answer(h.Endpoint.HTTP), answer(h.Endpoint.ICMP)
	}
	for _, path := range []nodes.Path{h.Host6, h.Endpoint6} {
		if path.Address.IsValid() {
			out.MorePaths = append(out.MorePaths, &fairleadv1.PathHealth{Address: path.Address.String(), Http: answer(path.HTTP), Icmp: answer(path.ICMP)})
		}
	}
	if !h.Seen.IsZero() {
		out.LastSeen = timestamppb.New(h.Seen)
	}
	return out
}

// nativeRoutingText lists the ranges that are routed as they are, of the families that are on.
func nativeRoutingText(c *config.Config) string {
	var out []string
	if *c.IPv4.Enabled && c.IPv4NativeRoutingCIDR != "" {
		out = append(out, c.IPv4NativeRoutingCIDR)
	}
	if c.IPv6.Enabled && c.IPv6NativeRoutingCIDR != "" {
		out = append(out, c.IPv6NativeRoutingCIDR)
	}
	return strings.Join(out, ",")
}

// masquerade names who does it for which families: "BPF (v4, v6)", "nftables (v4)" or "off".
func masquerade(c *config.Config) string {
	var families []string
	if *c.EnableIPv4Masquerade {
		families = append(families, "v4")
	}
	if *c.EnableIPv6Masquerade {
		families = append(families, "v6")
	}
	if len(families) == 0 {
		return "off"
	}
	who := "nftables"
	if *c.BPF.Masquerade {
		who = "BPF"
	}
	return who + " (" + strings.Join(families, ", ") + ")"
}

func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// ResidentMemory of this process in bytes; 0 where it cannot be read.
func ResidentMemory() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// WatchEdges delegates to the aggregator.
func (s *Service) WatchEdges(r *fairleadv1.WatchEdgesRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchEdgesResponse]) error {
	p, err := s.parts()
	if err != nil {
		return err
	}
	return p.Edges.WatchEdges(r, stream)
}

// WatchFlows delegates to the flow store.
func (s *Service) WatchFlows(r *fairleadv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchFlowsResponse]) error {
	p, err := s.parts()
	if err != nil {
		return err
	}
	return p.Flows.WatchFlows(r, stream)
}

// AnnounceEndpoint takes in an endpoint of another node; it answers when policy lines and ipcache hold it, in that order.
func (s *Service) AnnounceEndpoint(ctx context.Context, r *fairleadv1.AnnounceEndpointRequest) (*fairleadv1.AnnounceEndpointResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	if !s.Local && !certificates.IsAgent(ctx, p.ServerName) {
		return nil, status.Error(codes.PermissionDenied, "only agents of the cluster may announce endpoints")
	}
	select {
	case <-p.Live:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	labels, err := policy.ParseLabels(r.GetLabels())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	id := policy.NumericIdentity(r.GetIdentity())
	if id < policy.IdentityUserMin || id > policy.IdentityUserMax {
		return nil, status.Errorf(codes.InvalidArgument, "identity %d is not one of a pod", id)
	}
	node, err := netip.ParseAddr(r.GetNodeAddress())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	p.Registry.Learn(id, labels)
	if err := p.Policies.SetIdentity(ctx, id, labels); err != nil {
		return nil, internal("writing policy lines", err)
	}
	for _, text := range r.GetAddresses() {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if p.Settings.Owns(address) {
			return nil, status.Errorf(codes.InvalidArgument, "%s is an address of this node", address)
		}
		if err := p.Cache.Upsert(ctx, ipcache.SourceAnnouncement, ipcache.Entry{
			IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(address, address.BitLen()), Identity: uint32(id), TunnelEndpoint: node},
			Owner:   ipcache.Owner{Namespace: r.GetNamespace(), PodName: r.GetPodName(), NodeName: r.GetNodeName()},
			Since:   time.Now(),
		}); err != nil {
			return nil, internal("publishing "+text, err)
		}
	}
	return &fairleadv1.AnnounceEndpointResponse{}, nil
}

// ListEndpoints lists this node's endpoints.
func (s *Service) ListEndpoints(context.Context, *fairleadv1.ListEndpointsRequest) (*fairleadv1.ListEndpointsResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	out := &fairleadv1.ListEndpointsResponse{}
	for _, e := range p.Endpoints.List() {
		state, enforced := p.Endpoints.State(e.ID)
		lines, _ := p.Datapath.Policy(e.ID)
		out.Endpoints = append(out.Endpoints, &fairleadv1.EndpointInfo{Id: uint32(e.ID), Identity: uint32(e.Identity), Namespace: e.Namespace,
			PodName: e.PodName, Addresses: texts(e.Addresses()), Interface: e.Link.Interface, State: state,
			PolicyIngress: enforced[policy.Ingress], PolicyEgress: enforced[policy.Egress], PolicyEntries: uint32(len(lines)),
			IngressBandwidth: e.Bandwidth.Ingress * 8, EgressBandwidth: e.Bandwidth.Egress * 8, BandwidthProblem: e.Bandwidth.Problem,
			Labels: e.Labels, Mac: fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", e.Link.PodMAC[0], e.Link.PodMAC[1], e.Link.PodMAC[2], e.Link.PodMAC[3], e.Link.PodMAC[4], e.Link.PodMAC[5])})
	}
	return out, nil
}

// ListIdentities lists what the node knows, sorted by number.
func (s *Service) ListIdentities(context.Context, *fairleadv1.ListIdentitiesRequest) (*fairleadv1.ListIdentitiesResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	all := p.Registry.All()
	slices.SortFunc(all, func(a, b policy.Identity) int { return int(int64(a.ID) - int64(b.ID)) })
	out := &fairleadv1.ListIdentitiesResponse{}
	for _, i := range all {
		out.Identities = append(out.Identities, &fairleadv1.IdentityInfo{Identity: uint32(i.ID), Labels: i.Labels.Strings()})
	}
	return out, nil
}
