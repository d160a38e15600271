package datapath_test

import (
	"context"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"fairlead.dev/node-agent/internal/datapath"
)

// onWire is what the kernel says of a device's XDP: the program's id, or 0; in the driver or not.
func (n *node) onWire(t testing.TB, device string) (id uint32, driver bool) {
	t.Helper()
	must(t, n.space.in(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
			id, driver = xdp.ProgId, xdp.AttachMode == 1
		}
		return nil
	}))
	return id, driver
}

// linkID is the number of the link that is pinned for a device's XDP; 0 where there is none.
func (n *node) linkID(t testing.TB) link.ID {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.config.BPFFS, "fairlead", "links", "*_xdp"))
	must(t, err)
	if len(pins) == 0 {
		return 0
	}
	l, err := link.LoadPinnedLink(pins[0], nil)
	must(t, err)
	defer l.Close()
	info, err := l.Info()
	must(t, err)
	return info.ID
}

func (n *node) reopen(t testing.TB, change func(*datapath.Config)) datapath.XDPDevice {
	t.Helper()
	must(t, n.datapath.Close())
	change(&n.config)
	n.open()
	devices := n.datapath.XDP()
	if len(devices) != 1 || devices[0].Device != "eth0" {
		t.Fatalf("devices %+v", devices)
	}
	return devices[0]
}

func acceleration(mode string) func(*datapath.Config) {
	return func(c *datapath.Config) { c.LoadBalancer.Acceleration = mode }
}

// Each device takes part or says why not; the link outlives the agent, and goes when it is not wanted any more.
func TestXDPIsChosenPerDevice(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	expect := func(d datapath.XDPDevice, on bool, why string) {
		t.Helper()
		id, driver := n.onWire(t, "eth0")
		if d.Services != on || !strings.Contains(d.Why, why) || (id != 0) != on || (on && !driver) {
			t.Errorf("%+v, program %d, in the driver %v; want on: %v because of %q", d, id, driver, on, why)
		}
	}
	expect(n.datapath.XDP()[0], false, "disabled")
	expect(n.reopen(t, acceleration(datapath.AccelerationBestEffort)), false, "virtual cable")
	expect(n.reopen(t, acceleration(datapath.AccelerationNative)), false, "gro on")
	c.nodes[1].space.asCards(t, "eth0")
	expect(n.reopen(t, acceleration(datapath.AccelerationNative)), true, "in the driver veth")

	first, before := n.linkID(t), programID(n.onWire(t, "eth0"))
	expect(n.reopen(t, func(*datapath.Config) {}), true, "in the driver veth")
	if again, after := n.linkID(t), programID(n.onWire(t, "eth0")); first == 0 || again != first || after == before {
		t.Errorf("a restart: link %d, then %d; program %d, then %d", first, again, before, after)
	}
	must(t, n.datapath.Close())
	if id, _ := n.onWire(t, "eth0"); id == 0 {
		t.Error("no program while the agent is away")
	}
	n.open()
	expect(n.reopen(t, acceleration(datapath.AccelerationDisabled)), false, "disabled")
	if id := n.linkID(t); id != 0 {
		t.Errorf("link %d is still pinned", id)
	}

	// Somebody else's program stays.
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	must(t, err)
	defer other.Close()
	var foreign link.Link
	must(t, n.space.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		foreign, err = link.AttachXDP(link.XDPOptions{Program: other, Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
		return err
	}))
	native := func(c *datapath.Config) {
		c.Routing, c.LoadBalancer.Acceleration = datapath.RoutingNative, datapath.AccelerationNative
	}
	if d := n.reopen(t, native); d.Services || !strings.Contains(d.Why, "another XDP program") {
		t.Errorf("beside another program: %+v", d)
	}
	must(t, foreign.Close())
	expect(n.reopen(t, native), true, "in the driver veth")

	// Nothing is left after a cleanup.
	must(t, n.datapath.Close())
	var residue []string
	must(t, n.space.in(func() error {
		if residue = datapath.Residue(n.config.BPFFS, nil); !strings.Contains(strings.Join(residue, "\n"), "xdp_netdev on interface eth0") {
			t.Errorf("the program is not found: %v", residue)
		}
		if err := datapath.Cleanup(ctx, n.config.BPFFS); err != nil {
			return err
		}
		residue = datapath.Residue(n.config.BPFFS, nil)
		return nil
	}))
	if id, _ := n.onWire(t, "eth0"); id != 0 {
		t.Errorf("program %d after the cleanup; %v", id, residue)
	}
	n.open()
}

func programID(id uint32, _ bool) uint32 { return id }

// What comes from a refused network is dropped in the driver, counted by network and reason, and an event; the rest passes.
func TestPrefilterOnADevice(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(c *datapath.Config) { c.Prefilter = true })
	n, other := c.nodes[0], c.nodes[1]
	if d := n.datapath.XDP()[0]; !d.Prefilter || d.Services {
		t.Fatalf("%+v", d)
	}
	must(t, other.space.ping("192.0.2.1"))
	events := make(chan datapath.Event, 64)
	listening, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_ = n.datapath.Events(listening, func(e datapath.Event) {
			if e.Type == datapath.EventDrop {
				select {
				case events <- e:
				default:
				}
			}
		}, func(uint64) {})
	}()
	must(t, n.datapath.SetRefused(ctx, []netip.Prefix{prefix("192.0.2.2/32"), prefix("2001:db8:77::2/128")}))
	for _, to := range []string{"192.0.2.1", "2001:db8:77::1"} {
		if err := other.space.ping(to); err == nil {
			t.Errorf("%s answered a refused network", to)
		}
		select {
		case e := <-events:
			if e.SubType != 181 || (e.Source != addr("192.0.2.2") && e.Source != addr("2001:db8:77::2")) {
				t.Errorf("event %+v", e)
			}
		case <-time.After(5 * time.Second):
			t.Error("no event of the drop")
		}
	}
	refused, err := n.datapath.Refused()
	must(t, err)
	sum := uint64(0)
	for _, r := range refused {
		if r.Packets == 0 {
			t.Errorf("nothing counted of %s", r.Network)
		}
		sum += r.Packets
	}
	if got := drops(t, n)[181]; got < sum {
		t.Errorf("%d drops of reason 181, %d by network", got, sum)
	}
	// A restart refuses all along.
	must(t, n.datapath.Close())
	if err := other.space.ping("192.0.2.1"); err == nil {
		t.Error("while the agent is away a refused network is answered")
	}
	n.open()
	if again, err := n.datapath.Refused(); err != nil || len(again) != 2 {
		t.Errorf("after the restart %v, %v", again, err)
	}
	must(t, n.datapath.SetRefused(ctx, nil))
	must(t, other.space.ping("192.0.2.1"))
	n.reopen(t, func(c *datapath.Config) { c.Prefilter = false })
	if id, _ := n.onWire(t, "eth0"); id != 0 {
		t.Errorf("program %d with the prefilter off", id)
	}
	if pins, _ := filepath.Glob(filepath.Join(n.config.BPFFS, "fairlead", "maps", "refused*")); len(pins) > 0 {
		t.Errorf("its maps are still pinned: %v", pins)
	}
}

// Datagrams that do not fit with what they have to tell: the client hears what fits, and comes through with less at a time.
func TestLargeDatagramsByDSR(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	outside := withXDP(t, c, "dsr")
	server := c.nodes[1].pods[0]
	server.space.lines(t, 7000)
	c.publish(t, echoService(17, backend(server, 7000)))
	c.publish(t, echoService6(17, datapath.Backend{Address: server.address6, Port: 7000, Internal: true, External: true}))
	for _, acceleration := range []string{datapath.AccelerationNative, datapath.AccelerationDisabled} {
		n := c.nodes[0]
		must(t, n.datapath.Close())
		n.config.LoadBalancer.Acceleration = acceleration
		n.open()
		for _, to := range []string{vip + ":80", "[" + vip6 + "]:80"} {
			// What the client learned in the round before does not count.
			must(t, outside.in(func() error {
				return exec.Command("sh", "-c", "ip route flush cache; ip -6 route flush cache").Run()
			}))
			for _, size := range []int{1400, 1452, 1472, 4000} {
				conn, err := outside.dial("udp", to)
				must(t, err)
				got, tries := 0, 0
				for b := make([]byte, 65536); got != size && tries < 5; tries++ {
					if _, err := conn.Write(b[:size]); err != nil {
						continue // the kernel passes on what it was told
					}
					_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
					got, _ = conn.Read(b)
				}
				conn.Close()
				if got != size {
					t.Errorf("%s, %s: %d octets of %d came back; drops %v and %v", acceleration, to, got, size, drops(t, n), drops(t, c.nodes[1]))
				}
				t.Logf("%s, %s: %d octets after %d tries", acceleration, to, size, tries)
			}
		}
	}
}
