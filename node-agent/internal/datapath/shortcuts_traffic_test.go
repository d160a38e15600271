package datapath_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
)

// A connection with a shortcut is treated like any other from the moment on that something changes: its receiver goes, and leaves
// its address to another pod; it gets a limit; the agent starts again with other settings.
func TestShortcutsFollowWhatChanges(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) { config.BandwidthManager = true })
	n := c.nodes[0]
	client, server := n.pods[0], n.pods[1]
	who := func(s *space, name string) {
		s.serve(t, "tcp", ":7000", func(c net.Conn) {
			for b := make([]byte, 256); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
				if _, err := fmt.Fprintln(c, name); err != nil {
					return
				}
			}
		})
	}
	who(server.space, "the first")
	for _, to := range []netip.Addr{server.address, server.address6} {
		address := netip.AddrPortFrom(to, 7000).String()
		conn, err := client.space.dial("tcp", address)
		must(t, err)
		defer conn.Close()
		// shorten has packets of the connection go the short way. Any change in the background has the next one looked at closely.
		shorten := func() {
			t.Helper()
			for range 400 {
				if got, err := ask(conn, "who?"); err != nil || got != "the first" {
					t.Fatalf("%q, %v", got, err)
				}
				if short, err := datapath.ShortPackets(n.datapath); err != nil || short > 0 {
					must(t, err)
					return
				}
			}
			t.Fatal("no packet went the short way: the test proves nothing")
		}
		shorten()
		// A limit counts the very next packets.
		limited := server.endpoint
		limited.IngressBandwidth = 1 << 30
		must(t, n.datapath.UpsertEndpoint(ctx, limited))
		_, err = ask(conn, "who?")
		must(t, err)
		rates, err := n.datapath.Rates()
		must(t, err)
		if len(rates) != 1 || rates[0].Bytes == 0 {
			t.Errorf("a limit that was just set passed %+v", rates)
		}
		must(t, n.datapath.UpsertEndpoint(ctx, server.endpoint))
		shorten()
		// Without aggregation each packet is looked at.
		must(t, n.datapath.Close())
		n.config.MonitorAggregation = false
		n.open()
		before, err := datapath.ShortPackets(n.datapath)
		must(t, err)
		for range 40 {
			_, err := ask(conn, "who?")
			must(t, err)
		}
		if now, err := datapath.ShortPackets(n.datapath); err != nil || now != before {
			t.Errorf("without aggregation %d packets went the short way, %v", now-before, err)
		}
		must(t, n.datapath.Close())
		n.config.MonitorAggregation = true
		n.open()
		shorten()
		// The receiver is taken from the network, though it still runs.
		must(t, n.datapath.RemoveEndpoint(ctx, server.endpoint.ID))
		if got, err := ask(conn, "who?"); err == nil {
			t.Errorf("who is no endpoint any more answered %q", got)
		}
		must(t, n.datapath.UpsertEndpoint(ctx, server.endpoint))
	}
	// Another pod gets the addresses, at once.
	conn, err := client.space.dial("tcp4", server.address.String()+":7000")
	must(t, err)
	defer conn.Close()
	for range 40 {
		_, err := ask(conn, "who?")
		must(t, err)
	}
	other := newSpace(t)
	who(other, "the second")
	params := podlink.Params{MTU: n.datapath.MTU(), Addresses: server.endpoint.Addresses}
	for _, a := range server.endpoint.Addresses {
		router := n.config.RouterAddress
		if a.Is6() {
			router = n.config.RouterAddress6
		}
		params.Routers = append(params.Routers, router)
	}
	var d podlink.Details
	must(t, n.space.in(func() (err error) {
		d, err = podlink.SetupPodInterface(other.path(), "eth0", params)
		return err
	}))
	must(t, n.datapath.RemoveEndpoint(ctx, server.endpoint.ID))
	second := server.endpoint
	second.ID, second.Interface, second.InterfaceIndex, second.PodMAC, second.HostMAC, second.NetnsCookie = 77, d.Interface, d.InterfaceIndex, d.PodMAC, d.HostMAC, d.NetnsCookie
	must(t, n.datapath.UpsertEndpoint(ctx, second))
	if got, err := ask(conn, "who?"); err == nil {
		t.Errorf("on a connection to the pod before it, %q answered", got)
	}
	if got, err := client.space.try("tcp4", server.address.String()+":7000"); err != nil || got != "the second" {
		t.Errorf("a new connection got %q, %v", got, err)
	}
}
