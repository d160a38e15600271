package datapath_test

import (
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

// refused sends a datagram and tells what its socket hears of it.
func (s *space) refused(to string) error {
	c, err := s.dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(1500 * time.Millisecond))
	if _, err := c.Write([]byte("is anybody there")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 64))
	return err
}

// What a backend answers a pod with that asked a service, packet by packet, reaches the pod's socket: the error is the
// service's, outside and in what it quotes. The pod that hears it may be the backend itself.
func TestErrorsReachPodsThatAskServices(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		client := c.nodes[0].pods[0]
		for name, server := range map[string]*pod{"the same node": c.nodes[0].pods[1], "another node": c.nodes[1].pods[0], "the client itself": client} {
			for _, v6 := range []bool{false, true} {
				// Nobody listens there.
				service, to := echoService(unix.IPPROTO_UDP, backend(server, 7001)), "10.96.0.10:80"
				if v6 {
					service, to = echoService6(unix.IPPROTO_UDP, datapath.Backend{Address: server.address6, Port: 7001, Internal: true, External: true}), "["+cluster6+"]:80"
				}
				c.publish(t, service)
				if err := client.space.refused(to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a backend on %s, by %s: %v, want a refusal; drops %v and %v", name, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
			}
		}
	})
}

// The other way round: a client that is gone when the answer comes says so to the backend.
func TestErrorsReachBackendsOfPods(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		client := c.nodes[0].pods[0]
		for name, server := range map[string]*pod{"the same node": c.nodes[0].pods[1], "another node": c.nodes[1].pods[0], "the client itself": client} {
			for _, v6 := range []bool{false, true} {
				at, service, to := server.address, echoService(unix.IPPROTO_UDP, backend(server, 7002)), "10.96.0.10:80"
				if v6 {
					at, to = server.address6, "["+cluster6+"]:80"
					service = echoService6(unix.IPPROTO_UDP, datapath.Backend{Address: at, Port: 7002, Internal: true, External: true})
				}
				c.publish(t, service)
				var listener *net.UDPConn
				must(t, server.space.in(func() (err error) {
					listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 7002)))
					return err
				}))
				asking, err := client.space.dial("udp", to)
				must(t, err)
				_, err = fmt.Fprintln(asking, "hello")
				must(t, err)
				_ = listener.SetDeadline(time.Now().Add(1500 * time.Millisecond))
				_, from, err := listener.ReadFromUDPAddrPort(make([]byte, 64))
				if err != nil {
					t.Fatalf("a backend on %s: %v", name, err)
				}
				listener.Close()
				asking.Close()
				// A connected socket hears of errors.
				var answering *net.UDPConn
				must(t, server.space.in(func() (err error) {
					answering, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 7002)), net.UDPAddrFromAddrPort(from))
					return err
				}))
				_, err = answering.Write([]byte("too late"))
				must(t, err)
				_ = answering.SetDeadline(time.Now().Add(1500 * time.Millisecond))
				if _, err = answering.Read(make([]byte, 64)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a backend on %s, by %s: %v, want to hear that nobody is there; drops %v and %v", name, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
				answering.Close()
			}
		}
	})
}

// An error of somebody on the way keeps its sender, and quotes what the pod sent: a way that is too narrow for a segment.
func TestErrorsOnTheWayToABackend(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	client, server := c.nodes[0].pods[0], c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	conns := map[string]net.Conn{}
	for _, family := range sides() {
		c.publish(t, family.service(unix.IPPROTO_TCP, family.backend(server)))
		conn, err := client.space.dial(family.tcp, family.cluster)
		must(t, err)
		defer conn.Close()
		if _, err := ask(conn, "before"); err != nil {
			t.Fatal(err)
		}
		conns[family.name] = conn
	}
	// The wire got narrower than the pods believe it to be.
	for _, n := range c.nodes {
		must(t, n.space.in(func() error { return setMTU("eth0", 1280) }))
	}
	long := strings.Repeat("x", 20000)
	for name, conn := range conns {
		if got, err := askAll(conn, long); err != nil || len(got) < len(long) {
			t.Errorf("%s: %d bytes came back, %v; drops %v and %v", name, len(got), err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
		}
	}
}

func setMTU(device string, mtu int) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}
