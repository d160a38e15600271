package datapath_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// asCards makes both ends of virtual cables behave as network cards do: they take frames from XDP, and what they send has
// its checksums.
func (s *space) asCards(t testing.TB, devices ...string) {
	t.Helper()
	must(t, s.in(func() error {
		for _, d := range devices {
			if out, err := exec.Command("ethtool", "-K", d, "gro", "on", "tx", "off").CombinedOutput(); err != nil {
				return fmt.Errorf("ethtool %s: %w: %s", d, err, out)
			}
		}
		return nil
	}))
}

// sentByXDP counts what a device's program sent back or to another device.
func (n *node) sentByXDP(t testing.TB, devices ...string) (sum uint64) {
	t.Helper()
	must(t, n.space.in(func() error {
		for _, d := range devices {
			out, err := exec.Command("ethtool", "-S", d).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ethtool %s: %w: %s", d, err, out)
			}
			for line := range strings.Lines(string(out)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				if strings.HasPrefix(name, "rx_queue_") && (strings.HasSuffix(name, "_xdp_tx") || strings.HasSuffix(name, "_xdp_redirect")) {
					v, err := strconv.ParseUint(value, 10, 64)
					if err != nil {
						return err
					}
					sum += v
				}
			}
		}
		return nil
	}))
	return sum
}

// withXDP has the nodes serve clients at XDP, with a client of both families outside of the first one.
func withXDP(t *testing.T, c *cluster, mode string) *space {
	t.Helper()
	for _, n := range c.nodes {
		n.space.asCards(t, "eth0")
		for _, p := range n.pods {
			p.space.asCards(t, "eth0")
		}
	}
	outside := withOutside6(t, c, func(config *datapath.Config) {
		config.LoadBalancer.Mode, config.LoadBalancer.Acceleration = mode, datapath.AccelerationNative
	})
	outside.asCards(t, "eth0")
	c.nodes[0].space.asCards(t, "eth1")
	// The client was not one that takes frames when the node looked.
	n := c.nodes[0]
	must(t, n.datapath.Close())
	n.open()
	for _, d := range n.datapath.XDP() {
		if !d.Services {
			t.Fatalf("no XDP on %s: %s", d.Device, d.Why)
		}
	}
	must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
	must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.2/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::2/128"), Identity: 6}))
	routeBack(t, c)
	must(t, c.nodes[1].space.in(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("2001:db8:51::/64")), Gw: net.ParseIP("2001:db8:77::1")})
	}))
	return outside
}

// lines answers each line with the client's address and the line, for as long as the connection lasts, of both families;
// datagrams with themselves.
func (s *space) lines(t testing.TB, port int) {
	t.Helper()
	s.echoTCP(t, fmt.Sprintf("[::]:%d", port))
	s.echoUDP(t, fmt.Sprintf("[::]:%d", port))
}

// exchange asks so often and gives the last answer.
func exchange(t testing.TB, conn net.Conn, times int) string {
	t.Helper()
	in := bufio.NewReader(conn)
	var answer string
	for i := range times {
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := fmt.Fprintf(conn, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		var err error
		if answer, err = in.ReadString('\n'); err != nil || !strings.HasSuffix(strings.TrimSpace(answer), fmt.Sprintf("line %d", i)) {
			t.Fatalf("question %d: %q, %v", i, answer, err)
		}
	}
	return answer
}

// xdpCluster is a cluster whose nodes serve at XDP, in a mode of service with native routing or in a tunnel.
func xdpCluster(t *testing.T, mode string) (*cluster, *space) {
	t.Helper()
	if mode == "tunnel" {
		c := newCluster(t, datapath.RoutingTunnel)
		return c, withXDP(t, c, "snat")
	}
	c := newCluster(t, datapath.RoutingNative)
	return c, withXDP(t, c, mode)
}

func TestXDPServesClients(t *testing.T) {
	for _, mode := range []string{"snat", "dsr", "tunnel"} {
		t.Run(mode, func(t *testing.T) {
			c, outside := xdpCluster(t, mode)
			n, server := c.nodes[0], c.nodes[1].pods[0]
			server.space.lines(t, 7000)
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				c.publish(t, echoService(protocol, backend(server, 7000)))
				c.publish(t, echoService6(protocol, backend6(server, 7000)))
			}
			for _, to := range []string{vip + ":80", nodeOutside + ":30080", "[" + vip6 + "]:80", "[" + nodeOutside6 + "]:30080"} {
				// The way back of these answers leads by the node whose address they have, which refuses them as forged.
				if mode == "dsr" && strings.HasPrefix(to, nodeOutside) {
					continue
				}
				for _, protocol := range []string{"tcp", "udp"} {
					t.Run(protocol+" "+to, func(t *testing.T) {
						before := n.sentByXDP(t, "eth0", "eth1")
						conn, err := outside.dial(protocol, to)
						if err != nil {
							t.Fatalf("%v; drops %v and %v", err, drops(t, n), drops(t, c.nodes[1]))
						}
						defer conn.Close()
						const questions = 40
						answer := exchange(t, conn, questions)
						sees := outsideAddress
						if strings.HasPrefix(to, "[") {
							sees = "[" + outsideAddress6
						}
						if protocol == "tcp" && strings.HasPrefix(answer, sees) != (mode == "dsr") {
							t.Errorf("the pod saw %q", answer)
						}
						// Each question there, and without DSR each answer back; one of each may confirm a neighbour.
						want := uint64(questions)
						if mode != "dsr" {
							want *= 2
						}
						if sent := n.sentByXDP(t, "eth0", "eth1") - before; sent < want-4 {
							t.Errorf("XDP sent %d packets, want about %d", sent, want)
						}
					})
				}
			}
		})
	}
}

// A connection goes on whichever hook serves it: opened at tc and taken over by XDP, and the other way, in the middle.
func TestXDPAndTCShareConnections(t *testing.T) {
	for _, mode := range []string{"snat", "dsr", "tunnel"} {
		t.Run(mode, func(t *testing.T) {
			c, outside := xdpCluster(t, mode)
			n, server := c.nodes[0], c.nodes[1].pods[0]
			server.space.lines(t, 7000)
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				c.publish(t, echoService(protocol, backend(server, 7000)))
				c.publish(t, echoService6(protocol, backend6(server, 7000)))
			}
			turn := func(acceleration string) {
				must(t, n.datapath.Close())
				n.config.LoadBalancer.Acceleration = acceleration
				n.open()
			}
			type open struct {
				name string
				conn net.Conn
			}
			var all []open
			dial := func() {
				for _, to := range []string{vip + ":80", "[" + vip6 + "]:80"} {
					for _, protocol := range []string{"tcp", "udp"} {
						conn, err := outside.dial(protocol, to)
						must(t, err)
						t.Cleanup(func() { conn.Close() })
						all = append(all, open{protocol + " " + to, conn})
					}
				}
			}
			dial()
			for i, acceleration := range []string{datapath.AccelerationNative, datapath.AccelerationDisabled, datapath.AccelerationNative, datapath.AccelerationDisabled} {
				turn(acceleration)
				before := n.sentByXDP(t, "eth0", "eth1")
				for _, o := range all {
					exchange(t, o.conn, 5)
				}
				sent := n.sentByXDP(t, "eth0", "eth1") - before
				if (sent > 0) != (acceleration == datapath.AccelerationNative) {
					t.Errorf("turn %d, %s: XDP sent %d packets", i, acceleration, sent)
				}
				dial()
			}
		})
	}
}

// A client on the network of the nodes: question and answer go back out by the device that they came in by, to somebody who
// takes frames and has no program.
func TestXDPServesByOneDevice(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	withXDP(t, c, "snat")
	n, other := c.nodes[0], c.nodes[1]
	must(t, other.datapath.Close())
	other.config.LoadBalancer.Acceleration = datapath.AccelerationDisabled
	other.open()
	server := other.pods[0]
	server.space.lines(t, 7000)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		must(t, n.datapath.UpsertService(ctx, echoService(protocol, backend(server, 7000))))
		must(t, n.datapath.UpsertService(ctx, echoService6(protocol, backend6(server, 7000))))
	}
	must(t, other.space.in(func() error {
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix(vip + "/32")), Gw: addr("192.0.2.1").AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix(vip6 + "/128")), Gw: addr("2001:db8:77::1").AsSlice()}))
	}))
	for _, to := range []string{vip + ":80", "[" + vip6 + "]:80"} {
		for _, protocol := range []string{"tcp", "udp"} {
			before := n.sentByXDP(t, "eth0")
			conn, err := other.space.dial(protocol, to)
			if err != nil {
				t.Errorf("%s %s: %v; drops %v and %v", protocol, to, err, drops(t, n), drops(t, other))
				continue
			}
			exchange(t, conn, 20)
			conn.Close()
			if sent := n.sentByXDP(t, "eth0") - before; sent < 36 {
				t.Errorf("%s %s: XDP sent %d packets, want about 40", protocol, to, sent)
			}
		}
	}
}
