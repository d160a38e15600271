package datapath_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// watchDrops gives the node's drops until the test ends.
func (n *node) watchDrops(t *testing.T) <-chan datapath.Event {
	t.Helper()
	events := make(chan datapath.Event, 10_000)
	listening, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if err := n.datapath.Events(listening, func(e datapath.Event) {
			if e.Type == datapath.EventDrop {
				events <- e
			}
		}, nil); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); done.Wait() })
	return events
}

func (n *node) kernelDrops(t *testing.T) map[string]uint64 {
	t.Helper()
	drops, err := n.datapath.KernelDrops()
	must(t, err)
	out := map[string]uint64{}
	for _, d := range drops {
		out[d.Reason] = d.Packets
	}
	return out
}

// What the kernel drops of pods' packets is counted and told with the kernel's own reason; what a program drops is not
// counted again.
func TestKernelDrops(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	a, b := n.pods[0], n.pods[1]
	before := n.kernelDrops(t)
	events := n.watchDrops(t)
	// Nobody listens.
	conn, err := a.space.dial("udp4", b.address.String()+":7999")
	must(t, err)
	defer conn.Close()
	_, err = fmt.Fprintln(conn, "x")
	must(t, err)
	for deadline := time.After(3 * time.Second); ; {
		select {
		case e := <-events:
			if e.SubType != datapath.DropKernel || e.DestPort != 7999 {
				continue
			}
			if reason := datapath.KernelDropReason(e.KernelReason); reason != "NO_SOCKET" || e.Source != a.address || e.Destination != b.address ||
				e.DestIdentity != b.endpoint.Identity || e.Protocol != 17 || e.Rule != 0 || e.Interface == 0 {
				t.Errorf("reason %s: %+v", reason, e)
			}
		case <-deadline:
			t.Fatalf("no event of the kernel's drop; counters %v", n.kernelDrops(t))
		}
		break
	}
	if got := n.kernelDrops(t)["NO_SOCKET"]; got != before["NO_SOCKET"]+1 {
		t.Errorf("NO_SOCKET was counted %d times, want once more than %d", got, before["NO_SOCKET"])
	}
	// Default deny: our own drop, which the kernel's tracepoint sees as one of its hook.
	e := b.endpoint
	e.PolicyIngress = true
	must(t, n.datapath.UpsertEndpoint(ctx, e))
	for sent := 0; sent < 20; {
		// The port unreachable of the first datagram comes back as an error here.
		if _, err := fmt.Fprintln(conn, "x"); err == nil {
			sent++
		}
	}
	ours := 0
	for deadline := time.After(3 * time.Second); ours < 20; {
		select {
		case e := <-events:
			if e.SubType == 133 {
				ours++
			} else if e.DestPort == 7999 {
				t.Errorf("a drop of ours was told as %d (%s)", e.SubType, datapath.KernelDropReason(e.KernelReason))
			}
		case <-deadline:
			t.Fatalf("%d of 20 drops were told", ours)
		}
	}
	for reason, count := range n.kernelDrops(t) {
		if strings.HasPrefix(reason, "TC_") || strings.HasPrefix(reason, "XDP") {
			t.Errorf("%d drops of ours were counted as the kernel's %s, too", count, reason)
		}
	}
	// The program's own sources have names, so that a drop can be looked up.
	if name := datapath.SourceFile(20); !strings.HasPrefix(name, "kfree_skb") {
		t.Error(name)
	}
}

// A flood of one reason is counted exactly and told in part; the events say how many they stand for.
func TestKernelDropsAreLimited(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	a, b := n.pods[0], n.pods[1]
	before := n.kernelDrops(t)["NO_SOCKET"]
	events := n.watchDrops(t)
	conn, err := a.space.dial("udp4", b.address.String()+":7999")
	must(t, err)
	defer conn.Close()
	const packets = 5000
	for sent := 0; sent < packets; {
		// The port unreachable of an earlier datagram comes back as an error of a later one, which is not sent then.
		if _, err := fmt.Fprintln(conn, "x"); err == nil {
			sent++
		}
	}
	for deadline := time.Now().Add(3 * time.Second); n.kernelDrops(t)["NO_SOCKET"]-before < packets; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d were counted", n.kernelDrops(t)["NO_SOCKET"]-before, packets)
		}
	}
	told, held := 0, uint64(0)
	for quiet := time.After(time.Second); ; {
		select {
		case e := <-events:
			if e.SubType == datapath.DropKernel {
				told++
				held += uint64(e.Suppressed)
			}
			continue
		case <-quiet:
		}
		break
	}
	t.Logf("%d events of %d drops", told, packets)
	if told == 0 || told > packets/2 || held+uint64(told) > packets {
		t.Errorf("%d events and %d held back, of %d drops", told, held, packets)
	}
}
