package nodes

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/ipcache"
)

func other(name, address, router, cidr string) datapath.Node {
	return datapath.Node{Name: name, Address: netip.MustParseAddr(address), RouterAddress: netip.MustParseAddr(router), PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)}}
}

func identities(t *testing.T, dp datapath.Datapath) map[string]uint32 {
	t.Helper()
	list, err := dp.IPs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint32{}
	for _, e := range list {
		out[e.Prefix.String()] = e.Identity
	}
	return out
}

func TestNodesComeChangeAndGo(t *testing.T) {
	ctx := context.Background()
	dp, directory := &datapathtest.Fake{}, t.TempDir()
	cache := ipcache.New(slog.Default())
	m := New("node1", dp, cache, directory, slog.Default())
	_ = m.Set(ctx, other("node1", "172.31.77.11", "10.77.1.1", "10.77.1.0/24"))
	_ = m.Set(ctx, other("node2", "172.31.77.12", "10.77.2.1", "10.77.2.0/24"))
	_ = m.SetAddresses(ctx, "node1", []netip.Addr{netip.MustParseAddr("172.31.77.11")})
	_ = m.SetAddresses(ctx, "node2", []netip.Addr{netip.MustParseAddr("172.31.77.12")})
	if len(dp.Nodes()) != 0 {
		t.Fatal("the datapath was told before Start")
	}
	if err := cache.Start(ctx, dp); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	got := identities(t, dp)
	if len(dp.Nodes()) != 1 || got["172.31.77.11/32"] != 1 || got["172.31.77.12/32"] != 6 || got["10.77.2.1/32"] != 6 || got["10.77.2.0/24"] != 2 || len(got) != 4 {
		t.Fatalf("nodes %v, addresses %v", dp.Nodes(), got)
	}
	if err := m.Set(ctx, other("node2", "172.31.77.12", "10.77.9.1", "10.77.9.0/24")); err != nil {
		t.Fatal(err)
	}
	if got := identities(t, dp); got["10.77.9.1/32"] != 6 || got["10.77.2.1/32"] != 0 || got["10.77.2.0/24"] != 0 {
		t.Fatalf("addresses %v", got)
	}

	// Restarted, and meanwhile node2 went.
	cache2 := ipcache.New(slog.Default())
	m2 := New("node1", dp, cache2, directory, slog.Default())
	_ = m2.SetAddresses(ctx, "node1", []netip.Addr{netip.MustParseAddr("172.31.77.11")})
	if err := cache2.Start(ctx, dp); err != nil {
		t.Fatal(err)
	}
	if err := m2.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got := identities(t, dp); len(dp.Nodes()) != 0 || len(got) != 1 {
		t.Fatalf("nodes %v, addresses %v", dp.Nodes(), got)
	}
}

func TestRemovedNodeLeavesNothing(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	cache := ipcache.New(slog.Default())
	m := New("node1", dp, cache, t.TempDir(), slog.Default())
	_ = cache.Start(ctx, dp)
	_ = m.Start(ctx)
	_ = m.Set(ctx, other("node2", "172.31.77.12", "10.77.2.1", "10.77.2.0/24"))
	_ = m.SetAddresses(ctx, "node2", []netip.Addr{netip.MustParseAddr("172.31.77.12")})
	_ = m.Remove(ctx, "node2")
	_ = m.SetAddresses(ctx, "node2", nil)
	if got := identities(t, dp); len(dp.Nodes())+len(got)+len(m.Others()) != 0 {
		t.Fatalf("left: %v %v", dp.Nodes(), got)
	}
}
