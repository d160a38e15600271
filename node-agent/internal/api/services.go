package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
)

// ListServices lists services as the datapath holds them, one line per frontend.
func (s *Service) ListServices(context.Context, *fairleadv1.ListServicesRequest) (*fairleadv1.ListServicesResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	list, err := p.Datapath.Services()
	if err != nil {
		return nil, internal("listing services", err)
	}
	out := &fairleadv1.ListServicesResponse{}
	for _, x := range list {
		var backends []*fairleadv1.ServiceBackend
		for _, b := range x.Backends {
			state := "active"
			if b.Terminating {
				state = "terminating"
			}
			backends = append(backends, &fairleadv1.ServiceBackend{Address: b.Address.String(), Port: uint32(b.Port), State: state, Internal: b.Internal, External: b.External})
		}
		for _, f := range x.Frontends {
			info := &fairleadv1.ServiceInfo{Namespace: x.Namespace, Name: x.Name, PortName: x.PortName, Kind: f.Kind.String(), Address: f.Address.String(),
				Port: uint32(f.Port), Protocol: uint32(f.Protocol), Backends: backends, Flags: serviceFlags(x, f), Algorithm: algorithm(p.Settings, f)}
			if info.Name == "" {
				if key, ok := p.Services.Find(f.Address, f.Port, f.Protocol); ok {
					info.Namespace, info.Name = key.Namespace, key.Name
				}
			}
			out.Services = append(out.Services, info)
		}
	}
	slices.SortStableFunc(out.Services, func(a, b *fairleadv1.ServiceInfo) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Address, b.Address))
	})
	return out, nil
}

func algorithm(c datapath.Config, f datapath.Frontend) string {
	if f.Kind == datapath.ServiceClusterIP {
		return ""
	}
	return cmp.Or(c.LoadBalancer.Algorithm, "random")
}

func serviceFlags(s datapath.Service, f datapath.Frontend) (out []string) {
	add := func(is bool, text string) {
		if is {
			out = append(out, text)
		}
	}
	outside := f.Kind != datapath.ServiceClusterIP
	add(f.Address.IsUnspecified(), "any node's address")
	add(f.Kind == datapath.ServiceExternalIP && s.ExternalInside, "also for pods")
	add(s.ExternalLocal && outside, "externalTrafficPolicy=Local")
	add(s.InternalLocal, "internalTrafficPolicy=Local")
	add(s.AffinitySeconds > 0, fmt.Sprintf("affinity=%ds", s.AffinitySeconds))
	add(len(s.SourceRanges) > 0 && f.Kind == datapath.ServiceLoadBalancer, fmt.Sprintf("sourceRanges=%v", s.SourceRanges))
	add(len(s.Backends) == 0, "refuses")
	add(s.DropInternal, "no backend here for clients inside")
	add(s.DropExternal && outside, "no backend here for clients outside")
	return out
}
