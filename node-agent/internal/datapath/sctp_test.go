package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpSum is the checksum of a packet, whatever it has in the place of one.
func sctpSum(packet []byte) uint32 {
	sum := crc32.Update(0, castagnoli, packet[:8])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, packet[12:])
}

const fin = 1

// sctpOf checks the checksum of a frame of SCTP and gives what its header says.
func sctpOf(t *testing.T, what string, frame []byte) (from, to netip.AddrPort) {
	t.Helper()
	at, length := 34, int(binary.BigEndian.Uint16(frame[16:]))-20
	source, destination := netip.AddrFrom4([4]byte(frame[26:30])), netip.AddrFrom4([4]byte(frame[30:34]))
	if frame[14]>>4 == 6 {
		at, length = 54, int(binary.BigEndian.Uint16(frame[18:]))
		source, destination = netip.AddrFrom16([16]byte(frame[22:38])), netip.AddrFrom16([16]byte(frame[38:54]))
	}
	l4 := frame[at : at+length]
	if got, want := binary.LittleEndian.Uint32(l4[8:]), sctpSum(l4); got != want {
		t.Errorf("%s: the checksum is %08x, want %08x", what, got, want)
	}
	return netip.AddrPortFrom(source, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(destination, binary.BigEndian.Uint16(l4[2:]))
}

// Services of SCTP with another port than their backends, for clients inside and outside and backends here and elsewhere:
// the packets and their answers arrive with the right ports and checksums, whatever their size.
func TestSCTPServices(t *testing.T) {
	for _, way := range waysToServices(unix.IPPROTO_SCTP) {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, RoutingNative)
			r.endpoint(1, "10.77.1.11", macA, nil)
			r.endpoint(2, "10.77.1.12", macB, nil)
			r.door(unix.IPPROTO_SCTP, way.backend)
			f := way.client
			for i, flags := range []uint8{syn, ack, ack, ack} {
				f.flags, f.payload = flags, make([]byte, []int{0, 1, 77, 1400}[i])
				for at := range f.payload {
					f.payload[at] = byte(rand.Uint32())
				}
				out := r.passes("to the service", way.program, f)
				from, to := sctpOf(t, "to the service", out)
				if to.String() != way.backend+":8080" {
					t.Errorf("it went to %s, the backend is %s:8080", to, way.backend)
				}
				back := answered(out, unix.IPPROTO_SCTP, flags|ack, r.backendMAC(way.backend))
				back.payload = f.payload
				reply := r.passes("the answer", way.answer, back)
				if got, client := sctpOf(t, "the answer", reply); got.String() != fmt.Sprintf("%s:%d", f.source, f.sourcePort) && client.String() != fmt.Sprintf("%s:%d", f.source, f.sourcePort) {
					t.Errorf("sent from %s, the answer goes from %s to %s", from, got, client)
				} else if got.String() != fmt.Sprintf("%s:%d", f.destination, f.destPort) {
					t.Errorf("the answer comes from %s, the client asked %s:%d", got, f.destination, f.destPort)
				}
			}
			if got := r.kept(); got["openings"] != [2]int{} || got["connections"][1] != 1 {
				t.Errorf("once it is open: entries and choices %v, want none among the half-open", got)
			}
		})
	}
}

// Of version 6, and through a frame that is longer than its packet.
func TestSCTPServicesOfVersion6(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "fd00:10:77:1::11", macA, nil)
	r.endpoint(2, "fd00:10:77:1::12", macB, nil)
	r.must(r.UpsertService(context.Background(), Service{ServiceID: ServiceID{Name: "six", Protocol: unix.IPPROTO_SCTP, V6: true},
		Frontends: []Frontend{{Address: netip.MustParseAddr("fd00:10:96::10"), Port: 3868, Protocol: unix.IPPROTO_SCTP}},
		Backends:  []Backend{{Address: netip.MustParseAddr("fd00:10:77:1::12"), Port: 9, Internal: true}}}))
	f := frame{mac: macA, source: "fd00:10:77:1::11", destination: "fd00:10:96::10", protocol: unix.IPPROTO_SCTP, sourcePort: 5000, destPort: 3868, flags: syn, payload: []byte("abc")}
	verdict, out := r.run("from_pod", append(f.bytes(), 0xff, 0xff, 0xff))
	if verdict != verdictRedirect {
		t.Fatalf("verdict %d; counters %v", verdict, r.counters())
	}
	if _, to := sctpOf(t, "to the service", out); to.String() != "[fd00:10:77:1::12]:9" {
		t.Errorf("it went to %s", to)
	}
}

// A fragment has only a part of what its checksum is over: its ports cannot be changed, and it does not leave with a wrong
// checksum. Where the ports stay, it passes.
func TestSCTPFragments(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, nil)
	r.endpoint(2, "10.77.1.12", macB, nil)
	r.door(unix.IPPROTO_SCTP, "10.77.1.12")
	first := func(port uint16) []byte {
		b := frame{mac: macA, source: "10.77.1.11", destination: "10.96.0.10", protocol: unix.IPPROTO_SCTP, sourcePort: 5000, destPort: port, flags: ack, payload: make([]byte, 64)}.bytes()
		b[20] = 0x20 // more follow
		return b
	}
	if verdict, _ := r.run("from_pod", first(80)); verdict != verdictShot || r.counters()[168] != 1 {
		t.Errorf("a fragment for another port: verdict %d, counters %v", verdict, r.counters())
	}
	r.must(r.UpsertService(context.Background(), Service{ServiceID: ServiceID{Name: "same", Protocol: unix.IPPROTO_SCTP},
		Frontends: []Frontend{{Address: netip.MustParseAddr("10.96.0.10"), Port: 8080, Protocol: unix.IPPROTO_SCTP}},
		Backends:  []Backend{{Address: netip.MustParseAddr("10.77.1.12"), Port: 8080, Internal: true}}}))
	before := first(8080)
	verdict, out := r.run("from_pod", before)
	if verdict != verdictRedirect || string(out[34:50]) != string(before[34:50]) || out[33] != 12 {
		t.Errorf("a fragment for the same port: verdict %d, % x", verdict, out)
	}
}

// An association is followed as TCP's connections are: its life is that of one being opened, open, or closed.
func TestSCTPAssociations(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	client := func(flags uint8) frame {
		return frame{source: "203.0.113.9", destination: "10.77.1.11", protocol: unix.IPPROTO_SCTP, sourcePort: 5000, destPort: 80, flags: flags}
	}
	server := func(flags uint8) frame {
		return frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_SCTP, sourcePort: 80, destPort: 5000, flags: flags}
	}
	for _, step := range []struct {
		what, program string
		frame         frame
		table         string
		life          time.Duration
	}{
		{"INIT", "from_netdev", client(syn), "openings", 60 * time.Second},
		{"INIT ACK", "from_pod", server(syn | ack), "openings", 60 * time.Second},
		{"COOKIE ECHO", "from_netdev", client(ack), "connections", 8000 * time.Second},
		{"SHUTDOWN", "from_netdev", client(fin), "connections", 8000 * time.Second},
		{"SHUTDOWN ACK", "from_pod", server(fin | ack), "connections", 10 * time.Second},
		{"INIT again", "from_netdev", client(syn), "connections", 60 * time.Second},
		{"ABORT", "from_pod", server(rst), "connections", 10 * time.Second},
	} {
		r.passes(step.what, step.program, step.frame)
		var found []string
		var life time.Duration
		for _, table := range connectionTables {
			r.must(visitTable(r.objects.maps[table], func(k *connectionKeyLayout, v *connectionLayout) bool {
				if k.Protocol == unix.IPPROTO_SCTP && v.Expires > monotonic() {
					found, life = append(found, table), time.Duration(v.Expires-monotonic())
				}
				return true
			}))
		}
		if len(found) != 1 || found[0] != step.table || life > step.life || life < step.life-5*time.Second {
			t.Errorf("after %s: in %v for %s, want %s for %s", step.what, found, life, step.table, step.life)
		}
	}
}
