package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// flood sends packets of connections from ever other ports and addresses to a pod, through from_netdev.
func (r *rig) flood(n int, adjust func(i int, f *frame)) {
	r.t.Helper()
	for i := range n {
		f := frame{
			source: fmt.Sprintf("198.51.%d.%d", i>>8&255, i&255), destination: "10.77.1.11", protocol: unix.IPPROTO_TCP,
			sourcePort: uint16(1024 + i%60000), destPort: 80, flags: syn,
		}
		if adjust != nil {
			adjust(i, &f)
		}
		if verdict, _ := r.run("from_netdev", f.bytes()); verdict != verdictRedirect {
			r.t.Fatalf("packet %d: verdict %d", i, int32(verdict))
		}
	}
}

// establish opens a connection of the pod's with a client outside as far as it goes: opened, answered, confirmed.
func (r *rig) establish(port uint16) {
	r.t.Helper()
	f := frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: port, destPort: 80, flags: syn}
	r.expect("the client's first segment", "from_netdev", f, verdictRedirect)
	back := frame{mac: macA, source: f.destination, destination: f.source, protocol: f.protocol, sourcePort: f.destPort, destPort: f.sourcePort, flags: syn | ack}
	if verdict, _ := r.run("from_pod", back.bytes()); verdict == verdictShot {
		r.t.Fatalf("the answer was dropped; counters %+v", r.counters())
	}
	f.flags = ack
	r.expect("the client's second segment", "from_netdev", f, verdictRedirect)
}

// held tells which tables have the client's connection.
func (r *rig) held(port uint16) (tables []string) {
	r.t.Helper()
	key := connectionKeyLayout{
		Local: toWire(netip.MustParseAddr("10.77.1.11")), Remote: toWire(netip.MustParseAddr("203.0.113.9")), LocalPort: toPort(80), RemotePort: toPort(port),
		Endpoint: 1, Protocol: unix.IPPROTO_TCP,
	}
	for _, name := range connectionTables {
		var value connectionLayout
		if err := r.objects.maps[name].Lookup(key, &value); err == nil {
			tables = append(tables, name)
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			r.t.Fatal(err)
		}
	}
	return tables
}

func TestHalfOpenConnectionsAreApart(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	f := frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 5000, destPort: 80, flags: syn}
	r.expect("the first segment", "from_netdev", f, verdictRedirect)
	if got := r.held(5000); !slices.Equal(got, []string{"openings"}) {
		t.Errorf("a half-open connection is in %v", got)
	}
	// An answer opens nothing by itself: whoever flooded with somebody's address would get one, too.
	back := frame{mac: macA, source: f.destination, destination: f.source, protocol: f.protocol, sourcePort: 80, destPort: 5000, flags: syn | ack}
	if verdict, _ := r.run("from_pod", back.bytes()); verdict == verdictShot {
		t.Errorf("the answer was dropped; counters %+v", r.counters())
	}
	if got := r.held(5000); !slices.Equal(got, []string{"openings"}) {
		t.Errorf("after the answer the connection is in %v", got)
	}
	f.flags = ack
	r.expect("the second segment", "from_netdev", f, verdictRedirect)
	if got := r.held(5000); !slices.Equal(got, []string{"connections"}) {
		t.Errorf("an open connection is in %v", got)
	}
	// The ports are used again: what was stays in nobody's way.
	f.flags = rst
	r.expect("a reset", "from_netdev", f, verdictRedirect)
	f.flags = syn
	r.expect("the ports again", "from_netdev", f, verdictRedirect)
	if got := r.held(5000); !slices.Equal(got, []string{"connections"}) {
		t.Errorf("a connection that is opened again, in the place that it had, is in %v", got)
	}
}

// What is over keeps its place for who comes by the same ports, until it is over for so long that a sweep may be about to delete
// it; and whoever comes is judged like anybody else, and has nothing of what was there before.
func TestConnectionsAreOpenedInTheirOldPlace(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyIngress, e.PolicyEgress = true, true })
	allow := func(rule uint32) {
		r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 1, Direction: Ingress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}, PolicyValue{Rule: rule}}}, nil))
	}
	allow(7)
	key := connectionKeyLayout{Local: toWire(netip.MustParseAddr("10.77.1.11")), Remote: toWire(netip.MustParseAddr("203.0.113.9")), LocalPort: toPort(80),
		RemotePort: toPort(5000), Endpoint: 1, Protocol: unix.IPPROTO_TCP}
	f := frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 5000, destPort: 80}
	back := frame{mac: macA, source: f.destination, destination: f.source, protocol: f.protocol, sourcePort: 80, destPort: 5000, flags: syn | ack}
	for _, test := range []struct {
		name  string
		over  time.Duration // before the packet; 0: not at all, it was reset
		flags uint8
		table string
	}{
		{"a moment after its end", 0, syn, "connections"},
		{"when its time is just over", 3500 * time.Millisecond, syn, "connections"},
		{"in the middle, when its time is just over", 3500 * time.Millisecond, ack, "connections"},
		{"when a sweep may take it", 4500 * time.Millisecond, syn, "openings"},
		{"long after", time.Minute, syn, "openings"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.t = t
			old := connectionLayout{Expires: monotonic() + uint64(10*time.Second), Packets: [2]uint64{900, 900}, Bytes: [2]uint64{1 << 20, 1 << 20}, Reported: [2]uint64{monotonic(), monotonic()},
				Rule: 5, Peer: 99, Tunnel: [4]byte{1, 2, 3, 4}, Translated: toWire(netip.MustParseAddr("10.96.0.10")), TranslatedPort: toPort(443), Initiator: uint8(Egress),
				Flags: connectionReverse | connectionReplied | connectionReset | connectionFinIn, Seen: [2]uint8{7, 7}, ProxyPort: toPort(1)}
			if test.over > 0 {
				old.Expires = monotonic() - uint64(test.over)
			}
			_ = r.objects.maps["openings"].Delete(key)
			r.must(r.objects.maps["connections"].Put(key, old))
			f.flags = test.flags
			r.expect("what opens it", "from_netdev", f, verdictRedirect)
			if got := r.held(5000); !slices.Equal(got, []string{test.table}) {
				t.Fatalf("it is in %v, want %s", got, test.table)
			}
			var now connectionLayout
			r.must(r.objects.maps[test.table].Lookup(key, &now))
			want := connectionLayout{Expires: now.Expires, Packets: [2]uint64{1, 0}, Bytes: [2]uint64{now.Bytes[0], 0}, Reported: [2]uint64{now.Reported[0], 0},
				Revision: now.Revision, Rule: 7, Peer: 2, Flags: connectionWire, Seen: [2]uint8{test.flags & (fin | syn | rst), 0}}
			if test.table == "connections" {
				want.Seen[0] |= seenReopened
			}
			if now != want {
				t.Errorf("its entry is\n%+v, want\n%+v", now, want)
			}
			entries, err := r.Conntrack(0)
			r.must(err)
			if len(entries) != 1 || !strings.Contains(entries[0].Flags, "opening") {
				t.Errorf("it is listed as %+v, want one that is being opened", entries)
			}
			r.passes("the answer", "from_pod", back)
			f.flags = ack
			r.expect("what goes on", "from_netdev", f, verdictRedirect)
			entries, err = r.Conntrack(0)
			r.must(err)
			if len(entries) != 1 || strings.Contains(entries[0].Flags, "opening") || r.sweepsAway("connections", monotonic()) != 0 {
				t.Errorf("once it is open it is listed as %+v", entries)
			}
		})
	}
	r.t = t
	// Whom policy does not let in any more is not let in by what was open before.
	var c connectionLayout
	r.must(r.objects.maps["connections"].Lookup(key, &c))
	c.Flags |= connectionReset
	r.must(r.objects.maps["connections"].Put(key, c))
	r.must(r.ApplyPolicy(context.Background(), nil, []PolicyKey{{Endpoint: 1, Direction: Ingress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}}))
	f.flags = syn
	r.expectDrop("what policy denies meanwhile", "from_netdev", f, 133)
	r.expectDrop("an answer to it", "from_pod", back, 133)
}

// sweepsAway sweeps one table, and tells how many entries that deleted.
func (r *rig) sweepsAway(table string, now uint64) int {
	r.t.Helper()
	_, deleted, err := sweeps[table](r.objects.maps[table], now)
	r.must(err)
	return deleted
}

const rst = 4

// A flood of half-open connections, 20 times as many as either table holds, pushes out no connection that is open.
func TestFloodEvictsNothingOpen(t *testing.T) {
	r := newOwnRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	for port := uint16(5000); port < 5200; port++ {
		r.establish(port)
	}
	// As many were open once, and somebody begins with their ports again and again.
	for port := uint16(6000); port < 6200; port++ {
		r.establish(port)
		r.expect("a reset", "from_netdev", frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: port, destPort: 80, flags: rst}, verdictRedirect)
	}
	for n := range 4000 {
		r.expect("an opening by old ports", "from_netdev", frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: uint16(6000 + n%200), destPort: 80, flags: syn}, verdictRedirect)
	}
	r.flood(20_000, nil)
	for port := uint16(5000); port < 5200; port++ {
		if got := r.held(port); !slices.Contains(got, "connections") {
			t.Fatalf("the connection of port %d is in %v", port, got)
		}
		// The pod may only answer: without its entry this would be a connection of its own, which policy denies.
		back := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_TCP, sourcePort: 80, destPort: port, flags: ack}
		if verdict, _ := r.run("from_pod", back.bytes()); verdict == verdictShot {
			t.Fatalf("the connection of port %d is broken; counters %+v", port, r.counters())
		}
	}
}

// With twice as many open connections as there is room for, those that go are about as many as do not fit, and each is
// there again with its client's next segment.
func TestOverload(t *testing.T) {
	r := newOwnRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	const room = 1024
	if n := r.objects.maps["connections"].MaxEntries(); n != room {
		t.Fatalf("the rig has room for %d", n)
	}
	for port := uint16(5000); port < 5000+2*room; port++ {
		r.establish(port)
	}
	kept, broken := 0, 0
	for port := uint16(5000); port < 5000+2*room; port++ {
		if slices.Contains(r.held(port), "connections") {
			kept++
			continue
		}
		f := frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: port, destPort: 80, flags: ack}
		if verdict, _ := r.run("from_netdev", f.bytes()); verdict != verdictRedirect {
			broken++
		}
	}
	t.Logf("%d of %d connections in a table of %d; %d broken for good", kept, 2*room, room, broken)
	// The kernel keeps some entries of the table free on each processor.
	if kept < room*7/10 || broken > 0 {
		t.Errorf("%d of %d kept with room for %d, %d broken", kept, 2*room, room, broken)
	}
}

func TestSweep(t *testing.T) {
	r := newOwnRig(t, RoutingNative)
	r.pressures = map[string]MapPressure{}
	now := monotonic()
	put := func(table string, port uint16, expires uint64) {
		r.must(r.objects.maps[table].Put(connectionKeyLayout{LocalPort: toPort(port), Endpoint: 1, Protocol: unix.IPPROTO_TCP}, connectionLayout{Expires: expires}))
	}
	for port := range uint16(600) {
		put("connections", port, now+uint64(time.Hour))
		put("openings", port, now-uint64(time.Minute))
	}
	for port := uint16(600); port < 900; port++ {
		put("connections", port, now-uint64(time.Minute))
	}
	// Just over: it may be opened again this moment.
	put("connections", 999, now-uint64(time.Millisecond))
	wait := r.sweep()
	for table, want := range map[string]uint32{"connections": 601, "openings": 0} {
		n, err := countEntries(r.objects.maps[table])
		r.must(err)
		if uint32(n) != want || r.pressures[table].Entries != want {
			t.Errorf("%s has %d entries and is said to have %d, want %d", table, n, r.pressures[table].Entries, want)
		}
	}
	if wait != sweepFast {
		t.Errorf("the next sweep of a table that is more than half full is in %s", wait)
	}
	if got := nextSweep(0.01, 0); got != sweepSlow {
		t.Errorf("an empty table is swept again in %s", got)
	}
	if got := nextSweep(0.1, 0.9); got != sweepFast {
		t.Errorf("a table of which most was over is swept again in %s", got)
	}
}

func TestWantedSize(t *testing.T) {
	for _, test := range []struct {
		configured, entries, size, want uint32
	}{
		{1000, 100, 1000, 1000},
		{1000, 799, 1000, 1000},
		{1000, 800, 1000, 2000},
		{1000, 1600, 2000, 4000},
		{1000, 100, 4000, 4000},
		{4000, 100, 1000, 4000},
		{1000, 32000, 32000, 32000},
	} {
		if got := wantedSize(test.configured, MapPressure{Entries: test.entries, MaxEntries: test.size}); got != test.want {
			t.Errorf("%d of %d, configured %d: %d, want %d", test.entries, test.size, test.configured, got, test.want)
		}
	}
}

func TestSizesFromMemory(t *testing.T) {
	defaults := map[string]uint32{"connections": 131072, "openings": 65536, "sockets": 65536, "affinity": 16384}
	const gib = 1 << 30
	for name, test := range map[string]struct {
		memory uint64
		ratio  float64
		want   uint32
	}{
		"small machines keep the defaults": {2 * gib, 0.0025, 131072},
		"no ratio":                         {512 * gib, 0, 131072},
		"no answer of the kernel":          {0, 0.0025, 131072},
	} {
		if got := sizesFromMemory(test.memory, test.ratio, defaults)["connections"]; got != test.want {
			t.Errorf("%s: %d", name, got)
		}
	}
	large := sizesFromMemory(512*gib, 0.0025, defaults)
	var bytes uint64
	for name, n := range large {
		bytes += sizedByMemory[name] * uint64(n)
	}
	if share := float64(bytes) / (512 * gib); share < 0.0024 || share > 0.0026 {
		t.Errorf("the tables of a machine of 512 GiB take %.5f of it: %v", share, large)
	}
	if large["connections"] <= 131072 || large["connections"] != 2*large["openings"] {
		t.Errorf("%v", large)
	}
}

// The interval of events is by endpoint and reason; what is held back is counted and told.
func TestDropEventsAreLimited(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	r.endpoint(2, "10.77.1.12", macB, nil)
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80}
	const packets = 3000
	for range packets {
		r.run("from_pod", f.bytes())
	}
	counts, err := r.Drops()
	r.must(err)
	i := slices.IndexFunc(counts, func(c DropCount) bool { return c.Reason == 133 && c.Packets > 0 })
	if i < 0 || counts[i].Packets != packets {
		t.Fatalf("counters %+v", counts)
	}
	// Another reason of the same endpoint has its own limit.
	spoof := f
	spoof.mac = macB
	r.run("from_pod", spoof.bytes())
	sent := map[uint8]uint64{}
	held := r.ring(func(e Event) {
		if e.Type == EventDrop {
			sent[e.SubType]++
		}
	})
	suppressed := r.dropsByReason()[133][1]
	// A drop and a denial are two events.
	if sent[133] == 0 || sent[133] > packets/2 || sent[130] != 1 || sent[133]+suppressed/2 > packets || suppressed == 0 {
		t.Errorf("%d and %d events of %d drops, %d held back", sent[133], sent[130], packets, suppressed)
	}
	// An event after a pause tells how many were held back before it.
	// Limits are per processor, so it takes one on each that may have run the packets before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var processors unix.CPUSet
	r.must(unix.SchedGetaffinity(0, &processors))
	defer func() { r.must(unix.SchedSetaffinity(0, &processors)) }()
	for processor := range ebpf.MustPossibleCPU() {
		if !processors.IsSet(processor) {
			continue
		}
		var one unix.CPUSet
		one.Set(processor)
		r.must(unix.SchedSetaffinity(0, &one))
		for range 50 {
			time.Sleep(20 * time.Millisecond)
			before := held
			r.run("from_pod", f.bytes())
			told := false
			held += r.ring(func(Event) { told = true })
			if told && held == before {
				break
			}
		}
	}
	if held != suppressed {
		t.Errorf("events told of %d that were held back, %d were counted", held, suppressed)
	}
}

// ring reads what is in the ring now and gives how many events were held back before those.
func (r *rig) ring(visit func(Event)) (suppressed uint64) {
	r.t.Helper()
	d := dryRun{}
	var err error
	d.ring, err = newRingReader(r.objects.maps["events"])
	r.must(err)
	defer d.ring.Close()
	r.must(d.drain(func(raw []byte) {
		if e, ok := decodeEvent(raw, 0); ok {
			suppressed += uint64(e.Suppressed)
			visit(e)
		}
	}))
	return suppressed
}
