package api

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/services"
)

// valuesOf gives the samples of a metric by the value of one label.
func valuesOf(t *testing.T, s *Service, metric, label string) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(&Collector{s.Agent})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					out[l.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	return out
}

// How full each map is, what of another version's it got, and each reason's drops, are metrics; a map without a number of entries has none.
func TestPressureAndDropsAreMetrics(t *testing.T) {
	s := explaining(t, true, nil)
	s.Agent.Ready = func() bool { return true }
	parts := s.Agent.Parts.Load()
	parts.Services = services.New(parts.Datapath, services.Node{}, nil, slog.New(slog.DiscardHandler))
	parts.Prober, parts.Flows = nodes.NewProber(), flows.New(flows.Options{})
	fake := parts.Datapath.(interface {
		SetDrops(...datapath.DropCount)
		SetCarried(...datapath.Carried)
	})
	for i := range 3 {
		if err := parts.Datapath.UpsertIP(t.Context(), datapath.IPEntry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32), Identity: 7}); err != nil {
			t.Fatal(err)
		}
	}
	fake.SetDrops(datapath.DropCount{Reason: 133, Direction: datapath.Ingress, Packets: 5, Suppressed: 2})
	if got := valuesOf(t, s, "cilium_bpf_map_pressure", "map_name"); got["ipcache"] != 3./65536 {
		t.Errorf("pressure %v", got)
	}
	fake.SetCarried(datapath.Carried{Map: "nat", Entries: 40, Lost: 3})
	if got := valuesOf(t, s, "fairlead_map_carried_entries", "outcome"); got["taken over"] != 40 || got["lost"] != 3 {
		t.Errorf("entries of another version %v", got)
	}
	if got := valuesOf(t, s, "cilium_drop_count_total", "reason"); got["POLICY_DENIED"] != 5 {
		t.Errorf("drops %v", got)
	}
	if got := valuesOf(t, s, "fairlead_drop_events_suppressed_total", "reason"); got["POLICY_DENIED"] != 2 {
		t.Errorf("events that were held back %v", got)
	}
}
