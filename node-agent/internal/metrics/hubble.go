// Package metrics counts flows under the names of Hubble's metrics, so that existing dashboards work.
package metrics

import (
	"strconv"
	"sync"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/prometheus/client_golang/prometheus"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
)

// maxPorts bounds the distinct (protocol, port) series; further ports are counted under port "other".
const maxPorts = 256

type processedKey struct {
	eventType datapath.EventType
	subType   uint8
	protocol  uint8
	verdict   flowpb.Verdict
}

type dropKey struct {
	reason   uint8
	protocol uint8
}

type flagKey struct {
	flag   string
	family string
}

type portKey struct {
	protocol uint8
	port     uint16
	other    bool
}

type icmpKey struct {
	family     string
	kind, code uint8
}

// Collector counts events in plain maps and turns them into series only when it is asked; it is a flows.Sink and a
// prometheus.Collector.
type Collector struct {
	store *flows.Store

	mu        sync.Mutex
	processed map[processedKey]uint64
	drops     map[dropKey]uint64
	flags     map[flagKey]uint64
	ports     map[portKey]uint64
	icmp      map[icmpKey]uint64
}

// NewCollector makes a collector that sees all further events of the store.
func NewCollector(store *flows.Store) *Collector {
	c := &Collector{
		store: store, processed: map[processedKey]uint64{}, drops: map[dropKey]uint64{}, flags: map[flagKey]uint64{},
		ports: map[portKey]uint64{}, icmp: map[icmpKey]uint64{},
	}
	store.AddSink(c)
	return c
}

// Observe is called by the store for every event.
func (c *Collector) Observe(o *flows.Observation) {
	e := o.Event
	verdict := verdictOf(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	subType := e.SubType
	if e.Type == datapath.EventDrop || e.Type == datapath.EventPolicyVerdict {
		subType = 0 // Hubble's series have none for these
	}
	c.processed[processedKey{e.Type, subType, e.Protocol, verdict}]++
	if e.Type == datapath.EventDrop {
		c.drops[dropKey{e.SubType, e.Protocol}]++
	}
	// As in Hubble, the handlers of flags, ports and ICMP look at forwarded packets and drops, not at verdicts about them.
	if e.Type != datapath.EventTrace && e.Type != datapath.EventDrop {
		return
	}
	family := "IPv4"
	if e.Destination.Is6() && !e.Destination.Is4In6() {
		family = "IPv6"
	}
	reply := e.ReplyKnown && e.Reply || flowpb.TraceReason(e.TraceReason) == flowpb.TraceReason_REPLY
	switch e.Protocol {
	case 6:
		if name := flagName(e.TCPFlags); name != "" {
			c.flags[flagKey{name, family}]++
		}
		if !reply {
			c.countPort(e)
		}
	case 17, 132:
		if !reply {
			c.countPort(e)
		}
	case 1, 58:
		c.icmp[icmpKey{family, e.ICMPType, e.ICMPCode}]++
	}
}

// countPort counts a destination port once per connection where that is known (its first packet).
func (c *Collector) countPort(e *datapath.Event) {
	if e.Type == datapath.EventTrace && e.TraceReason != 0 && flowpb.TraceReason(e.TraceReason) != flowpb.TraceReason_NEW {
		return
	}
	key := portKey{protocol: e.Protocol, port: e.DestPort}
	if _, known := c.ports[key]; !known && len(c.ports) >= maxPorts {
		key = portKey{protocol: e.Protocol, other: true}
	}
	c.ports[key]++
}

// flagName is the flag that Hubble's tcp handler counts; "" for a packet with none of them.
func flagName(flags uint8) string {
	switch {
	case flags&0x12 == 0x12:
		return "SYN-ACK"
	case flags&0x02 != 0:
		return "SYN"
	case flags&0x04 != 0:
		return "RST"
	case flags&0x01 != 0:
		return "FIN"
	}
	return ""
}

func verdictOf(e *datapath.Event) flowpb.Verdict {
	switch {
	case e.Type == datapath.EventDrop, e.Type == datapath.EventPolicyVerdict && e.Denied:
		return flowpb.Verdict_DROPPED
	case e.L7 != nil && e.L7.Verdict == datapath.L7Dropped:
		return flowpb.Verdict_DROPPED
	case e.L7 != nil && e.L7.Verdict == datapath.L7Error:
		return flowpb.Verdict_ERROR
	case e.Type == datapath.EventSocket && e.SubType%2 == 1:
		return flowpb.Verdict_TRACED
	case e.Type == datapath.EventSocket:
		return flowpb.Verdict_TRANSLATED
	}
	return flowpb.Verdict_FORWARDED
}

var (
	processedDesc = prometheus.NewDesc("hubble_flows_processed_total", "Total number of flows processed",
		[]string{"protocol", "subtype", "type", "verdict"}, nil)
	dropDesc = prometheus.NewDesc("hubble_drop_total", "Number of drops", []string{"protocol", "reason"}, nil)
	flagDesc = prometheus.NewDesc("hubble_tcp_flags_total", "TCP flag occurrences", []string{"family", "flag"}, nil)
	portDesc = prometheus.NewDesc("hubble_port_distribution_total",
		"Numbers of packets distributed by destination port", []string{"port", "protocol"}, nil)
	icmpDesc = prometheus.NewDesc("hubble_icmp_total", "Number of ICMP messages", []string{"family", "type"}, nil)
	lostDesc = prometheus.NewDesc("hubble_lost_events_total", "Number of lost events", []string{"source"}, nil)
)

// Describe tells the series' names.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{processedDesc, dropDesc, flagDesc, portDesc, icmpDesc, lostDesc} {
		out <- d
	}
}

// Collect gives the present counts.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	stats := c.store.Stats()
	counter(lostDesc, stats.KernelLost, "perf_event_ring_buffer")
	counter(lostDesc, stats.RingLost, "hubble_ring_buffer")
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.processed {
		eventType, subType := eventName(k.eventType, k.subType)
		counter(processedDesc, n, protocolName(k.protocol), subType, eventType, k.verdict.String())
	}
	for k, n := range c.drops {
		counter(dropDesc, n, protocolName(k.protocol), flowpb.DropReason(k.reason).String())
	}
	for k, n := range c.flags {
		counter(flagDesc, n, k.family, k.flag)
	}
	for k, n := range c.ports {
		port := strconv.Itoa(int(k.port))
		if k.other {
			port = "other"
		}
		counter(portDesc, n, port, protocolName(k.protocol))
	}
	types := map[[2]string]uint64{}
	for k, n := range c.icmp {
		types[[2]string{k.family, icmpTypeName(k.family, k.kind, k.code)}] += n
	}
	for labels, n := range types {
		counter(icmpDesc, n, labels[0], labels[1])
	}
}

// eventName gives type and subtype as Hubble's labels write them.
func eventName(t datapath.EventType, sub uint8) (string, string) {
	switch t {
	case datapath.EventDrop:
		return "Drop", ""
	case datapath.EventTrace:
		point := flowpb.TraceObservationPoint(sub)
		if sub == 0 {
			point = flowpb.TraceObservationPoint_TO_ENDPOINT
		}
		return "Trace", pointName(point)
	case datapath.EventL7:
		return "L7", ""
	case datapath.EventPolicyVerdict:
		return "PolicyVerdict", ""
	case datapath.EventSocket:
		return "TraceSock", flowpb.SocketTranslationPoint(sub).String()
	}
	return "Unknown", ""
}
