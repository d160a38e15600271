package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// A client that comes back to the same few ports gets its connection each time, on one node and across nodes, though its old ones
// are in the tables, its pod may be asked by nobody, and the agents clean the tables all the time. None waits for a segment to be sent again.
func TestPortsAreUsedAgainAndAgain(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		for _, n := range c.nodes {
			must(t, n.datapath.Close())
			n.config.ConntrackGCInterval = time.Millisecond
			n.open()
		}
		client := c.nodes[0].pods[0]
		closed := client.endpoint
		closed.PolicyIngress = true
		must(t, c.nodes[0].datapath.UpsertEndpoint(ctx, closed))
		for where, server := range map[string]*pod{"one node": c.nodes[0].pods[1], "two nodes": c.nodes[1].pods[0]} {
			to := netip.AddrPortFrom(server.address, server.space.echoTCP(t, ":0").Port()).String()
			dial := net.Dialer{Timeout: 700 * time.Millisecond, Control: reuse}
			opened := 0
			for i := range 1500 {
				dial.LocalAddr = &net.TCPAddr{Port: 41000 + i%5}
				must(t, client.space.in(func() error {
					conn, err := dial.Dial("tcp4", to)
					if err != nil {
						t.Errorf("%s: connection %d: %v", where, i, err)
						return nil
					}
					defer conn.Close()
					// Reset, half of them after a word, so that the port is free at once and either kind of end is met.
					must(t, conn.(*net.TCPConn).SetLinger(0))
					if i%2 == 0 {
						return nil
					}
					must(t, conn.SetDeadline(time.Now().Add(700*time.Millisecond)))
					if _, err := conn.Write([]byte("word\n")); err != nil {
						return err
					}
					var b [64]byte
					if _, err := conn.Read(b[:]); err != nil {
						t.Errorf("%s: answer %d: %v", where, i, err)
					}
					opened++
					return nil
				}))
				if t.Failed() {
					break
				}
			}
			entries := 0
			all, err := c.nodes[0].datapath.Conntrack(0)
			must(t, err)
			for _, e := range all {
				if e.Source.Addr() == client.address && e.Source.Port() >= 41000 && e.Source.Port() < 41005 && e.Destination.String() == to {
					entries++
				}
			}
			// On one node each connection has two.
			if want := map[string]int{"one node": 10, "two nodes": 5}[where]; opened != 750 || entries != want {
				t.Errorf("%s: %d connections answered, %d entries, want 750 and %d", where, opened, entries, want)
			}
		}
	})
}

// Two connections of a pod by one port, which for the backend are one: the second is refused at once, whichever is the service's,
// and harms the first one nothing. When that has ended, the port is as good as any.
func TestOneBackendTwiceByOnePort(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	client := n.pods[0]
	port := 45000
	for where, server := range map[string]*pod{"one node": n.pods[1], "two nodes": c.nodes[1].pods[0]} {
		at := server.space.echoTCP(t, ":7000").Port()
		for family, a := range map[string]struct {
			backend, one, other string
		}{
			"tcp4": {netip.AddrPortFrom(server.address, at).String(), "10.96.0.20:80", "10.96.0.21:80"},
			"tcp6": {netip.AddrPortFrom(server.address6, at).String(), "[fd00:96::20]:80", "[fd00:96::21]:80"},
		} {
			must(t, n.datapath.UpsertService(ctx, someService("one"+family, a.one, unix.IPPROTO_TCP, netip.MustParseAddrPort(a.backend))))
			must(t, n.datapath.UpsertService(ctx, someService("other"+family, a.other, unix.IPPROTO_TCP, netip.MustParseAddrPort(a.backend))))
			for _, test := range [][2]string{{a.backend, a.one}, {a.one, a.backend}, {a.one, a.other}} {
				name := fmt.Sprintf("%s: %s, then %s", where, test[0], test[1])
				port++
				dial := net.Dialer{Timeout: 700 * time.Millisecond, Control: reuse, LocalAddr: &net.TCPAddr{Port: port}}
				must(t, client.space.in(func() error {
					first, err := dial.Dial(family, test[0])
					if err != nil {
						return fmt.Errorf("%s: the first: %w", name, err)
					}
					defer first.Close()
					before := drops(t, n)[155]
					if second, err := dial.Dial(family, test[1]); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s: the second: %v %v, want it refused", name, second, err)
					}
					if got := drops(t, n)[155] - before; got != 1 {
						t.Errorf("%s: %d drops of reason 155, want that of the second one's opening", name, got)
					}
					if _, err := ask(first, "word"); err != nil {
						t.Errorf("%s: the first afterwards: %v", name, err)
					}
					must(t, first.(*net.TCPConn).SetLinger(0))
					must(t, first.Close())
					second, err := dial.Dial(family, test[1])
					if err != nil {
						t.Errorf("%s: by the port when it is free: %v", name, err)
						return nil
					}
					defer second.Close()
					if _, err := ask(second, "word"); err != nil {
						t.Errorf("%s: by the port when it is free: %v", name, err)
					}
					return nil
				}))
			}
		}
	}
}
