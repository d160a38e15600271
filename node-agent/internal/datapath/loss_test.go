package datapath_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// Every event is either handed over or counted as lost, also when the reader is too slow for the ring.
func TestLossIsExact(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	must(t, n.datapath.Close())
	n.config.MonitorAggregation = false
	n.open()
	a, b := n.pods[0], n.pods[1]
	var sink net.PacketConn
	must(t, b.space.in(func() (err error) { sink, err = net.ListenPacket("udp4", ":7000"); return err }))
	defer sink.Close()
	// Room for every datagram: what the socket has none for would be a drop of the kernel's, with an event of its own.
	raw, err := sink.(*net.UDPConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 512<<20) }))
	must(t, err)
	// And no other packets than those that are counted.
	c.quiet(t)
	const packets = 60_000
	var handled, lost atomic.Uint64
	hold := make(chan struct{})
	reading, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	started := time.Now()
	done.Go(func() {
		if err := n.datapath.Events(reading, func(e datapath.Event) {
			if e.Type != datapath.EventTrace || e.Destination != b.address || e.DestPort != 7000 {
				return
			}
			// The first event holds the reader until all packets are sent, so that the ring overflows for certain.
			if handled.Add(1) == 1 {
				<-hold
				started = time.Now()
			}
		}, func(n uint64) { lost.Add(n) }); err != nil {
			t.Error(err)
		}
	})
	conn, err := a.space.dial("udp4", b.address.String()+":7000")
	must(t, err)
	defer conn.Close()
	for range packets {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	close(hold)
	for deadline := time.Now().Add(5 * time.Second); handled.Load()+lost.Load() < packets && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	done.Wait()
	t.Logf("%d handed over, %d counted as lost, in %s", handled.Load(), lost.Load(), time.Since(started))
	if lost.Load() == 0 || handled.Load()+lost.Load() != packets {
		t.Errorf("%d + %d events of %d packets", handled.Load(), lost.Load(), packets)
	}
}
