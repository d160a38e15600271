package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// flood is the kernel's own packet generator (live frames) at one end of a cable, and who drops at the other.
type flood struct {
	generator *ebpf.Program
	near, far netlink.Link
	apart     netns.NsHandle
}

// newFlood makes the cable: one end in a network namespace of the test, the other in one more, both gone afterwards.
// The calling goroutine keeps its thread, which is in the first one.
func newFlood(b *testing.B) *flood {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root: it makes network namespaces and loads programs into the kernel")
	}
	runtime.LockOSThread() // for good: the thread stays in its namespace and ends with the benchmark
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	apart, err := netns.New()
	must(err)
	here, err := netns.New()
	must(err)
	b.Cleanup(func() { _ = apart.Close(); _ = here.Close() })
	must(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far", PeerNamespace: netlink.NsFd(apart),
	}))
	f := &flood{apart: apart}
	f.near, err = netlink.LinkByName("near")
	must(err)
	must(netlink.LinkSetUp(f.near))
	f.beyond(b, func() {
		f.far, err = netlink.LinkByName("far")
		must(err)
		// Without XDP the receiving end takes live frames only with its own queue, which GRO brings.
		must(exec.Command("ethtool", "-K", "far", "gro", "on").Run())
		must(netlink.LinkSetUp(f.far))
	})
	f.generator, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(f.near.Attrs().Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
	}})
	must(err)
	b.Cleanup(func() { _ = f.generator.Close() })
	return f
}

// beyond runs fn in the namespace of the receiving end.
func (f *flood) beyond(b *testing.B, fn func()) {
	b.Helper()
	here, err := netns.Get()
	if err == nil {
		err = netns.Set(f.apart)
	}
	if err != nil {
		b.Fatal(err)
	}
	fn()
	if err := netns.Set(here); err != nil {
		b.Fatal(err)
	}
	_ = here.Close()
}

// floodTurn is how many frames are sent at a time.
const floodTurn = 200_000

// processorTime is what the calling thread has used of its processor, and the kernel's thread for what is received there
// that the calling one was not left to do.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var own unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &own); err != nil {
		b.Fatal(err)
	}
	var cpu int
	if _, _, errno := unix.Syscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		b.Fatal(errno)
	}
	sum := own.Nano()
	if receivers[cpu] == "" {
		names, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range names {
			if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
				receivers[cpu] = filepath.Dir(name)
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(receivers[cpu], "schedstat")); err == nil {
		used, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(used, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum)
}

// receivers are the directories of the kernel's threads, by processor.
var receivers = map[int]string{}

// send offers n frames and says how much of the processor's time that took: on the clock, the kernel's test runner takes
// some 25 ms to begin and to end, mostly waiting, and whoever else runs here counts.
func (f *flood) send(b *testing.B, frame []byte, n uint32) time.Duration {
	b.Helper()
	began := processorTime(b)
	// BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h.
	if _, err := f.generator.Run(&ebpf.RunOptions{Data: frame, Repeat: n, Flags: 1 << 1, BatchSize: 64}); err != nil {
		b.Fatal(err)
	}
	return processorTime(b) - began
}

// xdp attaches a program to the receiving end until the returned function is called.
func (f *flood) xdp(b *testing.B, p *ebpf.Program) (detach func()) {
	b.Helper()
	var l link.Link
	f.beyond(b, func() {
		var err error
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: f.far.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			b.Fatal(err)
		}
	})
	return func() { _ = l.Close() }
}

// received is how many packets the receiving end has taken out of its queue (its statistics count both with XDP and
// without).
func (f *flood) received(b *testing.B) uint64 {
	b.Helper()
	var out []byte
	f.beyond(b, func() {
		var err error
		if out, err = exec.Command("ethtool", "-S", "far").Output(); err != nil {
			b.Fatal(err)
		}
	})
	sum := uint64(0)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if strings.HasPrefix(name, "rx_queue_") && strings.HasSuffix(name, "_xdp_packets") {
			n, _ := strconv.ParseUint(value, 10, 64)
			sum += n
		}
	}
	return sum
}

// BenchmarkPrefilter is how many packets of a refused network one processor drops in a second: by a program that does
// nothing but drop, by the prefilter with 1 and with 10,000 refused networks, and by a rule in iptables' raw table.
// They take turns, because the machine's speed changes more over time than they differ. Only what was taken from the
// queue counts, not what the generator could not hand over.
func BenchmarkPrefilter(b *testing.B) {
	f := newFlood(b)
	bare, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, xdpDrop), asm.Return(),
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	one, many := newPrefilter(b, "198.18.0.0/15"), newPrefilter(b)
	networks := prefixes("198.18.0.0/15")
	for i := range 9_999 {
		networks = append(networks, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i%80), byte(i / 80), byte(i), 0}), 24))
	}
	if err := many.Set(networks); err != nil {
		b.Fatal(err)
	}
	rule := func(flag string) {
		f.beyond(b, func() {
			out, err := exec.Command("iptables", "-w", "-t", "raw", flag, "PREROUTING", "-s", "198.18.0.0/15", "-j", "DROP").CombinedOutput()
			if err != nil {
				b.Fatalf("iptables: %v: %s", err, out)
			}
		})
	}
	frame := datagram("198.18.5.1", "192.0.2.1")
	const turn = floodTurn
	cases := []struct {
		name string
		on   func() (off func())
	}{
		{"bare", func() func() { return f.xdp(b, bare) }},
		{"prefilter-1", func() func() { return f.xdp(b, one.collection.Programs["prefilter"]) }},
		{"prefilter-10000", func() func() { return f.xdp(b, many.collection.Programs["prefilter"]) }},
		{"iptables-raw", func() func() { rule("-A"); return func() { rule("-D") } }},
	}
	// What the generator itself costs: the same frames, dropped before they reach the cable.
	idle := &flood{generator: bare}
	costs := make([][]float64, len(cases)) // ns for each packet, by round
	var generating []float64
	affinity(b)
	for b.Loop() {
		generating = append(generating, float64(idle.send(b, frame, turn).Nanoseconds())/turn)
		for i, c := range cases {
			off := c.on()
			f.send(b, frame, turn/10)
			before := f.received(b)
			spent := f.send(b, frame, turn)
			taken := f.received(b) - before
			off()
			if taken == 0 {
				b.Fatalf("%s took no packet", c.name)
			}
			costs[i] = append(costs[i], float64(spent.Nanoseconds())/float64(taken))
		}
	}
	for i, c := range cases {
		b.ReportMetric(1e9/middle(costs[i]), "packets/s/"+c.name)
	}
	refused, err := one.Counters()
	if err != nil || refused[0].Packets == 0 {
		b.Fatalf("the prefilter counted nothing: %v, %v", refused, err)
	}
	b.ReportMetric(middle(generating), "generator-ns")
	b.ReportMetric(middle(costs[0])/middle(costs[1]), "of-bare")
	b.ReportMetric(middle(costs[3])/middle(costs[1]), "of-iptables")
	// Generator and cable cost the same for all: what is left is what dropping costs.
	b.ReportMetric(middle(costs[1])-middle(costs[0]), "ns-more-than-bare/prefilter")
	b.ReportMetric(middle(costs[3])-middle(costs[0]), "ns-more-than-bare/iptables")
}

// middle is the median, which a turn that was interrupted does not move.
func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// affinity keeps the thread on one processor: generator and receiver share it, and it is what limits both.
func affinity(b *testing.B) {
	b.Helper()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Fatal(err)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			set.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		b.Fatal(fmt.Errorf("staying on one processor: %w", err))
	}
	b.Cleanup(func() { _ = unix.SchedSetaffinity(0, &before) })
}
