package preflight

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/facts"
)

func TestJudgements(t *testing.T) {
	device := facts.Interface{Name: "eth0", Kind: "device", MTU: 1500, Addresses: []string{"192.0.2.1/24"}}
	small := device
	small.MTU = 1280
	for name, c := range map[string]struct {
		outcome Outcome
		status  string
		says    string
	}{
		"mtu fits":        {mtu(facts.Facts{Interfaces: []facts.Interface{device}}), "pass", "eth0 1500"},
		"mtu small":       {mtu(facts.Facts{Interfaces: []facts.Interface{small}}), "warn", "raise the MTU"},
		"no device":       {mtu(facts.Facts{}), "fail", "no device"},
		"native XDP":      {cards(facts.Facts{Cards: []facts.Card{{Interface: "eth0", Driver: "ena", Version: "2.9", XDP: "native"}}}), "pass", "ena 2.9"},
		"generic XDP":     {cards(facts.Facts{Cards: []facts.Card{{Interface: "eth0", Driver: "e100", XDP: "generic"}}}), "warn", "no native XDP"},
		"no kube-proxy":   {serviceRules(facts.Facts{}), "pass", "none"},
		"kube-proxy's":    {serviceRules(facts.Facts{Services: facts.ServiceChains{NFTables: 2, Legacy: 3}}), "warn", "5 chains"},
		"rules not read":  {serviceRules(facts.Facts{Problems: []string{"reading nftables: EPERM"}}), "warn", "EPERM"},
		"no BTF":          {btf("/does/not/exist"), "fail", "CONFIG_DEBUG_INFO_BTF"},
		"BTF of no bytes": {btf(emptyFile(t)), "fail", "BTF"},
	} {
		o := c.outcome
		if o.Status != c.status || !strings.Contains(o.Found+" "+o.Fix, c.says) {
			t.Errorf("%s: %+v, want %s with %q", name, o, c.status, c.says)
		}
	}
}

func TestAdjacentNodesAreAskedOfTheRoutingTable(t *testing.T) {
	if o := adjacent([]netip.Addr{netip.MustParseAddr("127.0.0.2")}); o.Status != "pass" {
		t.Errorf("the own machine: %+v", o)
	}
	if o := adjacent(nil); o.Status != "skip" {
		t.Errorf("nobody: %+v", o)
	}
}

func emptyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOneCheckAloneAndEveryCheckAnswers(t *testing.T) {
	checks := Checks(nil)
	only, err := Only(checks, []string{"btf", "mtu"})
	if err != nil || len(only) != 2 || only[0].ID != "btf" {
		t.Fatalf("%v %v", only, err)
	}
	if _, err := Only(checks, []string{"nonsense"}); err == nil {
		t.Error("an unknown check was taken")
	}
	seen := map[string]bool{}
	for _, r := range Run(context.Background(), checks) {
		if seen[r.ID] {
			t.Errorf("%s is there twice", r.ID)
		}
		seen[r.ID] = true
		if r.Found == "" || r.Expected == "" || (r.Status == "fail" && r.Fix == "") {
			t.Errorf("%s says too little: %+v", r.ID, r)
		}
	}
	for _, id := range []string{"kernel", "btf", "cgroup2", "bpffs", "jit", "other-cni", "kube-proxy-rules", "ports", "mtu", "nic"} {
		if !seen[id] {
			t.Errorf("%s is missing", id)
		}
	}
}
