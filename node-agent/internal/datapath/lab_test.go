package datapath_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/datapath/spacetest"
)

// space is a network namespace of the test.
type space struct{ *spacetest.Space }

func newSpace(t testing.TB) *space {
	t.Helper()
	return &space{spacetest.New(t)}
}

func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", s.File.Fd()) }

func (s *space) in(fn func() error) error { return s.In(fn) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node of the test's cluster.
type node struct {
	t        testing.TB
	name     string
	space    *space
	config   datapath.Config
	datapath datapath.Datapath
	pods     []*pod
	next     datapath.EndpointID
	cgroup   string
	options  []datapath.Option
}

type pod struct {
	node     *node
	space    *space
	endpoint datapath.Endpoint
	address  netip.Addr
	address6 netip.Addr
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// cluster is two nodes on one link with two pods each.
type cluster struct {
	nodes [2]*node
}

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces and loads programs into the kernel")
	}
}

func cgroup2Root() string {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

func newCluster(t testing.TB, routing datapath.RoutingMode, opts ...datapath.Option) *cluster {
	t.Helper()
	return newClusterWith(t, routing, func(*datapath.Config) {}, opts...)
}

// newClusterWith changes the nodes' configuration: without it pods and nodes have addresses of both families.
func newClusterWith(t testing.TB, routing datapath.RoutingMode, change func(*datapath.Config), opts ...datapath.Option) *cluster {
	t.Helper()
	requireRoot(t)
	c := &cluster{}
	for i := range c.nodes {
		n := &node{t: t, name: fmt.Sprintf("node%d", i+1), space: newSpace(t), next: 1,
			options: append([]datapath.Option{datapath.WithLogger(slog.New(slog.DiscardHandler))}, opts...)}
		bpffs := t.TempDir()
		if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
			t.Skipf("cannot mount a bpf file system: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
		if root := cgroup2Root(); root != "" {
			n.cgroup = filepath.Join(root, fmt.Sprintf("fairlead-test-%d-%s", os.Getpid(), n.name))
			must(t, os.MkdirAll(n.cgroup, 0o755))
			t.Cleanup(func() { _ = os.Remove(n.cgroup) })
		}
		n.config = datapath.Config{
			NodeName: n.name, NodeAddress: addr(fmt.Sprintf("192.0.2.%d", i+1)),
			NodeAddress6: addr(fmt.Sprintf("2001:db8:77::%d", i+1)), RouterAddress6: addr(fmt.Sprintf("fd00:10:77:%d::1", i+1)),
			RouterAddress: addr(fmt.Sprintf("10.77.%d.1", i+1)),
			PodCIDRs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.77.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:77:%d::/64", i+1)),
			},
			NativeRoutingCIDR6: netip.MustParsePrefix("fd00:10:77::/48"), EndpointRoutes: true,
			NativeRoutingCIDR: netip.MustParsePrefix("10.77.0.0/16"), Routing: routing, AutoDirectNodeRoutes: true,
			Devices: []string{"eth0"}, Masquerade: true, BPFMasquerade: true, KubeProxyReplacement: n.cgroup != "", CgroupRoot: n.cgroup, BPFFS: bpffs,
			ConntrackMax: 8192, MonitorAggregation: true, MonitorAggregationInterval: 5 * time.Second,
		}
		change(&n.config)
		c.nodes[i] = n
	}
	must(t, c.nodes[0].space.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(c.nodes[1].space.File.Fd())})
	}))
	for i, n := range c.nodes {
		must(t, n.space.in(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			// Nobody else has the link-local addresses, without which no neighbour is asked for; a second is long here.
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0o644); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			for _, text := range []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8:77::%d/64", i+1)} {
				a, _ := netlink.ParseAddr(text)
				if err := spacetest.AddAddress(l, a); err != nil {
					return err
				}
			}
			if i == 1 {
				// The world, as seen from the first node.
				lo, _ := netlink.LinkByName("lo")
				for _, text := range []string{world + "/32", world6 + "/128"} {
					w, _ := netlink.ParseAddr(text)
					if err := netlink.AddrAdd(lo, w); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	}
	must(t, c.nodes[0].space.in(func() error {
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(world).To4(), Mask: net.CIDRMask(32, 32)}, Gw: net.ParseIP("192.0.2.2")}),
			netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(world6), Mask: net.CIDRMask(128, 128)}, Gw: net.ParseIP("2001:db8:77::2")}))
	}))
	for _, n := range c.nodes {
		n.open()
		t.Cleanup(func() { _ = n.datapath.Close() })
	}
	ctx := context.Background()
	for i, n := range c.nodes {
		other := c.nodes[1-i]
		must(t, n.datapath.UpsertNode(ctx, datapath.Node{
			Name: other.name, Address: other.config.NodeAddress, Address6: other.config.NodeAddress6, PodCIDRs: other.config.PodCIDRs,
			RouterAddress: other.config.RouterAddress, RouterAddress6: other.config.RouterAddress6,
		}))
		n.addPod(uint32(1000 + 10*i + 1))
		n.addPod(uint32(1000 + 10*i + 2))
	}
	for i, n := range c.nodes {
		for _, p := range n.pods {
			for _, a := range p.endpoint.Addresses {
				e := datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: p.endpoint.Identity}
				must(t, n.datapath.UpsertIP(ctx, e))
				if routing == datapath.RoutingTunnel {
					e.TunnelEndpoint = n.primary()
				}
				must(t, c.nodes[1-i].datapath.UpsertIP(ctx, e))
			}
		}
	}
	return c
}

const world, world6 = "203.0.113.7", "2001:db8:ffff::7"

func (n *node) primary() netip.Addr {
	if n.config.NodeAddress.IsValid() {
		return n.config.NodeAddress
	}
	return n.config.NodeAddress6
}

func (n *node) open() {
	n.t.Helper()
	must(n.t, n.space.in(func() (err error) {
		n.datapath, err = datapath.Open(context.Background(), n.config, n.options...)
		return err
	}))
}

func (n *node) addPod(identity uint32) *pod {
	n.t.Helper()
	p := &pod{node: n, space: newSpace(n.t)}
	params := podlink.Params{MTU: n.datapath.MTU()}
	for _, r := range n.config.PodCIDRs {
		a := addr(fmt.Sprintf("%s%d", strings.TrimSuffix(r.Addr().String(), "0"), 10+n.next))
		router := n.config.RouterAddress
		if a.Is6() {
			p.address6, router = a, n.config.RouterAddress6
		} else {
			p.address = a
		}
		params.Addresses, params.Routers = append(params.Addresses, a), append(params.Routers, router)
	}
	var d podlink.Details
	must(n.t, n.space.in(func() (err error) {
		d, err = podlink.SetupPodInterface(p.space.path(), "eth0", params)
		return err
	}))
	p.endpoint = datapath.Endpoint{
		ID: n.next, Interface: d.Interface, InterfaceIndex: d.InterfaceIndex, Addresses: params.Addresses,
		PodMAC: d.PodMAC, HostMAC: d.HostMAC, Identity: identity, NetnsCookie: d.NetnsCookie,
	}
	n.next++
	must(n.t, n.datapath.UpsertEndpoint(context.Background(), p.endpoint))
	n.pods = append(n.pods, p)
	return p
}

// serve gives each connection to a goroutine of its own, and closes it when that has ended.
func (s *space) serve(t testing.TB, network, at string, answer func(net.Conn)) netip.AddrPort {
	t.Helper()
	var l net.Listener
	must(t, s.in(func() (err error) { l, err = net.Listen(network, at); return err }))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); answer(c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echoTCP answers each line with the client's address and the line.
func (s *space) echoTCP(t testing.TB, at string) netip.AddrPort {
	t.Helper()
	return s.serve(t, "tcp", at, answerLines)
}

func answerLines(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%s %s", c.RemoteAddr(), line); err != nil {
			return
		}
	}
}

// withoutPolicy removes all lines of a pod's policy.
func withoutPolicy(t testing.TB, p *pod) {
	t.Helper()
	clearPolicy(t, p.node, p.endpoint.ID)
}

func clearPolicy(t testing.TB, n *node, endpoint datapath.EndpointID) {
	t.Helper()
	old, err := n.datapath.Policy(endpoint)
	must(t, err)
	var remove []datapath.PolicyKey
	for _, line := range old {
		remove = append(remove, line.PolicyKey)
	}
	must(t, n.datapath.ApplyPolicy(ctx, nil, remove))
}

// echoUDP answers each datagram with itself.
func (s *space) echoUDP(t testing.TB, at string) {
	t.Helper()
	s.answerUDP(t, at, func(datagram []byte, _ net.Addr) []byte { return datagram })
}

// sender tells whoever sends a datagram the address that it came from.
func (s *space) sender(t testing.TB, at string) {
	t.Helper()
	s.answerUDP(t, at, func(_ []byte, from net.Addr) []byte { return fmt.Appendln(nil, from) })
}

// answerUDP answers each datagram with what answer gives.
func (s *space) answerUDP(t testing.TB, at string, answer func(datagram []byte, from net.Addr) []byte) {
	t.Helper()
	var c net.PacketConn
	must(t, s.in(func() (err error) { c, err = net.ListenPacket("udp", at); return err }))
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(answer(b[:n], from), from)
		}
	}()
}

// dial opens a connection from the namespace; two failures of a second each would make tests slow, so one is enough.
func (s *space) dial(network, to string) (c net.Conn, err error) {
	err = s.in(func() error {
		c, err = (&net.Dialer{Timeout: time.Second}).Dial(network, to)
		return err
	})
	return c, err
}

// isAnswered sends something and waits for whatever comes back.
func isAnswered(c net.Conn, wait time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := fmt.Fprintln(c, "x"); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 64))
	return err
}

// ask sends a line and gives the answer.
func ask(c net.Conn, line string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(1500 * time.Millisecond))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	b := make([]byte, 65536)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// try is one dial and one question.
func (s *space) try(network, to string) (string, error) {
	c, err := s.dial(network, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return ask(c, "hello")
}

func (s *space) ping(to string, flags ...string) error {
	return s.in(func() error {
		out, err := exec.Command("ping", append([]string{"-c", "1", "-W", "1"}, append(flags, to)...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// answer tells every datagram who got it.
func (s *space) answer(t testing.TB, at, name string) {
	t.Helper()
	var c net.PacketConn
	must(t, s.in(func() (err error) { c, err = net.ListenPacket("udp", at); return err }))
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name+"\n"), from)
		}
	}()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
