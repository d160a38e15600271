package datapath_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/edges"
	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/metrics"
)

// BenchmarkEvents is the way of real packets' events from the kernel's ring to flows with metrics and edges. Packets
// are sent while the reader is held, more than the ring has room for; then it empties the ring, which is what is
// measured. What was handed over and what was counted as lost must add
// up to what was sent.
func BenchmarkEvents(b *testing.B) {
	c := newCluster(b, datapath.RoutingTunnel)
	n := c.nodes[0]
	must(b, n.datapath.Close())
	n.config.MonitorAggregation = false
	n.open()
	from, to := n.pods[0], n.pods[1]
	var sink net.PacketConn
	must(b, to.space.in(func() (err error) { sink, err = net.ListenPacket("udp4", ":7000"); return err }))
	defer sink.Close()
	store := flowtest.NewStore(0)
	metrics.NewCollector(store)
	edges.New(store)
	conn, err := from.space.dial("udp4", to.address.String()+":7000")
	must(b, err)
	defer conn.Close()

	const packets = 60_000
	var handled, lost atomic.Uint64
	hold := make(chan struct{})
	var start time.Time
	var last atomic.Int64
	reading, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- n.datapath.Events(reading, func(e datapath.Event) {
			if e.Type != datapath.EventTrace || e.Destination != to.address || e.DestPort != 7000 {
				return
			}
			<-hold
			store.Ingest(e)
			handled.Add(1)
			last.Store(time.Now().UnixNano())
		}, func(n uint64) { lost.Add(n) })
	}()
	for b.Loop() {
		if handled.Load()+lost.Load() > 0 {
			continue // one burst says it all; more rounds would only repeat it
		}
		for range packets {
			if _, err := conn.Write([]byte("x")); err != nil {
				b.Fatal(err)
			}
		}
		start = time.Now()
		close(hold)
		for deadline := start.Add(10 * time.Second); handled.Load()+lost.Load() < packets && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	// Lost ones may be of others' packets too (neighbour discovery), so the sum may be more, but never less.
	if handled.Load()+lost.Load() < packets || lost.Load() == 0 {
		b.Fatalf("%d sent, %d handed over, %d counted as lost", packets, handled.Load(), lost.Load())
	}
	b.ReportMetric(float64(handled.Load())/time.Unix(0, last.Load()).Sub(start).Seconds(), "events/s")
}
