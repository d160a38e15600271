package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// underTraffic exchanges datagrams between two nodes while fn runs; each has to be answered before the next is sent.
func underTraffic(t *testing.T, c *cluster, fn func()) {
	t.Helper()
	client, server := c.nodes[0].pods[0], c.nodes[1].pods[0]
	server.space.echoUDP(t, ":7000")
	conn, err := client.space.dial("udp4", server.address.String()+":7000")
	must(t, err)
	defer conn.Close()
	_, err = ask(conn, "warm")
	must(t, err)
	stop, sent := make(chan struct{}), 0
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Only then, so that a buffer cannot be to blame.
			if _, err := ask(conn, fmt.Sprint(sent)); err != nil {
				t.Errorf("datagram %d was lost: %v", sent, err)
				return
			}
			sent++
		}
	})
	fn()
	close(stop)
	sending.Wait()
	t.Logf("%d datagrams and their answers, none lost", sent)
	if sent < 50 {
		t.Errorf("only %d datagrams", sent)
	}
}

func (n *node) mapInfo(t testing.TB, name string) datapath.MapInfo {
	t.Helper()
	infos, err := n.datapath.Maps()
	must(t, err)
	i := slices.IndexFunc(infos, func(m datapath.MapInfo) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("there is no map %s", name)
	}
	return infos[i]
}

// A map that is full gets larger, and whoever wrote to it and the traffic notice nothing.
func TestFullMapsGrow(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	must(t, n.datapath.Close())
	n.config.PolicyMax, n.config.IPCacheMax = 1024, 1024
	// A map of another size stays, so these begin with none.
	must(t, n.space.in(func() error { return datapath.Cleanup(ctx, n.config.BPFFS) }))
	n.open()
	for i, p := range n.pods {
		must(t, n.datapath.UpsertEndpoint(ctx, p.endpoint))
		must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(c.nodes[1].pods[i].address, 32), Identity: c.nodes[1].pods[i].endpoint.Identity, TunnelEndpoint: c.nodes[1].config.NodeAddress}))
	}
	must(t, n.datapath.UpsertNode(ctx, datapath.Node{Name: c.nodes[1].name, Address: c.nodes[1].config.NodeAddress, PodCIDRs: c.nodes[1].config.PodCIDRs, RouterAddress: c.nodes[1].config.RouterAddress}))
	if m := n.mapInfo(t, "policy"); m.MaxEntries != 1024 || !m.Grows {
		t.Fatalf("%+v", m)
	}
	underTraffic(t, c, func() {
		for i := range 30 {
			var lines []datapath.PolicyEntry
			var addresses []datapath.IPEntry
			for j := range 100 {
				lines = append(lines, line(n.pods[0], uint32(5000+i*100+j), datapath.Ingress, unix.IPPROTO_TCP, 80, false, 1))
				addresses = append(addresses, datapath.IPEntry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(i), byte(j)}), 32), Identity: uint32(5000 + i*100 + j)})
			}
			must(t, n.datapath.ApplyPolicy(ctx, lines, nil))
			must(t, n.datapath.UpsertIP(ctx, addresses...))
		}
	})
	for _, name := range []string{"policy", "ipcache"} {
		m := n.mapInfo(t, name)
		if m.MaxEntries < 3000 || m.Entries < 3000 {
			t.Errorf("%s has %d entries and room for %d", name, m.Entries, m.MaxEntries)
		}
		i := slices.IndexFunc(n.datapath.Pressure(), func(p datapath.MapPressure) bool { return p.Name == name })
		if i < 0 || n.datapath.Pressure()[i].Grown == 0 {
			t.Errorf("%s: nobody says that it grew", name)
		}
	}
	// The pins are those of the larger maps, so the next run takes them over.
	must(t, n.datapath.Close())
	n.open()
	lines, err := n.datapath.Policy(n.pods[0].endpoint.ID)
	must(t, err)
	if len(lines) != 3000 || n.mapInfo(t, "policy").MaxEntries < 3000 {
		t.Errorf("after a restart %d lines, room for %d", len(lines), n.mapInfo(t, "policy").MaxEntries)
	}
	// Explain runs on the new maps.
	if got := c.explain(t, n.pods[0], netip.AddrPortFrom(n.pods[1].address, 80), unix.IPPROTO_TCP, false); got.Outcome != datapath.OutcomeDelivered {
		t.Errorf("%s", steps(got))
	}
}

// Tables of what is open that are configured larger than they were grow after the restart, with all that is in them.
func TestConnectionsGrowWithTheConfiguration(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n, server := c.nodes[0], c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7001")
	conn, err := n.pods[0].space.dial("tcp4", server.address.String()+":7001")
	must(t, err)
	defer conn.Close()
	_, err = ask(conn, "before")
	must(t, err)
	c.nodes[1].space.echoTCP(t, world+":7201")
	outside, err := n.pods[0].space.dial("tcp4", world+":7201")
	must(t, err)
	defer outside.Close()
	_, err = ask(outside, "before")
	must(t, err)
	translations := n.mapInfo(t, "nat").MaxEntries
	underTraffic(t, c, func() {
		must(t, n.datapath.Close())
		n.config.ConntrackMax, n.config.NATMax = 4*n.config.ConntrackMax, 2*int(translations)
		n.open()
		for table, size := range map[string]int{"connections": n.config.ConntrackMax, "nat": n.config.NATMax} {
			for deadline := time.Now().Add(5 * time.Second); n.mapInfo(t, table).MaxEntries != uint32(size); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s still has room for %d", table, n.mapInfo(t, table).MaxEntries)
				}
			}
		}
	})
	_, err = ask(conn, "after")
	must(t, err)
	if _, err := ask(outside, "after"); err != nil {
		t.Errorf("a masqueraded connection was cut: %v", err)
	}
	entries, err := n.datapath.Conntrack(0)
	must(t, err)
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if !slices.ContainsFunc(entries, func(e datapath.ConntrackEntry) bool { return e.Source == local && e.PacketsOut > 3 }) {
		t.Errorf("the connection of %s was not taken along: %+v", local, entries)
	}
}

// More services than were configured get their Maglev tables as well: the other maps of services grow, that of the tables has room.
func TestMaglevServicesBeyondTheirNumber(t *testing.T) {
	const configured, many = 4, 40
	c := newClusterWith(t, datapath.RoutingNative, func(c *datapath.Config) {
		c.LoadBalancer.Algorithm, c.LoadBalancer.MaglevTableSize, c.LoadBalancer.ServicesMax = "maglev", 251, configured
	})
	n := c.nodes[0]
	if m := n.mapInfo(t, "services"); m.MaxEntries != configured {
		t.Fatalf("%+v", m)
	}
	for i := range many {
		s := someService(fmt.Sprint(i), fmt.Sprintf("198.18.1.%d:80", i), unix.IPPROTO_TCP, netip.AddrPortFrom(n.pods[0].address, uint16(8000+i)))
		s.Frontends[0].Kind = datapath.ServiceLoadBalancer
		must(t, n.datapath.UpsertService(ctx, s))
	}
	for _, name := range []string{"services", "backends", "maglev"} {
		if m := n.mapInfo(t, name); m.Entries != many {
			t.Errorf("%s: %+v, want %d entries", name, m, many)
		}
	}
}
