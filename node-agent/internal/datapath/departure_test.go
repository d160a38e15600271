package datapath_test

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// Where struct __sk_buff has the departure time and its kind, and the kind that is one.
const (
	skbTstamp     = 152
	skbTstampType = 180
	tstampMono    = 1
)

// departures is the last departure time, by its kind, of what leaves by a device, and how many packets had one.
type departures struct{ seen *ebpf.Map }

// watchDepartures looks at each packet behind to_netdev, as the device's scheduler would.
func (n *node) watchDepartures(t *testing.T) departures {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 4})
	must(t, err)
	t.Cleanup(func() { seen.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, skbTstamp, asm.DWord),
		asm.LoadMem(asm.R8, asm.R1, skbTstampType, asm.Byte),
		asm.StoreMem(asm.RFP, -4, asm.R8, asm.Word),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"),
		asm.Return(),
	}})
	must(t, err)
	t.Cleanup(func() { program.Close() })
	must(t, n.space.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attached, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Tail()})
		if err == nil {
			t.Cleanup(func() { attached.Close() })
		}
		return err
	}))
	return departures{seen}
}

func (d departures) last(t *testing.T) (at, packets uint64) {
	t.Helper()
	var value [2]uint64
	must(t, d.seen.Lookup(uint32(tstampMono), &value))
	return value[0], value[1]
}

func monotonicNow(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return uint64(now.Nano())
}

// The departure time that from_pod sets is still there, and still one, when the packet comes to the device's scheduler,
// whichever way it goes: redirected, in the tunnel, by the tunnel device, and by the host's stack. Another scheduler stands in
// for fq, since it is the way that is asked about.
func TestDepartureTimesReachTheDevice(t *testing.T) {
	requireRoot(t)
	if err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkbSetTstamp); err != nil {
		t.Skipf("this kernel cannot keep a departure time over a redirect (before 5.18): %v", err)
	}
	if err := (datapath.KernelProbes{}).Probe("tcx"); err != nil {
		t.Skipf("no hook behind to_netdev to look from: %v", err)
	}
	defer datapath.UseScheduler("pfifo")()
	for name, test := range map[string]struct {
		routing   datapath.RoutingMode
		change    func(*datapath.Config)
		toWorld   bool
		datagrams int
		size      int
	}{
		"native, to another node":        {datapath.RoutingNative, nil, false, 10, 1000},
		"native, to the world":           {datapath.RoutingNative, nil, true, 10, 1000},
		"by the host's stack":            {datapath.RoutingNative, func(c *datapath.Config) { c.BPFMasquerade = false }, true, 10, 1000},
		"tunnel":                         {datapath.RoutingTunnel, nil, false, 10, 1000},
		"by the tunnel device, in parts": {datapath.RoutingTunnel, nil, false, 4, 2500},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClusterWith(t, test.routing, func(c *datapath.Config) {
				c.BandwidthManager = true
				if test.change != nil {
					test.change(c)
				}
			})
			n, client := c.nodes[0], c.nodes[0].pods[0]
			if got := n.datapath.Bandwidth(); got.Mode != datapath.BandwidthPaced {
				t.Fatalf("%+v", got)
			}
			to := c.nodes[1].pods[0].address.String()
			if test.toWorld {
				to = world
			}
			// Not connected: nobody listens there, and hearing of it would keep packets from being sent.
			var conn net.PacketConn
			must(t, client.space.in(func() (err error) { conn, err = net.ListenPacket("udp4", ":0"); return err }))
			defer conn.Close()
			server := &net.UDPAddr{IP: net.ParseIP(to), Port: 7999}
			// Neighbours are found, and the way is as it stays.
			_, err := conn.WriteTo([]byte("first"), server)
			must(t, err)
			time.Sleep(50 * time.Millisecond)
			const limit = 10_000
			client.endpoint.EgressBandwidth = limit
			must(t, n.datapath.UpsertEndpoint(ctx, client.endpoint))
			watch := n.watchDepartures(t)
			began := monotonicNow(t)
			for range test.datagrams {
				_, err := conn.WriteTo(make([]byte, test.size), server)
				must(t, err)
			}
			want := uint64(test.datagrams-1) * uint64(test.size) * uint64(time.Second) / limit
			var at, packets uint64
			for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				if at, packets = watch.last(t); at > began+want*9/10 {
					break
				}
			}
			if at < began+want*9/10 || at > began+2*want+uint64(time.Second) {
				t.Errorf("the last of %d packets with a departure time leaves %s after the first, want %s", packets, time.Duration(at-began), time.Duration(want))
			}
			t.Logf("%d packets with departure times, the last %s ahead", packets, time.Duration(at-began))
		})
	}
}
