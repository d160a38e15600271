package datapath_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/dns"
	"fairlead.dev/node-agent/policy"
)

// nameServer answers every name with the client's address.
func (s *space) nameServer(t testing.TB, at string) {
	t.Helper()
	var conn net.PacketConn
	var l net.Listener
	must(t, s.in(func() (err error) {
		if conn, err = net.ListenPacket("udp4", at); err == nil {
			l, err = net.Listen("tcp4", at)
		}
		return err
	}))
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		host, _, _ := net.SplitHostPort(w.RemoteAddr().String())
		m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 30}, A: net.ParseIP(host)})
		_ = w.WriteMsg(m)
	})
	for _, server := range []*mdns.Server{{PacketConn: conn, Handler: handler}, {Listener: l, Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
}

func (s *space) resolve(network, server, name string) (*mdns.Msg, error) {
	conn, err := s.dial(network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	m := new(mdns.Msg)
	m.SetQuestion(name, mdns.TypeA)
	r, _, err := (&mdns.Client{Net: network, Timeout: 2 * time.Second}).ExchangeWithConn(m, &mdns.Conn{Conn: conn})
	return r, err
}

func startNames(t testing.TB, n *node, rules policy.AnswerL7) (port uint16, stop func()) {
	t.Helper()
	running, cancel := context.WithCancel(context.Background())
	proxy := dns.NewProxy(dns.ProxyOptions{
		Rules: func(*dns.Query) policy.AnswerL7 { return rules },
		Dial: func(ctx context.Context, network string, client netip.Addr, server netip.AddrPort) (c net.Conn, err error) {
			err = n.space.in(func() error {
				c, err = datapath.DialProxy(ctx, datapath.Egress, network, client, server)
				return err
			})
			return c, err
		},
		Answer: func(ctx context.Context, server netip.AddrPort) (c net.PacketConn, err error) {
			err = n.space.in(func() error {
				c, err = datapath.AnswerProxy(ctx, server)
				return err
			})
			return c, err
		},
		Learn:    func(context.Context, *dns.Query, []netip.Addr, time.Duration) {},
		MaxDelay: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	var listeners []net.Listener
	var packets []*datapath.ProxyPackets
	must(t, n.space.in(func() (err error) {
		if listeners, port, err = datapath.ListenProxy(running, datapath.Egress, 0); err == nil {
			packets, err = datapath.ListenProxyPackets(running, port)
		}
		return err
	}))
	var done sync.WaitGroup
	for _, l := range listeners {
		done.Go(func() { _ = proxy.ServeStreams(running, l) })
	}
	for _, p := range packets {
		done.Go(func() { _ = proxy.ServePackets(running, p) })
	}
	stop = func() {
		cancel()
		done.Wait()
	}
	t.Cleanup(stop)
	return port, stop
}

func TestDNSPolicy(t *testing.T) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		t.Run(string(routing), func(t *testing.T) {
			c := newClusterWith(t, routing, func(config *datapath.Config) { config.L7Proxy = true })
			client, near, far := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
			for _, s := range []*space{near.space, far.space, c.nodes[1].space} {
				s.nameServer(t, ":53")
			}
			rule := policy.NameRule{Text: "www.example.org"}
			port, stop := startNames(t, c.nodes[0], policy.AnswerL7{DNS: []policy.AttributedName{{NameRule: rule, Rule: 5}}})
			udp, tcp := proxyLine(client, 0, datapath.Egress, 53, port), proxyLine(client, 0, datapath.Egress, 53, port)
			udp.Protocol = unix.IPPROTO_UDP
			govern(t, client, false, true, udp, tcp)
			servers := map[string]netip.Addr{"same node": near.address, "other node": far.address, "world": addr(world)}
			for name, server := range servers {
				for _, network := range []string{"udp", "tcp"} {
					to := netip.AddrPortFrom(server, 53).String()
					seen := client.address.String()
					if name == "world" {
						seen = c.nodes[0].config.NodeAddress.String()
					}
					for range 3 {
						r, err := client.space.resolve(network, to, "www.example.org.")
						if err != nil || len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != seen {
							t.Errorf("%s by %s: %v, %v", name, network, r, err)
						}
						if r, err := client.space.resolve(network, to, "evil.example.org."); err != nil || r.Rcode != mdns.RcodeRefused {
							t.Errorf("%s by %s, denied: %v, %v", name, network, r, err)
						}
					}
				}
			}
			// Without the proxy datagrams pass as if no rule asked about names, connections wait.
			stop()
			to := netip.AddrPortFrom(far.address, 53).String()
			if r, err := client.space.resolve("udp", to, "any.example.org."); err != nil || r.Rcode != mdns.RcodeSuccess {
				t.Errorf("while the agent is away: %v, %v", r, err)
			}
			if _, err := client.space.resolve("tcp", to, "any.example.org."); err == nil {
				t.Error("a connection passed without its proxy")
			}
		})
	}
}
