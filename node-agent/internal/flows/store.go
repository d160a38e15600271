package flows

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// DefaultCapacity is how many flows a node keeps: Hubble's largest ring, about 14 MB. Hubble's own default of 4,095 turns
// over in a second on a busy node.
const DefaultCapacity = 65535

// lossInterval is the least time between two loss records, so that heavy loss does not evict the flows that survived.
const lossInterval = time.Second

// Observation is one event with who was who at the time; it is valid only during the call that receives it.
type Observation struct {
	Event               *datapath.Event
	Source, Destination *EndpointInfo
	// SourceService and DestinationService are nil where the address is not a service's.
	SourceService, DestinationService *ServiceInfo
	// Policies decided: of the matching rule, or those that enforce default deny.
	Policies []PolicyInfo
}

// Sink sees every event as it comes in, in order, one at a time. It must be quick: it runs on the path of all events.
type Sink interface{ Observe(*Observation) }

// Options of a Store.
type Options struct {
	Resolver Resolver
	Node     NodeInfo
	// Capacity in flows, rounded up to 2^n-1; 0 means DefaultCapacity.
	Capacity int
	// SourceFile names a file of the BPF sources by Event.File; nil leaves drops without one.
	SourceFile func(uint8) string
	// Sinks see every event (edges, metrics).
	Sinks []Sink
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store keeps the newest flows of this node and answers queries over them. All methods are safe for concurrent use.
type Store struct {
	options Options
	ring    *ring
	// uuidPrefix makes identifiers of flows unique across restarts and nodes.
	uuidPrefix uint64
	seen       atomic.Uint64
	kernelLost atomic.Uint64
	ringLost   atomic.Uint64

	mu          sync.Mutex
	interner    *interner
	scratch     record
	event       datapath.Event
	observation Observation
	rate        rateMeter
	namespaces  map[string]time.Time
	pendingLoss loss
	lastLoss    time.Time
	lossTimer   bool
}

// loss is what the kernel could not deliver and no record tells yet.
type loss struct {
	count       uint64
	first, last time.Time
}

// New makes an empty store.
func New(options Options) *Store {
	if options.Capacity <= 0 {
		options.Capacity = DefaultCapacity
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Node.Cluster == "" {
		options.Node.Cluster = "default"
	}
	if options.Node.Started.IsZero() {
		options.Node.Started = options.Now()
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return &Store{
		options:    options,
		ring:       newRing(options.Capacity),
		uuidPrefix: binary.BigEndian.Uint64(random[:]),
		interner:   newInterner(options.Resolver),
		namespaces: map[string]time.Time{},
	}
}

// Node that this store is of.
func (s *Store) Node() NodeInfo { return s.options.Node }

// AbsoluteNodeName is "cluster/node", the form in which Hubble names nodes in flows.
func (s *Store) AbsoluteNodeName() string { return s.options.Node.Cluster + "/" + s.options.Node.Name }

// AddSink lets another sink see all further events. It must be called before events flow from several goroutines.
func (s *Store) AddSink(sink Sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.Sinks = append(s.options.Sinks, sink)
}

// Ingest takes one event in: it is resolved, shown to the sinks and kept.
func (s *Store) Ingest(event datapath.Event) {
	s.seen.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	// The copy lives in the store, so that pointers to it make nothing escape to the heap.
	s.event = event
	e, r := &s.event, &s.scratch
	if e.Time.IsZero() {
		e.Time = s.options.Now()
	}
	s.placeSocket(e)
	r.pack(e)
	version := s.options.Resolver.Version()
	source := s.interner.party(e.Source, e.SourceIdentity, version)
	r.source = source.EndpointInfo
	if source.hasService {
		r.sourceService = s.interner.service(e.Source, e.SourcePort, e.Protocol)
	}
	s.trackNamespace(source, r.time)
	destination := s.interner.party(e.Destination, e.DestIdentity, version)
	r.destination = destination.EndpointInfo
	if destination.hasService {
		r.destinationService = s.interner.service(e.Destination, e.DestPort, e.Protocol)
	}
	s.trackNamespace(destination, r.time)
	r.policies = s.decidedBy(e)
	s.rate.add(r.time / int64(time.Second))
	if len(s.options.Sinks) > 0 {
		s.observation = Observation{
			Event: e, Source: r.source, Destination: r.destination,
			SourceService: r.sourceService, DestinationService: r.destinationService,
		}
		if r.policies != nil {
			s.observation.Policies = r.policies.policies
		}
		for _, sink := range s.options.Sinks {
			sink.Observe(&s.observation)
		}
	}
	s.ring.append(r)
}

// SocketResolver is an optional part of a Resolver: socket hooks run before there is an address, and only know the cgroup
// of the process. Without it (or for an unknown cgroup) such flows have no source.
type SocketResolver interface {
	// AddressOfCgroup is the address of the pod whose processes are in the cgroup.
	AddressOfCgroup(cgroup uint64) (netip.Addr, bool)
}

// placeSocket finds the address behind a socket event.
func (s *Store) placeSocket(e *datapath.Event) {
	if e.Type != datapath.EventSocket || e.Source.IsValid() && !e.Source.IsUnspecified() {
		return
	}
	e.Source = netip.Addr{}
	if resolver, ok := s.options.Resolver.(SocketResolver); ok {
		if address, known := resolver.AddressOfCgroup(e.CgroupID); known {
			e.Source = address
		}
	}
}

// decidedBy finds the policies behind a decision: those of the rule that matched, or, where nothing matched and default
// deny dropped it, those that put default deny on.
func (s *Store) decidedBy(e *datapath.Event) *policySet {
	if e.Rule != 0 {
		return s.interner.policy(e.Rule)
	}
	denied := e.Type == datapath.EventPolicyVerdict && e.Denied ||
		e.Type == datapath.EventDrop && e.SubType == dropPolicyDenied ||
		e.L7 != nil && e.L7.Verdict == datapath.L7Dropped
	if !denied || e.Endpoint == 0 {
		return nil
	}
	return s.interner.defaultDeny(uint32(e.Endpoint), e.Direction == datapath.Egress)
}

// namespaceResolution is how exactly the time of the last sight of a namespace is kept.
const namespaceResolution = 10 * time.Second

// trackNamespace remembers when a party's namespace was last seen; at is in nanoseconds since the epoch.
func (s *Store) trackNamespace(p *party, at int64) {
	if p.Namespace == "" || p.seen != 0 && at-p.seen <= int64(namespaceResolution) {
		return
	}
	p.seen = at
	if now := time.Unix(0, at); now.After(s.namespaces[p.Namespace]) {
		s.namespaces[p.Namespace] = now
	}
}

// Lost tells that the kernel could not deliver n events. The sum of all loss records is exact; there is at most one a
// second.
func (s *Store) Lost(n uint64) {
	if n == 0 {
		return
	}
	s.kernelLost.Add(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	if s.pendingLoss.count == 0 {
		s.pendingLoss.first = now
	}
	s.pendingLoss.count += n
	s.pendingLoss.last = now
	if wait := lossInterval - now.Sub(s.lastLoss); wait > 0 && !s.lastLoss.IsZero() {
		if !s.lossTimer {
			s.lossTimer = true
			time.AfterFunc(wait, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.lossTimer = false
				s.flushLossLocked()
			})
		}
		return
	}
	s.flushLossLocked()
}

func (s *Store) flushLossLocked() {
	if s.pendingLoss.count == 0 {
		return
	}
	s.ring.append(&record{
		bits:   bitLost,
		cookie: s.pendingLoss.count,
		cgroup: uint64(s.pendingLoss.first.UnixNano()),
		time:   s.pendingLoss.last.UnixNano(),
	})
	s.pendingLoss = loss{}
	s.lastLoss = s.options.Now()
}

// Stats of a store.
type Stats struct {
	// Held flows now, and at most.
	Held, Capacity uint64
	// Seen events since start.
	Seen uint64
	// KernelLost events never reached the agent; RingLost is the sum over readers of what they were too slow for.
	KernelLost, RingLost uint64
	// PerSecond is the mean over the last minute, or since start where that is shorter.
	PerSecond float64
}

// Stats tells how much is held, was seen and was lost.
func (s *Store) Stats() Stats {
	oldest, next := s.ring.bounds()
	s.mu.Lock()
	perSecond := s.rate.perSecond(s.options.Now(), s.options.Node.Started)
	s.mu.Unlock()
	return Stats{
		Held: next - oldest, Capacity: uint64(s.ring.capacity()), Seen: s.seen.Load(),
		KernelLost: s.kernelLost.Load(), RingLost: s.ringLost.Load(), PerSecond: perSecond,
	}
}

// Namespaces seen in flows during the last hour, unsorted.
func (s *Store) Namespaces() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.options.Now().Add(-time.Hour)
	var names []string
	for name, last := range s.namespaces {
		if last.Before(limit) {
			delete(s.namespaces, name)
			continue
		}
		names = append(names, name)
	}
	return names
}

// rateMeter counts events per second of the last minute.
type rateMeter struct {
	seconds [60]int64
	counts  [60]uint64
}

// add counts an event of a second since the epoch.
func (m *rateMeter) add(second int64) {
	slot := int(uint64(second) % 60)
	if m.seconds[slot] != second {
		m.seconds[slot], m.counts[slot] = second, 0
	}
	m.counts[slot]++
}

func (m *rateMeter) perSecond(now, started time.Time) float64 {
	var sum uint64
	for i, second := range m.seconds {
		if age := now.Unix() - second; age >= 0 && age < 60 {
			sum += m.counts[i]
		}
	}
	window := min(now.Sub(started).Seconds(), 60)
	return float64(sum) / max(window, 1)
}
