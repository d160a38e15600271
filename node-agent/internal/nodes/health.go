package nodes

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// HealthPort is where agents answer each other's probes.
const HealthPort = 4240

// HealthHandler answers GET /hello.
func HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return mux
}

// Health is how a node answered last.
type Health struct {
	Node      string
	Address   netip.Addr
	Reachable bool
	Latency   time.Duration
	Err       string
}

// Prober asks all other nodes in turn.
type Prober struct {
	mu      sync.RWMutex
	results map[string]Health
	client  http.Client
	soon    chan struct{}
}

// NewProber makes a prober; Run starts it.
func NewProber() *Prober {
	// A connection per probe: that new ones can be made is what is asked.
	return &Prober{results: map[string]Health{}, soon: make(chan struct{}, 1), client: http.Client{Timeout: 2 * time.Second,
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
	clear(p.results)
	for _, r := range results {
		p.results[r.Node] = r
	}
}

func (p *Prober) probe(ctx context.Context, n datapath.Node) Health {
	out := Health{Node: n.Name, Address: n.Primary()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(n.Primary().String(), strconv.Itoa(HealthPort))+"/hello", nil)
	if err != nil {
		out.Err = err.Error()
		return out
	}
	start := time.Now()
	response, err := p.client.Do(request)
	out.Latency = time.Since(start)
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
