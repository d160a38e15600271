// Package edges tells who talks to whom: flow events of this node, summed up per connection-like edge.
//
// Every packet is seen at several places of several nodes, and the console adds the nodes' numbers up. So that the sums
// are right, each packet is counted at exactly one place:
//
//   - delivered to a pod: by the pod's node, when it reaches the pod (TO_ENDPOINT);
//   - to anybody who is no pod (world, host, another node's host, the API server): by the node of the pod that sent it,
//     when it leaves the pod's programs (TO_STACK, TO_HOST, TO_OVERLAY or TO_NETWORK with an endpoint);
//   - dropped: by the node that dropped it.
//
// An edge points the way the connection was opened: replies count on the edge of their request, with its port.
// A line with only the service or a policy set and all counts 0 comes from the source's node, which is where a service
// address is translated (at connect) and where egress policy allows; the reader merges it by source, destination,
// protocol and port.
package edges

import (
	"strings"
	"sync"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
)

// MaxEdges of one watcher between two batches; what does not fit is counted as overflow.
const MaxEdges = 20000

// maxSockets bounds the sockets that are being connected at one time.
const maxSockets = 4096

const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolSCTP = 132

	socketBefore = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_PRE_DIRECTION_FWD)
	socketAfter  = uint8(flowpb.SocketTranslationPoint_SOCK_XLATE_POINT_POST_DIRECTION_FWD)

	// Identities from here on name pods by labels; identities with this bit name address ranges of one node.
	firstPodIdentity   = 256
	localIdentityScope = 1 << 24
)

// key of an edge. The sides are shared by pointer while nothing about them changes, which makes the look-up cheap.
type key struct {
	source, destination *flows.EndpointInfo
	// Addresses are set only for a side that is no pod.
	sourceAddress, destinationAddress string
	protocol                          uint8
	port                              uint16
}

// counts of an edge since the last batch.
type counts struct {
	service                                *flows.ServiceInfo
	forwarded, dropped, connections, bytes uint64
	dropReason                             uint32
	dropPolicy, allowPolicy                string
	last                                   time.Time
}

// table is what one watcher has not been sent yet.
type table struct {
	edges    map[key]*counts
	overflow uint64
}

// Aggregator sums events up for whoever watches; without a watcher it costs nothing.
type Aggregator struct {
	store *flows.Store

	mu     sync.Mutex
	tables map[*table]struct{}
	// sockets being connected to a service, by cookie.
	sockets map[uint64]*flows.ServiceInfo
}

// New makes an aggregator that sees all further events of the store.
func New(store *flows.Store) *Aggregator {
	a := &Aggregator{store: store, tables: map[*table]struct{}{}, sockets: map[uint64]*flows.ServiceInfo{}}
	store.AddSink(a)
	return a
}

// Observe is called by the store for every event.
func (a *Aggregator) Observe(o *flows.Observation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tables) == 0 {
		return
	}
	kind := classify(o)
	if o.Event.Type == datapath.EventSocket && o.Event.SubType == socketBefore {
		a.rememberService(o)
	}
	if kind == ignored {
		return
	}
	k, service := edgeOf(o)
	if o.Event.Type == datapath.EventSocket {
		service = a.sockets[o.Event.SocketCookie]
		delete(a.sockets, o.Event.SocketCookie)
		if service == nil {
			return
		}
	}
	for t := range a.tables {
		c := t.edges[k]
		if c == nil {
			if len(t.edges) >= MaxEdges {
				t.overflow++
				continue
			}
			c = &counts{}
			t.edges[k] = c
		}
		c.add(o, kind, service)
	}
}

// rememberService keeps which service a socket asked for until the event with the backend comes, which is at once.
func (a *Aggregator) rememberService(o *flows.Observation) {
	if o.DestinationService == nil || o.Event.SocketCookie == 0 {
		return
	}
	if len(a.sockets) >= maxSockets {
		clear(a.sockets)
	}
	a.sockets[o.Event.SocketCookie] = o.DestinationService
}

// kind says what an event means for its edge.
type kind uint8

const (
	ignored kind = iota
	forwarded
	dropped
	// noted events only add the service or the policy.
	noted
)

func isPod(e *flows.EndpointInfo) bool {
	return e.PodName != "" || e.Identity >= firstPodIdentity && e.Identity < localIdentityScope
}

// classify implements the rule of the package comment.
func classify(o *flows.Observation) kind {
	e := o.Event
	switch e.Type {
	case datapath.EventDrop:
		return dropped
	case datapath.EventTrace:
		point := flowpb.TraceObservationPoint(e.SubType)
		if e.SubType == 0 {
			point = flowpb.TraceObservationPoint_TO_ENDPOINT
		}
		switch point {
		case flowpb.TraceObservationPoint_TO_ENDPOINT:
			return forwarded
		case flowpb.TraceObservationPoint_TO_STACK, flowpb.TraceObservationPoint_TO_HOST, flowpb.TraceObservationPoint_TO_PROXY,
			flowpb.TraceObservationPoint_TO_NETWORK, flowpb.TraceObservationPoint_TO_OVERLAY:
			if e.Endpoint != 0 && !isPod(o.Destination) {
				return forwarded
			}
		}
	case datapath.EventPolicyVerdict:
		if !e.Denied && len(o.Policies) > 0 {
			return noted
		}
	case datapath.EventL7:
		// What a proxy forwards is seen on its way into the pod.
		if e.L7 != nil && e.L7.Verdict == datapath.L7Dropped {
			return dropped
		}
	case datapath.EventSocket:
		if e.SubType == socketAfter && isPod(o.Source) {
			return noted
		}
	}
	return ignored
}

// reply is true for packets on the way back.
func reply(o *flows.Observation) bool {
	e := o.Event
	if e.Type != datapath.EventTrace {
		return e.ReplyKnown && e.Reply
	}
	return flowpb.TraceReason(e.TraceReason) == flowpb.TraceReason_REPLY || e.ReplyKnown && e.Reply
}

// edgeOf turns the event the way its connection was opened.
func edgeOf(o *flows.Observation) (key, *flows.ServiceInfo) {
	e := o.Event
	k := key{source: o.Source, destination: o.Destination, protocol: e.Protocol}
	source, destination := e.Source, e.Destination
	port, service := e.DestPort, o.DestinationService
	if reply(o) {
		k.source, k.destination = k.destination, k.source
		source, destination = destination, source
		port, service = e.SourcePort, o.SourceService
	}
	switch e.Protocol {
	case protocolTCP, protocolUDP, protocolSCTP:
		k.port = port
	}
	if !isPod(k.source) && source.IsValid() {
		k.sourceAddress = source.String()
	}
	if !isPod(k.destination) && destination.IsValid() {
		k.destinationAddress = destination.String()
	}
	return k, service
}

func (c *counts) add(o *flows.Observation, kind kind, service *flows.ServiceInfo) {
	e := o.Event
	c.last = e.Time
	if service != nil {
		c.service = service
	}
	switch kind {
	case forwarded:
		c.forwarded++
		c.bytes += uint64(e.Length)
		if flowpb.TraceReason(e.TraceReason) == flowpb.TraceReason_NEW {
			c.connections++
		}
		if len(o.Policies) > 0 {
			c.allowPolicy = policyText(o.Policies)
		}
	case dropped:
		c.dropped++
		c.dropReason = uint32(e.SubType)
		if e.Type == datapath.EventL7 {
			c.dropReason = uint32(flowpb.DropReason_POLICY_DENIED)
		}
		c.dropPolicy = policyText(o.Policies)
	case noted:
		if e.Type == datapath.EventPolicyVerdict {
			c.allowPolicy = policyText(o.Policies)
		}
	case ignored:
	}
}

// policyText is "Kind namespace/name section"; several policies are separated by ", ".
func policyText(policies []flows.PolicyInfo) string {
	var texts []string
	for _, p := range policies {
		name := p.Name
		if p.Namespace != "" {
			name = p.Namespace + "/" + p.Name
		}
		texts = append(texts, strings.TrimSpace(strings.Join([]string{p.Kind, name, p.Section}, " ")))
	}
	return strings.Join(texts, ", ")
}

func (a *Aggregator) open() *table {
	t := &table{edges: map[key]*counts{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tables[t] = struct{}{}
	return t
}

func (a *Aggregator) close(t *table) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.tables, t)
}

// take gives what has gathered in a table and empties it.
func (a *Aggregator) take(t *table) (edges map[key]*counts, overflow uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	edges, overflow = t.edges, t.overflow
	t.edges, t.overflow = make(map[key]*counts, len(edges)), 0
	return edges, overflow
}

func message(k key, c *counts) *fairleadv1.Edge {
	e := &fairleadv1.Edge{
		Source:      side(k.source, k.sourceAddress),
		Destination: side(k.destination, k.destinationAddress),
		Protocol:    uint32(k.protocol), DestinationPort: uint32(k.port),
		Forwarded: c.forwarded, Dropped: c.dropped, Connections: c.connections, Bytes: c.bytes,
		DropReason: c.dropReason, DropPolicy: c.dropPolicy, AllowPolicy: c.allowPolicy,
		LastSeen: timestamppb.New(c.last),
	}
	if c.service != nil {
		e.Service = c.service.Namespace + "/" + c.service.Name
	}
	return e
}

func side(e *flows.EndpointInfo, address string) *fairleadv1.EdgeSide {
	s := &fairleadv1.EdgeSide{
		Identity: e.Identity, Namespace: e.Namespace, PodName: e.PodName, WorkloadName: e.WorkloadName,
		WorkloadKind: e.WorkloadKind, NodeName: e.NodeName, Address: address, Labels: e.Labels,
	}
	if isPod(e) {
		return s
	}
	for _, label := range e.Labels {
		if entity, ok := strings.CutPrefix(label, "reserved:"); ok {
			s.Entity = entity
			break
		}
	}
	return s
}
