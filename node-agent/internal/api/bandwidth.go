package api

import (
	"context"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// ListBandwidth lists the limits that the datapath holds.
func (s *Service) ListBandwidth(context.Context, *fairleadv1.ListBandwidthRequest) (*fairleadv1.ListBandwidthResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	rates, err := p.Datapath.Rates()
	if err != nil {
		return nil, internal("listing limits", err)
	}
	mode := p.Datapath.Bandwidth()
	out := &fairleadv1.ListBandwidthResponse{Mode: string(mode.Mode), Why: mode.Why}
	pods := map[datapath.EndpointID][2]string{}
	for _, e := range p.Endpoints.List() {
		pods[e.ID] = [2]string{e.Namespace, e.PodName}
	}
	for _, r := range rates {
		out.Limits = append(out.Limits, &fairleadv1.BandwidthInfo{Endpoint: uint32(r.Endpoint), Namespace: pods[r.Endpoint][0], PodName: pods[r.Endpoint][1],
			Direction: policy.Direction(r.Direction).String(), BitsPerSecond: r.BytesPerSecond * 8, Bytes: r.Bytes, DroppedPackets: r.Dropped,
			AheadNanoseconds: uint64(r.Ahead), Mode: string(mode.Of(r.Direction))})
	}
	return out, nil
}
