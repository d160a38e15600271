package datapath

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forwarding is a flood of a service's clients at a node (all of it at the test's own end of two cables), whose backend is
// beyond the second one.
type forwarding struct {
	*flood
	k *kernel
}

// newForwarding puts the node into the namespace of the flood's receiving end.
func newForwarding(b *testing.B) *forwarding {
	b.Helper()
	f := &forwarding{flood: newFlood(b)}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(exec.Command("ethtool", "-K", "near", "gro", "on").Run())
	f.beyond(b, func() {
		must(writeSysctl("net/ipv4/ip_forward", "1"))
		lo, err := netlink.LinkByName("lo")
		must(err)
		must(netlink.LinkSetUp(lo))
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire"}, PeerName: "sink"}))
		for _, name := range []string{"wire", "sink"} {
			l, err := netlink.LinkByName(name)
			must(err)
			must(netlink.LinkSetUp(l))
		}
		must(exec.Command("ethtool", "-K", "sink", "gro", "on").Run())
		wire, err := netlink.LinkByName("wire")
		must(err)
		sink, err := netlink.LinkByName("sink")
		must(err)
		for l, text := range map[netlink.Link]string{wire: "192.0.2.1/24", f.far: "198.51.100.1/24"} {
			a, err := netlink.ParseAddr(text)
			must(err)
			must(netlink.AddrAdd(l, a))
		}
		must(netlink.NeighSet(&netlink.Neigh{LinkIndex: wire.Attrs().Index, IP: net.ParseIP("192.0.2.2"), HardwareAddr: sink.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT}))
		must(netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("10.77.2.0/24")), Gw: net.ParseIP("192.0.2.2")}))
		// What arrives is dropped before it costs much. The packet was made for that out of the frame: at the expense of XDP.
		drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		must(err)
		b.Cleanup(func() { _ = drop.Close() })
		l, err := link.AttachTCX(link.TCXOptions{Interface: sink.Attrs().Index, Program: drop, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			b.Skipf("this kernel has no tcx: %v", err)
		}
		b.Cleanup(func() { _ = l.Close() })
		bpffs := b.TempDir()
		must(unix.Mount("bpf", bpffs, "bpf", 0, ""))
		b.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
		c := rigConfig(RoutingNative)
		c.NodeAddress6, c.RouterAddress6, c.NativeRoutingCIDR6, c.PodCIDRs = netip.Addr{}, netip.Addr{}, netip.Prefix{}, c.PodCIDRs[:1]
		c.Devices, c.BPFFS, c.CgroupRoot, c.LoadBalancer.SocketsOff = []string{"far", "wire"}, bpffs, "/", true
		c.LoadBalancer.Acceleration = AccelerationNative
		d, err := Open(b.Context(), c, WithLogger(slog.New(slog.DiscardHandler)))
		must(err)
		b.Cleanup(func() { _ = d.Close() })
		f.k = d.(*kernel)
		must(d.UpsertService(b.Context(), Service{ServiceID: ServiceID{Namespace: "default", Name: "web", Protocol: unix.IPPROTO_UDP},
			Frontends: []Frontend{{netip.MustParseAddr("198.51.100.1"), 30080, unix.IPPROTO_UDP, ServiceNodePort}},
			Backends:  []Backend{{Address: netip.MustParseAddr("10.77.2.9"), Port: 7000, Internal: true, External: true}}}))
	})
	return f
}

// offer makes the generator: 64 flows out of one frame, which it writes anew for each packet, since pages come back as they
// were sent on.
func (f *forwarding) offer(b *testing.B, frame []byte) {
	b.Helper()
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), asm.FnGetPrandomU32.Call(), asm.And.Imm(asm.R0, 63), asm.Mov.Reg(asm.R7, asm.R0),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), asm.LoadMem(asm.R3, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, 44), asm.JGT.Reg(asm.R4, asm.R3, "out"),
	}
	for at := 0; at < 44; at += 4 {
		code = append(code, asm.StoreImm(asm.R2, int16(at), int64(int32(binary.LittleEndian.Uint32(frame[at:]))), asm.Word))
	}
	code = append(code, asm.StoreMem(asm.R2, 35, asm.R7, asm.Byte),
		asm.Mov.Imm(asm.R1, int32(f.near.Attrs().Index)).WithSymbol("out"), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return())
	var err error
	if f.generator, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: code}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.generator.Close() })
}

// use has XDP or tc serve the clients.
func (f *forwarding) use(b *testing.B, mode string) {
	b.Helper()
	err := f.k.change(b.Context(), "changing hooks", func() error {
		c := f.k.config
		c.LoadBalancer.Acceleration = mode
		devices, err := f.k.devices()
		if err != nil {
			return err
		}
		plans, err := planXDP(c, devices)
		if err != nil {
			return err
		}
		f.k.xdp = plans
		if err := f.k.reattach(); err != nil {
			return err
		}
		// Taking a program off a cable ends its own queue, without which it takes no live frames.
		return exec.Command("ethtool", "-K", "far", "gro", "on").Run()
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range f.k.XDP() {
		if d.Services != (mode == AccelerationNative) {
			b.Fatalf("%s: %+v", mode, d)
		}
	}
}

// confirm has the 64 connections open, as they are when the backend has answered.
func (f *forwarding) confirm(b *testing.B, frame []byte) {
	b.Helper()
	f.send(b, frame, 5000)
	f.settled(b)
	open, opening := f.k.objects.maps["connections"], f.k.objects.maps["openings"]
	n := 0
	err := eachRaw(opening, func(key, value []byte) error {
		n++
		return open.Put(key, value)
	})
	if err != nil || n != 2*64 {
		b.Fatalf("%d entries of connections that are being opened, want 128; %v", n, err)
	}
	n = 0
	err = eachRaw(f.k.objects.maps["nat_openings"], func(key, value []byte) error {
		n++
		return f.k.objects.maps["nat"].Put(key, value)
	})
	if err != nil || n != 2*64 {
		b.Fatalf("%d entries of translations that are being opened, want 128; %v", n, err)
	}
}

// arrived is how many packets have come to the far end of the second cable.
func (f *forwarding) arrived(b *testing.B) (n uint64) {
	b.Helper()
	f.beyond(b, func() {
		l, err := netlink.LinkByName("sink")
		if err != nil {
			b.Fatal(err)
		}
		n = l.Attrs().Statistics.RxPackets
	})
	return n
}

// BenchmarkNodePort is how many packets of clients one processor sends on to a backend on another node in a second: at XDP
// and at tc, in turns. Only what arrived counts.
func BenchmarkNodePort(b *testing.B) {
	f := newForwarding(b)
	frame := datagram("198.51.100.9", "198.51.100.1")
	copy(frame, f.far.Attrs().HardwareAddr)
	header := frame[14:34]
	header[10], header[11] = 0, 0
	sum := ^fold(wordSum(header))
	header[10], header[11] = byte(sum>>8), byte(sum)
	frame[34], frame[35], frame[36], frame[37], frame[39] = 0x9c, 0x40, 30080>>8, 30080&0xff, 30
	f.offer(b, frame)
	const turn = floodTurn
	modes := []string{AccelerationNative, AccelerationDisabled}
	costs := make([][]float64, len(modes)) // ns for each packet, by round
	var generating []float64
	idle, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()}})
	if err != nil {
		b.Fatal(err)
	}
	defer idle.Close()
	affinity(b)
	f.confirm(b, frame)
	for b.Loop() {
		generating = append(generating, float64((&flood{generator: idle}).send(b, frame, turn).Nanoseconds())/turn)
		for i, mode := range modes {
			f.use(b, mode)
			f.send(b, frame, turn/10)
			before := f.arrived(b)
			spent := f.send(b, frame, turn)
			taken := f.settled(b) - before
			if taken == 0 {
				b.Fatalf("%s: nothing arrived; drops %v", mode, f.drops(b))
			}
			costs[i] = append(costs[i], float64(spent.Nanoseconds())/float64(taken))
		}
	}
	for i, program := range []string{xdpServices, "from_netdev"} {
		f.use(b, modes[i])
		b.ReportMetric(f.timed(b, program, frame, turn), "program-ns/"+[]string{"xdp", "tc"}[i])
	}
	xdp, tc := middle(costs[0]), middle(costs[1])
	b.ReportMetric(1e9/xdp, "packets/s/xdp")
	b.ReportMetric(1e9/tc, "packets/s/tc")
	b.ReportMetric(tc/xdp, "of-tc")
	b.ReportMetric(middle(generating), "generator-ns")
	b.ReportMetric(xdp, "ns/xdp")
	b.ReportMetric(tc, "ns/tc")
}

// timed is how long a program itself takes for a packet.
func (f *forwarding) timed(b *testing.B, program string, frame []byte, turn uint32) float64 {
	b.Helper()
	stop, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stop.Close()
	before, err := f.k.objects.programs[program].Stats()
	if err != nil {
		b.Fatal(err)
	}
	f.send(b, frame, turn)
	f.settled(b)
	after, err := f.k.objects.programs[program].Stats()
	if err != nil {
		b.Fatal(err)
	}
	return float64((after.Runtime - before.Runtime).Nanoseconds()) / float64(after.RunCount-before.RunCount)
}

// settled waits until nothing more arrives.
func (f *forwarding) settled(b *testing.B) uint64 {
	b.Helper()
	for before := f.arrived(b); ; {
		time.Sleep(5 * time.Millisecond)
		now := f.arrived(b)
		if now == before {
			return now
		}
		before = now
	}
}

func (f *forwarding) drops(b *testing.B) []DropCount {
	b.Helper()
	counts, err := f.k.Drops()
	if err != nil {
		b.Fatal(err)
	}
	return counts
}
