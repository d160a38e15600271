package agent

import (
	"context"
	"fmt"
	"strings"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/endpoints"
)

// reportBandwidth says in status how pods' limits are enforced, and on each pod what is wrong with its annotations.
func (a *agent) reportBandwidth(ctx context.Context, s *serving) {
	list := s.parts.Endpoints.List()
	c := bandwidthComponent(s.parts.Datapath.Bandwidth(), list)
	a.components.set(c.Name, c.State, c.Message, c.Fix)
	for _, e := range list {
		if e.Bandwidth.Problem != "" && a.config.BandwidthManager.Enabled {
			a.warnings.warn(ctx, podReference(e), "InvalidBandwidth", e.Bandwidth.Problem)
		}
	}
}

// bandwidthComponent is the line of status.
func bandwidthComponent(mode datapath.Bandwidth, list []endpoints.Endpoint) api.Component {
	var limits int
	var wrong []string
	for _, e := range list {
		if e.Bandwidth.Ingress > 0 || e.Bandwidth.Egress > 0 {
			limits++
		}
		if e.Bandwidth.Problem != "" {
			wrong = append(wrong, e.Pod()+": "+e.Bandwidth.Problem)
		}
	}
	pods := fmt.Sprintf("%d pods have limits", limits)
	out := api.Component{Name: "bandwidth", State: api.StateOK}
	switch mode.Mode {
	case datapath.BandwidthPaced:
		out.Message = pods + "; what leaves the node waits for its turn (fq), what comes in is policed"
	case datapath.BandwidthPoliced:
		out.State, out.Fix = api.StateDegraded, mode.Fix
		out.Message = pods + "; what is above them is dropped instead of delayed: " + mode.Why
	default:
		out.State, out.Message = api.StateOff, "bandwidthManager.enabled is false"
		if limits+len(wrong) > 0 {
			out.Message += "; " + pods + ", which nobody enforces"
		}
		return out
	}
	if len(wrong) > 0 {
		out.State, out.Message = api.StateDegraded, out.Message+"; not understood: "+strings.Join(wrong, "; ")
		if out.Fix == "" {
			out.Fix = "Correct the annotation of the pod; the change is taken up at once."
		}
	}
	return out
}
