package ipcache

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func entry(prefix string, identity uint32, pod string) Entry {
	return Entry{IPEntry: datapath.IPEntry{Prefix: netip.MustParsePrefix(prefix), Identity: identity}, Owner: Owner{Namespace: "a", PodName: pod}}
}

func table(t *testing.T, dp datapath.Datapath) map[string]uint32 {
	t.Helper()
	ips, err := dp.IPs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint32{}
	for _, e := range ips {
		out[e.Prefix.String()] = e.Identity
	}
	return out
}

func TestStartMakesTableEqual(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	_ = dp.UpsertIP(ctx, entry("10.0.0.1/32", 300, "").IPEntry, entry("10.0.0.2/32", 300, "").IPEntry)
	c := New(slog.Default())
	_ = c.Upsert(ctx, SourceEndpointObject, entry("10.0.0.1/32", 301, "x"))
	_ = c.Upsert(ctx, SourceCIDR, entry("0.0.0.0/0", 2, ""))
	if got := table(t, dp); len(got) != 2 || got["10.0.0.1/32"] != 300 {
		t.Fatalf("the table changed before Start: %v", got)
	}
	if err := c.Start(ctx, dp); err != nil {
		t.Fatal(err)
	}
	if got := table(t, dp); len(got) != 2 || got["10.0.0.1/32"] != 301 || got["0.0.0.0/0"] != 2 {
		t.Fatalf("got %v", got)
	}
}

func TestStrongerSourceCounts(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	c := New(slog.Default())
	_ = c.Start(ctx, dp)
	_ = c.Upsert(ctx, SourceRemoteNode, entry("10.0.0.1/32", 6, ""))
	_ = c.Upsert(ctx, SourceCIDR, entry("10.0.0.1/32", 1<<24, ""))
	if got := table(t, dp)["10.0.0.1/32"]; got != 6 {
		t.Fatalf("got %d", got)
	}
	_ = c.Upsert(ctx, SourceKubernetesAPI, entry("10.0.0.1/32", 7, ""))
	_ = c.Delete(ctx, SourceRemoteNode, netip.MustParsePrefix("10.0.0.1/32"), nil)
	if got := table(t, dp)["10.0.0.1/32"]; got != 7 {
		t.Fatalf("got %d", got)
	}
	_ = c.Delete(ctx, SourceKubernetesAPI, netip.MustParsePrefix("10.0.0.1/32"), nil)
	if got := table(t, dp)["10.0.0.1/32"]; got != 1<<24 {
		t.Fatalf("got %d", got)
	}
	if c.Uses(6) || c.Uses(7) || !c.Uses(1<<24) {
		t.Fatal("uses are counted wrongly")
	}
}

func TestLateNewsOfFormerOwner(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	c := New(slog.Default())
	_ = c.Start(ctx, dp)
	_ = c.Upsert(ctx, SourceEndpointObject, entry("10.0.0.1/32", 300, "old"))
	_ = c.Upsert(ctx, SourceEndpointObject, entry("10.0.0.1/32", 301, "new"))
	_ = c.Delete(ctx, SourceEndpointObject, netip.MustParsePrefix("10.0.0.1/32"), &Owner{Namespace: "a", PodName: "old"})
	if got := table(t, dp)["10.0.0.1/32"]; got != 301 {
		t.Fatalf("got %d", got)
	}
}

func TestRetry(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	c := New(slog.Default())
	_ = c.Start(ctx, dp)
	dp.Fail("UpsertIP", errors.New("map is full"))
	if err := c.Upsert(ctx, SourceEndpointObject, entry("10.0.0.1/32", 300, "x")); err == nil {
		t.Fatal("the error was swallowed")
	}
	dp.Fail("UpsertIP", nil)
	if n, err := c.Retry(ctx); n != 0 || err != nil || table(t, dp)["10.0.0.1/32"] != 300 {
		t.Fatalf("%d left, %v", n, err)
	}
}
