package datapath

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkPacket is what from_pod takes for one packet of a connection that is open, by BPF_PROG_TEST_RUN: the least of
// many short runs, since other work on the machine only ever adds to it.
func BenchmarkPacket(b *testing.B) {
	const repeat = 2000
	for _, test := range []struct{ name, destination string }{
		{"pod-of-this-node", "10.77.1.12"},
		{"pod-of-another-node", "10.77.2.11"},
		{"node-of-the-world", "203.0.113.9"},
	} {
		b.Run(test.name, func(b *testing.B) {
			r := newRig(b, RoutingNative, func(c *Config) { c.ConntrackMax, c.BPFMasquerade = 65536, true })
			r.endpoint(1, "10.77.1.11", macA, nil)
			// Delivery writes the host side's address as the source: that of the sender, so that the packet can be sent again.
			r.endpoint(2, "10.77.1.12", macB, func(e *Endpoint) { e.HostMAC = macA })
			r.must(r.UpsertIP(context.Background(), IPEntry{Prefix: netip.MustParsePrefix("10.77.2.11/32"), Identity: 5000}))
			f := frame{mac: macA, source: "10.77.1.11", destination: test.destination, protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
			r.run("from_pod", f.bytes())
			if test.destination == "10.77.1.12" {
				answer := frame{mac: macB, source: f.destination, destination: f.source, protocol: f.protocol, sourcePort: 80, destPort: 40000, flags: syn | ack}
				r.run("from_pod", answer.bytes())
			}
			f.flags = ack
			want, _ := r.run("from_pod", f.bytes())
			if want == verdictShot {
				b.Fatalf("a packet of an open connection is dropped: %v", r.counters())
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			program, least := r.program("from_pod"), time.Hour
			for b.Loop() {
				options := &ebpf.RunOptions{Data: f.bytes(), Context: skb{Ifindex: r.ifindex}, Repeat: repeat}
				start := time.Now()
				got, err := program.Run(options)
				least = min(least, time.Since(start))
				r.must(err)
				if got != want {
					b.Fatalf("verdict %d and then %d", want, got)
				}
			}
			b.ReportMetric(float64(least.Nanoseconds())/repeat, "ns/packet")
		})
	}
}
