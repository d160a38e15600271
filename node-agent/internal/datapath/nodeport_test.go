package datapath_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

const (
	outsideAddress = "198.51.100.9"
	nodeOutside    = "198.51.100.1"
	vip            = "198.18.0.80"
)

// plugOutside makes the node's second device, and the client's end of it.
func plugOutside(t testing.TB, n *node, outside *space) {
	t.Helper()
	must(t, n.space.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(outside.File.Fd())})
	}))
	address := func(s *space, device, text string) {
		must(t, s.in(func() error {
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		}))
	}
	address(n.space, "eth1", nodeOutside+"/24")
	address(outside, "eth0", outsideAddress+"/24")
	must(t, outside.in(func() error {
		d := netip.MustParsePrefix("0.0.0.0/0")
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(d), Gw: addr(nodeOutside).AsSlice()})
	}))
}

// withOutside gives the first node a second device, with a client of the services at its other end. adjust may change
// the nodes' configurations.
func withOutside(t *testing.T, c *cluster, adjust func(*datapath.Config)) *space {
	t.Helper()
	outside := newSpace(t)
	plugOutside(t, c.nodes[0], outside)
	for i, n := range c.nodes {
		must(t, n.datapath.Close())
		if i == 0 {
			n.config.Devices = append(n.config.Devices, "eth1")
		}
		if adjust != nil {
			adjust(&n.config)
		}
		n.open()
	}
	return outside
}

// service is one port with all kinds of frontends at the first node.
func echoService(protocol uint8, backends ...datapath.Backend) datapath.Service {
	at := func(a string, port uint16, kind datapath.ServiceKind) datapath.Frontend {
		return datapath.Frontend{Address: addr(a), Port: port, Protocol: protocol, Kind: kind}
	}
	return datapath.Service{
		ServiceID: datapath.ServiceID{Namespace: "default", Name: "echo", Protocol: protocol},
		Frontends: []datapath.Frontend{
			at("10.96.0.10", 80, datapath.ServiceClusterIP), at(nodeOutside, 30080, datapath.ServiceNodePort), at("192.0.2.1", 30080, datapath.ServiceNodePort),
			at("0.0.0.0", 30080, datapath.ServiceNodePort), at(vip, 80, datapath.ServiceLoadBalancer), at("198.18.0.81", 80, datapath.ServiceExternalIP),
		},
		Backends: backends,
	}
}

func backend(p *pod, port uint16) datapath.Backend {
	return datapath.Backend{Address: p.address, Port: port, Internal: true, External: true}
}

// backend6 is the same pod by its address of IPv6.
func backend6(p *pod, port uint16) datapath.Backend {
	return datapath.Backend{Address: p.address6, Port: port, Internal: true, External: true}
}

func (c *cluster) publish(t testing.TB, s datapath.Service) {
	t.Helper()
	for _, n := range c.nodes {
		must(t, n.datapath.UpsertService(ctx, s))
	}
}

func TestClientsOutside(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		server := c.nodes[0].pods[0]
		server.space.echoTCP(t, ":7000")
		server.space.echoUDP(t, ":7000")
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService(protocol, backend(server, 7000)))
		}
		for _, to := range []string{nodeOutside + ":30080", "192.0.2.1:30080", vip + ":80", "198.18.0.81:80"} {
			for _, network := range []string{"tcp4", "udp4"} {
				got, err := outside.try(network, to)
				if err != nil {
					t.Errorf("%s to %s: %v; drops %v", network, to, err, drops(t, c.nodes[0]))
				} else if network == "tcp4" && !strings.HasPrefix(got, outsideAddress+":") {
					t.Errorf("the pod saw %q, not the client", got)
				}
			}
		}
		if _, err := outside.try("tcp4", "10.96.0.10:80"); err == nil {
			t.Error("a cluster address was reached from outside")
		}
		// A server with a service's port elsewhere is left alone.
		c.nodes[0].space.echoTCP(t, nodeOutside+":8080")
		if _, err := outside.try("tcp4", nodeOutside+":8080"); err != nil {
			t.Errorf("the node's own server: %v", err)
		}
	})
}

func drops(t testing.TB, n *node) map[uint8]uint64 {
	t.Helper()
	counts, err := n.datapath.Drops()
	must(t, err)
	out := map[uint8]uint64{}
	for _, d := range counts {
		if !d.Forwarded {
			out[d.Reason] += d.Packets
		}
	}
	return out
}

func TestRefusals(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		pod := c.nodes[0].pods[0].space
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService(protocol))
		}
		for name, who := range map[string]struct {
			space *space
			to    []string
		}{
			"outside": {outside, []string{nodeOutside + ":30080", vip + ":80"}},
			"pod":     {pod, []string{"10.96.0.10:80", vip + ":80", "192.0.2.1:30080"}},
		} {
			for _, to := range who.to {
				for _, network := range []string{"tcp4", "udp4"} {
					if _, err := who.space.try(network, to); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s by %s to %s: %v, want a refusal at once", name, network, to, err)
					}
				}
			}
		}
		// Backends, but none for these: they wait in vain.
		s := echoService(unix.IPPROTO_TCP, datapath.Backend{Address: c.nodes[1].pods[0].address, Port: 7000})
		s.DropExternal, s.DropInternal, s.ExternalLocal = true, true, true
		c.publish(t, s)
		before := drops(t, c.nodes[0])[158]
		if _, err := outside.dial("tcp4", vip+":80"); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("policy Local without local endpoint: %v", err)
		}
		if drops(t, c.nodes[0])[158] == before {
			t.Error("the drop was not counted")
		}
	})
}

func TestHairpin(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		server := c.nodes[0].pods[0]
		server.space.echoTCP(t, ":7000")
		server.space.echoUDP(t, ":7000")
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService(protocol, backend(server, 7000)))
		}
		// Policy says nothing about a pod that talks to itself.
		e := server.endpoint
		e.PolicyIngress, e.PolicyEgress = true, true
		must(t, c.nodes[0].datapath.UpsertEndpoint(ctx, e))
		got, err := server.space.try("tcp4", "10.96.0.10:80")
		if err != nil || !strings.HasPrefix(got, "169.254.42.1:") {
			t.Errorf("TCP: %q, %v; drops %v", got, err, drops(t, c.nodes[0]))
		}
		if _, err := server.space.try("udp4", "10.96.0.10:80"); err != nil {
			t.Errorf("UDP: %v", err)
		}
	})
}

func TestAffinityAndRemovedBackends(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	client := n.pods[1].space
	var backends []datapath.Backend
	for _, p := range []*pod{n.pods[0], c.nodes[1].pods[0], c.nodes[1].pods[1]} {
		name := p.address.String()
		p.space.answer(t, ":7000", name)
		backends = append(backends, backend(p, 7000))
	}
	s := echoService(unix.IPPROTO_UDP, backends...)
	s.AffinitySeconds = 60
	c.publish(t, s)
	first, err := client.try("udp4", "10.96.0.10:80")
	must(t, err)
	for i := range 12 {
		if got, err := client.try("udp4", "10.96.0.10:80"); err != nil || got != first {
			t.Fatalf("try %d: %s after %s, %v", i, got, first, err)
		}
	}
	// A datagram socket that goes on is given another backend when its own is gone, and keeps it while it is not.
	conn, err := client.dial("udp4", "10.96.0.10:80")
	must(t, err)
	defer conn.Close()
	if got, err := ask(conn, "x"); err != nil || got != first {
		t.Fatalf("%s, %v", got, err)
	}
	for i := range s.Backends {
		if s.Backends[i].Address.String() == first {
			s.Backends[i] = datapath.Backend{Address: s.Backends[i].Address, Port: 7000, Terminating: true}
		}
	}
	c.publish(t, s)
	if got, err := ask(conn, "x"); err != nil || got != first {
		t.Errorf("a terminating backend lost its client to %s, %v", got, err)
	}
	if got, err := client.try("udp4", "10.96.0.10:80"); err != nil || got == first {
		t.Errorf("a new client went to the terminating backend %s, %v", got, err)
	}
	for i, b := range s.Backends {
		if b.Terminating {
			s.Backends = append(s.Backends[:i:i], s.Backends[i+1:]...)
			break
		}
	}
	c.publish(t, s)
	second, err := ask(conn, "x")
	if err != nil || second == first {
		t.Fatalf("after its backend went: %s, %v", second, err)
	}
	if got, err := client.try("udp4", "10.96.0.10:80"); err != nil || got != second {
		t.Errorf("affinity after the change: %s, not %s, %v", got, second, err)
	}
}

// TestBackendsChangeUnderLoad is many services whose backends come and go while connections through one of them stay.
func TestBackendsChangeUnderLoad(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	stays := c.nodes[1].pods[0]
	stays.space.echoTCP(t, ":7000")
	s := echoService(unix.IPPROTO_TCP, backend(stays, 7000))
	must(t, n.datapath.UpsertService(ctx, s))
	const services, rounds = 200, 4
	filler := func(i, shift int) datapath.Service {
		f := datapath.Service{ServiceID: datapath.ServiceID{Namespace: "load", Name: fmt.Sprint(i), Protocol: unix.IPPROTO_TCP},
			Frontends: []datapath.Frontend{{Address: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), Port: 80, Protocol: unix.IPPROTO_TCP}}}
		for j := range 10 {
			f.Backends = append(f.Backends, datapath.Backend{Address: netip.AddrFrom4([4]byte{10, 78, byte(i), byte(j + shift)}), Port: 80, Internal: true, External: true})
		}
		return f
	}
	type open struct {
		conn interface{ Close() error }
		ask  func() error
	}
	var all []open
	for range 20 {
		conn, err := n.pods[0].space.dial("tcp4", "10.96.0.10:80")
		must(t, err)
		defer conn.Close()
		all = append(all, open{conn, func() error { _, err := ask(conn, "still there"); return err }})
	}
	changes := 0
	for round := range rounds {
		for i := range services {
			must(t, n.datapath.UpsertService(ctx, filler(i, round)))
			changes++
		}
		// The service itself changes too: its backend keeps what it has while another takes what is new, and back.
		s.Backends = []datapath.Backend{{Address: stays.address, Port: 7000, Terminating: true}, backend(c.nodes[1].pods[1], 7000)}
		if round%2 == 1 {
			s.Backends = []datapath.Backend{backend(stays, 7000)}
		}
		must(t, n.datapath.UpsertService(ctx, s))
		for i, o := range all {
			if err := o.ask(); err != nil {
				t.Fatalf("round %d: connection %d was lost: %v", round, i, err)
			}
		}
	}
	must(t, n.datapath.Close())
	n.open()
	for i := range services {
		must(t, n.datapath.UpsertService(ctx, filler(i, rounds)))
	}
	must(t, n.datapath.UpsertService(ctx, s))
	must(t, n.datapath.PruneServices(ctx))
	list, err := n.datapath.Services()
	must(t, err)
	if len(list) != services+1 {
		t.Errorf("%d services after the restart, want %d", len(list), services+1)
	}
	for i, o := range all {
		if err := o.ask(); err != nil {
			t.Errorf("after the restart: connection %d was lost: %v", i, err)
		}
	}
	t.Logf("%d changes of services and a restart, %d connections, none lost", changes, len(all))
}

// routeBack gives the second node a way to the clients of the first.
func routeBack(t testing.TB, c *cluster) {
	t.Helper()
	must(t, c.nodes[1].space.in(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("198.51.100.0/24")), Gw: addr("192.0.2.1").AsSlice()})
	}))
}

// The backend's node answers the client itself, which the backend sees as it is.
func TestDirectServerReturn(t *testing.T) {
	for _, mode := range []string{"dsr", "hybrid"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, datapath.RoutingNative)
			outside := withOutside(t, c, func(config *datapath.Config) { config.LoadBalancer.Mode = mode })
			routeBack(t, c)
			server := c.nodes[1].pods[0]
			server.space.echoTCP(t, ":7000")
			server.space.echoUDP(t, ":7000")
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				c.publish(t, echoService(protocol, backend(server, 7000)))
			}
			got, err := outside.try("tcp4", vip+":80")
			if err != nil || !strings.HasPrefix(got, outsideAddress+":") {
				t.Errorf("TCP: %q, %v; drops %v, %v", got, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
			}
			if mode == "dsr" {
				if _, err := outside.try("udp4", vip+":80"); err != nil {
					t.Errorf("UDP: %v; drops %v, %v", err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
			}
		})
	}
}

// Backends on another node see the node, by which their answers come back.
func TestClientsOutsideToAnotherNode(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		server := c.nodes[1].pods[0]
		server.space.echoTCP(t, ":7000")
		server.space.echoUDP(t, ":7000")
		must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}))
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService(protocol, backend(server, 7000)))
		}
		sees := "192.0.2.1:"
		if c.nodes[0].config.Routing == datapath.RoutingTunnel {
			sees = "10.77.1.1:"
		}
		for _, to := range []string{nodeOutside + ":30080", "192.0.2.1:30080", vip + ":80", "198.18.0.81:80"} {
			for _, network := range []string{"tcp4", "udp4"} {
				got, err := outside.try(network, to)
				if err != nil {
					t.Errorf("%s to %s: %v; drops %v and %v", network, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				} else if network == "tcp4" && !strings.HasPrefix(got, sees) {
					t.Errorf("the pod saw %q, want %s", got, sees)
				}
			}
		}
		// Large answers and questions, and a connection that lasts.
		conn, err := outside.dial("tcp4", vip+":80")
		must(t, err)
		defer conn.Close()
		long := strings.Repeat("x", 30000)
		for range 5 {
			if got, err := askAll(conn, long); err != nil || !strings.HasSuffix(got, long) {
				t.Fatalf("%d bytes came back, %v", len(got), err)
			}
		}
	})
}

// askAll reads the whole line.
func askAll(c net.Conn, line string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(answer), err
}

// What backends answer with an error reaches the client as the service's.
func TestErrorsOfBackends(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}))
		for name, server := range map[string]*pod{"here": c.nodes[0].pods[0], "elsewhere": c.nodes[1].pods[0]} {
			// Nobody listens there.
			c.publish(t, echoService(unix.IPPROTO_UDP, backend(server, 7001)))
			for _, to := range []string{vip + ":80", nodeOutside + ":30080"} {
				if _, err := outside.try("udp4", to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("backend %s by %s: %v; drops %v and %v", name, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
			}
		}
	})
}

// A backend on the node's own network: the stack delivers, to_netdev puts the service's address back.
func TestBackendIsTheNode(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		n := c.nodes[0]
		n.space.echoTCP(t, ":8090")
		c.publish(t, echoService(unix.IPPROTO_TCP, datapath.Backend{Address: addr("192.0.2.1"), Port: 8090, Internal: true, External: true}))
		for _, to := range []string{vip + ":80", nodeOutside + ":30080"} {
			got, err := outside.try("tcp4", to)
			if err != nil || !strings.HasPrefix(got, outsideAddress+":") {
				t.Errorf("%s: %q, %v; drops %v", to, got, err, drops(t, n))
			}
		}
	})
}
