package nodes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"fairlead.dev/node-agent/internal/datapath"
)

// HealthPort is where agents answer each other's probes.
const HealthPort = 4240

// probeTimeout is how long an answer is waited for.
const probeTimeout = 2 * time.Second

// HealthHandler answers GET /hello.
func HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return mux
}

// Answer is what one kind of probe got last.
type Answer struct {
	Reachable bool
	Latency   time.Duration
	Err       string
}

// Path is one way to a node: to its own address over the wire, or to its health address the way that pods' packets go.
type Path struct {
	Address    netip.Addr
	HTTP, ICMP Answer
}

// Health is how a node answered last.
type Health struct {
	Node string
	// Host is the node itself, Endpoint its end of the pods' network; without an address it was not asked.
	Host, Endpoint Path
	// Host6 and Endpoint6 are the same of version 6, for nodes that have both families.
	Host6, Endpoint6 Path
	// Seen is when it last answered HTTP at its own address; zero: never.
	Seen time.Time
}

// Prober asks all other nodes in turn.
type Prober struct {
	mu      sync.RWMutex
	results map[string]Health
	client  http.Client
	port    int
	ping    func(ctx context.Context, to netip.Addr) (time.Duration, error)
	soon    chan struct{}
}

// NewProber makes a prober; Run starts it.
func NewProber() *Prober {
	// A connection per probe: that new ones can be made is what is asked.
	return &Prober{results: map[string]Health{}, soon: make(chan struct{}, 1), port: HealthPort, ping: ping, client: http.Client{Timeout: probeTimeout,
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}}
}

// Soon has the next round begin now: a node came or went.
func (p *Prober) Soon() {
	select {
	case p.soon <- struct{}{}:
	default:
	}
}

// Run probes every interval until ctx ends.
func (p *Prober) Run(ctx context.Context, interval time.Duration, others func() []datapath.Node) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		p.round(ctx, others())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.soon:
		}
	}
}

func (p *Prober) round(ctx context.Context, nodes []datapath.Node) {
	var wait sync.WaitGroup
	results := make([]Health, len(nodes))
	slots := make(chan struct{}, 16)
	for i, n := range nodes {
		slots <- struct{}{}
		wait.Go(func() { results[i] = p.probe(ctx, n); <-slots })
	}
	wait.Wait()
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.results
	p.results = make(map[string]Health, len(results))
	for _, r := range results {
		if r.Seen.IsZero() {
			r.Seen = before[r.Node].Seen
		}
		p.results[r.Node] = r
	}
}

func (p *Prober) probe(ctx context.Context, n datapath.Node) Health {
	out := Health{Node: n.Name, Host: Path{Address: n.Address}, Endpoint: Path{Address: firstOf(n.HealthAddress, n.RouterAddress)},
		Host6: Path{Address: n.Address6}, Endpoint6: Path{Address: firstOf(n.HealthAddress6, n.RouterAddress6)}}
	// With one family alone its paths are the node's.
	if !out.Host.Address.IsValid() {
		out.Host, out.Host6 = out.Host6, Path{}
	}
	if !out.Endpoint.Address.IsValid() {
		out.Endpoint, out.Endpoint6 = out.Endpoint6, Path{}
	}
	var wait sync.WaitGroup
	for _, path := range []*Path{&out.Host, &out.Endpoint, &out.Host6, &out.Endpoint6} {
		if !path.Address.IsValid() {
			continue
		}
		wait.Go(func() { path.HTTP = p.hello(ctx, path.Address) })
		wait.Go(func() { path.ICMP = p.echo(ctx, path.Address) })
	}
	wait.Wait()
	if out.Host.HTTP.Reachable {
		out.Seen = time.Now()
	}
	return out
}

// firstOf gives where a node says that it answers; else its router's address, since agents of before did not say.
func firstOf(said, router netip.Addr) netip.Addr {
	if said.IsValid() {
		return said
	}
	return router
}

// Paths lists the ways that were asked, by a name for each.
func (h Health) Paths() map[string]Path {
	out := map[string]Path{"host": h.Host, "endpoint": h.Endpoint, "host6": h.Host6, "endpoint6": h.Endpoint6}
	maps.DeleteFunc(out, func(_ string, p Path) bool { return !p.Address.IsValid() })
	return out
}

func (p *Prober) echo(ctx context.Context, to netip.Addr) Answer {
	latency, err := p.ping(ctx, to)
	if err != nil {
		return Answer{Err: err.Error()}
	}
	return Answer{Reachable: true, Latency: latency}
}

func (p *Prober) hello(ctx context.Context, to netip.Addr) Answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(to.String(), strconv.Itoa(p.port))+"/hello", nil)
	if err != nil {
		return Answer{Err: err.Error()}
	}
	start := time.Now()
	response, err := p.client.Do(request)
	out := Answer{Latency: time.Since(start)}
	if err != nil {
		out.Err = err.Error()
		return out
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		out.Err = fmt.Sprintf("answered %s", response.Status)
		return out
	}
	out.Reachable = true
	return out
}

// ping sends one echo request and waits for its answer.
func ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	network, listen, protocol := "ip4:icmp", "0.0.0.0", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, listen, protocol = "ip6:ipv6-icmp", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	c, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return 0, fmt.Errorf("opening a socket for ICMP: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	id := rand.IntN(1 << 16)
	message := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("fairlead")}}
	raw, err := message.Marshal(nil)
	if err != nil {
		return 0, fmt.Errorf("making an echo request: %w", err)
	}
	start := time.Now()
	if err := c.SetDeadline(start.Add(probeTimeout)); err != nil {
		return 0, fmt.Errorf("limiting the wait: %w", err)
	}
	if _, err := c.WriteTo(raw, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, fmt.Errorf("sending an echo request: %w", err)
	}
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, fmt.Errorf("no echo within %s", probeTimeout)
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the echo: %w", err)
		}
		// A raw socket sees everybody's.
		m, err := icmp.ParseMessage(protocol, b[:n])
		if err != nil || m.Type != reply || from.String() != to.String() {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id {
			return time.Since(start), nil
		}
	}
}

// Results lists the last answers, sorted by node.
func (p *Prober) Results() []Health {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]Health, 0, len(p.results))
	for _, r := range p.results {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Health) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
