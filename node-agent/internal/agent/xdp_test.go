package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func ranges(texts ...string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestRefusedNetworks(t *testing.T) {
	var applied [][]netip.Prefix
	needed := ranges("192.0.2.1/32", "10.77.0.0/16")
	r := &refusals{
		apply: func(_ context.Context, n []netip.Prefix) error {
			applied = append(applied, slices.Clone(n))
			return nil
		},
		needed: func() []netip.Prefix { return needed }, fixed: ranges("203.0.113.0/24"), names: []string{"bad", "worse"},
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.setGroup(t.Context(), "bad", ranges("198.51.100.0/24", "203.0.113.0/24")))
	if len(applied) != 0 {
		t.Fatalf("a group counted before all were listed: %v", applied)
	}
	must(r.refresh(t.Context()))
	must(r.refresh(t.Context()))
	must(r.setGroup(t.Context(), "other", ranges("100.64.0.0/10")))
	if want := ranges("198.51.100.0/24", "203.0.113.0/24"); len(applied) != 1 || !slices.Equal(applied[0], want) {
		t.Fatalf("applied %v, want %v once", applied, want)
	}
	// What would cut the node off is spared, also where that is known only later.
	must(r.setGroup(t.Context(), "bad", ranges("192.0.0.0/16", "10.77.3.0/24", "198.51.100.0/24")))
	needed = append(needed, netip.MustParsePrefix("198.51.100.7/32"))
	must(r.refresh(t.Context()))
	refused, spared, missing := r.state()
	if refused != 1 || !slices.Equal(spared, ranges("10.77.3.0/24", "192.0.0.0/16", "198.51.100.0/24")) || !slices.Equal(missing, []string{"worse"}) {
		t.Errorf("%d refused, spared %v, missing %v", refused, spared, missing)
	}
	must(r.setGroup(t.Context(), "bad", ranges("203.0.113.0/24")))
	for network, want := range map[string][]string{
		"203.0.113.0/24": {"xdpPrefilter.cidrs", "CiliumCIDRGroup bad (xdpPrefilter.cidrGroups)"}, "198.51.100.0/24": nil,
	} {
		if got := r.origins(netip.MustParsePrefix(network)); !slices.Equal(got, want) {
			t.Errorf("%s is refused by %v, want %v", network, got, want)
		}
	}
	must(r.setGroup(t.Context(), "bad", nil))
	if last := applied[len(applied)-1]; !slices.Equal(last, ranges("203.0.113.0/24")) {
		t.Errorf("after the group went %v are refused", last)
	}
	var off *refusals
	must(off.setGroup(t.Context(), "bad", ranges("203.0.113.0/24")))
}

func TestXDPIsReportedWithItsReason(t *testing.T) {
	off := datapath.XDPDevice{Device: "eth0", Driver: "veth", Why: "a virtual cable", PrefilterWhy: "the driver has no XDP"}
	on := datapath.XDPDevice{Device: "eth1", Driver: "ena", Services: true, Why: "in the driver ena", Prefilter: true, PrefilterWhy: "in the driver ena"}
	for _, test := range []struct {
		acceleration string
		devices      []datapath.XDPDevice
		xdp          api.State
		prefilter    api.State
	}{
		{datapath.AccelerationBestEffort, []datapath.XDPDevice{off}, api.StateOff, api.StateDegraded},
		{datapath.AccelerationBestEffort, []datapath.XDPDevice{off, on}, api.StateOK, api.StateDegraded},
		{datapath.AccelerationNative, []datapath.XDPDevice{off, on}, api.StateDegraded, api.StateDegraded},
		{datapath.AccelerationNative, []datapath.XDPDevice{on}, api.StateOK, api.StateOK},
	} {
		dp := &datapathtest.Fake{}
		dp.SetXDP(test.devices...)
		a := &agent{components: newComponents(slog.New(slog.DiscardHandler))}
		a.config.LoadBalancer = config.LoadBalancer{Acceleration: test.acceleration}
		r := &refusals{apply: dp.SetRefused, needed: func() []netip.Prefix { return nil }, fixed: ranges("203.0.113.0/24")}
		if err := r.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.reportXDP(&api.Parts{Datapath: dp}, r)
		list := a.components.list()
		if len(list) != 2 || list[0].State != test.xdp || list[1].State != test.prefilter {
			t.Errorf("%s on %d devices: %+v", test.acceleration, len(test.devices), list)
			continue
		}
		for _, d := range test.devices {
			if !strings.Contains(list[0].Message, d.Device) || !strings.Contains(list[0].Message, d.Why) || !strings.Contains(list[1].Message, d.PrefilterWhy) {
				t.Errorf("status does not say why: %+v", list)
			}
		}
	}
}

func TestAbsentDevicesAreReported(t *testing.T) {
	dp := &datapathtest.Fake{}
	a := &agent{components: newComponents(slog.New(slog.DiscardHandler))}
	p := &api.Parts{Datapath: dp, Settings: datapath.Config{Routing: datapath.RoutingTunnel, Devices: []string{"eth0", "eth1"}}}
	for _, test := range []struct {
		absent bool
		state  api.State
	}{{true, api.StateDegraded}, {false, api.StateOK}} {
		dp.SetXDP(datapath.XDPDevice{Device: "eth0"}, datapath.XDPDevice{Device: "eth1", Absent: test.absent})
		a.reportDatapath(p)
		if c := a.components.list()[0]; c.State != test.state || strings.Contains(c.Message, "not there at the moment: eth1") != test.absent {
			t.Errorf("absent %v: %+v", test.absent, c)
		}
	}
}

// What an upgrade could not take over is said, and status is degraded by it for a while.
func TestLossesOfAnUpgradeAreReported(t *testing.T) {
	for _, test := range []struct {
		name    string
		carried []datapath.Carried
		ago     time.Duration
		state   api.State
		message string
	}{
		{"no other version", nil, 0, api.StateOK, "tunnel, devices eth0, MTU 1450"},
		{"all taken over", []datapath.Carried{{Map: "connections", Entries: 40}, {Map: "nat", Entries: 2}}, 0, api.StateOK, "tunnel, devices eth0, MTU 1450; 42 entries taken over from another version"},
		{"one lost", []datapath.Carried{{Map: "connections", Entries: 40}, {Map: "nat", Lost: 2, Problem: "its value: port"}}, time.Minute, api.StateDegraded,
			"tunnel, devices eth0, MTU 1450; 40 entries taken over from another version, lost: 2 of nat (its value: port)"},
		{"long ago", []datapath.Carried{{Map: "nat", Lost: 2, Problem: "its value: port"}}, time.Hour, api.StateOK,
			"tunnel, devices eth0, MTU 1450; 0 entries taken over from another version, lost: 2 of nat (its value: port)"},
		{"an empty one", []datapath.Carried{{Map: "nat", Problem: "its value: port"}}, 0, api.StateOK, "tunnel, devices eth0, MTU 1450; 0 entries taken over from another version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dp := &datapathtest.Fake{}
			dp.SetCarried(test.carried...)
			a := &agent{components: newComponents(slog.New(slog.DiscardHandler)), started: time.Now().Add(-test.ago)}
			a.reportDatapath(&api.Parts{Datapath: dp, Settings: datapath.Config{Routing: datapath.RoutingTunnel, Devices: []string{"eth0"}}})
			if c := a.components.list()[0]; c.State != test.state || c.Message != test.message {
				t.Errorf("%s: %q, want %s: %q", c.State, c.Message, test.state, test.message)
			}
		})
	}
}
