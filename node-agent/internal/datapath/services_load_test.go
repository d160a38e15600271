package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// manyServices is service number i of many, with ten backends, which shift moves to other addresses.
func manyServices(i, shift int) datapath.Service {
	s := datapath.Service{
		ServiceID: datapath.ServiceID{Namespace: "many", Name: fmt.Sprint(i), Protocol: unix.IPPROTO_TCP},
		Frontends: []datapath.Frontend{{Address: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), Port: 80, Protocol: unix.IPPROTO_TCP}},
	}
	for j := range 10 {
		at := netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), byte(j + shift)})
		s.Backends = append(s.Backends, datapath.Backend{Address: at, Port: 80, Internal: true, External: true})
	}
	return s
}

// 5,000 services with ten backends each come, all change and half go, and meanwhile the service that is in use gets and
// loses backends: no connection that was there breaks, and each new one is answered.
func TestServicesChangeUnderLoad(t *testing.T) {
	const many = 5000
	c := newCluster(t, datapath.RoutingTunnel)
	outside := withOutside(t, c, nil)
	n := c.nodes[0]
	client, near, far := n.pods[0], n.pods[1], c.nodes[1].pods[0]
	for _, p := range []*pod{near, far} {
		p.space.echoTCP(t, ":7000")
	}
	used := func(more int) datapath.Service {
		s := echoService(unix.IPPROTO_TCP, backend(near, 7000), backend(far, 7000))
		// Nobody listens there: such a backend is shown, but gets no new connections, as one that ends does.
		for i := range more {
			ending := datapath.Backend{Address: netip.AddrFrom4([4]byte{10, 88, 0, byte(1 + i)}), Port: 7000}
			s.Backends = append(s.Backends, ending)
		}
		return s
	}
	c.publish(t, used(0))

	type held struct {
		net.Conn
		name string
	}
	var connections []held
	for i := range 24 {
		from, to := client.space, "10.96.0.10:80"
		if i%2 == 1 {
			from, to = outside, nodeOutside+":30080"
		}
		conn, err := from.dial("tcp4", to)
		must(t, err)
		defer conn.Close()
		connections = append(connections, held{conn, fmt.Sprintf("connection %d to %s", i, to)})
	}
	stop := make(chan struct{})
	var talking sync.WaitGroup
	var answers, dials int
	talking.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			h := connections[i%len(connections)]
			if got, err := ask(h, fmt.Sprint(i)); err != nil {
				t.Errorf("%s broke: %q, %v", h.name, got, err)
				return
			}
			answers++
		}
	})
	talking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for from, to := range map[*space]string{client.space: "10.96.0.10:80", outside: nodeOutside + ":30080"} {
				if _, err := from.try("tcp4", to); err != nil {
					t.Errorf("a new connection to %s: %v", to, err)
					return
				}
				dials++
			}
		}
	})
	step := func(what string, fn func()) {
		start := time.Now()
		fn()
		t.Logf("%s in %s", what, time.Since(start).Round(time.Millisecond))
	}
	step("5,000 services written", func() {
		for i := range many {
			must(t, n.datapath.UpsertService(ctx, manyServices(i, 0)))
			if i%100 == 0 {
				must(t, n.datapath.UpsertService(ctx, used(i/100%9)))
			}
		}
	})
	step("5,000 services changed", func() {
		for i := range many {
			must(t, n.datapath.UpsertService(ctx, manyServices(i, 1+i%5)))
			if i%100 == 0 {
				must(t, n.datapath.UpsertService(ctx, used(i/100%9)))
			}
		}
	})
	step("2,500 services removed", func() {
		for i := range many / 2 {
			must(t, n.datapath.DeleteService(ctx, manyServices(i, 0).ServiceID))
		}
	})
	// A service's connections outlive it by what conntrack knows; those of before are still there after a restart.
	step("restart", func() {
		must(t, n.datapath.Close())
		n.open()
	})
	close(stop)
	talking.Wait()
	for _, h := range connections {
		if _, err := ask(h, "last"); err != nil {
			t.Errorf("%s did not live to the end: %v", h.name, err)
		}
	}
	t.Logf("%d answers of connections held, %d new connections, none lost", answers, dials)
	if answers < 100 || dials < 20 {
		t.Error("that was no load")
	}
	services, err := n.datapath.Services()
	must(t, err)
	if len(services) < many/2 {
		t.Errorf("%d services are left of %d", len(services), many/2+1)
	}
}
