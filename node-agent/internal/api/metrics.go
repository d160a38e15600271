package api

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/policy"
)

// Collector gives the agent's own metrics, under Cilium's names where it has them.
type Collector struct{ Agent *Agent }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	startToReady   = describe("fairlead_start_to_ready_seconds", "From the agent's start until pods could be attached; 0 until then.")
	ready          = describe("fairlead_ready", "1 when pods can be attached.")
	componentState = describe("fairlead_component_state", "1 for the state that the component is in.", "component", "state")
	resident       = describe("fairlead_resident_memory_bytes", "Resident memory of the agent.")
	version        = describe("cilium_version", "1, with the agent's version.", "version")
	forwarded      = describe("cilium_forward_count_total", "Packets forwarded.", "direction")
	forwardedBytes = describe("cilium_forward_bytes_total", "Bytes forwarded.", "direction")
	dropped        = describe("cilium_drop_count_total", "Packets dropped.", "reason", "direction")
	droppedBytes   = describe("cilium_drop_bytes_total", "Bytes dropped.", "reason", "direction")
	kernelDropped  = describe("fairlead_kernel_drop_count_total", "Pods' packets that the kernel itself dropped.", "reason")
	heldBack       = describe("fairlead_drop_events_suppressed_total", "Events of drops and denials that were held back; the drops are counted.", "reason")
	pressure       = describe("cilium_bpf_map_pressure", "Entries of a map as a fraction of its size.", "map_name")
	carriedEntries = describe("fairlead_map_carried_entries", "Entries that this start found in maps of another version of the agent, by what became of them.", "map_name", "outcome")
	endpointCount  = describe("cilium_endpoint", "Endpoints of this node.")
	endpointStates = describe("cilium_endpoint_state", "Endpoints of this node by state.", "endpoint_state")
	identityCount  = describe("cilium_identity", "Identities that this node knows.", "type")
	policyCount    = describe("cilium_policy", "Policies in force.")
	policyInvalid  = describe("fairlead_policy_invalid", "Policies that are not enforced because something is wrong with them.")
	policyRevision = describe("cilium_policy_max_revision", "Highest revision of policies.")
	serviceCount   = describe("fairlead_service_frontends", "Service addresses that are translated.")
	ipAddresses    = describe("cilium_ip_addresses", "Addresses handed out.", "family")
	ipCapacity     = describe("cilium_ipam_capacity", "Addresses that this node can hand out.", "family")
	reachable      = describe("cilium_unreachable_nodes", "Nodes that do not answer health probes.")
	nodeReachable  = describe("fairlead_node_health_reachable", "1 where another node answered the last probe.", "node", "path", "probe")
	nodeLatency    = describe("fairlead_node_health_latency_seconds", "How long the answer to the last probe took.", "node", "path", "probe")
	natExhausted   = describe("fairlead_nat_port_exhausted_total", "Packets dropped because no port was free to masquerade them.")
	announced      = describe("fairlead_endpoint_announcements_total", "Announcements of new endpoints to other nodes.", "outcome")
	proxied        = describe("cilium_policy_l7_total", "Requests that a proxy received, denied or could not forward; answers of DNS that went out before their addresses were allowed (late).", "proxy_type", "rule")
	flowsSeen      = describe("fairlead_flow_events_total", "Events of the datapath that the agent has read.")
	flowsLost      = describe("fairlead_flow_events_lost_total", "Events that were lost, by where.", "where")
)

// dropNoMapping is Hubble's reason of packets for which no port was free.
const dropNoMapping = 167

// Describe implements prometheus.Collector; the metrics depend on the agent's state.
func (c *Collector) Describe(out chan<- *prometheus.Desc) { out <- startToReady }

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(startToReady, float64(c.Agent.StartToReady.Load())/1e9)
	isReady := 0.0
	if c.Agent.Ready() {
		isReady = 1
	}
	gauge(ready, isReady)
	gauge(resident, float64(ResidentMemory()))
	gauge(version, 1, c.Agent.Version)
	for _, x := range c.Agent.Components() {
		gauge(componentState, 1, x.Name, string(x.State))
	}
	p := c.Agent.Parts.Load()
	if p == nil {
		return
	}
	if counts, err := p.Datapath.Drops(); err == nil {
		noPort := uint64(0)
		for _, x := range counts {
			if x.Reason == dropNoMapping && !x.Forwarded {
				noPort += x.Packets
			}
		}
		counter(natExhausted, noPort)
		for _, x := range counts {
			direction := strings.ToUpper(policy.Direction(x.Direction).String())
			if x.Forwarded {
				counter(forwarded, x.Packets, direction)
				counter(forwardedBytes, x.Bytes, direction)
				continue
			}
			counter(dropped, x.Packets, reasonName(x), direction)
			counter(droppedBytes, x.Bytes, reasonName(x), direction)
			if x.Suppressed > 0 {
				counter(heldBack, x.Suppressed, reasonName(x))
			}
		}
	}
	if counts, err := p.Datapath.KernelDrops(); err == nil {
		for _, x := range counts {
			counter(kernelDropped, x.Packets, x.Reason)
		}
	}
	if maps, err := p.Datapath.Maps(); err == nil {
		for _, m := range maps {
			if share := m.Pressure(); share >= 0 {
				gauge(pressure, share, m.Name)
			}
		}
	}
	for _, m := range p.Datapath.CarriedOver() {
		gauge(carriedEntries, float64(m.Entries), m.Map, "taken over")
		gauge(carriedEntries, float64(m.Lost), m.Map, "lost")
	}
	states := map[string]int{}
	list := p.Endpoints.List()
	for _, e := range list {
		state, _ := p.Endpoints.State(e.ID)
		states[state]++
	}
	gauge(endpointCount, float64(len(list)))
	for state, n := range states {
		gauge(endpointStates, float64(n), state)
	}
	kinds := map[string]int{}
	for _, i := range p.Registry.All() {
		if i.ID.IsReserved() {
			kinds["reserved"]++
		} else {
			kinds["cluster_local"]++
		}
	}
	for kind, n := range kinds {
		gauge(identityCount, float64(n), kind)
	}
	inForce, invalid := 0, 0
	for _, d := range p.Policies.Describe() {
		if d.Valid {
			inForce++
		} else {
			invalid++
		}
	}
	gauge(policyCount, float64(inForce))
	gauge(policyInvalid, float64(invalid))
	gauge(policyRevision, float64(p.Policies.Revision()))
	gauge(serviceCount, float64(p.Services.Count()))
	for family, pool := range p.Pools() {
		gauge(ipAddresses, float64(len(pool.Allocations())), family)
		gauge(ipCapacity, float64(pool.Capacity()), family)
	}
	unreachable := 0
	for _, h := range p.Prober.Results() {
		if !h.Host.HTTP.Reachable {
			unreachable++
		}
		for path, at := range h.Paths() {
			for probe, answer := range map[string]nodes.Answer{"http": at.HTTP, "icmp": at.ICMP} {
				up := 0.0
				if answer.Reachable {
					up = 1
					gauge(nodeLatency, answer.Latency.Seconds(), h.Node, path, probe)
				}
				gauge(nodeReachable, up, h.Node, path, probe)
			}
		}
	}
	gauge(reachable, float64(unreachable))
	if p.Proxies != nil {
		for _, x := range p.Proxies() {
			counter(proxied, x.Count, x.Proxy, x.Outcome)
		}
	}
	counter(announced, p.Announcer.Sent.Load(), "received")
	counter(announced, p.Announcer.Failed.Load(), "failed")
	stats := p.Flows.Stats()
	counter(flowsSeen, stats.Seen)
	counter(flowsLost, stats.KernelLost, "kernel")
	counter(flowsLost, stats.RingLost, "reader")
}
