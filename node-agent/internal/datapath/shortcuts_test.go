package datapath

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// conversation is a TCP connection of endpoint 1 to endpoint 2.
type conversation struct {
	*rig
	out, back frame
	// sent is how many packets each side has sent.
	sent uint64
}

func (c *conversation) key(f frame) shortcutKeyLayout {
	return shortcutKeyLayout{toWire(netip.MustParseAddr(f.source)), toWire(netip.MustParseAddr(f.destination)), toPort(f.sourcePort), toPort(f.destPort), c.ifindex}
}

// shortcut of one direction, nil where there is none.
func (c *conversation) shortcut(f frame) *shortcutLayout {
	c.t.Helper()
	var s shortcutLayout
	switch err := c.objects.maps["shortcuts"].Lookup(c.key(f), &s); {
	case err == nil:
		return &s
	case ignoreMissing(err) != nil:
		c.t.Fatal(err)
	}
	return nil
}

// entry is what an endpoint knows of the connection.
func (c *conversation) entry(id uint16, f frame) connectionLayout {
	c.t.Helper()
	var e connectionLayout
	key := connectionKeyLayout{Local: toWire(netip.MustParseAddr(f.source)), Remote: toWire(netip.MustParseAddr(f.destination)),
		LocalPort: toPort(f.sourcePort), RemotePort: toPort(f.destPort), Endpoint: id, Protocol: f.protocol}
	c.must(c.objects.maps["connections"].Lookup(key, &e))
	return e
}

// send has both sides send n packets with these flags, and gives the last frame that came out of each.
func (c *conversation) send(n int, flags uint8) (out, back []byte) {
	c.t.Helper()
	a, b := c.out, c.back
	a.flags, b.flags = flags, flags
	for range n {
		out = c.expect("a packet", "from_pod", a, verdictRedirect)
		back = c.expect("its answer", "from_pod", b, verdictRedirect)
		c.sent++
	}
	return out, back
}

func converse(t *testing.T, v6 bool, config ...func(*Config)) *conversation {
	t.Helper()
	r := newRig(t, RoutingTunnel, config...)
	one, two := "10.77.1.11", "10.77.1.12"
	if v6 {
		one, two = "fd00:10:77:1::11", "fd00:10:77:1::12"
	}
	for id, address := range map[EndpointID]string{1: one, 2: two} {
		r.endpoint(id, address, map[EndpointID][6]byte{1: macA, 2: macB}[id], func(e *Endpoint) { e.HostMAC = [6]byte{2, 0, 0, 0, 1, byte(id)} })
	}
	c := &conversation{rig: r,
		out:  frame{mac: macA, source: one, destination: two, protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80},
		back: frame{mac: macB, source: two, destination: one, protocol: unix.IPPROTO_TCP, sourcePort: 80, destPort: 40000},
	}
	a, b := c.out, c.back
	a.flags, b.flags = syn, syn|ack
	c.expect("opening", "from_pod", a, verdictRedirect)
	c.expect("opened", "from_pod", b, verdictRedirect)
	c.sent = 1
	return c
}

// What goes the short way comes out as what was looked at closely, is counted as it, and is in the connection's entries at
// the end to the last packet.
func TestShortcuts(t *testing.T) {
	for name, v6 := range map[string]bool{"version 4": false, "version 6": true} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, v6)
			closely, closelyBack := c.send(1, ack)
			c.send(13, ack)
			if c.shortcut(c.out) != nil || c.shortcut(c.back) != nil {
				t.Error("a connection of 15 packets has a shortcut, which would not pay")
			}
			c.send(5, ack)
			s := c.shortcut(c.out)
			if s == nil || c.shortcut(c.back) == nil || s.Packets == 0 || s.Ifindex != c.ifindex {
				t.Fatalf("after %d packets the shortcut is %+v: nothing went that way", c.sent, s)
			}
			before := c.counters()[0]
			short, shortBack := c.send(3, ack)
			if !bytes.Equal(short, closely) || !bytes.Equal(shortBack, closelyBack) {
				t.Errorf("by shortcut\n%x\n%x came out, by the close look\n%x\n%x", short, shortBack, closely, closelyBack)
			}
			if got := c.shortcut(c.out).Packets; got != s.Packets+3 {
				t.Errorf("%d packets went the short way, want 3", got-s.Packets)
			}
			// Each left one pod and came to another.
			if got := c.counters()[0] - before; got != 12 {
				t.Errorf("6 packets were counted %d times, want 12", got)
			}
			if e := c.entry(1, c.out); e.Packets[1] >= c.sent {
				t.Error("the entry has all packets already: none was saved the look at it")
			}
			// A listing has them nevertheless.
			listed, err := c.Conntrack(0)
			c.must(err)
			if len(listed) != 2 {
				t.Fatalf("%d entries are listed, want 2", len(listed))
			}
			for _, e := range listed {
				if e.PacketsOut != c.sent || e.PacketsIn != c.sent || e.BytesIn != e.BytesOut {
					t.Errorf("listed are %d packets out, %d in, %d and %d bytes, of %d packets each way", e.PacketsOut, e.PacketsIn, e.BytesOut, e.BytesIn, c.sent)
				}
			}
			// An end is looked at closely, with all that went before.
			c.send(1, fin|ack)
			length := uint64(len(c.out.bytes()))
			for id, f := range map[uint16]frame{1: c.out, 2: c.back} {
				if e := c.entry(id, f); e.Packets != [2]uint64{c.sent, c.sent} || e.Bytes != [2]uint64{c.sent * length, c.sent * length} {
					t.Errorf("endpoint %d's entry has %d packets and %d bytes of %d packets of %d bytes each way", id, e.Packets, e.Bytes, c.sent, length)
				}
			}
			if s := c.shortcut(c.out); s.Until != 0 || s.Packets != 0 {
				t.Errorf("the shortcut of a connection that ended is %+v", s)
			}
		})
	}
}

// A shortcut holds until anything changes, and for a second: a policy that no longer allows a connection cuts it with the next
// packet.
func TestShortcutsEnd(t *testing.T) {
	c := converse(t, false)
	long := func() uint64 {
		t.Helper()
		c.send(40, ack)
		s := c.shortcut(c.out)
		if s == nil || s.Packets == 0 {
			t.Fatalf("the shortcut is %+v: nothing went that way", s)
		}
		return s.Packets
	}
	taken := func() bool {
		t.Helper()
		before := c.shortcut(c.out).Packets
		c.send(1, ack)
		return c.shortcut(c.out).Packets == before+1
	}
	long()
	if !taken() {
		t.Fatal("a packet took the long way: the test proves nothing")
	}
	// Any change at all: here who is behind an address far away.
	c.must(c.UpsertIP(t.Context(), IPEntry{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Identity: 16777217}))
	if taken() {
		t.Error("after a change the next packet took the short way")
	}
	if !taken() {
		t.Error("the one after it did not take the short way again")
	}
	// Time.
	s := c.shortcut(c.out)
	if left := time.Duration(s.Until - monotonic()); left > time.Second || left <= 0 {
		t.Errorf("it holds for another %s", left)
	}
	s.Until = 1
	c.must(c.objects.maps["shortcuts"].Put(c.key(c.out), *s))
	if taken() {
		t.Error("a packet took a short way of which the time was over")
	}
	if !taken() {
		t.Error("the one after it did not take the short way again")
	}
	// A policy: the entry of the sender has all of its packets, the last one not.
	long()
	e := c.endpoints[1]
	e.PolicyEgress = true
	c.endpoints[1] = e
	allow := PolicyKey{Endpoint: 1, Identity: 1002, Direction: Egress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}
	c.must(c.ApplyPolicy(t.Context(), []PolicyEntry{{allow, PolicyValue{Rule: 5}}}, nil))
	long()
	c.must(c.ApplyPolicy(t.Context(), nil, []PolicyKey{allow}))
	f := c.out
	f.flags = ack
	c.expectDrop("revoked", "from_pod", f, 133)
	if got := c.entry(1, c.out).Packets[1]; got != c.sent {
		t.Errorf("its entry has %d packets, want %d", got, c.sent)
	}
	c.must(c.ApplyPolicy(t.Context(), []PolicyEntry{{allow, PolicyValue{Rule: 6}}}, nil))
	long()
}

// Who may not have one: whatever a packet's verdict or entry hangs on besides the connection.
func TestNoShortcuts(t *testing.T) {
	for name, test := range map[string]struct {
		config func(*Config)
		before func(*conversation)
	}{
		"each packet is an event": {func(c *Config) { c.MonitorAggregation = false }, nil},
		"the sender has a limit":  {limited(BandwidthPoliced), func(c *conversation) { c.limit(c.endpoints[1], 0, 1<<40) }},
		"the receiver has one":    {limited(BandwidthPoliced), func(c *conversation) { c.limit(c.endpoints[2], 1<<40, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, false, test.config)
			if test.before != nil {
				test.before(c)
			}
			c.send(40, ack)
			if c.shortcut(c.out) != nil {
				t.Error("it has a shortcut")
			}
		})
	}
}

// A connection to a service has none in either direction: its packets are translated, which a shortcut does not do.
func TestNoShortcutsToServices(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	r.endpoint(2, "10.77.1.12", macB, nil)
	r.must(r.UpsertService(t.Context(), Service{
		ServiceID: ServiceID{Name: "web", Protocol: unix.IPPROTO_TCP},
		Frontends: []Frontend{{Address: netip.MustParseAddr("10.96.0.1"), Port: 443, Protocol: unix.IPPROTO_TCP}},
		Backends:  []Backend{{Address: netip.MustParseAddr("10.77.1.12"), Port: 6443, Internal: true, External: true}},
	}))
	out := frame{mac: macA, source: "10.77.1.11", destination: "10.96.0.1", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 443, flags: syn}
	back := frame{mac: macB, source: "10.77.1.12", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 6443, destPort: 40000, flags: syn | ack}
	for range 40 {
		r.expect("to the service", "from_pod", out, verdictRedirect)
		answer := r.expect("its answer", "from_pod", back, verdictRedirect)
		if from := netip.AddrFrom4([4]byte(answer[26:30])); from.String() != "10.96.0.1" {
			t.Fatalf("an answer came from %s", from)
		}
		out.flags, back.flags = ack, ack
	}
	if n, err := countEntries(r.objects.maps["shortcuts"]); err != nil || n != 0 {
		t.Errorf("%d shortcuts, %v", n, err)
	}
}

// An address of another does not come with its shortcut: neither behind another interface nor with another hardware address.
func TestShortcutsAreTheirSenders(t *testing.T) {
	// The test's thread gets a network namespace with a second interface, and ends with the test.
	runtime.LockOSThread()
	apart, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = apart.Close() })
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other"}, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	other, err := netlink.LinkByName("other")
	if err != nil {
		t.Fatal(err)
	}
	c := converse(t, false)
	c.send(40, ack)
	if c.shortcut(c.out) == nil {
		t.Fatal("there is no shortcut: the test proves nothing")
	}
	f := c.out
	f.flags = ack
	own := c.ifindex
	c.ifindex = uint32(other.Attrs().Index)
	c.expectDrop("from another interface", "from_pod", f, 132)
	c.ifindex = own
	f.mac = macB
	c.expectDrop("with another's hardware address", "from_pod", f, 130)
	c.send(1, ack)
}
