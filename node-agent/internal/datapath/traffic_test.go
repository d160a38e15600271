package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

var ctx = context.Background()

func eachRouting(t *testing.T, fn func(*testing.T, *cluster)) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		t.Run(string(routing), func(t *testing.T) { fn(t, newCluster(t, routing)) })
	}
}

func TestTraffic(t *testing.T) {
	eachRouting(t, tryTraffic)
	t.Run("masqueraded by nftables", func(t *testing.T) {
		tryTraffic(t, newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.BPFMasquerade = false }))
	})
	// As on a kernel before 6.6, with clsact filters; restarted once, since filters are replaced in another way.
	t.Run("without-tcx", func(t *testing.T) {
		c := newCluster(t, datapath.RoutingTunnel, datapath.WithProbes(lacking{"tcx"}))
		for _, n := range c.nodes {
			must(t, n.datapath.Close())
			n.open()
		}
		tryTraffic(t, c)
	})
}

func tryTraffic(t *testing.T, c *cluster) {
	a, b, remote := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
	for _, p := range []*pod{a, b, remote} {
		p.space.echoTCP(t, ":7000")
		p.space.echoUDP(t, ":7000")
	}
	for _, n := range c.nodes {
		n.space.echoTCP(t, ":7100")
	}
	n1, n2 := c.nodes[0], c.nodes[1]
	masqueradedToNode := n1.config.NodeAddress
	if n1.config.Routing == datapath.RoutingNative {
		masqueradedToNode = a.address
	}
	for _, test := range []struct {
		name    string
		from    *space
		network string
		to      string
		// seen is the source address that the server sees.
		seen netip.Addr
	}{
		{"pod to pod of the same node", a.space, "tcp4", b.address.String() + ":7000", a.address},
		{"pod to pod of another node", a.space, "tcp4", remote.address.String() + ":7000", a.address},
		{"and back", remote.space, "tcp4", a.address.String() + ":7000", remote.address},
		{"datagram on the same node", a.space, "udp4", b.address.String() + ":7000", netip.Addr{}},
		{"datagram to another node", a.space, "udp4", remote.address.String() + ":7000", netip.Addr{}},
		{"host to own pod", n1.space, "tcp4", a.address.String() + ":7000", n1.config.RouterAddress},
		{"host to another node's pod", n1.space, "tcp4", remote.address.String() + ":7000", netip.Addr{}},
		{"pod to own node", a.space, "tcp4", n1.config.NodeAddress.String() + ":7100", a.address},
		{"pod to own router address", a.space, "tcp4", n1.config.RouterAddress.String() + ":7100", a.address},
		{"pod to another node", a.space, "tcp4", n2.config.NodeAddress.String() + ":7100", masqueradedToNode},
		{"pod to the world", a.space, "tcp4", world + ":7100", n1.config.NodeAddress},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := test.from.try(test.network, test.to)
			if err != nil {
				t.Fatal(err)
			}
			if test.seen.IsValid() && !strings.HasPrefix(answer, test.seen.String()+":") {
				t.Errorf("the server saw %q, want %s", answer, test.seen)
			}
		})
	}
	t.Run("ping", func(t *testing.T) {
		if _, err := exec.LookPath("ping"); err != nil {
			t.Skip("no ping on this machine")
		}
		for _, to := range []netip.Addr{b.address, remote.address, n1.config.RouterAddress, n2.config.NodeAddress} {
			if err := a.space.ping(to.String()); err != nil {
				t.Errorf("%s: %v", to, err)
			}
		}
	})
	t.Run("large transfer and fragments", func(t *testing.T) {
		conn, err := a.space.dial("udp4", remote.address.String()+":7000")
		must(t, err)
		defer conn.Close()
		answer, err := ask(conn, strings.Repeat("x", 8000))
		if err != nil || len(answer) != 8000 {
			t.Errorf("a fragmented datagram: %d bytes, %v", len(answer), err)
		}
	})
}

func line(p *pod, identity uint32, d datapath.Direction, protocol uint8, port uint16, deny bool, rule uint32) datapath.PolicyEntry {
	k := datapath.PolicyKey{Endpoint: p.endpoint.ID, Identity: identity, Direction: d, Protocol: protocol, Port: port}
	if port != 0 {
		k.PortPrefix = 16
	}
	return datapath.PolicyEntry{PolicyKey: k, PolicyValue: datapath.PolicyValue{Deny: deny, Rule: rule}}
}

func TestPolicy(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		near, far, server := c.nodes[0].pods[0], c.nodes[1].pods[0], c.nodes[0].pods[1]
		server.space.echoTCP(t, ":7000")
		d := c.nodes[0].datapath
		e := server.endpoint
		e.PolicyIngress = true
		must(t, d.UpsertEndpoint(ctx, e))
		to := server.address.String() + ":7000"
		for _, p := range []*pod{near, far} {
			if _, err := p.space.try("tcp4", to); err == nil {
				t.Fatalf("default deny let %s in", p.address)
			}
		}
		allowNear := line(server, near.endpoint.Identity, datapath.Ingress, unix.IPPROTO_TCP, 7000, false, 11)
		allowFar := line(server, far.endpoint.Identity, datapath.Ingress, unix.IPPROTO_TCP, 7000, false, 12)
		must(t, d.ApplyPolicy(ctx, []datapath.PolicyEntry{allowNear, allowFar}, nil))
		var held []net.Conn
		for _, p := range []*pod{near, far} {
			conn, err := p.space.dial("tcp4", to)
			if err != nil {
				t.Fatalf("allowed %s cannot connect: %v", p.address, err)
			}
			defer conn.Close()
			// Long enough for a shortcut, where there are any.
			for range 40 {
				if _, err := ask(conn, "one"); err != nil {
					t.Fatalf("allowed %s: %v", p.address, err)
				}
			}
			held = append(held, conn)
		}
		// Revoking cuts connections that exist, and only those.
		must(t, d.ApplyPolicy(ctx, nil, []datapath.PolicyKey{allowFar.PolicyKey}))
		if _, err := ask(held[1], "two"); err == nil {
			t.Error("a revoked connection went on")
		}
		if _, err := ask(held[0], "two"); err != nil {
			t.Errorf("another connection was cut: %v", err)
		}
		// Deny wins over allow for any peer.
		must(t, d.ApplyPolicy(ctx, []datapath.PolicyEntry{line(server, 0, datapath.Ingress, unix.IPPROTO_TCP, 7000, true, 13)}, nil))
		if _, err := near.space.try("tcp4", to); err == nil {
			t.Error("deny did not win")
		}
		if _, err := ask(held[0], "three"); err == nil {
			t.Error("deny did not cut a connection that was open")
		}
	})
}

func TestEgressPolicyAndEvents(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	client, server := c.nodes[0].pods[0], c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	d := c.nodes[0].datapath
	e := client.endpoint
	e.PolicyEgress = true
	must(t, d.UpsertEndpoint(ctx, e))
	events := make(chan datapath.Event, 1000)
	listening, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if err := d.Events(listening, func(e datapath.Event) { events <- e }, func(n uint64) { t.Errorf("%d events lost", n) }); err != nil {
			t.Error(err)
		}
	})
	defer done.Wait()
	defer stop()
	await := func(what string, match func(datapath.Event) bool) datapath.Event {
		t.Helper()
		deadline := time.After(3 * time.Second)
		for {
			select {
			case e := <-events:
				if match(e) {
					return e
				}
			case <-deadline:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	to := server.address.String() + ":7000"
	if _, err := client.space.try("tcp4", to); err == nil {
		t.Fatal("default deny let it out")
	}
	verdict := await("denied verdict", func(e datapath.Event) bool { return e.Type == datapath.EventPolicyVerdict })
	if !verdict.Denied || verdict.Direction != datapath.Egress || verdict.DestIdentity != server.endpoint.Identity || verdict.DestPort != 7000 {
		t.Errorf("verdict %+v", verdict)
	}
	dropped := await("drop", func(e datapath.Event) bool { return e.Type == datapath.EventDrop })
	if dropped.SubType != 133 || dropped.Source != client.address || dropped.Destination != server.address || dropped.TCPFlags != 2 || dropped.Line == 0 {
		t.Errorf("drop %+v", dropped)
	}
	must(t, d.ApplyPolicy(ctx, []datapath.PolicyEntry{line(client, server.endpoint.Identity, datapath.Egress, unix.IPPROTO_TCP, 0, false, 77)}, nil))
	if _, err := client.space.try("tcp4", to); err != nil {
		t.Fatal(err)
	}
	allowed := await("allowed verdict", func(e datapath.Event) bool { return e.Type == datapath.EventPolicyVerdict && !e.Denied })
	if allowed.Rule != 77 || allowed.MatchType != 5 {
		t.Errorf("verdict %+v", allowed)
	}
	trace := await("trace to the overlay", func(e datapath.Event) bool { return e.Type == datapath.EventTrace && e.SubType == 4 })
	if trace.TraceReason != 1 || trace.TunnelVNI != client.endpoint.Identity || trace.TunnelRemote != c.nodes[1].config.NodeAddress || trace.Rule != 77 {
		t.Errorf("trace %+v", trace)
	}
	reply := await("reply", func(e datapath.Event) bool { return e.Type == datapath.EventTrace && e.SubType == 0 && e.Reply })
	if !reply.ReplyKnown || reply.TraceReason != 3 || reply.SourceIdentity != server.endpoint.Identity {
		t.Errorf("reply %+v", reply)
	}
	if since := time.Since(reply.Time); since < 0 || since > time.Minute {
		t.Errorf("time is off by %s", since)
	}
}

func TestSpoofedSource(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	a, b := c.nodes[0].pods[0], c.nodes[0].pods[1]
	b.space.echoUDP(t, ":7000")
	must(t, a.space.in(func() error { return exec.Command("ip", "addr", "add", "10.77.1.99/32", "dev", "eth0").Run() }))
	must(t, a.space.in(func() error {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP("10.77.1.99")}, &net.UDPAddr{IP: b.address.AsSlice(), Port: 7000})
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := ask(conn, "x"); err == nil {
			return errors.New("a packet with another's address came through")
		}
		return nil
	}))
	counts, err := c.nodes[0].datapath.Drops()
	must(t, err)
	for _, d := range counts {
		if d.Reason == 132 && d.Packets > 0 {
			return
		}
	}
	t.Errorf("no drop of reason 132 in %+v", counts)
}

func TestServicePerPacket(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		client := c.nodes[0].pods[0]
		var backends []datapath.Backend
		for _, p := range []*pod{c.nodes[0].pods[1], c.nodes[1].pods[0]} {
			p.space.echoTCP(t, ":7000")
			p.space.echoUDP(t, ":7000")
			backends = append(backends, datapath.Backend{Address: p.address, Port: 7000, Internal: true, External: true})
		}
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			must(t, c.nodes[0].datapath.UpsertService(ctx, datapath.Service{
				ServiceID: datapath.ServiceID{Name: "echo", Protocol: protocol},
				Frontends: []datapath.Frontend{{Address: addr("10.96.0.10"), Port: 80, Protocol: protocol}}, Backends: backends,
			}))
		}
		for i := range 8 {
			for _, network := range []string{"tcp4", "udp4"} {
				if _, err := client.space.try(network, "10.96.0.10:80"); err != nil {
					t.Fatalf("%s, try %d: %v", network, i, err)
				}
			}
		}
		entries, err := c.nodes[0].datapath.Conntrack(0)
		must(t, err)
		translated := 0
		for _, e := range entries {
			if e.TranslatedFrom == netip.MustParseAddrPort("10.96.0.10:80") {
				translated++
			}
		}
		if translated < 2 {
			t.Errorf("%d of %d connections know their service", translated, len(entries))
		}
	})
}

func TestServiceBySocket(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	if n.cgroup == "" {
		t.Skip("no cgroup2 is mounted")
	}
	server := c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	service := datapath.Service{
		ServiceID: datapath.ServiceID{Name: "echo", Protocol: unix.IPPROTO_TCP},
		Frontends: []datapath.Frontend{{Address: addr("10.96.0.11"), Port: 80, Protocol: unix.IPPROTO_TCP}},
		Backends:  []datapath.Backend{{Address: server.address, Port: 7000, Internal: true, External: true}},
	}
	must(t, n.datapath.UpsertService(ctx, service))
	events := make(chan datapath.Event, 100)
	listening, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = n.datapath.Events(listening, func(e datapath.Event) { events <- e }, nil) })
	defer done.Wait()
	defer stop()
	// From the pod and from the host, by a process in the cgroup.
	for name, s := range map[string]*space{"pod": n.pods[0].space, "host": n.space} {
		out, err := n.inCgroup(s, "10.96.0.11:80")
		if err != nil {
			t.Errorf("from the %s: %v: %s", name, err, out)
		}
		if !strings.Contains(out, "peer 10.96.0.11:80") {
			t.Errorf("from the %s, getpeername shows %q", name, out)
		}
	}
	sources := map[netip.Addr]bool{}
	for deadline := time.After(3 * time.Second); len(sources) < 2; {
		select {
		case e := <-events:
			if e.Type == datapath.EventSocket && e.SubType == 1 && e.Destination == service.Frontends[0].Address && e.DestPort == 80 {
				sources[e.Source] = true
			}
		case <-deadline:
			t.Fatalf("events of sockets of %v", sources)
		}
	}
	if !sources[n.pods[0].address] || !sources[n.config.NodeAddress] {
		t.Errorf("events of sockets of %v", sources)
	}
	service.Backends = nil
	must(t, n.datapath.UpsertService(ctx, service))
	out, err := n.inCgroup(n.space, "10.96.0.11:80")
	if err == nil || !strings.Contains(out, "connection refused") {
		t.Errorf("a service without backends: %v: %s", err, out)
	}
}

func TestRestartUnderTraffic(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		underTraffic(t, c, func() {
			for range 3 {
				for _, n := range c.nodes {
					must(t, n.datapath.Close())
					n.open()
					restored, err := n.datapath.Endpoints()
					must(t, err)
					if len(restored) != 2 || restored[0].Interface != n.pods[0].endpoint.Interface {
						t.Errorf("restored %+v", restored)
					}
				}
			}
		})
	})
}

func TestCleanup(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		for _, p := range n.pods {
			must(t, n.datapath.RemoveEndpoint(ctx, p.endpoint.ID))
		}
		must(t, n.datapath.Close())
		for range 2 {
			must(t, n.space.in(func() error { return datapath.Cleanup(ctx, n.config.BPFFS) }))
		}
		must(t, n.space.in(func() error {
			for _, command := range []string{"ip -o link show type vxlan", "ip -o link | grep fairlead_", "ip route show proto 241", "nft list tables | grep fairlead", "ls " + n.config.BPFFS + " | grep fairlead"} {
				if out, _ := exec.Command("sh", "-c", command).Output(); len(out) > 0 {
					t.Errorf("left behind, by %q: %s", command, out)
				}
			}
			return nil
		}))
	})
}

// lacking answers "no" for one feature.
type lacking struct{ name string }

func (l lacking) Probe(name string) error {
	if name == l.name {
		return fmt.Errorf("simulated: %w", errNotSupported)
	}
	return datapath.KernelProbes{}.Probe(name)
}

func TestMissingFeature(t *testing.T) {
	requireRoot(t)
	config := datapath.Config{
		NodeAddress: addr("192.0.2.1"), RouterAddress: addr("10.77.1.1"), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.77.1.0/24")},
		Routing: datapath.RoutingTunnel, Devices: []string{"eth0"}, BPFFS: t.TempDir(),
	}
	_, err := datapath.Open(ctx, config, datapath.WithProbes(lacking{"btf"}))
	var p *datapath.Problem
	if !errors.As(err, &p) || p.Code != "kernel.no-btf" || p.Fix == "" {
		t.Errorf("got %v", err)
	}
}
