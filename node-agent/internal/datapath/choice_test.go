package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// served is a way of a client's packets to a service, and of the answers back.
type served struct {
	name, backend string
	program       string
	client        frame
	answer        string
}

const doorOfNode = "192.0.2.1"

// waysToServices: clients outside and inside, with backends here and elsewhere. The service has only the one backend.
func waysToServices(protocol uint8) []served {
	outside := frame{source: "203.0.113.9", destination: doorOfNode, protocol: protocol, sourcePort: 5000, destPort: 30080}
	inside := frame{mac: macA, source: "10.77.1.11", destination: "10.96.0.10", protocol: protocol, sourcePort: 5000, destPort: 80}
	return []served{
		{"a client outside, a backend here", "10.77.1.12", "from_netdev", outside, "from_pod"},
		{"a client outside, a backend elsewhere", "10.77.2.11", "from_netdev", outside, "from_netdev"},
		{"a pod, a backend here", "10.77.1.12", "from_pod", inside, "from_pod"},
		{"a pod, a backend elsewhere", "10.77.2.11", "from_pod", inside, "from_netdev"},
		{"a pod, its own backend", "10.77.1.11", "from_pod", inside, "from_pod"},
	}
}

func (r *rig) door(protocol uint8, backends ...string) {
	r.t.Helper()
	s := Service{ServiceID: ServiceID{Name: "door", Protocol: protocol}, Frontends: []Frontend{
		{Address: netip.MustParseAddr("10.96.0.10"), Port: 80, Protocol: protocol},
		{Address: netip.MustParseAddr(doorOfNode), Port: 30080, Protocol: protocol, Kind: ServiceNodePort},
	}}
	for _, b := range backends {
		s.Backends = append(s.Backends, Backend{Address: netip.MustParseAddr(b), Port: 8080, Internal: true, External: true})
	}
	r.must(r.UpsertService(context.Background(), s))
}

// passes runs the program and gives the packet as it went on.
func (r *rig) passes(what, program string, f frame) []byte {
	r.t.Helper()
	verdict, out := r.run(program, f.bytes())
	if verdict == verdictShot {
		r.t.Fatalf("%s was dropped; counters %+v", what, r.counters())
	}
	return out
}

// answered makes the packet that answers one that arrived at its backend.
func answered(out []byte, protocol, flags uint8, mac [6]byte) frame {
	return frame{
		mac: mac, source: netip.AddrFrom4([4]byte(out[30:34])).String(), destination: netip.AddrFrom4([4]byte(out[26:30])).String(), protocol: protocol,
		sourcePort: binary.BigEndian.Uint16(out[36:]), destPort: binary.BigEndian.Uint16(out[34:]), flags: flags,
	}
}

// kept counts the entries of both tables: all, and those that are choices of a backend.
func (r *rig) kept() (out map[string][2]int) {
	r.t.Helper()
	out = map[string][2]int{}
	for _, name := range connectionTables {
		var n [2]int
		r.must(visitTable(r.objects.maps[name], func(_ *connectionKeyLayout, v *connectionLayout) bool {
			n[0]++
			if v.Flags&connectionService != 0 {
				n[1]++
			}
			return true
		}))
		out[name] = n
	}
	return out
}

func (r *rig) backendMAC(address string) [6]byte {
	if address == "10.77.1.12" {
		return macB
	}
	return macA
}

// A choice of a backend lies with the half-open connections until its client goes on after an answer.
func TestChoicesOpenWithTheirConnections(t *testing.T) {
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, way := range waysToServices(protocol) {
			t.Run(fmt.Sprintf("%s, protocol %d", way.name, protocol), func(t *testing.T) {
				r := newRig(t, RoutingNative)
				r.endpoint(1, "10.77.1.11", macA, nil)
				r.endpoint(2, "10.77.1.12", macB, nil)
				r.door(protocol, way.backend)
				f := way.client
				f.flags = syn
				out := r.passes("what opens", way.program, f)
				half := func(when string) {
					t.Helper()
					if got := r.kept(); got["connections"] != [2]int{} || got["openings"][1] != 1 {
						t.Errorf("%s: entries and choices %v, want all of them among the half-open", when, got)
					}
				}
				half("after what opens")
				if f.protocol == unix.IPPROTO_TCP {
					r.passes("what opens, sent again", way.program, f)
					half("after what opens came again")
				}
				r.passes("the answer", way.answer, answered(out, protocol, syn|ack, r.backendMAC(way.backend)))
				half("after the answer")
				f.flags = ack
				again := r.passes("what goes on", way.program, f)
				if string(again[26:38]) != string(out[26:38]) {
					t.Errorf("it goes on to %x, not %x", again[26:38], out[26:38])
				}
				if got := r.kept(); got["openings"] != [2]int{} || got["connections"][1] != 1 {
					t.Errorf("once it is open: entries and choices %v, want none among the half-open", got)
				}
				r.passes("an answer", way.answer, answered(out, protocol, ack, r.backendMAC(way.backend)))
				if got := r.kept(); got["openings"] != [2]int{} {
					t.Errorf("after another answer: entries and choices %v", got)
				}
				if f.protocol != unix.IPPROTO_TCP {
					return
				}
				// The same ports again: a choice of its own, in the place of the one before, and open as soon as that.
				f.flags = rst
				r.passes("a reset", way.program, f)
				f.flags = syn
				out = r.passes("what opens by the same ports", way.program, f)
				if got := r.kept(); got["openings"][1] != 0 || got["connections"][1] != 1 {
					t.Errorf("opened by the same ports: entries and choices %v, want the choice where the one before was", got)
				}
				r.passes("its answer", way.answer, answered(out, protocol, syn|ack, r.backendMAC(way.backend)))
				f.flags = ack
				if again := r.passes("what goes on then", way.program, f); string(again[26:38]) != string(out[26:38]) {
					t.Errorf("it goes on to %x, not %x", again[26:38], out[26:38])
				}
				if got := r.kept(); got["openings"] != [2]int{} || got["connections"][1] != 1 {
					t.Errorf("open by the same ports: entries and choices %v, want none among the half-open", got)
				}
			})
		}
	}
}

// A flood at a node port, many times as large as either table, takes the backend from no connection that is open.
func TestFloodAtANodePort(t *testing.T) {
	for name, backends := range map[string][]string{"backends here": {"10.77.1.11", "10.77.1.12"}, "backends elsewhere": {"10.77.2.11", "10.77.2.12"}} {
		t.Run(name, func(t *testing.T) {
			r := newOwnRig(t, RoutingNative)
			r.endpoint(1, "10.77.1.11", macA, nil)
			r.endpoint(2, "10.77.1.12", macB, nil)
			r.door(unix.IPPROTO_TCP, backends...)
			const open = 100
			var before [open]string
			client := func(i int, flags uint8) frame {
				return frame{source: "203.0.113.9", destination: doorOfNode, protocol: unix.IPPROTO_TCP, sourcePort: uint16(5000 + i), destPort: 30080, flags: flags}
			}
			for i := range open {
				out := r.passes("what opens", "from_netdev", client(i, syn))
				before[i] = string(out[26:38])
				back := answered(out, unix.IPPROTO_TCP, syn|ack, r.backendMAC(netip.AddrFrom4([4]byte(out[30:34])).String()))
				program := "from_netdev"
				if back.source[:8] == "10.77.1." {
					program = "from_pod"
				}
				r.passes("the answer", program, back)
				r.passes("what goes on", "from_netdev", client(i, ack))
			}
			const flood = 10_000
			for i := range flood {
				f := client(i%50_000, syn)
				f.source = fmt.Sprintf("198.51.%d.%d", i>>8&255, i&255)
				r.passes("the flood", "from_netdev", f)
			}
			kept := r.kept()
			if n := kept["connections"][1]; n != open {
				t.Errorf("%d of %d choices of open connections are left after %d half-open ones: %v", n, open, flood, kept)
			}
			for i := range open {
				if out := r.passes("an open connection", "from_netdev", client(i, ack)); string(out[26:38]) != before[i] {
					t.Errorf("connection %d goes to %x now, and went to %x", i, out[26:38], before[i])
				}
			}
		})
	}
}
