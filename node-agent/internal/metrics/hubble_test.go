package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fairlead.dev/node-agent/internal/flows/flowtest"
)

// exposed renders a registry as "name{label=value,…} number" lines.
func exposed(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			lines[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = metric.GetCounter().GetValue()
		}
	}
	return lines
}

func TestHubbleMetrics(t *testing.T) {
	store := flowtest.NewStore(255)
	c := NewCollector(store)
	now := time.Now()
	events := append(flowtest.Denied(now, 1), flowtest.Connected(now)...)
	other := flowtest.Denied(now, 2)[1]
	other.SubType = 181
	ping := flowtest.Delivered(now, 0, 0)
	ping.Protocol, ping.ICMPType = 1, 8
	events = append(events, other, ping, flowtest.Allowed(now, 1), flowtest.Delivered(now, 1, 0x02), flowtest.Answered(now, 1))
	for _, e := range events {
		store.Ingest(e)
	}
	store.Lost(9)
	got := exposed(t, c)
	for name, want := range map[string]float64{
		"hubble_flows_processed_total{protocol=TCP,subtype=to-endpoint,type=Trace,verdict=FORWARDED}":    2,
		"hubble_flows_processed_total{protocol=ICMPv4,subtype=to-endpoint,type=Trace,verdict=FORWARDED}": 1,
		"hubble_flows_processed_total{protocol=TCP,subtype=,type=Drop,verdict=DROPPED}":                  2,
		"hubble_flows_processed_total{protocol=TCP,subtype=,type=PolicyVerdict,verdict=FORWARDED}":       1,
		"hubble_flows_processed_total{protocol=TCP,subtype=,type=PolicyVerdict,verdict=DROPPED}":         1,
		"hubble_drop_total{protocol=TCP,reason=POLICY_DENIED}":                                           1,
		"hubble_drop_total{protocol=TCP,reason=POLICY_DENY}":                                             1,
		"hubble_tcp_flags_total{family=IPv4,flag=SYN}":                                                   3,
		"hubble_tcp_flags_total{family=IPv4,flag=SYN-ACK}":                                               1,
		"hubble_port_distribution_total{port=80,protocol=TCP}":                                           3,
		"hubble_icmp_total{family=IPv4,type=EchoRequest}":                                                1,
		"hubble_lost_events_total{source=perf_event_ring_buffer}":                                        9,
		"hubble_lost_events_total{source=hubble_ring_buffer}":                                            0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v, want %v; got %v", name, value, want, got)
		}
	}
}

func TestPortsAreBounded(t *testing.T) {
	store := flowtest.NewStore(255)
	c := NewCollector(store)
	e := flowtest.Delivered(time.Now(), 1, 0x02)
	for port := range uint16(maxPorts + 5) {
		e.DestPort = port
		store.Ingest(e)
	}
	if got := exposed(t, c)["hubble_port_distribution_total{port=other,protocol=TCP}"]; got != 5 {
		t.Errorf("other ports: %v", got)
	}
}
