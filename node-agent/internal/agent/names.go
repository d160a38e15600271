package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/dns"
	"fairlead.dev/node-agent/internal/l7"
	"fairlead.dev/node-agent/policy"
)

const (
	protocolUDP = 17
	// saveInterval is how much of what was learned a crash may cost; expireRounds of it pass between two looks for what ran out.
	saveInterval = 2 * time.Second
	expireRounds = 5
)

// names keeps policies in step with what DNS says.
type names struct {
	cache *dns.Cache
	path  string
	// mu holds the order in which what the cache says reaches the policies.
	mu       sync.Mutex
	policies interface {
		SetNames(ctx context.Context, addresses map[netip.Addr][]string) error
		Names() []policy.NameRule
	}
}

func (n *names) update(ctx context.Context, change func() map[netip.Addr][]string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if changed := change(); len(changed) > 0 {
		return n.policies.SetNames(ctx, changed)
	}
	return nil
}

// refresh takes in which names policies select peers by now.
func (n *names) refresh(ctx context.Context) error {
	return n.update(ctx, func() map[netip.Addr][]string { return n.cache.SetRules(n.policies.Names()) })
}

// startDNS opens the DNS proxy's listeners and gives their port.
func (a *agent) startDNS(ctx context.Context, s *serving, wanted uint16) (uint16, error) {
	options := a.config.DNSProxy
	n := &names{path: filepath.Join(a.RunDirectory, "state", "names.json"), policies: s.parts.Policies,
		cache: dns.NewCache(dns.Options{MinTTL: time.Duration(options.MinTTL) * time.Second, MaxIPsPerHost: options.MaxIPsPerHost})}
	s.proxies.names = n
	a.note("addresses of names", n.cache.Load(n.path))
	proxy := dns.NewProxy(dns.ProxyOptions{
		Rules: func(q *dns.Query) policy.AnswerL7 {
			who := a.parties(s, connectionOf(q))
			if who.endpoint == 0 {
				return policy.AnswerL7{Denied: true}
			}
			return s.parts.Policies.L7(who.endpoint, policy.Egress, policy.NumericIdentity(who.peer), who.address, protocolOf(q), q.Server.Port())
		},
		Dial: func(ctx context.Context, network string, client netip.Addr, server netip.AddrPort) (net.Conn, error) {
			return datapath.DialProxy(ctx, datapath.Egress, network, client, server)
		},
		Answer: datapath.AnswerProxy,
		Learn: func(ctx context.Context, q *dns.Query, addresses []netip.Addr, ttl time.Duration) {
			who := a.parties(s, connectionOf(q))
			a.note("addresses of "+q.Name, n.update(ctx, func() map[netip.Addr][]string {
				return n.cache.Learn(uint32(who.endpoint), q.Name, addresses, ttl)
			}))
		},
		MaxDelay: options.ResponseMaxDelay(),
		Record:   func(r dns.Record) { s.parts.Flows.Ingest(a.eventOfDNS(s, &r)) },
		Log:      a.log,
	})
	s.proxies.dns = proxy
	var errs []error
	for range 5 {
		listeners, port, err := datapath.ListenProxy(ctx, datapath.Egress, wanted)
		if err != nil {
			return 0, err
		}
		packets, err := datapath.ListenProxyPackets(ctx, port)
		if err != nil {
			// The port is somebody else's for datagrams.
			errs = append(errs, err)
			for _, l := range listeners {
				l.Close()
			}
			wanted = 0
			continue
		}
		for _, l := range listeners {
			go func() { a.ended(ctx, proxy.ServeStreams(ctx, l)) }()
		}
		for _, p := range packets {
			go func() { a.ended(ctx, proxy.ServePackets(ctx, p)) }()
		}
		go n.keep(ctx, a, s)
		return port, nil
	}
	return 0, errors.Join(errs...)
}

func (a *agent) ended(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		a.components.fail("proxies", err, "Restart the agent.")
	}
}

// keep saves what was learned, and forgets what ran out.
func (n *names) keep(ctx context.Context, a *agent, s *serving) {
	defer func() { a.note("saving the addresses of names", n.cache.Save(n.path)) }()
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.note("saving the addresses of names", n.cache.Save(n.path))
		select {
		case <-s.live:
		default:
			// Endpoints of before the restart are not all known yet.
			continue
		}
		if round%expireRounds == 0 {
			a.note("addresses of names", n.update(ctx, func() map[netip.Addr][]string { return n.cache.Expire(s.alive(), s.inUse) }))
		}
	}
}

func (s *serving) alive() func(endpoint uint32) bool {
	there := map[uint32]struct{}{}
	for _, e := range s.parts.Endpoints.List() {
		there[uint32(e.ID)] = struct{}{}
	}
	return func(endpoint uint32) bool { _, ok := there[endpoint]; return ok }
}

// inUse lists the addresses that some connection leads to.
func (s *serving) inUse() map[netip.Addr]struct{} {
	out := map[netip.Addr]struct{}{}
	connections, err := s.parts.Datapath.Conntrack(0)
	if err != nil {
		return out
	}
	for _, c := range connections {
		out[c.Destination.Addr()] = struct{}{}
	}
	return out
}

func connectionOf(q *dns.Query) *l7.Connection {
	return &l7.Connection{Client: q.Client, Server: q.Server, Direction: policy.Egress}
}

func protocolOf(q *dns.Query) uint8 {
	if q.TCP {
		return protocolTCP
	}
	return protocolUDP
}

func (a *agent) eventOfDNS(s *serving, r *dns.Record) datapath.Event {
	who := a.parties(s, connectionOf(&r.Query))
	e := eventL7(r.Client, r.Server, who, datapath.Egress, r.Response)
	e.Time, e.Rule, e.Protocol = r.Time.Add(r.Latency), uint32(r.Rule), protocolOf(&r.Query)
	kind := mdns.TypeToString[r.Type]
	if kind == "" {
		kind = fmt.Sprintf("TYPE%d", r.Type)
	}
	e.L7 = &datapath.L7{Latency: r.Latency, DNS: &datapath.L7DNS{Query: r.Name, Types: []string{kind}, RCode: uint32(r.RCode), IPs: r.IPs,
		CNames: r.CNames, TTL: r.TTL, AnswerKind: r.Answers}}
	switch {
	case r.Denied:
		e.L7.Verdict = datapath.L7Dropped
	case r.Failed:
		e.L7.Verdict = datapath.L7Error
	}
	return e
}
