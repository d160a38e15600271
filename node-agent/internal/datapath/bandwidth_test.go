package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Where struct __sk_buff has the departure time, and what a packet of segments is made of.
const (
	skbTstamp  = 152 - 44
	skbGSOSegs = 164 - 44
	skbGSOSize = 176 - 44
)

// depart runs a program and gives the verdict with the departure time that the packet got.
func (r *rig) depart(program string, data []byte, gsoSize uint32) (verdict uint32, departure uint64) {
	r.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out := skb{Ifindex: r.ifindex}, skb{}
	if gsoSize > 0 {
		binary.NativeEndian.PutUint32(in.Rest[skbGSOSize:], gsoSize)
		binary.NativeEndian.PutUint32(in.Rest[skbGSOSegs:], uint32(len(data))/gsoSize+1)
	}
	options := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256), Context: in, ContextOut: &out}
	verdict, err := r.program(program).Run(options)
	r.must(err)
	return verdict, binary.NativeEndian.Uint64(out.Rest[skbTstamp:])
}

func limited(mode BandwidthMode) func(*Config) { return func(c *Config) { c.bandwidth = mode } }

// limit gives an endpoint of the rig limits in bytes per second.
func (r *rig) limit(e Endpoint, ingress, egress uint64) {
	r.t.Helper()
	r.bandwidth.Mode = r.config.bandwidth
	e.IngressBandwidth, e.EgressBandwidth = ingress, egress
	r.endpoints[e.ID] = e
	r.must(r.writeRates(e))
	r.must(r.judgeAgain(e.ID))
}

func (r *rig) rate(id EndpointID, d Direction) Rate {
	r.t.Helper()
	all, err := r.Rates()
	r.must(err)
	for _, one := range all {
		if one.Endpoint == id && one.Direction == d {
			return one
		}
	}
	r.t.Fatalf("endpoint %d has no limit in direction %d", id, d)
	return Rate{}
}

func canPace(t *testing.T) {
	t.Helper()
	if err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkbSetTstamp); errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("this kernel cannot keep a departure time over a redirect (before 5.18): %v", err)
	}
}

// Packets that leave the node get departure times that are as far apart as their bytes take at the limit; those that stay on
// the node, and those of pods without a limit, get none.
func TestPacedPackets(t *testing.T) {
	canPace(t)
	const bytesPerSecond = 50_000
	for _, routing := range []RoutingMode{RoutingNative, RoutingTunnel} {
		t.Run(string(routing), func(t *testing.T) {
			r := newRig(t, routing, limited(BandwidthPaced))
			a := r.endpoint(1, "10.77.1.11", macA, nil)
			r.endpoint(2, "10.77.1.12", macB, nil)
			r.limit(a, 0, bytesPerSecond)
			r.must(r.objects.maps["ipcache"].Put(prefixToKey(netip.PrefixFrom(r.config.NodeAddress, 32)), ipcacheValueLayout{Identity: 1}))
			out := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_UDP, sourcePort: 4000, destPort: 53, payload: make([]byte, 958)}
			var departures []uint64
			began := monotonic()
			for range 10 {
				verdict, departure := r.depart("from_pod", out.bytes(), 0)
				if verdict == verdictShot {
					t.Fatalf("dropped; counters %+v", r.counters())
				}
				departures = append(departures, departure)
			}
			took := monotonic() - began
			// The first one goes at once.
			if departures[0] != 0 {
				t.Errorf("the first packet has to wait until %d", departures[0])
			}
			const bytes = 14 + 20 + 8 + 958
			for i := 2; i < len(departures); i++ {
				apart, want := departures[i]-departures[i-1], uint64(bytes*uint64(time.Second)/bytesPerSecond)
				if apart != want {
					t.Errorf("packet %d leaves %d ns after the one before, want %d", i, apart, want)
				}
			}
			if ahead, want := departures[9]-began, uint64(9*bytes*uint64(time.Second)/bytesPerSecond); ahead < want || ahead > want+took {
				t.Errorf("the last packet leaves %d ns after the first, want %d", ahead, want)
			}
			if got := r.rate(1, Egress); got.Bytes != 10*bytes || got.Dropped != 0 {
				t.Errorf("counted %+v", got)
			}
			near := out
			near.destination = "10.77.1.12"
			if _, departure := r.depart("from_pod", near.bytes(), 0); departure != 0 {
				t.Error("a packet to a pod of the same node has to wait")
			}
			other := out
			other.mac, other.source = macB, "10.77.1.12"
			if _, departure := r.depart("from_pod", other.bytes(), 0); departure != 0 {
				t.Error("a packet of a pod without limit has to wait")
			}
			host := out
			host.destination = r.config.NodeAddress.String()
			before := r.rate(1, Egress).Bytes
			r.depart("from_pod", host.bytes(), 0)
			if got := r.rate(1, Egress).Bytes; got != before {
				t.Error("a packet to the node itself counts")
			}
		})
	}
}

// What would have to wait for longer than the horizon is dropped, counted and told of, and holds back nothing after it.
func TestPacedPacketsBeyondTheHorizon(t *testing.T) {
	canPace(t)
	r := newRig(t, RoutingNative, limited(BandwidthPaced))
	r.limit(r.endpoint(1, "10.77.1.11", macA, nil), 0, 1000)
	f := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_UDP, sourcePort: 4000, destPort: 53, payload: make([]byte, 958)}
	// A second each: the one that begins within two seconds may still wait.
	var verdicts []uint32
	for range 6 {
		verdict, _ := r.depart("from_pod", f.bytes(), 0)
		verdicts = append(verdicts, verdict)
	}
	if i := slices.Index(verdicts, verdictShot); i != 3 || !slices.Equal(verdicts[3:], []uint32{verdictShot, verdictShot, verdictShot}) {
		t.Errorf("verdicts %v", verdicts)
	}
	if got := r.rate(1, Egress); got.Dropped != 3 || got.Ahead > 3*time.Second {
		t.Errorf("counted %+v", got)
	}
	if got := r.counters()[162]; got != 3 {
		t.Errorf("%d drops with reason 162", got)
	}
	var told int
	r.ring(func(e Event) {
		if e.Type == EventDrop && e.SubType == 162 && e.Endpoint == 1 {
			told++
		}
	})
	if told != 3 {
		t.Errorf("%d events of 3 drops", told)
	}
}

// A packet of many segments counts with the headers of each, and with those of the tunnel.
func TestSegmentsCountWithTheirHeaders(t *testing.T) {
	for _, test := range []struct {
		routing RoutingMode
		tunnel  uint64
		to      string
	}{{RoutingNative, 0, "203.0.113.9"}, {RoutingTunnel, 0, "203.0.113.9"}, {RoutingTunnel, 50, "10.77.2.9"}} {
		t.Run(string(test.routing)+" to "+test.to, func(t *testing.T) {
			r := newRig(t, test.routing, limited(BandwidthPoliced))
			r.limit(r.endpoint(1, "10.77.1.11", macA, nil), 0, 1<<30)
			r.must(r.objects.maps["ipcache"].Put(prefixToKey(netip.MustParsePrefix("10.77.2.9/32")), ipcacheValueLayout{Identity: 2000, Tunnel: [4]byte{192, 0, 2, 2}}))
			f := frame{mac: macA, source: "10.77.1.11", destination: test.to, protocol: unix.IPPROTO_TCP, sourcePort: 4000, destPort: 80, flags: syn, payload: make([]byte, 2500)}
			r.depart("from_pod", f.bytes(), 1000)
			if got, want := r.rate(1, Egress).Bytes, 2500+3*(54+test.tunnel); got != want {
				t.Errorf("%s to %s: %d bytes counted, want %d", test.routing, test.to, got, want)
			}
		})
	}
}

// IPv6 has the same limits: the bytes that count are its headers' and those of the tunnel, policed and paced.
func TestLimitsOfVersion6(t *testing.T) {
	for _, test := range []struct {
		routing RoutingMode
		tunnel  uint64
		to      string
	}{{RoutingNative, 0, server6}, {RoutingTunnel, 50, "fd00:10:77:2::9"}} {
		t.Run(string(test.routing), func(t *testing.T) {
			const bytesPerSecond = 50_000
			for _, mode := range []BandwidthMode{BandwidthPoliced, BandwidthPaced} {
				if mode == BandwidthPaced {
					canPace(t)
				}
				r := newRig(t, test.routing, limited(mode))
				a := r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr("fd00:10:77:1::11")) })
				r.limit(a, bytesPerSecond, bytesPerSecond)
				r.must(r.objects.maps["ipcache"].Put(prefixToKey(netip.MustParsePrefix("fd00:10:77:2::9/128")), ipcacheValueLayout{Identity: 2000, Tunnel: [4]byte{192, 0, 2, 2}}))
				f := flow{source: "fd00:10:77:1::11", destination: test.to, protocol: unix.IPPROTO_UDP, sourcePort: 4000, port: 53, payload: 938}
				out, size := f.frame(), 1000+test.tunnel
				// More than is tolerated at once when policed, and less than the horizon when paced.
				packets := 60
				if mode == BandwidthPoliced {
					packets = 160
				}
				copy(out[6:], macA[:])
				var shot uint64
				var departures []uint64
				for range packets {
					verdict, departure := r.depart("from_pod", out, 0)
					if verdict == verdictShot {
						shot++
					} else {
						departures = append(departures, departure)
					}
				}
				rate := r.rate(1, Egress)
				if rate.Bytes != uint64(len(departures))*size || rate.Dropped != shot || (mode == BandwidthPoliced) != (shot > 0) {
					t.Errorf("%v: %d passed, %d dropped, counted %+v; want %d octets each", mode, len(departures), shot, rate, size)
				}
				if mode == BandwidthPoliced {
					verdict, in := uint32(0), flow{source: server6, destination: "fd00:10:77:1::11", protocol: unix.IPPROTO_UDP, sourcePort: 53, port: 4000, payload: 938}.frame()
					for range packets {
						verdict, _ = r.depart("from_netdev", in, 0)
					}
					if verdict != verdictShot || r.rate(1, Ingress).Dropped == 0 {
						t.Errorf("into the pod: verdict %d, counted %+v", int32(verdict), r.rate(1, Ingress))
					}
					continue
				}
				for i := 2; i < len(departures); i++ {
					if apart, want := departures[i]-departures[i-1], size*uint64(time.Second)/bytesPerSecond; apart != want {
						t.Fatalf("packet %d leaves %d ns after the one before, want %d", i, apart, want)
					}
				}
			}
		})
	}
}

// Policed: as much at once as is tolerated, and then what the rate allows; reason 198.
func TestPolicedPackets(t *testing.T) {
	const bytesPerSecond = 2 << 20
	for _, direction := range []Direction{Ingress, Egress} {
		t.Run(map[Direction]string{Ingress: "ingress", Egress: "egress"}[direction], func(t *testing.T) {
			r := newRig(t, RoutingNative, limited(BandwidthPoliced))
			a := r.endpoint(1, "10.77.1.11", macA, nil)
			program, f := "from_netdev", frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 53, destPort: 4000, payload: make([]byte, 958)}
			if direction == Egress {
				program, f.mac, f.source, f.destination = "from_pod", macA, f.destination, f.source
				r.limit(a, 0, bytesPerSecond)
			} else {
				r.limit(a, bytesPerSecond, 0)
			}
			packet := f.bytes()
			began, dropped, passed := time.Now(), 0, 0
			for time.Since(began) < 300*time.Millisecond {
				if verdict, departure := r.depart(program, packet, 0); verdict == verdictShot {
					dropped++
				} else if passed++; departure != 0 {
					t.Fatal("a policed packet has to wait")
				}
			}
			took := time.Since(began)
			// What is tolerated at once, and the rate after that. A machine that pauses leaves some of the limit unused.
			most := bytesPerSecond*(took+policeTime).Seconds()/float64(len(packet)) + 1
			least := bytesPerSecond * took.Seconds() / float64(len(packet)) / 2
			t.Logf("direction %d: %d passed, %d dropped in %s; the limit is %.0f", direction, passed, dropped, took, most)
			if float64(passed) > most {
				t.Errorf("direction %d: %d packets passed, the limit is %.0f", direction, passed, most)
			}
			if dropped == 0 {
				t.Skipf("this machine runs %d packets in %s, which is less than the limit", passed, took)
			}
			if float64(passed) < least {
				t.Errorf("direction %d: %d packets passed, at least %.0f are within the limit", direction, passed, least)
			}
			if got := r.counters()[198]; got != uint64(dropped) {
				t.Errorf("direction %d: %d drops with reason 198, %d packets were dropped", direction, got, dropped)
			}
			if got := r.rate(1, direction); got.Dropped != uint64(dropped) || got.Bytes != uint64(passed*len(packet)) {
				t.Errorf("direction %d: counted %+v", direction, got)
			}
		})
	}
}

// Processors that send at the same time share one limit exactly: what passed is what was counted, and no more than the limit.
func TestLimitIsExactOnAllProcessors(t *testing.T) {
	const bytesPerSecond = 1 << 20
	r := newRig(t, RoutingNative, limited(BandwidthPoliced))
	r.limit(r.endpoint(1, "10.77.1.11", macA, nil), 0, bytesPerSecond)
	packet := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_UDP, sourcePort: 4000, destPort: 53, payload: make([]byte, 958)}.bytes()
	var passed, dropped atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range max(2, runtime.NumCPU()) {
		all.Go(func() {
			for time.Since(began) < 500*time.Millisecond {
				if verdict, _ := r.run("from_pod", packet); verdict == verdictShot {
					dropped.Add(1)
				} else {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	rate := r.rate(1, Egress)
	if rate.Bytes != uint64(passed.Load())*uint64(len(packet)) || rate.Dropped != uint64(dropped.Load()) {
		t.Errorf("%d packets passed and %d were dropped, counted %+v", passed.Load(), dropped.Load(), rate)
	}
	if most := bytesPerSecond*(took+policeTime).Seconds()/float64(len(packet)) + 1; float64(passed.Load()) > most {
		t.Errorf("%d packets passed in %s, the limit is %.0f", passed.Load(), took, most)
	}
	if dropped.Load() == 0 {
		t.Skipf("this machine runs %d packets in %s, which is less than the limit", passed.Load(), took)
	}
}

// Off: nobody looks at limits that are remembered.
func TestLimitsWithoutBandwidthManager(t *testing.T) {
	r := newRig(t, RoutingNative, limited(BandwidthOff))
	r.limit(r.endpoint(1, "10.77.1.11", macA, nil), 1, 1)
	f := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_UDP, sourcePort: 4000, destPort: 53, payload: make([]byte, 958)}
	for range 10 {
		if verdict, departure := r.depart("from_pod", f.bytes(), 0); verdict == verdictShot || departure != 0 {
			t.Fatalf("verdict %d, departure %d", verdict, departure)
		}
	}
}

// A change keeps what was counted; a limit that is raised does not wait for what the lower one owes; none leaves no trace.
func TestLimitsChange(t *testing.T) {
	r := newRig(t, RoutingNative, limited(BandwidthPoliced))
	e := r.endpoint(1, "10.77.1.11", macA, nil)
	r.limit(e, 0, 1000)
	f := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_UDP, sourcePort: 4000, destPort: 53, payload: make([]byte, 958)}
	for range 200 {
		r.depart("from_pod", f.bytes(), 0)
	}
	before := r.rate(1, Egress)
	if before.Dropped == 0 || before.Ahead < time.Minute {
		t.Fatalf("the limit of 1000 bytes per second was not used up: %+v", before)
	}
	r.limit(e, 0, 1<<20)
	after := r.rate(1, Egress)
	if after.Bytes != before.Bytes || after.Dropped != before.Dropped || after.BytesPerSecond != 1<<20 || after.Ahead > after.Tolerance {
		t.Errorf("after the change %+v, before %+v", after, before)
	}
	// What another run finds in the kernel.
	r.endpoints[1] = Endpoint{ID: 1}
	r.must(r.restoreRates())
	if got := r.endpoints[1]; got.EgressBandwidth != 1<<20 || got.IngressBandwidth != 0 {
		t.Errorf("restored %+v", got)
	}
	if got := r.rate(1, Egress); got.Bytes != after.Bytes || got.Dropped != after.Dropped {
		t.Errorf("after a restart %+v, before %+v", got, after)
	}
	r.limit(e, 0, 0)
	if all, err := r.Rates(); err != nil || len(all) != 0 {
		t.Errorf("%+v remain, %v", all, err)
	}
	// A limit of an endpoint that is gone goes at the next start.
	r.limit(e, 5, 0)
	delete(r.endpoints, 1)
	r.must(r.restoreRates())
	if all, err := r.Rates(); err != nil || len(all) != 0 {
		t.Errorf("%+v of nobody remain, %v", all, err)
	}
}
