package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func TestMasqueradeRulesFollowTheirFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "ipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [192.0.2.0/24], masqLinkLocal: true, masqLinkLocalIPv6: true}}")
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dp := &datapathtest.Fake{}
	a := &agent{Options: Options{ConfigPath: path}, config: c, components: newComponents(slog.New(slog.DiscardHandler)), log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { a.followMasqueradeRules(ctx, &api.Parts{Datapath: dp}); close(done) }()
	defer func() { stop(); <-done }()
	expect := func(want ...string) {
		t.Helper()
		var prefixes []netip.Prefix
		for _, w := range want {
			prefixes = append(prefixes, netip.MustParsePrefix(w))
		}
		deadline := time.Now().Add(20 * time.Second)
		for !slices.Equal(dp.Unmasqueraded(), prefixes) {
			if time.Now().After(deadline) {
				t.Fatalf("the datapath has %v, want %v; components %v", dp.Unmasqueraded(), prefixes, a.components.list())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	expect("192.0.2.0/24")
	write(path, "ipMasqAgent: {enabled: true, config: {nonMasqueradeCIDRs: [192.0.2.0/25], masqLinkLocal: true}}")
	expect("192.0.2.0/25", "fe80::/10")
	// The ConfigMap of ip-masq-agent, as it is used elsewhere, goes before.
	write(a.rulesPath(), "nonMasqueradeCIDRs: [198.51.100.0/24]\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\n")
	expect("198.51.100.0/24")
	write(a.rulesPath(), "nonMasqueradeCIDRs: [rubbish]")
	deadline := time.Now().Add(20 * time.Second)
	for a.components.list()[0].State != api.StateDegraded {
		if time.Now().After(deadline) {
			t.Fatalf("rubbish is not reported: %v", a.components.list())
		}
		time.Sleep(10 * time.Millisecond)
	}
	expect("198.51.100.0/24")
}

func TestExhaustionIsReportedWhileItIsNews(t *testing.T) {
	dp := &datapathtest.Fake{}
	a := &agent{components: newComponents(slog.New(slog.DiscardHandler))}
	state := func() api.State {
		a.reportMasquerading(&api.Parts{Datapath: dp})
		return a.components.list()[0].State
	}
	dp.SetDrops(datapath.DropCount{Reason: dropNoMapping, Packets: 3})
	if got := state(); got != api.StateOK {
		t.Errorf("what was counted before the agent's start: %s", got)
	}
	dp.SetDrops(datapath.DropCount{Reason: dropNoMapping, Packets: 4})
	if got := state(); got != api.StateDegraded {
		t.Errorf("a packet without a port: %s, %v", got, a.components.list())
	}
	a.exhaustion.until = time.Now().Add(-time.Second)
	if got := state(); got != api.StateOK {
		t.Errorf("long after: %s", got)
	}
}
