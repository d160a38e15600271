package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/dns"
	"fairlead.dev/node-agent/internal/l7"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/internal/statefile"
	"fairlead.dev/node-agent/policy"
)

// proxies look into what policies have rules about.
type proxies struct {
	http  [2]*l7.Proxy
	names *names
	dns   *dns.Proxy
	// started is set when the fields above are.
	started atomic.Bool
}

// counters are for metrics.
func (p *proxies) counters() []api.ProxyCounter {
	if !p.started.Load() {
		return nil
	}
	var http l7.Stats
	for _, proxy := range p.http {
		if proxy != nil {
			one := proxy.Stats()
			http.Requests, http.Denied, http.Failed = http.Requests+one.Requests, http.Denied+one.Denied, http.Failed+one.Failed
		}
	}
	var out []api.ProxyCounter
	add := func(proxy, outcome string, n uint64) {
		out = append(out, api.ProxyCounter{Proxy: proxy, Outcome: outcome, Count: n})
	}
	add("http", "received", http.Requests)
	add("http", "denied", http.Denied)
	add("http", "error", http.Failed)
	if p.dns != nil {
		d := p.dns.Stats()
		add("dns", "received", d.Queries)
		add("dns", "denied", d.Denied)
		add("dns", "error", d.Failed)
		add("dns", "overloaded", d.Dropped)
		add("dns", "late", d.Late)
	}
	return out
}

const protocolTCP = 6

// startProxies opens the listeners and tells the policies where they are. It comes before the first policy is known, so that
// none is taken for invalid and no line leads to a listener that is not there.
func (a *agent) startProxies(ctx context.Context, s *serving) {
	if !*a.config.L7Proxy {
		a.components.set("proxies", api.StateOff, "l7Proxy is off: policies with rules on HTTP, DNS or names are not valid", "")
		return
	}
	path := filepath.Join(a.RunDirectory, "state", "proxies.json")
	var wanted, ports policies.Proxies
	if text, err := os.ReadFile(path); err == nil {
		// With the same ports as before the restart no line has to be written anew.
		_ = json.Unmarshal(text, &wanted)
	}
	var errs []error
	for _, d := range []datapath.Direction{datapath.Ingress, datapath.Egress} {
		listeners, port, err := datapath.ListenProxy(ctx, d, wanted.HTTP[d])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ports.HTTP[d] = port
		s.proxies.http[d] = a.httpProxy(s, d)
		for _, l := range listeners {
			go func() {
				if err := s.proxies.http[d].Serve(ctx, l, policy.Direction(d)); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
					a.components.fail("proxies", err, "Restart the agent.")
				}
			}()
		}
	}
	port, err := a.startDNS(ctx, s, wanted.DNS[datapath.Egress])
	ports.DNS[datapath.Egress] = port
	errs = append(errs, err)
	s.proxies.started.Store(true)
	text, err := json.Marshal(ports)
	if err == nil {
		err = statefile.Write(path, text)
	}
	a.note("ports of the proxies", err)
	changed := make(chan struct{}, 1)
	s.parts.Policies.UseProxies(ports, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	go s.proxies.follow(ctx, a, changed)
	if err := errors.Join(errs...); err != nil {
		a.components.fail("proxies", err, "Give the agent NET_ADMIN. What policies have rules about is closed until then.")
		return
	}
	a.components.ok("proxies", fmt.Sprintf("HTTP on ports %d (ingress) and %d (egress), DNS on %d of the loopback address",
		ports.HTTP[datapath.Ingress], ports.HTTP[datapath.Egress], port))
}

// refresh takes in which names policies select peers by now.
func (p *proxies) refresh(ctx context.Context) error {
	if p.names == nil {
		return nil
	}
	return p.names.refresh(ctx)
}

func (p *proxies) follow(ctx context.Context, a *agent, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		a.note("addresses of names", p.refresh(ctx))
		for _, proxy := range p.http {
			if proxy != nil {
				proxy.Changed()
			}
		}
	}
}

// parties of a connection: the governed endpoint, and who the other side is.
type parties struct {
	endpoint       datapath.EndpointID
	self, peer     uint32
	client, server uint32
	// address is the peer's.
	address netip.Addr
}

func (a *agent) parties(s *serving, c *l7.Connection) parties {
	pod, other := c.Server.Addr(), c.Client.Addr()
	if c.Direction == policy.Egress {
		pod, other = other, pod
	}
	out := parties{address: other}
	if e, ok := s.parts.Cache.Find(pod); ok {
		out.endpoint, out.self = datapath.EndpointID(e.Owner.EndpointID), e.Identity
	}
	out.peer = uint32(policy.WorldIdentity(other))
	if e, ok := s.parts.Cache.Find(other); ok {
		out.peer = e.Identity
	}
	out.client, out.server = out.peer, out.self
	if c.Direction == policy.Egress {
		out.client, out.server = out.self, out.peer
	}
	return out
}

func (a *agent) httpProxy(s *serving, d datapath.Direction) *l7.Proxy {
	return l7.New(l7.Options{
		Rules: func(c *l7.Connection) policy.AnswerL7 {
			who := a.parties(s, c)
			if who.endpoint == 0 {
				return policy.AnswerL7{Denied: true}
			}
			return s.parts.Policies.L7(who.endpoint, c.Direction, policy.NumericIdentity(who.peer), who.address, protocolTCP, c.Server.Port())
		},
		Dial: func(ctx context.Context, c *l7.Connection) (net.Conn, error) {
			return datapath.DialProxy(ctx, d, "tcp", c.Client.Addr(), c.Server)
		},
		Record: func(r l7.Record) { s.parts.Flows.Ingest(a.eventOf(s, &r)) },
		Log:    a.log,
	})
}

// redacted headers are secrets; flows show that they are there.
var redacted = []string{"Authorization", "Cookie", "Set-Cookie", "Proxy-Authorization"}

func (a *agent) eventOf(s *serving, r *l7.Record) datapath.Event {
	who := a.parties(s, &r.Connection)
	verdicts := map[l7.Verdict]datapath.L7Verdict{l7.Dropped: datapath.L7Dropped, l7.Failed: datapath.L7Error}
	for i := 0; i+1 < len(r.Headers); i += 2 {
		if slices.Contains(redacted, r.Headers[i]) {
			r.Headers[i+1] = "HUBBLE_REDACTED"
		}
	}
	e := eventL7(r.Client, r.Server, who, datapath.Direction(r.Direction), r.Response)
	e.Time, e.Rule, e.Protocol = r.Time, uint32(r.Rule), protocolTCP
	e.L7 = &datapath.L7{Verdict: verdicts[r.Verdict], Latency: r.Latency,
		HTTP: &datapath.L7HTTP{Code: uint32(r.Code), Method: r.Method, URL: r.URL, Protocol: r.Protocol, Headers: r.Headers}}
	if r.Response {
		e.Time = e.Time.Add(r.Latency)
	}
	return e
}

// eventL7 is about a connection; a response's source is the server.
func eventL7(client, server netip.AddrPort, who parties, d datapath.Direction, response bool) datapath.Event {
	e := datapath.Event{Type: datapath.EventL7, Direction: d, Reply: response, ReplyKnown: true, Endpoint: who.endpoint,
		Source: client.Addr(), SourcePort: client.Port(), SourceIdentity: who.client,
		Destination: server.Addr(), DestPort: server.Port(), DestIdentity: who.server}
	if response {
		e.Source, e.Destination, e.SourcePort, e.DestPort = e.Destination, e.Source, e.DestPort, e.SourcePort
		e.SourceIdentity, e.DestIdentity = e.DestIdentity, e.SourceIdentity
	}
	return e
}
