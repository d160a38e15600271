package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A backend's number is never given again, not even by the next run: clients with affinity, and datagrams of one flow, would take
// another service's backend for their own.
func TestNumbersOfBackendsAreNotGivenAgain(t *testing.T) {
	for name, affinity := range map[string]uint32{"affinity": 600, "a flow of datagrams": 0} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, RoutingTunnel)
			r.endpoint(1, "10.77.1.11", macA, nil)
			for i, address := range []string{"10.77.1.12", "10.77.1.13", "10.77.1.14"} {
				r.endpoint(EndpointID(2+i), address, macB, nil)
			}
			serve := func(name, address string, port uint16, backends ...string) {
				s := Service{ServiceID: ServiceID{Name: name, Protocol: unix.IPPROTO_UDP}, AffinitySeconds: affinity,
					Frontends: []Frontend{{Address: netip.MustParseAddr(address), Port: 53, Protocol: unix.IPPROTO_UDP}}}
				for _, b := range backends {
					s.Backends = append(s.Backends, Backend{Address: netip.MustParseAddr(b), Port: port, Internal: true, External: true})
				}
				r.must(r.UpsertService(t.Context(), s))
			}
			f := frame{mac: macA, source: "10.77.1.11", destination: "10.96.0.1", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 53}
			ask := func() netip.AddrPort {
				t.Helper()
				out := r.expect("to the service", "from_pod", f, verdictRedirect)
				return netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[30:34])), binary.BigEndian.Uint16(out[36:]))
			}
			serve("one", "10.96.0.1", 5353, "10.77.1.12")
			if got := ask(); got.String() != "10.77.1.12:5353" {
				t.Fatalf("the service's only backend is not %s", got)
			}
			serve("one", "10.96.0.1", 5353)
			// The agent starts again; its first change is of another service.
			r.services, r.maglev = serviceTable{}, nil
			r.must(r.restoreServices())
			serve("two", "10.96.0.2", 9999, "10.77.1.13")
			serve("one", "10.96.0.1", 5353, "10.77.1.14")
			if affinity > 0 {
				f.sourcePort++
			}
			if got := ask(); got.String() != "10.77.1.14:5353" {
				t.Errorf("the client was sent to %s, which is none of the service's backends", got)
			}
		})
	}
}
