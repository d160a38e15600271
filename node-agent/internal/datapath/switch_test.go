package datapath_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// tellOf tells the other node of c.nodes[i], as an agent does: the pods' addresses name their node in either mode.
func (c *cluster) tellOf(t testing.TB, i int, routing datapath.RoutingMode) {
	t.Helper()
	n, other := c.nodes[i], c.nodes[1-i]
	for _, p := range n.pods {
		for _, a := range p.endpoint.Addresses {
			must(t, other.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: p.endpoint.Identity, TunnelEndpoint: n.primary()}))
		}
	}
	for _, a := range []netip.Addr{n.config.RouterAddress, n.config.RouterAddress6} {
		must(t, other.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: 6, TunnelEndpoint: n.primary()}))
	}
	for _, p := range n.config.PodCIDRs {
		must(t, other.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: p, Identity: 2, TunnelEndpoint: n.primary()}))
	}
	must(t, other.datapath.UpsertNode(ctx, datapath.Node{
		Name: n.name, Address: n.config.NodeAddress, Address6: n.config.NodeAddress6, PodCIDRs: n.config.PodCIDRs,
		RouterAddress: n.config.RouterAddress, RouterAddress6: n.config.RouterAddress6, Routing: routing,
	}))
}

// stream sends a datagram every 2 ms and counts those that are not answered.
type stream struct {
	conn     net.Conn
	stop     chan struct{}
	wait     sync.WaitGroup
	sent     uint32
	mu       sync.Mutex
	answered map[uint32]bool
}

func (s *space) stream(t testing.TB, to string) *stream {
	t.Helper()
	conn, err := s.dial("udp", to)
	must(t, err)
	out := &stream{conn: conn, stop: make(chan struct{}), answered: map[uint32]bool{}}
	out.wait.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-out.stop:
				return
			case <-tick.C:
			}
			out.sent++
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], out.sent)
			_, _ = conn.Write(b[:])
		}
	})
	out.wait.Go(func() {
		b := make([]byte, 64)
		for {
			n, err := conn.Read(b)
			if n == 4 {
				out.mu.Lock()
				out.answered[binary.BigEndian.Uint32(b)] = true
				out.mu.Unlock()
			}
			select {
			case <-out.stop:
				if err != nil {
					return
				}
			default:
			}
		}
	})
	return out
}

// end gives how many datagrams were sent, how many of them lost, and for how long at a time.
func (s *stream) end() (sent, lost uint32, longest time.Duration) {
	close(s.stop)
	_ = s.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	s.wait.Wait()
	s.conn.Close()
	run := uint32(0)
	for i := range s.sent {
		if s.answered[i+1] {
			run = 0
			continue
		}
		lost++
		run++
		longest = max(longest, time.Duration(run)*2*time.Millisecond)
	}
	return s.sent, lost, longest
}

// Changing the routing mode goes node by node. While one node has the new mode and the other the old, their pods reach each
// other all the same, in either direction and both families, and so do nodes and pods; connections go on.
func TestModeSwitch(t *testing.T) {
	for _, first := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s first, native range known in tunnel mode: %v", first, known), func(t *testing.T) { tryModeSwitch(t, first, known) })
		}
	}
}

func tryModeSwitch(t *testing.T, first datapath.RoutingMode, rangeKnown bool) {
	modes := []datapath.RoutingMode{datapath.RoutingNative, datapath.RoutingTunnel}
	if first == datapath.RoutingNative {
		slices.Reverse(modes)
	}
	c := newClusterWith(t, first, func(config *datapath.Config) {
		if !rangeKnown && first == datapath.RoutingTunnel {
			config.NativeRoutingCIDR, config.NativeRoutingCIDR6 = netip.Prefix{}, netip.Prefix{}
			config.AutoDirectNodeRoutes = false
		}
	})
	for i := range c.nodes {
		c.tellOf(t, i, first)
	}
	pods := [2]*pod{c.nodes[0].pods[0], c.nodes[1].pods[0]}
	for _, p := range append(pods[:], c.nodes[0].pods[1]) {
		p.space.echoTCP(t, ":7000")
		p.space.echoUDP(t, ":7000")
	}
	held, err := pods[0].space.dial("tcp4", pods[1].address.String()+":7000")
	must(t, err)
	defer held.Close()
	reach := func(when string) {
		t.Helper()
		for i, p := range pods {
			for _, to := range []netip.Addr{pods[1-i].address, pods[1-i].address6} {
				at := netip.AddrPortFrom(to, 7000).String()
				if got, err := p.space.try("tcp", at); err != nil || !strings.HasPrefix(got, "["+p.address6.String()+"]") && !strings.HasPrefix(got, p.address.String()+":") {
					t.Errorf("%s: pod of node %d to %s: %q, %v; drops %v and %v", when, i+1, to, got, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
				if _, err := c.nodes[i].space.try("tcp", at); err != nil {
					t.Errorf("%s: node %d to %s: %v; drops %v and %v", when, i+1, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
				}
			}
		}
		if _, err := ask(held, when); err != nil {
			t.Errorf("%s: a connection of before did not go on: %v", when, err)
		}
	}
	reach("before")
	for _, routing := range modes {
		var all []*stream
		for i, p := range pods {
			for _, to := range []netip.Addr{pods[1-i].address, pods[1-i].address6} {
				all = append(all, p.space.stream(t, netip.AddrPortFrom(to, 7000).String()))
			}
		}
		for i, n := range c.nodes {
			if routing == datapath.RoutingNative {
				c.tellOf(t, i, datapath.RoutingToNative)
			}
			must(t, n.datapath.Close())
			n.config.Routing = routing
			if !rangeKnown {
				n.config.AutoDirectNodeRoutes = routing == datapath.RoutingNative
				n.config.NativeRoutingCIDR, n.config.NativeRoutingCIDR6 = netip.Prefix{}, netip.Prefix{}
				if routing == datapath.RoutingNative {
					n.config.NativeRoutingCIDR, n.config.NativeRoutingCIDR6 = prefix("10.77.0.0/16"), prefix("fd00:10:77::/48")
				}
			}
			n.open()
			// The new agent hears of the other node some time after its programs run, and the other node of it after that.
			other := routing
			if i == 0 {
				other = map[datapath.RoutingMode]datapath.RoutingMode{datapath.RoutingNative: datapath.RoutingTunnel, datapath.RoutingTunnel: datapath.RoutingNative}[routing]
			}
			reach(fmt.Sprintf("node %d restarted for %s and knows of nobody", i+1, routing))
			c.tellOf(t, 1-i, other)
			reach(fmt.Sprintf("node %d restarted for %s", i+1, routing))
			c.tellOf(t, i, routing)
			reach(fmt.Sprintf("node %d has %s, and says so", i+1, routing))
			if _, err := n.pods[0].space.try("tcp4", n.pods[1].address.String()+":7000"); err == nil && i == 1 {
				t.Error("nobody listens there")
			} else if err != nil && i == 0 {
				t.Errorf("to a pod of the same node: %v", err)
			}
		}
		for _, s := range all {
			sent, lost, longest := s.end()
			t.Logf("to %s: %d of %d datagrams lost, at most %s without an answer", routing, lost, sent, longest)
			if lost > 0 {
				t.Errorf("to %s: %d of %d datagrams were lost", routing, lost, sent)
			}
		}
	}
}

// A client outside keeps its connection to a backend on another node across a change of the routing mode, and back: its translation
// stays, and answers come back in the form that the backend's node has by then.
func TestModeSwitchKeepsClientsOutside(t *testing.T) {
	for _, first := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			t.Run(fmt.Sprintf("%s first, node %d begins", first, order[0]+1), func(t *testing.T) { tryClientsOfModeSwitch(t, first, order, false) })
		}
		t.Run(fmt.Sprintf("%s first, by XDP", first), func(t *testing.T) { tryClientsOfModeSwitch(t, first, []int{0, 1}, true) })
	}
}

func tryClientsOfModeSwitch(t *testing.T, first datapath.RoutingMode, order []int, xdp bool) {
	other := map[datapath.RoutingMode]datapath.RoutingMode{datapath.RoutingNative: datapath.RoutingTunnel, datapath.RoutingTunnel: datapath.RoutingNative}
	c := newCluster(t, first)
	var outside *space
	if xdp {
		outside = withXDP(t, c, "snat")
	} else {
		outside = withOutside6(t, c, nil)
	}
	for i := range c.nodes {
		c.tellOf(t, i, first)
	}
	server := c.nodes[1].pods[0]
	server.space.lines(t, 7000)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c.publish(t, echoService(protocol, backend(server, 7000)))
		c.publish(t, echoService6(protocol, backend6(server, 7000)))
	}
	services := []string{vip + ":80", "[" + vip6 + "]:80"}
	// held are connections, by what the pod saw of them.
	held := map[net.Conn]string{}
	dial := func() {
		for _, to := range services {
			conn, err := outside.dial("tcp", to)
			must(t, err)
			t.Cleanup(func() { conn.Close() })
			answer := exchange(t, conn, 3)
			held[conn] = answer[:strings.Index(answer, " line")]
		}
	}
	goOn := func(when string) {
		t.Helper()
		for conn, seen := range held {
			answer, err := ask(conn, when)
			if err != nil {
				t.Errorf("%s: the connection that the pod saw from %s did not go on: %v; drops %v and %v", when, seen, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
			} else if !strings.HasPrefix(answer, seen+" ") {
				t.Errorf("%s: %q, and before the pod saw %s", when, answer, seen)
			}
		}
		for _, to := range services {
			if _, err := outside.try("tcp", to); err != nil {
				t.Errorf("%s: a new connection to %s: %v; drops %v and %v", when, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
			}
		}
	}
	// The links' own addresses are still being checked when the cluster has just been made.
	for _, to := range services {
		within(t, "nobody answers at "+to, func() bool { _, err := outside.try("tcp", to); return err == nil })
	}
	dial()
	for _, routing := range []datapath.RoutingMode{other[first], first} {
		var all []*stream
		for _, to := range services {
			all = append(all, outside.stream(t, to))
		}
		for step, i := range order {
			n := c.nodes[i]
			if routing == datapath.RoutingNative {
				c.tellOf(t, i, datapath.RoutingToNative)
			}
			must(t, n.datapath.Close())
			n.config.Routing = routing
			n.open()
			goOn(fmt.Sprintf("node %d restarted for %s and knows of nobody", i+1, routing))
			of := routing
			if step == 0 {
				of = other[routing]
			}
			c.tellOf(t, 1-i, of)
			goOn(fmt.Sprintf("node %d restarted for %s", i+1, routing))
			c.tellOf(t, i, routing)
			goOn(fmt.Sprintf("node %d has %s, and says so", i+1, routing))
		}
		// What is kept for the change itself is over: the translations of before still hold.
		for _, n := range c.nodes {
			must(t, datapath.SettleModes(n.datapath, time.Now().Add(2*time.Minute)))
		}
		goOn(fmt.Sprintf("long after the change to %s", routing))
		for _, s := range all {
			if sent, lost, longest := s.end(); lost > 0 {
				t.Errorf("to %s: %d of %d datagrams of clients were lost, at most %s without an answer", routing, lost, sent, longest)
			} else {
				t.Logf("to %s: none of %d datagrams of clients was lost", routing, sent)
			}
		}
		dial()
	}
}

// What was kept for the change ends: a native node takes nothing out of a tunnel any more once nobody sends by it, and its device
// goes. A packet that claims to be of a pod and comes as it is, is dropped by a node of tunnel routing.
func TestModeSwitchEnds(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	for i := range c.nodes {
		c.tellOf(t, i, datapath.RoutingTunnel)
	}
	device := func(n *node) bool {
		return n.space.in(func() error { _, err := netlink.LinkByName("fairlead_vxlan"); return err }) == nil
	}
	for i, n := range c.nodes {
		must(t, n.datapath.Close())
		n.config.Routing = datapath.RoutingNative
		n.open()
		c.tellOf(t, 1-i, n.config.Routing)
		c.tellOf(t, i, n.config.Routing)
		if !device(n) {
			t.Errorf("%s took its tunnel away while the other node may send by it", n.name)
		}
	}
	for _, n := range c.nodes {
		must(t, datapath.SettleModes(n.datapath, time.Now().Add(30*time.Second)))
		if !device(n) {
			t.Errorf("%s took its tunnel away at once", n.name)
		}
		must(t, datapath.SettleModes(n.datapath, time.Now().Add(2*time.Minute)))
		if device(n) {
			t.Errorf("%s still has a tunnel", n.name)
		}
	}
	client, server := c.nodes[0].pods[0], c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	if _, err := client.space.try("tcp4", server.address.String()+":7000"); err != nil {
		t.Fatalf("after the end: %v", err)
	}
	// The second node to the tunnel, the first is said to be in it.
	n := c.nodes[1]
	must(t, n.datapath.Close())
	n.config.Routing = datapath.RoutingTunnel
	n.open()
	c.tellOf(t, 0, datapath.RoutingTunnel)
	claim := func() error {
		// The first node sends as it is, for it is native.
		_, err := client.space.try("tcp4", server.address.String()+":7000")
		return err
	}
	before := drops(t, n)[132]
	if _ = claim(); drops(t, n)[132] != before {
		t.Errorf("packets of a node that had no tunnel just now were dropped: %v", drops(t, n))
	}
	must(t, datapath.SettleModes(n.datapath, time.Now().Add(2*time.Minute)))
	if err := claim(); err == nil || drops(t, n)[132] == before {
		t.Errorf("a packet of a pod that came as it is was taken: %v, drops %v", err, drops(t, n))
	}
}

// The second node's start for native routing fails after it has written its maps, before its programs are attached: those of before
// go on, and with them the connections to pods of the first node, which has left the tunnel. The next start gets through.
func TestModeSwitchThatStopsHalfway(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) {
		config.NativeRoutingCIDR, config.NativeRoutingCIDR6, config.AutoDirectNodeRoutes = netip.Prefix{}, netip.Prefix{}, false
		config.Masquerade6 = true
	})
	for i := range c.nodes {
		c.tellOf(t, i, datapath.RoutingTunnel)
	}
	client, server := c.nodes[1].pods[0], c.nodes[0].pods[0]
	server.space.echoTCP(t, ":7000")
	held := map[string]net.Conn{}
	for _, a := range []netip.Addr{server.address, server.address6} {
		conn, err := client.space.dial("tcp", netip.AddrPortFrom(a, 7000).String())
		must(t, err)
		defer conn.Close()
		held[a.String()] = conn
	}
	goOn := func(when string) {
		t.Helper()
		for to, conn := range held {
			if _, err := ask(conn, when); err != nil {
				t.Errorf("%s: the connection to %s did not go on: %v", when, to, err)
			}
		}
	}
	native := func(n *node) {
		n.config.Routing, n.config.AutoDirectNodeRoutes = datapath.RoutingNative, true
		n.config.NativeRoutingCIDR, n.config.NativeRoutingCIDR6 = prefix("10.77.0.0/16"), prefix("fd00:10:77::/48")
	}
	goOn("before")
	c.tellOf(t, 0, datapath.RoutingToNative)
	must(t, c.nodes[0].datapath.Close())
	native(c.nodes[0])
	c.nodes[0].open()
	c.tellOf(t, 1, datapath.RoutingTunnel)
	c.tellOf(t, 0, datapath.RoutingNative)
	goOn("the first node is native")

	n := c.nodes[1]
	c.tellOf(t, 1, datapath.RoutingToNative)
	must(t, n.datapath.Close())
	native(n)
	// A directory that is not empty where the first program's link is pinned; the link itself has another name meanwhile.
	pins, err := filepath.Glob(filepath.Join(n.config.BPFFS, "fairlead/links/eth0_*_ingress"))
	must(t, err)
	if len(pins) != 1 {
		t.Skipf("this kernel has no links for programs on devices (%d pins), by which the start is stopped", len(pins))
	}
	aside := filepath.Join(n.config.BPFFS, "aside")
	must(t, os.Rename(pins[0], aside))
	must(t, os.MkdirAll(filepath.Join(pins[0], "full"), 0o700))
	err = n.space.in(func() error {
		d, err := datapath.Open(ctx, n.config, n.options...)
		if err == nil {
			n.datapath = d
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), filepath.Base(pins[0])) {
		t.Fatalf("the start was to fail at %s: %v", pins[0], err)
	}
	goOn("the second node's programs are those of before, its maps of the new start")

	must(t, os.Remove(filepath.Join(pins[0], "full")))
	must(t, os.Remove(pins[0]))
	must(t, os.Rename(aside, pins[0]))
	n.open()
	goOn("the second node is native")
	c.tellOf(t, 0, datapath.RoutingNative)
	c.tellOf(t, 1, datapath.RoutingNative)
	goOn("both know of each other")
}

// A node that says again and again that it has a tunnel, and that it has none: whichever it is, nothing that goes there is dropped
// here for want of a way.
func TestModeSwitchLeavesNoPacketWithoutAWay(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	for i := range c.nodes {
		c.tellOf(t, i, datapath.RoutingTunnel)
	}
	from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
	conn, err := from.space.dial("udp", netip.AddrPortFrom(to.address, 7000).String())
	must(t, err)
	defer conn.Close()
	sending, stop := context.WithCancel(ctx)
	var sent atomic.Uint64
	var done sync.WaitGroup
	done.Go(func() {
		for sending.Err() == nil {
			if _, err := conn.Write([]byte("x")); err == nil {
				sent.Add(1)
			}
		}
	})
	for range 100 {
		for _, routing := range []datapath.RoutingMode{datapath.RoutingNative, datapath.RoutingTunnel} {
			before := sent.Load()
			c.tellOf(t, 1, routing)
			within(t, "nothing is sent", func() bool { return sent.Load() > before })
		}
	}
	stop()
	done.Wait()
	const noTunnelEndpoint = 160
	if n := drops(t, c.nodes[0])[noTunnelEndpoint]; n > 0 {
		t.Errorf("%d of %d packets had no way to the other node", n, sent.Load())
	}
}
