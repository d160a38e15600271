package datapath_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/dns"
	"fairlead.dev/node-agent/policy"
)

// nameServer answers every name with the client's address, by both families.
func (s *space) nameServer(t testing.TB, at string) {
	t.Helper()
	var servers []*mdns.Server
	must(t, s.in(func() error {
		for _, family := range []string{"4", "6"} {
			conn, err := net.ListenPacket("udp"+family, at)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp"+family, at)
			if err != nil {
				return err
			}
			servers = append(servers, &mdns.Server{PacketConn: conn}, &mdns.Server{Listener: l})
		}
		return nil
	}))
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		host, _, _ := net.SplitHostPort(w.RemoteAddr().String())
		header := mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 30}
		if ip := net.ParseIP(host); ip.To4() != nil {
			m.Answer = append(m.Answer, &mdns.A{Hdr: header, A: ip})
		} else {
			header.Rrtype = mdns.TypeAAAA
			m.Answer = append(m.Answer, &mdns.AAAA{Hdr: header, AAAA: ip})
		}
		_ = w.WriteMsg(m)
	})
	for _, server := range servers {
		server.Handler = handler
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
	if strings.HasPrefix(server, "[") {
		m.Question[0].Qtype = mdns.TypeAAAA
	}
	r, _, err := (&mdns.Client{Net: network, Timeout: 2 * time.Second}).ExchangeWithConn(m, &mdns.Conn{Conn: conn})
	return r, err
}

func addressOf(r mdns.RR) string {
	switch r := r.(type) {
	case *mdns.A:
		return r.A.String()
	case *mdns.AAAA:
		return r.AAAA.String()
	default:
		return r.String()
	}
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
	for name, test := range map[string]struct {
		routing datapath.RoutingMode
		adjust  func(*datapath.Config)
	}{
		"tunnel": {datapath.RoutingTunnel, func(*datapath.Config) {}}, "native": {datapath.RoutingNative, func(*datapath.Config) {}},
		"without IPv4": {datapath.RoutingTunnel, only6},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClusterWith(t, test.routing, func(config *datapath.Config) { config.L7Proxy = true; test.adjust(config) })
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
			if !near.address.IsValid() {
				clear(servers)
			}
			servers["same node, IPv6"], servers["other node, IPv6"] = near.address6, far.address6
			for name, server := range servers {
				for _, network := range []string{"udp", "tcp"} {
					to := netip.AddrPortFrom(server, 53).String()
					seen := client.at(server.Is6()).String()
					if name == "world" {
						seen = c.nodes[0].config.NodeAddress.String()
					}
					for range 3 {
						r, err := client.space.resolve(network, to, "www.example.org.")
						if err != nil || len(r.Answer) != 1 || addressOf(r.Answer[0]) != seen {
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
			for name, server := range servers {
				to := netip.AddrPortFrom(server, 53).String()
				if r, err := client.space.resolve("udp", to, "any.example.org."); err != nil || r.Rcode != mdns.RcodeSuccess {
					t.Errorf("%s while the agent is away: %v, %v", name, r, err)
				}
				if _, err := client.space.resolve("tcp", to, "any.example.org."); err == nil {
					t.Errorf("%s: a connection passed without its proxy", name)
				}
			}
		})
	}
}
