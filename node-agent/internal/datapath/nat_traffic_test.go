package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// mirror answers what it gets, byte by byte.
func (s *space) mirror(t testing.TB, at string) {
	t.Helper()
	s.serve(t, "tcp4", at, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// reuse lets a socket have a port that an earlier one has just left.
func reuse(_, _ string, c syscall.RawConn) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, inner)
}

// bound dials with a local port.
func (s *space) bound(local, to string) (c net.Conn, err error) {
	a, err := net.ResolveTCPAddr("tcp4", local)
	if err != nil {
		return nil, err
	}
	err = s.in(func() error {
		c, err = (&net.Dialer{Timeout: time.Second, LocalAddr: a, Control: reuse}).Dial("tcp4", to)
		return err
	})
	return c, err
}

func seen(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	answer, err := ask(c, "who")
	must(t, err)
	a, err := netip.ParseAddrPort(strings.Fields(answer)[0])
	must(t, err)
	return a
}

func TestMasqueradedTraffic(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n, pod := c.nodes[0], c.nodes[0].pods[0]
	c.nodes[1].space.mirror(t, ":7200")
	c.nodes[1].space.echoUDP(t, world+":7200")
	t.Run("a long transfer both ways", func(t *testing.T) {
		conn, err := pod.space.dial("tcp4", world+":7200")
		must(t, err)
		defer conn.Close()
		const size = 8 << 20
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			b := make([]byte, 1<<16)
			for i := range b {
				b[i] = byte(i)
			}
			for range size / len(b) {
				if _, err := conn.Write(b); err != nil {
					return
				}
			}
		}()
		b := make([]byte, size)
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			if b[i] != byte(i) {
				t.Fatalf("byte %d is %d", i, b[i])
			}
		}
	})
	t.Run("datagrams, whole and in fragments", func(t *testing.T) {
		conn, err := pod.space.dial("udp4", world+":7200")
		must(t, err)
		defer conn.Close()
		for _, size := range []int{10, 1400, 8000, 20000} {
			answer, err := ask(conn, strings.Repeat("x", size))
			if err != nil || len(answer) != size {
				t.Errorf("%d bytes: %d came back, %v", size, len(answer), err)
			}
		}
	})
	t.Run("echo, and an error of the other side", func(t *testing.T) {
		if _, err := exec.LookPath("ping"); err == nil {
			must(t, pod.space.ping(world))
			must(t, pod.space.ping(world, "-s", "4000"))
		}
		conn, err := pod.space.dial("udp4", world+":7999")
		must(t, err)
		defer conn.Close()
		if _, err := ask(conn, "nobody listens"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want the refusal of the other side", err)
		}
	})
	t.Run("a way with a smaller MTU", func(t *testing.T) {
		// The other node answers with an error that quotes a masqueraded packet.
		must(t, c.nodes[1].space.in(func() error {
			d := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "narrow", MTU: 1300}, PeerName: "narrow2"}
			if err := netlink.LinkAdd(d); err != nil {
				return err
			}
			for _, name := range []string{"narrow", "narrow2"} {
				l, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if err := errors.Join(netlink.LinkSetMTU(l, 1300), netlink.LinkSetUp(l)); err != nil {
					return err
				}
			}
			_, far, _ := net.ParseCIDR("198.51.100.0/24")
			return netlink.RouteAdd(&netlink.Route{LinkIndex: d.Index, Dst: far, Scope: netlink.SCOPE_LINK})
		}))
		must(t, n.space.in(func() error {
			_, far, _ := net.ParseCIDR("198.51.100.0/24")
			return netlink.RouteAdd(&netlink.Route{Dst: far, Gw: net.ParseIP("192.0.2.2")})
		}))
		conn, err := pod.space.dial("udp4", "198.51.100.9:9")
		must(t, err)
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}))
		deadline := time.Now().Add(3 * time.Second)
		for {
			_, err := conn.Write(make([]byte, 1350))
			if errors.Is(err, syscall.EMSGSIZE) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the pod never learnt that the way is narrow; last error %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	entries, err := n.datapath.NAT(0)
	must(t, err)
	protocols := map[uint8]int{}
	for _, e := range entries {
		if !e.Own && e.Source.Addr() == pod.address && e.Translated.Addr() == n.config.NodeAddress {
			protocols[e.Protocol]++
		}
	}
	if protocols[unix.IPPROTO_TCP] == 0 || protocols[unix.IPPROTO_UDP] == 0 {
		t.Errorf("listed: %+v", entries)
	}
	if m := n.datapath.Masquerading(); m.Mode != "BPF" || m.FirstPort != 32768 || len(m.Sources["eth0"]) == 0 || m.Sources["eth0"][0] != n.config.NodeAddress || m.Err != nil || m.Netfilter.Err != nil {
		t.Errorf("masquerading: %+v", m)
	}
}

func TestMasqueradeAndTheNodesOwnPorts(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.NATFirst = 65534 })
	n, pod := c.nodes[0], c.nodes[0].pods[0]
	c.nodes[1].space.echoTCP(t, ":7100")
	first, err := pod.space.dial("tcp4", world+":7100")
	must(t, err)
	defer first.Close()
	taken := seen(t, first)
	if taken.Port() < 65534 {
		t.Fatalf("the pod's connection came from %s, outside of the range", taken)
	}
	// The node's socket insists on the same port: it keeps it, and the wire sees another.
	own, err := n.space.bound(taken.String(), world+":7100")
	must(t, err)
	defer own.Close()
	if got := seen(t, own); got.Addr() != taken.Addr() || got.Port() == taken.Port() || got.Port() < 65534 {
		t.Errorf("the node's connection was seen as %s, the pod's has %s", got, taken)
	}
	if got := seen(t, first); got != taken {
		t.Errorf("the pod's connection is seen as %s now", got)
	}
	// Both ports are taken.
	if conn, err := pod.space.dial("tcp4", world+":7100"); err == nil {
		conn.Close()
		t.Error("a third connection found a port")
	}
	counts, err := n.datapath.Drops()
	must(t, err)
	exhausted := uint64(0)
	for _, d := range counts {
		if d.Reason == 167 {
			exhausted += d.Packets
		}
	}
	if exhausted == 0 {
		t.Errorf("the exhaustion was not counted: %+v", counts)
	}
	// Below the range nobody interferes.
	low, err := n.space.bound(n.config.NodeAddress.String()+":40001", world+":7100")
	must(t, err)
	defer low.Close()
	if got := seen(t, low); got.Port() != 40001 {
		t.Errorf("port 40001 was seen as %s", got)
	}
}

func TestMasqueradeRulesAreReloaded(t *testing.T) {
	for _, programs := range []bool{true, false} {
		t.Run(fmt.Sprintf("bpf %v", programs), func(t *testing.T) {
			c := newClusterWith(t, datapath.RoutingNative, func(c *datapath.Config) { c.BPFMasquerade = programs })
			n, pod := c.nodes[0], c.nodes[0].pods[0]
			c.nodes[1].space.echoTCP(t, ":7100")
			from := func() netip.AddrPort {
				conn, err := pod.space.dial("tcp4", world+":7100")
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				return seen(t, conn)
			}
			open, err := pod.space.dial("tcp4", world+":7100")
			must(t, err)
			defer open.Close()
			before := seen(t, open)
			if before.Addr() != n.config.NodeAddress {
				t.Fatalf("seen as %s before", before)
			}
			must(t, n.datapath.SetUnmasqueraded(ctx, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.0/25")}))
			if got := from(); got.Addr() != pod.address {
				t.Errorf("with the rule: seen as %s", got)
			}
			if got := seen(t, open); got != before {
				t.Errorf("the open connection is seen as %s, before as %s", got, before)
			}
			// A restarted agent has the rule before anybody tells it.
			must(t, n.datapath.Close())
			n.open()
			if got := from(); got.Addr() != pod.address {
				t.Errorf("after a restart: seen as %s", got)
			}
			must(t, n.datapath.SetUnmasqueraded(ctx, nil))
			if got := from(); got.Addr() != n.config.NodeAddress {
				t.Errorf("without the rule: seen as %s", got)
			}
			// The other node is reached as it is in any case.
			answer, err := pod.space.try("tcp4", c.nodes[1].config.NodeAddress.String()+":7100")
			if err != nil || !strings.HasPrefix(answer, pod.address.String()+":") {
				t.Errorf("another node sees %q, %v", answer, err)
			}
		})
	}
}

func TestMasqueradeChangesHandsUnderTraffic(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.BPFMasquerade = false })
	n, pod := c.nodes[0], c.nodes[0].pods[0]
	c.nodes[1].space.echoTCP(t, ":7100")
	type connection struct {
		net.Conn
		as netip.AddrPort
		by string
	}
	var open []connection
	for i, programs := range []bool{false, true, false, true, true, false} {
		if i > 0 {
			must(t, n.datapath.Close())
			n.config.BPFMasquerade = programs
			n.open()
		}
		for _, o := range open {
			t.Logf("change %d to bpf %v: a connection opened by %s", i, programs, o.by)
			if got := seen(t, o); got != o.as {
				t.Errorf("change %d: a connection opened by %s is seen as %s, before as %s", i, o.by, got, o.as)
			}
		}
		conn, err := pod.space.dial("tcp4", world+":7100")
		must(t, err)
		defer conn.Close()
		o := connection{conn, seen(t, conn), n.datapath.Masquerading().Mode}
		if o.as.Addr() != n.config.NodeAddress {
			t.Errorf("change %d: seen as %s", i, o.as)
		}
		open = append(open, o)
	}
}

func TestFlushedMasqueradeComesBack(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft on this machine to flush the rules with")
	}
	c := newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.BPFMasquerade = false })
	n, pod := c.nodes[0], c.nodes[0].pods[0]
	c.nodes[1].space.echoTCP(t, ":7100")
	must(t, n.space.in(func() error { return exec.Command("nft", "flush", "ruleset").Run() }))
	deadline := time.Now().Add(10 * time.Second)
	for n.datapath.Masquerading().Netfilter.Repairs == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("not repaired: %+v", n.datapath.Masquerading())
		}
		time.Sleep(10 * time.Millisecond)
	}
	answer, err := pod.space.try("tcp4", world+":7100")
	if err != nil || !strings.HasPrefix(answer, n.config.NodeAddress.String()+":") {
		t.Errorf("seen as %q, %v", answer, err)
	}
}

func TestMasqueradeFollowsTheDevicesAddress(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	address := func(add bool) {
		t.Helper()
		must(t, n.space.in(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			a, _ := netlink.ParseAddr("192.0.2.77/32")
			node, _ := netlink.ParseAddr(n.config.NodeAddress.String() + "/24")
			if add {
				return errors.Join(netlink.AddrAdd(l, a), netlink.AddrDel(l, node))
			}
			return errors.Join(netlink.AddrAdd(l, node), netlink.AddrDel(l, a))
		}))
	}
	wait := func(want string) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for {
			if s := n.datapath.Masquerading().Sources["eth0"]; len(s) > 0 && s[0].String() == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("packets get %v, want %s", n.datapath.Masquerading().Sources, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	wait("192.0.2.1")
	address(true)
	wait("192.0.2.77")
	address(false)
	wait("192.0.2.1")
}

// docker and its like drop what is forwarded; with nftables pods' packets pass there.
func TestForeignForwardPolicy(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("no iptables on this machine to forbid forwarding with")
	}
	for _, programs := range []bool{true, false} {
		t.Run(fmt.Sprintf("bpf %v", programs), func(t *testing.T) {
			c := newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.BPFMasquerade = programs })
			n, pod := c.nodes[0], c.nodes[0].pods[0]
			c.nodes[1].space.echoTCP(t, ":7100")
			must(t, n.space.in(func() error { return exec.Command("iptables", "-P", "FORWARD", "DROP").Run() }))
			deadline := time.Now().Add(10 * time.Second)
			for len(n.datapath.Masquerading().Netfilter.Shared) == 0 {
				if time.Now().After(deadline) {
					t.Skipf("iptables of this machine is not the nft one: %+v", n.datapath.Masquerading())
				}
				time.Sleep(10 * time.Millisecond)
			}
			if _, err := pod.space.try("tcp4", world+":7100"); err != nil {
				t.Error(err)
			}
			must(t, n.datapath.Close())
			must(t, n.space.in(func() error { runtime.LockOSThread(); return datapath.Cleanup(context.Background(), n.config.BPFFS) }))
			out, err := exec.Command("true").Output()
			must(t, err)
			must(t, n.space.in(func() error { out, err = exec.Command("nft", "list", "ruleset").Output(); return err }))
			if strings.Contains(strings.ToLower(string(out)), "fairlead") {
				t.Errorf("left after cleanup:\n%s", out)
			}
		})
	}
}

func TestPodsAreNotTracked(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(c *datapath.Config) { c.NoConntrack = true })
	n, pod := c.nodes[0], c.nodes[0].pods[0]
	c.nodes[1].space.echoTCP(t, ":7100")
	n.space.echoTCP(t, ":7101")
	for _, to := range []string{world + ":7100", n.config.NodeAddress.String() + ":7101"} {
		if _, err := pod.space.try("tcp4", to); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	n.tracksNothingOf(t, pod.address)
}

// tracksNothingOf looks for an address in the connections that the node's kernel tracks.
func (n *node) tracksNothingOf(t testing.TB, a netip.Addr) {
	t.Helper()
	var family netlink.InetFamily = unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	must(t, n.space.in(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return err
		}
		for _, f := range flows {
			if f.Forward.SrcIP.Equal(a.AsSlice()) || f.Reverse.SrcIP.Equal(a.AsSlice()) {
				t.Errorf("tracked: %v", f)
			}
		}
		return nil
	}))
}
