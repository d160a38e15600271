// Package datapathtest has an in-memory datapath for tests of the control plane.
package datapathtest

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"fairlead.dev/node-agent/internal/datapath"
)

var _ datapath.Datapath = (*Fake)(nil)

// Fake is a datapath.Datapath that only remembers. The zero value is ready; all methods are safe for concurrent use.
type Fake struct {
	mu        sync.Mutex
	endpoints map[datapath.EndpointID]datapath.Endpoint
	policy    map[datapath.PolicyKey]datapath.PolicyValue
	ips       map[netip.Prefix]datapath.IPEntry
	blocks    map[netip.Prefix]datapath.Block
	services  map[datapath.ServiceID]datapath.Service
	published map[datapath.ServiceID]struct{}
	nodes     map[string]datapath.Node
	host      *datapath.Host
	carried   []datapath.Carried
	conntrack []datapath.ConntrackEntry
	nat       []datapath.NATEntry
	// unmasqueraded is what SetUnmasqueraded left.
	unmasqueraded []netip.Prefix
	xdp           []datapath.XDPDevice
	refused       []netip.Prefix
	drops         []datapath.DropCount
	handlers      map[int]subscriber
	next          int
	calls         []string
	failures      map[string]error
	mtu           int
	closed        bool
	explain       func(datapath.Trial) (datapath.Explanation, error)
}

type subscriber struct {
	handle func(datapath.Event)
	lost   func(uint64)
}

// Fail makes the named method ("ApplyPolicy") return err from now on; nil ends that. A failing call changes nothing.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures == nil {
		f.failures = map[string]error{}
	}
	f.failures[method] = err
}

// Calls lists the names of the changing methods in the order in which they were called.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Nodes lists what UpsertNode left.
func (f *Fake) Nodes() []datapath.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.nodes, func(n datapath.Node) string { return n.Name })
}

// Closed says whether Close was called.
func (f *Fake) Closed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// SetMTU is what MTU returns; 1450 until set.
func (f *Fake) SetMTU(mtu int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mtu = mtu
}

// SetConntrack is what Conntrack returns.
func (f *Fake) SetConntrack(entries ...datapath.ConntrackEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conntrack = slices.Clone(entries)
}

// SetDrops is what Drops returns.
func (f *Fake) SetDrops(counts ...datapath.DropCount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drops = slices.Clone(counts)
}

// Emit hands an event to everybody in Events; it returns how many there were.
func (f *Fake) Emit(e datapath.Event) int {
	for _, s := range f.subscribers() {
		s.handle(e)
	}
	return len(f.subscribers())
}

// Lose tells everybody in Events that n events were lost.
func (f *Fake) Lose(n uint64) {
	for _, s := range f.subscribers() {
		if s.lost != nil {
			s.lost(n)
		}
	}
}

func (f *Fake) subscribers() []subscriber {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]subscriber, 0, len(f.handlers))
	for _, s := range f.handlers {
		out = append(out, s)
	}
	return out
}

// change runs one changing method under the lock.
func (f *Fake) change(ctx context.Context, method string, apply func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
	if err := f.failures[method]; err != nil {
		return err
	}
	return apply()
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

func sorted[K comparable, V any, O cmp.Ordered](m map[K]V, by func(V) O) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b V) int { return cmp.Compare(by(a), by(b)) })
	return out
}

// UpsertEndpoint implements datapath.Datapath.
func (f *Fake) UpsertEndpoint(ctx context.Context, e datapath.Endpoint) error {
	return f.change(ctx, "UpsertEndpoint", func() error {
		if e.ID == 0 || len(e.Addresses) == 0 {
			return fmt.Errorf("publishing endpoint %d: needs an id and an address", e.ID)
		}
		put(&f.endpoints, e.ID, e)
		return nil
	})
}

// UpsertHost implements datapath.Datapath.
func (f *Fake) UpsertHost(ctx context.Context, h datapath.Host) error {
	return f.change(ctx, "UpsertHost", func() error {
		f.host = &h
		return nil
	})
}

// Host is what UpsertHost left; false where it was never called.
func (f *Fake) Host() (datapath.Host, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.host == nil {
		return datapath.Host{}, false
	}
	return *f.host, true
}

// RemoveEndpoint implements datapath.Datapath.
func (f *Fake) RemoveEndpoint(ctx context.Context, id datapath.EndpointID) error {
	return f.change(ctx, "RemoveEndpoint", func() error {
		delete(f.endpoints, id)
		for k := range f.policy {
			if k.Endpoint == id {
				delete(f.policy, k)
			}
		}
		return nil
	})
}

// Endpoints implements datapath.Datapath.
func (f *Fake) Endpoints() ([]datapath.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.endpoints, func(e datapath.Endpoint) datapath.EndpointID { return e.ID }), f.failures["Endpoints"]
}

// ApplyPolicy implements datapath.Datapath.
func (f *Fake) ApplyPolicy(ctx context.Context, add []datapath.PolicyEntry, remove []datapath.PolicyKey) error {
	return f.change(ctx, "ApplyPolicy", func() error {
		for _, e := range add {
			put(&f.policy, e.PolicyKey, e.PolicyValue)
		}
		for _, k := range remove {
			delete(f.policy, k)
		}
		return nil
	})
}

// Policy implements datapath.Datapath.
func (f *Fake) Policy(id datapath.EndpointID) ([]datapath.PolicyEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []datapath.PolicyEntry
	for k, v := range f.policy {
		if k.Endpoint == id {
			out = append(out, datapath.PolicyEntry{PolicyKey: k, PolicyValue: v})
		}
	}
	slices.SortFunc(out, func(a, b datapath.PolicyEntry) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Identity, b.Identity),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.PortPrefix, b.PortPrefix))
	})
	return out, f.failures["Policy"]
}

// UpsertBlocks implements datapath.Datapath.
func (f *Fake) UpsertBlocks(ctx context.Context, blocks ...datapath.Block) error {
	return f.change(ctx, "UpsertBlocks", func() error {
		for _, b := range blocks {
			put(&f.blocks, b.Prefix, b)
		}
		return nil
	})
}

// DeleteBlocks implements datapath.Datapath.
func (f *Fake) DeleteBlocks(ctx context.Context, prefixes ...netip.Prefix) error {
	return f.change(ctx, "DeleteBlocks", func() error {
		for _, p := range prefixes {
			delete(f.blocks, p)
		}
		return nil
	})
}

// Blocks implements datapath.Datapath.
func (f *Fake) Blocks() ([]datapath.Block, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.blocks, func(b datapath.Block) string { return b.Prefix.String() }), f.failures["Blocks"]
}

// UpsertIP implements datapath.Datapath.
func (f *Fake) UpsertIP(ctx context.Context, entries ...datapath.IPEntry) error {
	return f.change(ctx, "UpsertIP", func() error {
		for _, e := range entries {
			put(&f.ips, e.Prefix.Masked(), e)
		}
		return nil
	})
}

// DeleteIP implements datapath.Datapath.
func (f *Fake) DeleteIP(ctx context.Context, prefixes ...netip.Prefix) error {
	return f.change(ctx, "DeleteIP", func() error {
		for _, p := range prefixes {
			delete(f.ips, p.Masked())
		}
		return nil
	})
}

// IPs implements datapath.Datapath.
func (f *Fake) IPs() ([]datapath.IPEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.ips, func(e datapath.IPEntry) string { return e.Prefix.String() }), f.failures["IPs"]
}

// UpsertService implements datapath.Datapath.
func (f *Fake) UpsertService(ctx context.Context, s datapath.Service) error {
	return f.change(ctx, "UpsertService", func() error {
		s.Backends, s.Frontends = slices.Clone(s.Backends), slices.Clone(s.Frontends)
		put(&f.services, s.ServiceID, s)
		put(&f.published, s.ServiceID, struct{}{})
		return nil
	})
}

// DeleteService implements datapath.Datapath.
func (f *Fake) DeleteService(ctx context.Context, id datapath.ServiceID) error {
	return f.change(ctx, "DeleteService", func() error {
		delete(f.services, id)
		return nil
	})
}

// PruneServices implements datapath.Datapath: what was there before Restart and was not published since goes.
func (f *Fake) PruneServices(ctx context.Context) error {
	return f.change(ctx, "PruneServices", func() error {
		for id := range f.services {
			if _, ok := f.published[id]; !ok {
				delete(f.services, id)
			}
		}
		return nil
	})
}

// Restart forgets who published which service, as a new run of the agent does.
func (f *Fake) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = nil
}

// Services implements datapath.Datapath.
func (f *Fake) Services() ([]datapath.Service, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.services, func(s datapath.Service) string { return fmt.Sprint(s.ServiceID) }), f.failures["Services"]
}

// SetUnmasqueraded implements datapath.Datapath.
func (f *Fake) SetUnmasqueraded(ctx context.Context, prefixes []netip.Prefix) error {
	return f.change(ctx, "SetUnmasqueraded", func() error {
		f.unmasqueraded = slices.Clone(prefixes)
		return nil
	})
}

// Unmasqueraded is what SetUnmasqueraded left.
func (f *Fake) Unmasqueraded() []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.unmasqueraded)
}

// Masquerading implements datapath.Datapath.
func (f *Fake) Masquerading() datapath.Masquerading {
	f.mu.Lock()
	defer f.mu.Unlock()
	return datapath.Masquerading{Mode: "BPF", FirstPort: 32768, Rules: len(f.unmasqueraded)}
}

// SetNAT is what NAT returns.
func (f *Fake) SetNAT(entries ...datapath.NATEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nat = slices.Clone(entries)
}

// NAT implements datapath.Datapath.
func (f *Fake) NAT(limit int) ([]datapath.NATEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["NAT"]; err != nil {
		return nil, err
	}
	if limit > 0 && limit < len(f.nat) {
		return slices.Clone(f.nat[:limit]), nil
	}
	return slices.Clone(f.nat), nil
}

// UpsertNode implements datapath.Datapath.
func (f *Fake) UpsertNode(ctx context.Context, n datapath.Node) error {
	return f.change(ctx, "UpsertNode", func() error {
		put(&f.nodes, n.Name, n)
		return nil
	})
}

// DeleteNode implements datapath.Datapath.
func (f *Fake) DeleteNode(ctx context.Context, n datapath.Node) error {
	return f.change(ctx, "DeleteNode", func() error {
		delete(f.nodes, n.Name)
		return nil
	})
}

// Conntrack implements datapath.Datapath.
func (f *Fake) Conntrack(limit int) ([]datapath.ConntrackEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.conntrack)
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, f.failures["Conntrack"]
}

// Maps implements datapath.Datapath: the counts of what is remembered.
func (f *Fake) Maps() ([]datapath.MapInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info := func(name, kind string, entries int) datapath.MapInfo {
		return datapath.MapInfo{Name: name, Type: kind, MaxEntries: 65536, Entries: entries}
	}
	return []datapath.MapInfo{
		info("endpoints", "Hash", len(f.endpoints)), info("policy", "LPMTrie", len(f.policy)),
		info("ipcache", "LPMTrie", len(f.ips)), info("services", "Hash", len(f.services)),
	}, f.failures["Maps"]
}

// Pressure implements datapath.Datapath.
func (f *Fake) Pressure() []datapath.MapPressure { return nil }

// Bandwidth implements datapath.Datapath.
func (f *Fake) Bandwidth() datapath.Bandwidth {
	return datapath.Bandwidth{Mode: datapath.BandwidthPoliced, Why: "this datapath has no devices"}
}

// Rates implements datapath.Datapath: the limits of the endpoints, of which nothing was used.
func (f *Fake) Rates() ([]datapath.Rate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []datapath.Rate
	for id, e := range f.endpoints {
		for direction, limit := range map[datapath.Direction]uint64{datapath.Ingress: e.IngressBandwidth, datapath.Egress: e.EgressBandwidth} {
			if limit > 0 {
				out = append(out, datapath.Rate{Endpoint: id, Direction: direction, BytesPerSecond: limit})
			}
		}
	}
	return out, f.failures["Rates"]
}

// Explain implements datapath.Datapath: it says what SetExplain gives, having no programs to ask.
func (f *Fake) Explain(_ context.Context, t datapath.Trial) (datapath.Explanation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.explain == nil {
		return datapath.Explanation{}, fmt.Errorf("this datapath has no programs")
	}
	return f.explain(t)
}

// SetExplain sets what Explain answers.
func (f *Fake) SetExplain(answer func(datapath.Trial) (datapath.Explanation, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.explain = answer
}

// Programs implements datapath.Datapath: there are none.
func (f *Fake) Programs() ([]datapath.ProgramInfo, error) { return nil, nil }

// Events implements datapath.Datapath: it passes on what Emit and Lose are given until ctx ends.
func (f *Fake) Events(ctx context.Context, handle func(datapath.Event), lost func(uint64)) error {
	f.mu.Lock()
	f.next++
	mine := f.next
	put(&f.handlers, mine, subscriber{handle, lost})
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	delete(f.handlers, mine)
	f.mu.Unlock()
	return nil
}

// MTU implements datapath.Datapath.
func (f *Fake) MTU() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cmp.Or(f.mtu, 1450)
}

// Close implements datapath.Datapath.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}
