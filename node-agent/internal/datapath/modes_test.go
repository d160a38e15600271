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
