package datapath_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/l7"
	"fairlead.dev/node-agent/policy"
)

// proxied is a node with proxies for both directions; their ports by direction.
type proxied struct {
	node  *node
	ports [2]uint16
	mu    sync.Mutex
	seen  []l7.Record
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func startProxies(t testing.TB, n *node, wanted [2]uint16) *proxied {
	t.Helper()
	p := &proxied{node: n}
	answer := policy.AnswerL7{HTTP: []policy.AttributedHTTP{{HTTPRule: policy.HTTPRule{Method: regexp.MustCompile("^GET$")}}}}
	running, stop := context.WithCancel(context.Background())
	p.stop = stop
	for _, d := range []datapath.Direction{datapath.Ingress, datapath.Egress} {
		proxy := l7.New(l7.Options{
			Rules: func(*l7.Connection) policy.AnswerL7 { return answer },
			Dial: func(ctx context.Context, c *l7.Connection) (conn net.Conn, err error) {
				err = n.space.in(func() error {
					conn, err = datapath.DialProxy(ctx, d, "tcp", c.Client.Addr(), c.Server)
					return err
				})
				return conn, err
			},
			Record: func(r l7.Record) {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.seen = append(p.seen, r)
			},
			Log: slog.New(slog.DiscardHandler),
		})
		var listeners []net.Listener
		must(t, n.space.in(func() (err error) {
			listeners, p.ports[d], err = datapath.ListenProxy(running, d, wanted[d])
			return err
		}))
		for _, l := range listeners {
			p.done.Go(func() { _ = proxy.Serve(running, l, policy.Direction(d)) })
		}
	}
	t.Cleanup(p.close)
	return p
}

func (p *proxied) close() {
	p.stop()
	p.done.Wait()
}

func (p *proxied) records() []l7.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.seen
	p.seen = nil
	return out
}

// web answers with the client's address.
func (s *space) web(t testing.TB, at string) {
	t.Helper()
	var l net.Listener
	must(t, s.in(func() (err error) { l, err = net.Listen("tcp", at); return err }))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.RemoteAddr)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
}

func (s *space) client(t testing.TB) *http.Client { return s.clientWithin(t, 4*time.Second) }

// clientWithin gives up connecting after limit. Four seconds are for a starved machine: what is asked is where a connection
// goes. No first packet is lost on these ways; should one be, its being sent again after a second is told.
func (s *space) clientWithin(t testing.TB, limit time.Duration) *http.Client {
	dial := func(_ context.Context, network, to string) (c net.Conn, err error) {
		err = s.in(func() error {
			c, err = (&net.Dialer{Timeout: limit}).Dial(network, to)
			return err
		})
		if err == nil {
			if n := sentAgain(c); n > 0 {
				t.Logf("connecting to %s, %d packets had to be sent again", to, n)
			}
		}
		return c, err
	}
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit + 2*time.Second}
}

// sentAgain counts the packets of a connection that were sent more than once.
func sentAgain(c net.Conn) (count uint32) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			count = info.Total_retrans
		}
	})
	return count
}

func request(c *http.Client, method, to string) (int, string, error) {
	r, err := http.NewRequest(method, "http://"+to+"/", strings.NewReader(strings.Repeat("x", 3000)))
	if err != nil {
		return 0, "", err
	}
	response, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func proxyLine(p *pod, identity uint32, d datapath.Direction, port, proxy uint16) datapath.PolicyEntry {
	e := line(p, identity, d, unix.IPPROTO_TCP, port, false, 90)
	e.ProxyPort = proxy
	return e
}

func withProxies(t *testing.T, routing datapath.RoutingMode) (*cluster, [2]*proxied) {
	c := newClusterWith(t, routing, func(config *datapath.Config) { config.L7Proxy = true })
	var out [2]*proxied
	for i, n := range c.nodes {
		out[i] = startProxies(t, n, [2]uint16{})
	}
	return c, out
}

func govern(t testing.TB, p *pod, ingress, egress bool, lines ...datapath.PolicyEntry) {
	t.Helper()
	must(t, p.node.datapath.ApplyPolicy(ctx, lines, nil))
	e := p.endpoint
	e.PolicyIngress, e.PolicyEgress = ingress, egress
	must(t, p.node.datapath.UpsertEndpoint(ctx, e))
}

// The rule that proxies need is there from the first line that names one on, also for an agent that finds such lines, and
// not before: it costs all pods' packets.
func TestProxiesRuleComesWithTheFirstLine(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(config *datapath.Config) { config.L7Proxy = true })
	n := c.nodes[0]
	rules := func() (out []string) {
		must(t, n.space.in(func() error {
			all, err := netlink.RuleList(netlink.FAMILY_ALL)
			for _, r := range all {
				if r.Mark == 0x200 {
					out = append(out, r.String())
				}
			}
			return err
		}))
		return out
	}
	must(t, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{line(n.pods[0], 5000, datapath.Ingress, unix.IPPROTO_TCP, 80, false, 90)}, nil))
	if found := rules(); len(found) != 0 {
		t.Fatalf("no line names a proxy, and there are %v", found)
	}
	must(t, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{proxyLine(n.pods[0], 5000, datapath.Ingress, 8000, 4000)}, nil))
	if found := rules(); len(found) != 2 {
		t.Fatalf("one rule for each family is needed, there are %v", found)
	}
	must(t, n.datapath.Close())
	must(t, n.space.in(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range all {
				if r.Mark == 0x200 {
					r.Family = family
					if err := netlink.RuleDel(&r); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	if found := rules(); len(found) != 0 {
		t.Fatalf("the rules were deleted, and there are %v", found)
	}
	n.open()
	if found := rules(); len(found) != 2 {
		t.Fatalf("lines that name a proxy were found, and the rules are %v", found)
	}
}

func TestHTTPPolicy(t *testing.T) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		for _, v6 := range []bool{false, true} {
			name := string(routing)
			if v6 {
				name += "-IPv6"
			}
			t.Run(name, func(t *testing.T) { tryHTTPPolicy(t, routing, v6) })
		}
	}
}

func (p *pod) at(v6 bool) netip.Addr {
	if v6 {
		return p.address6
	}
	return p.address
}

func tryHTTPPolicy(t *testing.T, routing datapath.RoutingMode, v6 bool) {
	c, proxies := withProxies(t, routing)
	a, b, remote, other := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0], c.nodes[1].pods[1]
	for _, s := range []*space{a.space, b.space, remote.space, other.space, c.nodes[0].space, c.nodes[1].space} {
		s.web(t, ":8000")
	}
	must(t, c.nodes[0].datapath.UpsertService(ctx, datapath.Service{
		ServiceID: datapath.ServiceID{Name: "web", Protocol: unix.IPPROTO_TCP},
		Frontends: []datapath.Frontend{{Address: addr("10.96.0.10"), Port: 80, Protocol: unix.IPPROTO_TCP}},
		Backends:  []datapath.Backend{{Address: b.address, Port: 8000, Internal: true, External: true}},
	}))
	try := func(name string, from *pod, to string, seen netip.Addr, through ...*proxied) {
		t.Run(name, func(t *testing.T) {
			for _, p := range proxies {
				p.records()
			}
			client := from.space.client(t)
			for i := range 3 {
				code, text, err := request(client, "GET", to)
				if err != nil || code != 200 || !strings.HasPrefix(text, strings.TrimSuffix(netip.AddrPortFrom(seen, 0).String(), "0")) {
					t.Fatalf("request %d: %d, the server saw %q, %v", i, code, text, err)
				}
				if code, text, err := request(client, "PUT", to); err != nil || code != 403 || text != "Access denied\r\n" {
					t.Fatalf("denied request %d: %d %q %v", i, code, text, err)
				}
			}
			for _, p := range through {
				records := p.records()
				if len(records) < 6 {
					t.Errorf("the proxy of %s saw %d requests and responses", p.node.name, len(records))
					continue
				}
				if r := records[0]; r.Client.Addr() != from.at(v6) {
					t.Errorf("the proxy of %s was called by %s", p.node.name, r.Client)
				}
			}
		})
	}
	n1, n2 := proxies[0], proxies[1]
	govern(t, b, true, false, proxyLine(b, a.endpoint.Identity, datapath.Ingress, 8000, n1.ports[datapath.Ingress]),
		proxyLine(b, remote.endpoint.Identity, datapath.Ingress, 8000, n1.ports[datapath.Ingress]))
	at := func(address netip.Addr) string { return netip.AddrPortFrom(address, 8000).String() }
	try("ingress, same node", a, at(b.at(v6)), a.at(v6), n1)
	try("ingress, from another node", remote, at(b.at(v6)), remote.at(v6), n1)
	if !v6 {
		try("ingress, by a service", a, "10.96.0.10:80", a.address, n1)
	}
	if _, _, err := request(other.space.clientWithin(t, time.Second), "GET", at(b.at(v6))); err == nil {
		t.Error("a peer that no line names got in")
	}
	govern(t, remote, false, true, proxyLine(remote, 0, datapath.Egress, 8000, n2.ports[datapath.Egress]))
	try("egress, same node", remote, at(other.at(v6)), remote.at(v6), n2)
	try("egress, to another node", remote, at(a.at(v6)), remote.at(v6), n2)
	if v6 {
		try("egress, to the own node", remote, at(c.nodes[1].config.NodeAddress6), remote.address6, n2)
	} else {
		try("egress, to the own node", remote, at(c.nodes[1].config.NodeAddress), remote.address, n2)
	}
	try("egress and ingress on two nodes", remote, at(b.at(v6)), remote.at(v6), n2, n1)
	govern(t, a, false, true, proxyLine(a, 0, datapath.Egress, 8000, n1.ports[datapath.Egress]))
	try("egress and ingress on one node", a, at(b.at(v6)), a.at(v6), n1)
	if !v6 {
		try("egress, by a service", a, "10.96.0.10:80", a.address, n1)
		try("egress, to the world", a, world+":8000", c.nodes[0].config.NodeAddress, n1)
	}
}

func TestProxiesLeaveNothingBehind(t *testing.T) {
	c, proxies := withProxies(t, datapath.RoutingNative)
	n := c.nodes[0]
	must(t, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{proxyLine(n.pods[0], 0, datapath.Ingress, 8000, proxies[0].ports[datapath.Ingress])}, nil))
	listed := func(command string) string {
		var out string
		must(t, n.space.in(func() error {
			raw, err := exec.Command("sh", "-c", command).CombinedOutput()
			out = string(raw)
			return err
		}))
		return out
	}
	const rules, routes = "ip rule show; ip -6 rule show", "ip route show table all; ip -6 route show table all"
	if !strings.Contains(listed(rules), "fwmark 0x200/0xf00 lookup 2004") || !strings.Contains(listed(routes), "table 2004") {
		t.Fatalf("the rules are not there: %s", listed(rules))
	}
	for _, p := range n.pods {
		must(t, n.datapath.RemoveEndpoint(ctx, p.endpoint.ID))
	}
	must(t, n.datapath.Close())
	must(t, n.space.in(func() error { return datapath.Cleanup(ctx, n.config.BPFFS) }))
	if strings.Contains(listed(rules), "2004") || strings.Contains(listed(routes), "2004") || strings.Contains(listed("nft list tables || true"), "fairlead") {
		t.Errorf("left behind: %s%s", listed(rules), listed(routes))
	}
}

func TestRestartKeepsProxiedConnections(t *testing.T) {
	c, proxies := withProxies(t, datapath.RoutingTunnel)
	a, b := c.nodes[0].pods[0], c.nodes[0].pods[1]
	b.space.web(t, ":8000")
	govern(t, b, true, false, proxyLine(b, a.endpoint.Identity, datapath.Ingress, 8000, proxies[0].ports[datapath.Ingress]))
	to := netip.AddrPortFrom(b.address, 8000).String()
	client := a.space.client(t)
	if code, _, err := request(client, "GET", to); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	// The datapath restarts, the proxy lives: no connection notices.
	for range 2 {
		must(t, c.nodes[0].datapath.Close())
		c.nodes[0].open()
		if code, _, err := request(client, "GET", to); err != nil || code != 200 {
			t.Fatal(code, err)
		}
	}
	// The proxy restarts on the ports of before: new connections find it, and wait while it is away.
	ports := proxies[0].ports
	proxies[0].close()
	late := make(chan error, 1)
	go func() {
		code, _, err := request(a.space.client(t), "GET", to)
		if err == nil && code != 200 {
			err = fmt.Errorf("answered %d", code)
		}
		late <- err
	}()
	again := startProxies(t, c.nodes[0], ports)
	if again.ports != ports {
		t.Errorf("ports %v, before %v", again.ports, ports)
	}
	if code, _, err := request(a.space.client(t), "GET", to); err != nil || code != 200 {
		t.Errorf("after the proxy's restart: %d, %v", code, err)
	}
	if err := <-late; err != nil && !strings.Contains(err.Error(), "i/o timeout") {
		t.Errorf("while the proxy was away: %v", err)
	}
}
