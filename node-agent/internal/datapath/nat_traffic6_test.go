package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/spacetest"
)

// far6 is a network behind the second node, which a way that is too narrow leads to.
const far6 = "2001:db8:fa::/64"

func at6(address string, port int) string { return fmt.Sprintf("[%s]:%d", address, port) }

// masqueraded6 masquerades IPv6 as well, by the programs or by nftables.
func masqueraded6(programs bool) func(*datapath.Config) {
	return func(c *datapath.Config) { c.Masquerade6, c.BPFMasquerade = true, programs }
}

// Pods reach the world by IPv6 with their node's address, whoever masquerades; what comes back reaches them.
func TestMasqueradedTrafficOfVersion6(t *testing.T) {
	for _, programs := range []bool{true, false} {
		for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
			t.Run(fmt.Sprintf("bpf %v, %s", programs, routing), func(t *testing.T) {
				tryMasquerade6(t, newClusterWith(t, routing, masqueraded6(programs)))
			})
		}
	}
}

func tryMasquerade6(t *testing.T, c *cluster) {
	n, other, pod := c.nodes[0], c.nodes[1], c.nodes[0].pods[0]
	other.space.echoTCP(t, "[::]:7100")
	// A server of datagrams answers from the address that it was asked at.
	other.space.echoUDP(t, at6(world6, 7100))
	from := func(to string) string {
		t.Helper()
		answer, err := pod.space.try("tcp6", to)
		if err != nil {
			t.Errorf("to %s: %v; drops %v", to, err, drops(t, n))
		}
		return answer
	}
	own, as := "["+pod.address6.String()+"]:", "["+n.config.NodeAddress6.String()+"]:"
	if got := from(at6(world6, 7100)); !strings.HasPrefix(got, as) {
		t.Errorf("the world saw %q", got)
	}
	toNode := as
	if n.config.Routing == datapath.RoutingNative {
		toNode = own
	}
	if got := from(at6(other.config.NodeAddress6.String(), 7100)); !strings.HasPrefix(got, toNode) {
		t.Errorf("another node saw %q, want %s", got, toNode)
	}
	t.Run("a long line both ways", func(t *testing.T) {
		conn, err := pod.space.dial("tcp6", at6(world6, 7100))
		must(t, err)
		defer conn.Close()
		long := strings.Repeat("x", 200000)
		if got, err := askAll(conn, long); err != nil || !strings.HasSuffix(got, long) {
			t.Errorf("%d octets came back, %v", len(got), err)
		}
	})
	t.Run("datagrams, whole and in fragments", func(t *testing.T) {
		conn, err := pod.space.dial("udp6", at6(world6, 7100))
		must(t, err)
		defer conn.Close()
		for _, size := range []int{10, 1400, 8000, 20000} {
			answer, err := ask(conn, strings.Repeat("x", size))
			if err != nil || len(answer) != size {
				t.Errorf("%d octets: %d came back, %v; drops %v", size, len(answer), err, drops(t, n))
			}
		}
	})
	t.Run("echo, and an error of the other side", func(t *testing.T) {
		if _, err := exec.LookPath("ping"); err == nil {
			must(t, pod.space.ping(world6))
			must(t, pod.space.ping(world6, "-s", "4000"))
		}
		conn, err := pod.space.dial("udp6", at6(world6, 7999))
		must(t, err)
		defer conn.Close()
		if _, err := ask(conn, "nobody listens"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want the refusal of the other side", err)
		}
	})
	t.Run("a way with a smaller MTU", func(t *testing.T) {
		narrowWay(t, c)
		conn, err := pod.space.dial("udp6", at6("2001:db8:fa::9", 9))
		must(t, err)
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
				t.Error(err)
			}
		}))
		within(t, "the pod never learnt that the way is narrow", func() bool {
			_, err := conn.Write(make([]byte, 1350))
			return errors.Is(err, syscall.EMSGSIZE)
		})
	})
	t.Run("rules come and go", func(t *testing.T) {
		open, err := pod.space.dial("tcp6", at6(world6, 7100))
		must(t, err)
		defer open.Close()
		before := seen(t, open)
		must(t, n.datapath.SetUnmasqueraded(ctx, []netip.Prefix{prefix("2001:db8:ffff::/48")}))
		// The world's way back to a pod, which only a rule needs.
		must(t, other.space.in(func() error {
			return netlink.RouteReplace(&netlink.Route{Dst: ipNet(prefix("fd00:10:77:1::/64")), Gw: net.IP(n.config.NodeAddress6.AsSlice())})
		}))
		if n.config.Routing == datapath.RoutingNative {
			if got := from(at6(world6, 7100)); !strings.HasPrefix(got, own) {
				t.Errorf("with a rule the world saw %q", got)
			}
		}
		if got := seen(t, open); got != before {
			t.Errorf("the open connection is seen as %s, before as %s", got, before)
		}
		must(t, n.datapath.SetUnmasqueraded(ctx, nil))
		if got := from(at6(world6, 7100)); !strings.HasPrefix(got, as) {
			t.Errorf("without the rule the world saw %q", got)
		}
	})
}

// narrowWay leads from the first node by the second to far6, whose last link takes 1300 octets.
func narrowWay(t *testing.T, c *cluster) {
	t.Helper()
	must(t, c.nodes[1].space.in(func() error {
		d := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "narrow", MTU: 1300}, PeerName: "narrow2", PeerMTU: 1300}
		if err := netlink.LinkAdd(d); err != nil {
			return err
		}
		for _, name := range []string{"narrow", "narrow2"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: d.Index, Dst: ipNet(prefix(far6)), Scope: netlink.SCOPE_LINK})
	}))
	must(t, c.nodes[0].space.in(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix(far6)), Gw: net.IP(c.nodes[1].config.NodeAddress6.AsSlice())})
	}))
}

// A packet gets the address of the device that it leaves by; one that leaves by a device of others keeps its own.
func TestEachDeviceHasItsAddress(t *testing.T) {
	for _, programs := range []bool{true, false} {
		t.Run(fmt.Sprintf("bpf %v", programs), func(t *testing.T) {
			c := newClusterWith(t, datapath.RoutingNative, masqueraded6(programs))
			outside := withOutside6(t, c, nil)
			n, pod := c.nodes[0], c.nodes[0].pods[0]
			outside.echoTCP(t, "[::]:7100")
			c.nodes[1].space.echoTCP(t, "[::]:7100")
			// The link-local address by which eth1 would ask for its neighbour is still being checked by the kernel.
			n.space.echoTCP(t, "[::]:7101")
			_, err := outside.try("tcp6", at6(nodeOutside6, 7101))
			must(t, err)
			within(t, "the device's addresses are not known", func() bool { return len(n.datapath.Masquerading().Sources["eth1"]) == 2 })
			for to, as := range map[string]string{
				outsideAddress + ":7100": nodeOutside + ":", at6(outsideAddress6, 7100): "[" + nodeOutside6 + "]:",
				world + ":7100": n.config.NodeAddress.String() + ":", at6(world6, 7100): "[" + n.config.NodeAddress6.String() + "]:",
			} {
				if got, err := pod.space.try("tcp", to); err != nil || !strings.HasPrefix(got, as) {
					t.Errorf("to %s: seen as %q, %v; want %s", to, got, err, as)
				}
			}
			// An address that comes to a device, or goes, is followed.
			must(t, n.space.in(func() error {
				l, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				before, _ := netlink.ParseAddr(nodeOutside6 + "/64")
				after, _ := netlink.ParseAddr("2001:db8:51::77/64")
				return errors.Join(spacetest.AddAddress(l, after), netlink.AddrDel(l, before))
			}))
			within(t, "the device's address of IPv6 is not followed", func() bool {
				got, err := pod.space.try("tcp6", at6(outsideAddress6, 7100))
				return err == nil && strings.HasPrefix(got, "[2001:db8:51::77]:")
			})
			must(t, n.datapath.Close())
			n.config.Devices = []string{"eth0"}
			n.open()
			must(t, outside.in(func() error {
				return errors.Join(
					netlink.RouteReplace(&netlink.Route{Dst: ipNet(prefix("10.77.1.0/24")), Gw: addr(nodeOutside).AsSlice()}),
					netlink.RouteReplace(&netlink.Route{Dst: ipNet(prefix("fd00:10:77:1::/64")), Gw: net.ParseIP("2001:db8:51::77")}))
			}))
			for to, as := range map[string]string{outsideAddress + ":7100": pod.address.String() + ":", at6(outsideAddress6, 7100): "[" + pod.address6.String() + "]:"} {
				if got, err := pod.space.try("tcp", to); err != nil || !strings.HasPrefix(got, as) {
					t.Errorf("by a device that is not ours, to %s: seen as %q, %v; want %s", to, got, err, as)
				}
			}
		})
	}
}

// Towards the kernel's connection tracking no packet of a pod exists, whatever its family.
func TestPodsOfVersion6AreNotTracked(t *testing.T) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		t.Run(string(routing), func(t *testing.T) {
			c := newClusterWith(t, routing, func(c *datapath.Config) { c.Masquerade6, c.NoConntrack = true, true })
			n, pod := c.nodes[0], c.nodes[0].pods[0]
			c.nodes[1].space.lines(t, 7100)
			n.space.lines(t, 7101)
			for _, to := range []string{at6(world6, 7100), at6(n.config.NodeAddress6.String(), 7101)} {
				if _, err := pod.space.try("tcp6", to); err != nil {
					t.Errorf("%s: %v", to, err)
				}
			}
			n.tracksNothingOf(t, pod.address6)
		})
	}
}
