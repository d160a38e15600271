package datapath

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// modeRig is a node of tunnel routing that knows no native range, and another node that has left the tunnel.
func modeRig(t *testing.T) (*rig, Node) {
	t.Helper()
	r := newNATRig(t, RoutingTunnel, func(c *Config) { c.NativeRoutingCIDR, c.NativeRoutingCIDR6 = netip.Prefix{}, netip.Prefix{} })
	r.options.log = slog.New(slog.DiscardHandler)
	n := Node{
		Name: "node2", Address: netip.MustParseAddr("192.0.2.2"), Routing: RoutingNative,
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.77.2.0/24"), netip.MustParsePrefix("fd00:77:2::/64")},
	}
	for _, p := range n.PodCIDRs {
		_, err := r.putIP(IPEntry{Prefix: p, Identity: identityWorld, TunnelEndpoint: n.Address}, 0)
		r.must(err)
	}
	r.hear(n)
	return r, n
}

// hear is UpsertNode without the routes, which would be the machine's.
func (r *rig) hear(n Node) {
	r.t.Helper()
	_, err := r.followMode(n)
	r.must(err)
	r.nodes[n.Name] = n
}

// asIs are segments in the middle of connections to pods of that node, as from_pod leaves them to the wire.
var asIs = []flow{
	{source: podA, destination: "10.77.2.5", protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 9000, flags: 0x10},
	{source: podA6, destination: "fd00:77:2::5", protocol: unix.IPPROTO_TCP, sourcePort: 40000, port: 9000, flags: 0x10},
}

func (r *rig) sources(want ...string) func(when string) {
	return func(when string) {
		r.t.Helper()
		for i, f := range asIs {
			if got := r.out(when, f); got.source != want[i] {
				r.t.Errorf("%s: a packet to %s left with the source %s, want %s", when, f.destination, got.source, want[i])
			}
		}
	}
}

// A start for native routing fills the maps that the programs of tunnel routing still read. Were their exemptions taken away before
// they are replaced, what they send as it is would be masqueraded for a moment, and reset by the pod that does not know it.
func TestStartForNativeLeavesTheExemptionsToTheProgramsOfBefore(t *testing.T) {
	r, n := modeRig(t)
	own := r.sources(podA, podA6)
	own("the other node has left the tunnel")
	c := rigConfig(RoutingNative)
	masqueraded(&c)
	next := &kernel{config: c, options: r.options, namespace: r.namespace, objects: r.objects, nodes: map[string]Node{}, endpoints: r.endpoints}
	r.must(next.restoreModes())
	r.must(next.startMasquerading(nil))
	// Without links there are no devices; this test's is loopback's.
	r.behindLoopback()
	own("a start filled the maps, and its programs are not attached")
	r.must(next.writeUnmasqueraded())
	var flags uint32
	for _, p := range n.PodCIDRs {
		if r.objects.maps["unmasqueraded"].Lookup(prefixToKey(p), &flags) == nil {
			t.Errorf("%s is still exempted when the programs of native routing are attached", p)
		}
	}
}

// A node that goes back to the tunnel is reached by it at once. What from_pod left to the wire before may still be on its way to
// the device, or wait for its neighbour: it is not masqueraded either, until the time of grace is over.
func TestWhatWasSentAsItIsStaysUnmasqueraded(t *testing.T) {
	r, n := modeRig(t)
	own := r.sources(podA, podA6)
	n.Routing = RoutingTunnel
	r.hear(n)
	own("the other node has the tunnel again")
	r.must(r.settleModes(time.Now().Add(modeGrace / 2)))
	own("within the time of grace")
	r.must(r.settleModes(time.Now().Add(2 * modeGrace)))
	r.sources(nodeSource, node6)("after the time of grace")
}

// move is UpsertNode of a node that was there with another address or other ranges, without the routes; between looks are taken
// after each of its steps.
func (r *rig) move(n Node, between func(when string)) {
	r.t.Helper()
	before := r.nodes[n.Name]
	r.must(r.removeNode(before))
	_, err := r.followMode(n)
	r.must(err)
	between("its new way is known")
	r.nodes[n.Name] = n
	r.must(r.forgetMode(before))
	between("what it was is forgotten")
	r.must(r.identitiesChanged(true))
}

// Connections are asked again only after a node's change. Were its exemption taken away before, or just then, what is on its way
// would be masqueraded, and reset by the pod that does not know it.
func TestRangesThatGoStayUnmasqueradedForAWhile(t *testing.T) {
	other := []netip.Prefix{netip.MustParsePrefix("10.77.3.0/24"), netip.MustParsePrefix("fd00:77:3::/64")}
	settle := func(r *rig, grace time.Duration) { r.must(r.settleModes(time.Now().Add(grace))) }
	gone := func(r *rig) {
		r.sources(podA, podA6)("just then")
		settle(r, modeGrace/2)
		r.sources(podA, podA6)("within the time of grace")
		settle(r, 2*modeGrace)
		r.sources(nodeSource, node6)("after the time of grace")
	}
	stays := func(r *rig) {
		settle(r, 2*modeGrace)
		r.sources(podA, podA6)("after the time of grace")
	}
	remove := func(r *rig, n Node) {
		r.must(r.removeNode(n))
		delete(r.nodes, n.Name)
		r.must(r.forgetMode(n))
	}
	for name, run := range map[string]func(r *rig, n Node){
		"the node is deleted": func(r *rig, n Node) {
			remove(r, n)
			gone(r)
		},
		"it has other ranges": func(r *rig, n Node) {
			n.PodCIDRs = other
			r.move(n, r.sources(podA, podA6))
			gone(r)
			for _, p := range other {
				if _, exempted := r.modes.ranges[p]; !exempted {
					r.t.Errorf("%s, which the node has now, is masqueraded", p)
				}
			}
		},
		"it has other ranges, and the tunnel again": func(r *rig, n Node) {
			n.PodCIDRs, n.Routing = other, RoutingTunnel
			r.move(n, r.sources(podA, podA6))
			gone(r)
		},
		"it has another address": func(r *rig, n Node) {
			n.Address = netip.MustParseAddr("192.0.2.22")
			r.move(n, r.sources(podA, podA6))
			stays(r)
			old, err := r.plainFlags(toWire4(netip.MustParseAddr("192.0.2.2")))
			r.must(err)
			if now, err := r.plainFlags(toWire4(n.Address)); err != nil || old != 0 || now != plainSend|plainAccept {
				r.t.Errorf("its old address has the flags %d, want none; its new one %d, want both (%v)", old, now, err)
			}
		},
		"its ranges go to another without tunnel": func(r *rig, n Node) {
			remove(r, n)
			n.Name, n.Address = "node3", netip.MustParseAddr("192.0.2.3")
			r.hear(n)
			stays(r)
		},
		"another without tunnel had its ranges before it was deleted": func(r *rig, n Node) {
			next := n
			next.Name, next.Address = "node3", netip.MustParseAddr("192.0.2.3")
			r.hear(next)
			remove(r, n)
			stays(r)
		},
		"its ranges go to another with a tunnel": func(r *rig, n Node) {
			remove(r, n)
			n.Name, n.Address, n.Routing = "node3", netip.MustParseAddr("192.0.2.3"), RoutingTunnel
			r.hear(n)
			gone(r)
		},
		"another with its address and ranges is there when it is deleted": func(r *rig, n Node) {
			next := n
			next.Name = "node3"
			r.hear(next)
			remove(r, n)
			stays(r)
			if flags, err := r.plainFlags(toWire4(n.Address)); err != nil || flags != plainSend|plainAccept {
				r.t.Errorf("its address has the flags %d, want both (%v)", flags, err)
			}
		},
		"the agent starts again within the time of grace": func(r *rig, n Node) {
			remove(r, n)
			r.must(r.restoreModes())
			r.must(r.writeUnmasqueraded())
			gone(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, n := modeRig(t)
			r.sources(podA, podA6)("the other node has left the tunnel")
			run(r, n)
		})
	}
}

// A range that a node without tunnel gets beside those that it has is exempted when it is heard of.
func TestARangeMoreIsUnmasqueraded(t *testing.T) {
	r, n := modeRig(t)
	all := n.PodCIDRs
	n.Name, n.Address, n.PodCIDRs = "node3", netip.MustParseAddr("192.0.2.3"), []netip.Prefix{netip.MustParsePrefix("10.77.3.0/24")}
	r.hear(n)
	n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix("10.77.4.0/24"))
	r.hear(n)
	var flags uint32
	for _, p := range append(n.PodCIDRs, all...) {
		if err := r.objects.maps["unmasqueraded"].Lookup(prefixToKey(p), &flags); err != nil {
			t.Errorf("%s is not exempted: %v", p, err)
		}
	}
}
