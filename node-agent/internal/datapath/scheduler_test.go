package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// withLimits turns the bandwidth manager on.
func withLimits(c *datapath.Config) { c.BandwidthManager = true }

// sink takes what it is sent and gives the number of bytes of each connection.
func (s *space) sink(t testing.TB, at string) <-chan int64 {
	t.Helper()
	var l net.Listener
	must(t, s.in(func() (err error) { l, err = net.Listen("tcp", at); return err }))
	t.Cleanup(func() { l.Close() })
	got := make(chan int64, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, c)
			c.Close()
			got <- n
		}
	}()
	return got
}

// throughput is what arrives per second of what one connection sends for so long, without the first moments in which it
// finds its pace.
func throughput(t testing.TB, from *space, to string, arrived <-chan int64, lasting time.Duration) float64 {
	t.Helper()
	c, err := from.dial("tcp4", to)
	must(t, err)
	began := time.Now()
	must(t, c.SetDeadline(began.Add(lasting)))
	buffer := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buffer); err != nil {
			var late net.Error
			if !errors.As(err, &late) || !late.Timeout() {
				t.Fatal(err)
			}
			break
		}
	}
	// What is still in the socket's buffer does not count.
	must(t, c.(*net.TCPConn).SetLinger(0))
	took := time.Since(began)
	c.Close()
	return float64(<-arrived) / took.Seconds()
}

// What goes through a limit in a while, with the mode that this kernel gives: paced where it has the scheduler fq, else
// policed.
func TestRateOfTraffic(t *testing.T) {
	const limit = 4 << 20
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		t.Run(string(routing), func(t *testing.T) {
			c := newClusterWith(t, routing, withLimits)
			n, near, remote := c.nodes[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
			mode := n.datapath.Bandwidth()
			t.Logf("%s %s", mode.Mode, mode.Why)
			const lasting = 3 * time.Second
			client := n.pods[0]
			atRemote, atNear := remote.space.sink(t, ":7000"), near.space.sink(t, ":7000")
			to := remote.address.String() + ":7000"
			free := throughput(t, client.space, to, atRemote, time.Second/2)
			client.endpoint.EgressBandwidth = limit
			must(t, n.datapath.UpsertEndpoint(ctx, client.endpoint))
			// TCP that is dropped from stays somewhat below. More than the limit and what it tolerates at once must not pass on
			// any machine.
			check := func(what string, got float64) {
				t.Helper()
				rates, err := n.datapath.Rates()
				must(t, err)
				least, most := 0.7, 1.02
				if rates[0].Direction == datapath.Egress && mode.Mode == datapath.BandwidthPaced {
					least = 0.9
				} else {
					most += rates[0].Tolerance.Seconds() / lasting.Seconds()
				}
				t.Logf("%s: %.2f MB/s, %.2f of the limit; without: %.0f MB/s", what, got/1e6, got/limit, free/1e6)
				if got < least*limit || got > most*limit {
					t.Errorf("%s: %.2f of the limit, want %.2f to %.2f", what, got/limit, least, most)
				}
			}
			if free < 4*limit {
				t.Skipf("this machine carries %.0f MB/s, too little for a limit of %d MB/s to be seen", free/1e6, limit/1000/1000)
			}
			check("out of the node", throughput(t, client.space, to, atRemote, lasting))
			// What stays on the node has no egress limit.
			if got := throughput(t, client.space, near.address.String()+":7000", atNear, time.Second/2); got < 2*limit {
				t.Errorf("to a pod of the same node: %.2f of the limit of what leaves the node", got/limit)
			}
			// A restart keeps the limit and what was counted.
			before, err := n.datapath.Rates()
			must(t, err)
			must(t, n.datapath.Close())
			n.open()
			after, err := n.datapath.Rates()
			must(t, err)
			if len(before) != 1 || len(after) != 1 || after[0].Bytes < before[0].Bytes || after[0].Bytes < limit || after[0].BytesPerSecond != limit {
				t.Errorf("limits before the restart %+v, after %+v", before, after)
			}
			check("after a restart", throughput(t, client.space, to, atRemote, lasting))
			// Into a pod, from anywhere.
			client.endpoint.EgressBandwidth = 0
			must(t, n.datapath.UpsertEndpoint(ctx, client.endpoint))
			near.endpoint.IngressBandwidth = limit
			must(t, n.datapath.UpsertEndpoint(ctx, near.endpoint))
			check("into a pod, from the same node", throughput(t, client.space, near.address.String()+":7000", atNear, lasting))
			check("into a pod, from another node", throughput(t, remote.space, near.address.String()+":7000", atNear, lasting))
			// Lifted while traffic may flow.
			near.endpoint.IngressBandwidth = 0
			must(t, n.datapath.UpsertEndpoint(ctx, near.endpoint))
			if got := throughput(t, client.space, near.address.String()+":7000", atNear, time.Second/2); got < 2*limit {
				t.Errorf("%.2f of a limit that was lifted", got/limit)
			}
		})
	}
}

// scheduled lists a device's root scheduler as "kind handle".
func (n *node) scheduled() (out string) {
	n.t.Helper()
	must(n.t, n.space.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(l)
		for _, q := range all {
			if q.Attrs().Parent == netlink.HANDLE_ROOT {
				out = fmt.Sprintf("%s %s", q.Type(), netlink.HandleStr(q.Attrs().Handle))
			}
		}
		return err
	}))
	return out
}

// The devices get fq, it is journaled, and the former scheduler is back after a cleanup, or when the manager is turned off.
func TestDevicesGetTheirScheduler(t *testing.T) {
	var journal []string
	c := newClusterWith(t, datapath.RoutingNative, func(*datapath.Config) {}, datapath.WithJournal(func(kind, subject, before, after, undo string) error {
		if kind == "qdisc" {
			journal = append(journal, strings.Join([]string{subject, before, after, undo}, "|"))
		}
		return nil
	}))
	n := c.nodes[0]
	former := n.scheduled()
	reopen := func(on bool) datapath.Bandwidth {
		t.Helper()
		must(t, n.datapath.Close())
		n.config.BandwidthManager = on
		n.open()
		return n.datapath.Bandwidth()
	}
	if got := n.datapath.Bandwidth(); got.Mode != datapath.BandwidthOff {
		t.Errorf("off: %+v", got)
	}
	got := reopen(true)
	if got.Mode != datapath.BandwidthPaced {
		if got.Mode != datapath.BandwidthPoliced || !strings.Contains(got.Why, "fq") || !strings.Contains(got.Fix, "CONFIG_NET_SCH_FQ") {
			t.Errorf("without the scheduler: %+v", got)
		}
		if now := n.scheduled(); now != former || len(journal) > 0 {
			t.Errorf("the device has %s, before %s; journal %v", now, former, journal)
		}
		t.Skipf("this kernel has no packet scheduler fq, so no device can get it: %s", got.Why)
	}
	if now := n.scheduled(); !strings.HasPrefix(now, "fq f1ea:") {
		t.Errorf("the device has %s", now)
	}
	if !slices.Equal(journal, []string{"eth0|" + strings.Fields(former)[0] + "|fq|tc qdisc del dev eth0 root"}) {
		t.Errorf("journal %v", journal)
	}
	if reopen(true); len(journal) != 1 {
		t.Errorf("a restart was journaled: %v", journal)
	}
	if reopen(false); n.scheduled() != former {
		t.Errorf("turned off: the device has %s, before %s", n.scheduled(), former)
	}
	reopen(true)
	must(t, n.space.in(func() error { return datapath.Cleanup(context.Background(), n.config.BPFFS) }))
	if now := n.scheduled(); now != former {
		t.Errorf("after a cleanup the device has %s, before %s", now, former)
	}
}

// Who asks what would become of a packet is told of the limits on its way, and asking uses nothing up.
func TestExplainTellsOfLimits(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, withLimits)
	n, client, near := c.nodes[0], c.nodes[0].pods[0], c.nodes[0].pods[1]
	client.endpoint.EgressBandwidth, near.endpoint.IngressBandwidth = 1000, 2000
	must(t, n.datapath.UpsertEndpoint(ctx, client.endpoint))
	must(t, n.datapath.UpsertEndpoint(ctx, near.endpoint))
	for _, test := range []struct {
		to   string
		says string
	}{
		{world, fmt.Sprintf("what goes out of endpoint %d is limited to 1000 bytes per second", client.endpoint.ID)},
		{near.address.String(), fmt.Sprintf("what goes into endpoint %d is limited to 2000 bytes per second", near.endpoint.ID)},
	} {
		said, err := n.datapath.Explain(ctx, datapath.Trial{Endpoint: client.endpoint.ID, Destination: addr(test.to), DestPort: 9000, Protocol: unix.IPPROTO_TCP, PerPacket: true})
		must(t, err)
		told := 0
		for _, s := range said.Steps {
			if s.Kind != "bandwidth" {
				continue
			}
			if told++; s.Text != test.says || s.Map != "rates" || !s.Found {
				t.Errorf("to %s: %+v", test.to, s)
			}
		}
		if told != 1 {
			t.Errorf("to %s: %d steps tell of a limit:%s", test.to, told, steps(said))
		}
	}
	rates, err := n.datapath.Rates()
	must(t, err)
	for _, r := range rates {
		if r.Bytes != 0 || r.Ahead != 0 {
			t.Errorf("asking used up a limit: %+v", r)
		}
	}
}
