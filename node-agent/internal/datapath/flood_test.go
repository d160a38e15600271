package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// A flood of openings with made-up senders, which the pod answers, many times what the tables hold: connections of before go on, from
// the side that could not open them anew, those through a service as well, and that of a masqueraded pod.
func TestFloodOnTheWireBreaksNothingOpen(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(c *datapath.Config) { c.ConntrackMax = 1024 })
	n, remote := c.nodes[0], c.nodes[1]
	// Those who ask the service and those who ask its backend itself are different pods, so that none meets the other's port.
	server, direct, throughService := n.pods[0], remote.pods[0], remote.pods[1]
	// The server's ends, by their clients.
	accepted := make(chan net.Conn, 200)
	server.space.serve(t, "tcp", ":7000", func(c net.Conn) {
		accepted <- c
		answerLines(c)
	})
	must(t, remote.datapath.UpsertService(ctx, someService("echo", "10.96.0.20:80", unix.IPPROTO_TCP, netip.AddrPortFrom(server.address, 7000))))
	// The server may open nothing, so that an entry that is gone shows when it speaks.
	govern(t, server, true, true, line(server, 0, datapath.Ingress, unix.IPPROTO_TCP, 7000, false, 1))
	open := map[string]net.Conn{}
	for i := range 200 {
		client, to := direct, server.address.String()+":7000"
		if i%2 == 1 {
			client, to = throughService, "10.96.0.20:80"
		}
		conn, err := client.space.dial("tcp4", to)
		must(t, err)
		defer conn.Close()
		_, err = ask(conn, "before")
		must(t, err)
		open[conn.LocalAddr().String()] = conn
	}
	remote.space.echoTCP(t, world+":7000")
	outward, err := n.pods[1].space.dial("tcp4", world+":7000")
	must(t, err)
	defer outward.Close()
	_, err = ask(outward, "before")
	must(t, err)
	const segments = 20_000
	must(t, remote.space.in(func() error {
		raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("opening a raw socket: %w", err)
		}
		defer unix.Close(raw)
		to := &unix.SockaddrInet4{Addr: server.address.As4()}
		for i := range segments {
			segment := datapath.Segment(fmt.Sprintf("198.51.%d.%d", i>>8&255, i&255), server.address.String(), uint16(1024+i), 7000, 2)
			if err := unix.Sendto(raw, segment, 0, to); err != nil {
				return fmt.Errorf("sending segment %d: %w", i, err)
			}
		}
		return nil
	}))
	entries, err := n.datapath.Conntrack(0)
	must(t, err)
	half, room := 0, n.mapInfo(t, "openings").MaxEntries
	for _, e := range entries {
		if e.Destination.Port() == 7000 && prefix("198.51.0.0/16").Contains(e.Source.Addr()) {
			half++
		}
	}
	t.Logf("%d half-open connections with room for %d", half, room)
	if half < int(room)/4 {
		t.Errorf("the flood left %d entries with room for %d: it did not arrive; drops %v", half, room, drops(t, n))
	}
	for range len(open) {
		here := <-accepted
		there := open[here.RemoteAddr().String()]
		if there == nil {
			t.Fatalf("a connection of %s, who has none", here.RemoteAddr())
		}
		_, err := fmt.Fprintln(here, "after")
		must(t, err)
		must(t, there.SetDeadline(time.Now().Add(1500*time.Millisecond)))
		if _, err := there.Read(make([]byte, 64)); err != nil {
			t.Fatalf("the connection of %s to %s is broken: %v; drops %v", there.LocalAddr(), there.RemoteAddr(), err, drops(t, n))
		}
	}
	if _, err := ask(outward, "after"); err != nil {
		t.Errorf("a masqueraded connection is broken: %v; drops %v", err, drops(t, n))
	}
}
