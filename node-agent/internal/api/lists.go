package api

import (
	"context"
	"net/netip"
	"slices"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

// ListMaps describes the pinned maps.
func (s *Service) ListMaps(context.Context, *fairleadv1.ListMapsRequest) (*fairleadv1.ListMapsResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	list, err := p.Datapath.Maps()
	if err != nil {
		return nil, internal("listing maps", err)
	}
	out := &fairleadv1.ListMapsResponse{}
	for _, m := range list {
		out.Maps = append(out.Maps, &fairleadv1.MapInfo{Name: m.Name, Type: m.Type, Id: m.ID, MaxEntries: m.MaxEntries, Entries: int64(m.Entries),
			MemoryBytes: m.MemoryBytes, PinPath: m.PinPath, Pressure: m.Pressure(), Grows: m.Grows})
	}
	return out, nil
}

// ListPrograms describes the loaded programs.
func (s *Service) ListPrograms(context.Context, *fairleadv1.ListProgramsRequest) (*fairleadv1.ListProgramsResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	list, err := p.Datapath.Programs()
	if err != nil {
		return nil, internal("listing programs", err)
	}
	out := &fairleadv1.ListProgramsResponse{}
	for _, x := range list {
		out.Programs = append(out.Programs, &fairleadv1.ProgramInfo{Name: x.Name, Type: x.Type, Id: x.ID, Attach: x.Attach,
			Loaded: timestamppb.New(x.LoadedAt), RunCount: x.RunCount, RunTimeNanoseconds: uint64(x.RunTime), MemoryBytes: x.MemoryBytes})
	}
	return out, nil
}

// ListPolicies tells what every policy does on this node.
func (s *Service) ListPolicies(context.Context, *fairleadv1.ListPoliciesRequest) (*fairleadv1.ListPoliciesResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	pods := map[datapath.EndpointID]string{}
	for _, e := range p.Endpoints.List() {
		pods[e.ID] = e.Pod()
	}
	out := &fairleadv1.ListPoliciesResponse{}
	for _, d := range p.Policies.Describe() {
		info := &fairleadv1.PolicyInfo{Kind: string(d.Ref.Kind), Namespace: d.Ref.Namespace, Name: d.Ref.Name, Revision: d.Revision, Valid: d.Valid, Entries: d.Entries}
		for _, problem := range d.Problems {
			info.Problems = append(info.Problems, problem.String())
		}
		for _, id := range d.Selects {
			if pod := pods[id]; pod != "" {
				info.Selects = append(info.Selects, pod)
			}
		}
		out.Policies = append(out.Policies, info)
	}
	return out, nil
}

// ruleText names a rule as "Kind namespace/name section".
func ruleText(info flows.PolicyInfo) string {
	if info.Kind == "" {
		return info.Name
	}
	name := info.Name
	if info.Namespace != "" {
		name = info.Namespace + "/" + name
	}
	return info.Kind + " " + name + " " + info.Section
}

// GetEndpointPolicy lists one endpoint's lines as the kernel holds them.
func (s *Service) GetEndpointPolicy(_ context.Context, r *fairleadv1.GetEndpointPolicyRequest) (*fairleadv1.GetEndpointPolicyResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	lines, err := p.Datapath.Policy(datapath.EndpointID(r.GetEndpoint()))
	if err != nil {
		return nil, internal("reading policy lines", err)
	}
	out := &fairleadv1.GetEndpointPolicyResponse{}
	for _, l := range lines {
		line := &fairleadv1.PolicyLine{Endpoint: r.GetEndpoint(), Direction: policy.Direction(l.Direction).String(), Identity: l.Identity, Protocol: uint32(l.Protocol),
			Port: uint32(l.Port), PortPrefix: uint32(l.PortPrefix), Deny: l.Deny, Labels: p.labels(l.Identity)}
		if info, ok := p.Policies.Rule(l.Rule); ok {
			line.Rule = ruleText(info)
		}
		out.Lines = append(out.Lines, line)
	}
	return out, nil
}

// labels of any identity, also of the node's own for address ranges.
func (p *Parts) labels(identity uint32) []string {
	if texts := p.Registry.Texts(policy.NumericIdentity(identity)); texts != nil {
		return texts
	}
	if labels, ok := p.Policies.Labels(policy.NumericIdentity(identity)); ok {
		return labels.Strings()
	}
	return nil
}

// ListConntrack lists connections; at most limit, 10,000 where that is 0.
func (s *Service) ListConntrack(_ context.Context, r *fairleadv1.ListConntrackRequest) (*fairleadv1.ListConntrackResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = 10000
	}
	list, err := p.Datapath.Conntrack(limit + 1)
	if err != nil {
		return nil, internal("listing connections", err)
	}
	out := &fairleadv1.ListConntrackResponse{}
	if len(list) > limit {
		out.Truncated, list = true, list[:limit]
	}
	for _, c := range list {
		info := &fairleadv1.ConntrackInfo{Source: c.Source.String(), Destination: c.Destination.String(), Protocol: uint32(c.Protocol),
			Direction: policy.Direction(c.Direction).String(), Flags: c.Flags, SourceIdentity: c.SourceIdentity, PacketsOut: c.PacketsOut,
			PacketsIn: c.PacketsIn, BytesOut: c.BytesOut, BytesIn: c.BytesIn, ExpiresSeconds: uint32(max(0, c.Expires.Seconds()))}
		if c.TranslatedFrom.IsValid() && !c.TranslatedFrom.Addr().IsUnspecified() {
			info.TranslatedFrom = c.TranslatedFrom.String()
		}
		out.Connections = append(out.Connections, info)
	}
	return out, nil
}

// ListNAT lists translated flows; at most limit, 10,000 where that is 0.
func (s *Service) ListNAT(_ context.Context, r *fairleadv1.ListNATRequest) (*fairleadv1.ListNATResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = 10000
	}
	list, err := p.Datapath.NAT(limit + 1)
	if err != nil {
		return nil, internal("listing translations", err)
	}
	out := &fairleadv1.ListNATResponse{}
	if len(list) > limit {
		out.Truncated, list = true, list[:limit]
	}
	for _, e := range list {
		out.Flows = append(out.Flows, &fairleadv1.NATInfo{Protocol: uint32(e.Protocol), Source: e.Source.String(), Destination: e.Destination.String(),
			Translated: e.Translated.String(), Own: e.Own, Flags: e.Flags, ExpiresSeconds: uint32(max(0, e.Expires.Seconds()))})
	}
	return out, nil
}

// ListCounters lists what was forwarded and dropped, by reason.
func (s *Service) ListCounters(context.Context, *fairleadv1.ListCountersRequest) (*fairleadv1.ListCountersResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	list, err := p.Datapath.Drops()
	if err != nil {
		return nil, internal("reading counters", err)
	}
	out := &fairleadv1.ListCountersResponse{}
	for _, c := range list {
		out.Counters = append(out.Counters, &fairleadv1.CounterInfo{Reason: uint32(c.Reason), Name: reasonName(c),
			Direction: policy.Direction(c.Direction).String(), Packets: c.Packets, Bytes: c.Bytes, SuppressedEvents: c.Suppressed})
	}
	kernel, err := p.Datapath.KernelDrops()
	if err != nil {
		// The datapath's own counters are whole without them; status says why they are missing.
		return out, nil //nolint:nilerr // see above
	}
	for _, c := range kernel {
		out.Counters = append(out.Counters, &fairleadv1.CounterInfo{Reason: datapath.DropKernel, Name: "kernel: " + c.Reason, Packets: c.Packets, Bytes: c.Bytes})
	}
	return out, nil
}

func reasonName(c datapath.DropCount) string {
	if c.Forwarded {
		return "FORWARDED"
	}
	return flowpb.DropReason(c.Reason).String()
}

// ListIPs lists the ipcache as the kernel holds it, sorted by prefix.
func (s *Service) ListIPs(context.Context, *fairleadv1.ListIPsRequest) (*fairleadv1.ListIPsResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	list, err := p.Datapath.IPs()
	if err != nil {
		return nil, internal("listing addresses", err)
	}
	slices.SortFunc(list, func(a, b datapath.IPEntry) int {
		if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
			return c
		}
		return a.Prefix.Bits() - b.Prefix.Bits()
	})
	owners := map[netip.Prefix]ipcache.Owner{}
	for _, e := range p.Cache.Entries() {
		owners[e.Prefix] = e.Owner
	}
	out := &fairleadv1.ListIPsResponse{}
	for _, e := range list {
		info := &fairleadv1.IPInfo{Prefix: e.Prefix.String(), Identity: e.Identity}
		if e.TunnelEndpoint.IsValid() {
			info.TunnelEndpoint = e.TunnelEndpoint.String()
		}
		if o := owners[e.Prefix]; o.PodName != "" {
			info.Owner = o.Namespace + "/" + o.PodName
		} else {
			info.Owner = o.NodeName
		}
		out.Ips = append(out.Ips, info)
	}
	return out, nil
}

// ListJournal lists what an uninstall has to undo.
func (s *Service) ListJournal(context.Context, *fairleadv1.ListJournalRequest) (*fairleadv1.ListJournalResponse, error) {
	if s.Agent.Journal == nil {
		return nil, status.Error(codes.Unavailable, "the journal is not open")
	}
	entries, err := s.Agent.Journal.Entries()
	if err != nil {
		return nil, internal("reading the journal", err)
	}
	out := &fairleadv1.ListJournalResponse{}
	for _, e := range entries {
		out.Entries = append(out.Entries, &fairleadv1.JournalEntry{Sequence: e.Sequence, Time: timestamppb.New(e.Time), Kind: e.Kind,
			Subject: e.Subject, Before: e.Before, After: e.After, Undo: e.Undo})
	}
	return out, nil
}
