package datapath_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// eachLayout runs a test with what an older and a newer version would have left.
func eachLayout(t *testing.T, test func(t *testing.T, version int, layout map[string]shapes)) {
	t.Run("upgrade", func(t *testing.T) { test(t, 1, layoutBefore) })
	t.Run("downgrade", func(t *testing.T) { test(t, 3, layoutAfter) })
}

// Clients outside keep their connections to a Maglev service, new ones go where they went before, and source ranges hold: before
// the agent has said a word about services.
func TestMaglevServicesAreTakenOver(t *testing.T) {
	eachLayout(t, func(t *testing.T, version int, layout map[string]shapes) {
		c := newCluster(t, datapath.RoutingTunnel)
		outside := withOutside6(t, c, func(config *datapath.Config) {
			config.LoadBalancer.Algorithm, config.LoadBalancer.MaglevTableSize = "maglev", 1021
		})
		servers := []*pod{c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]}
		for _, p := range servers {
			p.answerBoth(t)
		}
		n := c.nodes[0]
		must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
		conns := map[string]net.Conn{}
		for _, family := range sides() {
			s := family.service(unix.IPPROTO_TCP)
			for _, p := range servers {
				s.Backends = append(s.Backends, family.backend(p))
			}
			s.SourceRanges = []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:51::/64")}
			c.publish(t, s)
			// Nobody may come by this one's balancer.
			s.ServiceID.Name, s.SourceRanges, s.AffinitySeconds = "closed", []netip.Prefix{prefix("192.0.2.77/32")}, 600
			for i := range s.Frontends {
				s.Frontends[i].Port++
			}
			c.publish(t, s)
			for name, to := range map[string]string{"node port": family.nodePort, "load balancer": family.balancer} {
				conn, err := outside.dial(family.tcp, to)
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				for range 2 {
					_, err := ask(conn, "before")
					must(t, err)
				}
				conns[family.name+", "+name] = conn
			}
		}
		before, err := datapath.MaglevTables(n.datapath)
		must(t, err)
		if len(before) != 4 {
			t.Fatalf("%d Maglev tables, want one for each service and family", len(before))
		}
		stop := keepAsking(conns)
		must(t, n.datapath.Close())
		n.leaveAs(t, version, layout)
		n.open()
		after, err := datapath.MaglevTables(n.datapath)
		must(t, err)
		for list, table := range before {
			if !slices.Equal(after[list], table) {
				t.Errorf("of list %d's Maglev table of %d places another one of %d was made", list, len(table), len(after[list]))
			}
		}
		for _, family := range sides() {
			if _, err := outside.try(family.tcp, family.balancer); err != nil {
				t.Errorf("by %s a client in the ranges: %v", family.name, err)
			}
			closed := netip.MustParseAddrPort(family.balancer)
			if got, err := outside.try(family.tcp, netip.AddrPortFrom(closed.Addr(), closed.Port()+1).String()); err == nil {
				t.Errorf("by %s a client out of the ranges came in: %q", family.name, got)
			}
		}
		for name, err := range stop() {
			t.Errorf("the connection %q was cut: %v", name, err)
		}
		for _, taken := range n.datapath.CarriedOver() {
			if taken.Lost > 0 || taken.Problem != "" {
				t.Errorf("%s: %+v", taken.Map, taken)
			}
		}
	})
}

// What the agent was told, and does not tell again before it has heard of everything, is there from the start: networks that are
// refused, destinations that are not masqueraded, and how other nodes send.
func TestWhatWasToldIsTakenOver(t *testing.T) {
	eachLayout(t, func(t *testing.T, version int, layout map[string]shapes) {
		c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) {
			config.Prefilter, config.Masquerade6 = true, true
		})
		n := c.nodes[0]
		refused := []netip.Prefix{prefix("198.18.0.0/15"), prefix("2001:db8:bad::/48")}
		must(t, n.datapath.SetRefused(ctx, refused))
		must(t, n.datapath.SetUnmasqueraded(ctx, []netip.Prefix{prefix(world + "/32")}))
		must(t, n.datapath.Close())
		n.leaveAs(t, version, layout)
		n.open()
		now, err := n.datapath.Refused()
		must(t, err)
		var networks []netip.Prefix
		for _, r := range now {
			networks = append(networks, r.Network)
		}
		slices.SortFunc(networks, netip.Prefix.Compare)
		if !slices.Equal(networks, refused) {
			t.Errorf("refused are %v, they were %v", networks, refused)
		}
		if rules := n.datapath.Masquerading().Rules; rules != 1 {
			t.Errorf("%d destinations are exempted from masquerading, it was one", rules)
		}
	})
}

// Where nodes reach each other by IPv6, connections and addresses have the nodes' numbers.
func TestNumbersOfNodesAreTakenOver(t *testing.T) {
	eachLayout(t, func(t *testing.T, version int, layout map[string]shapes) {
		c := newClusterWith(t, datapath.RoutingTunnel, only6)
		n, far := c.nodes[0], c.nodes[1].pods[0]
		far.space.echoTCP(t, ":7000")
		to := netip.AddrPortFrom(far.address6, 7000).String()
		conn, err := n.pods[0].space.dial("tcp6", to)
		must(t, err)
		defer conn.Close()
		for range 2 {
			_, err := ask(conn, "before")
			must(t, err)
		}
		addresses, err := n.datapath.IPs()
		must(t, err)
		must(t, n.datapath.Close())
		n.leaveAs(t, version, layout)
		n.open()
		now, err := n.datapath.IPs()
		must(t, err)
		for _, e := range addresses {
			if !slices.Contains(now, e) {
				t.Errorf("%+v is not among %+v", e, now)
			}
		}
		if _, err := ask(conn, "after"); err != nil {
			t.Errorf("an open connection was cut: %v", err)
		}
		if _, err := n.pods[1].space.try("tcp6", to); err != nil {
			t.Errorf("a new connection: %v", err)
		}
		// A node that comes gets a number of its own.
		other := datapath.IPEntry{Prefix: prefix("fd00:10:77:9::9/128"), Identity: 4242, TunnelEndpoint: addr("2001:db8:77::9")}
		must(t, n.datapath.UpsertIP(ctx, other))
		if _, err := ask(conn, "with another node"); err != nil {
			t.Errorf("an open connection was cut when another node came: %v", err)
		}
	})
}

// Another size of Maglev tables is that of the tables from the start, for services of before and for new ones.
func TestMaglevTablesGetAnotherSize(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(config *datapath.Config) {
		config.LoadBalancer.Algorithm, config.LoadBalancer.MaglevTableSize = "maglev", 1021
	})
	n := c.nodes[0]
	s := echoService(unix.IPPROTO_TCP, backend(n.pods[0], 7000), backend(n.pods[1], 7000))
	must(t, n.datapath.UpsertService(ctx, s))
	for _, size := range []int{509, 4093} {
		must(t, n.datapath.Close())
		n.config.LoadBalancer.MaglevTableSize = size
		n.open()
		tables, err := datapath.MaglevTables(n.datapath)
		must(t, err)
		for list, table := range tables {
			if len(table) != size || slices.Contains(table, 0) {
				t.Errorf("list %d has a table of %d places: %v", list, len(table), table)
			}
		}
		if len(tables) != 1 {
			t.Errorf("%d tables, want one", len(tables))
		}
		s.Backends = append(s.Backends, backend(c.nodes[1].pods[0], uint16(size)))
		must(t, n.datapath.UpsertService(ctx, s))
	}
}
