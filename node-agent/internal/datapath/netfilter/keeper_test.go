package netfilter

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"fairlead.dev/node-agent/internal/datapath/spacetest"
)

// world is a network namespace with nothing in it.
type world struct {
	*spacetest.Space
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{spacetest.New(t), t}
	if c, err := w.connect(); err != nil {
		t.Skipf("no nftables on this machine: %v", err)
	} else if _, err := c.ListTables(); err != nil {
		t.Skipf("no nftables on this machine: %v", err)
	}
	return w
}

func (w *world) connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(w.File.Fd())))
}

// run runs a program in the namespace.
func (w *world) run(name string, arguments ...string) string {
	w.t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		w.t.Skipf("no %s on this machine, with which this test looks at the tables", name)
	}
	var out []byte
	if err := w.In(func() (err error) { out, err = exec.Command(name, arguments...).CombinedOutput(); return err }); err != nil {
		w.t.Fatalf("%s %v: %v: %s", name, arguments, err, out)
	}
	return string(out)
}

type entry struct{ kind, subject, undo string }

func (w *world) keeper() (*Keeper, *[]entry) {
	var entries []entry
	return NewKeeper(w.connect, func(kind, subject, _, _, undo string) error {
		entries = append(entries, entry{kind, subject, undo})
		return nil
	},
		slog.New(slog.DiscardHandler)), &entries
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func full() Spec {
	return Spec{
		PodCIDRs: prefixes("10.77.1.0/24", "fd00:77:1::/64"), NativeCIDRs: prefixes("10.77.0.0/16", "fd00:77::/48"),
		Masquerade: true, Masquerade6: true, Devices: []string{"eth0", "eth1"},
		Nodes:         []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
		Unmasqueraded: prefixes("10.0.0.0/8", "10.1.0.0/16", "240.0.0.0/4", "fe80::/10"),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMasqueradeOfBothFamilies(t *testing.T) {
	w := newWorld(t)
	k, journal := w.keeper()
	must(t, k.Set(full()))
	text := w.run("nft", "list", "table", "inet", "fairlead")
	for _, want := range []string{
		"type nat hook postrouting priority srcnat",
		"ip saddr 10.77.1.0/24 ip daddr 10.77.0.0/16 accept", "ip6 saddr fd00:77:1::/64 ip6 daddr fd00:77::/48 accept",
		"ip saddr 10.77.1.0/24 ip daddr @nodes accept", "ip6 saddr fd00:77:1::/64 ip6 daddr @unmasqueraded6 accept",
		`ip saddr 10.77.1.0/24 oifname "eth1" masquerade`, `ip6 saddr fd00:77:1::/64 oifname "eth0" masquerade`,
		"10.0.0.0/8, 240.0.0.0/4", "elements = { 192.0.2.2 }", "fe80::/10",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if !slices.ContainsFunc(*journal, func(e entry) bool { return e.kind == "nftables" && e.subject == "inet fairlead" && e.undo != "" }) {
		t.Errorf("not in the journal: %v", *journal)
	}
	// Sets change alone.
	must(t, k.SetUnmasqueraded(prefixes("172.16.0.0/12")))
	must(t, k.SetNodes([]netip.Addr{netip.MustParseAddr("192.0.2.3")}))
	text = w.run("nft", "list", "table", "inet", "fairlead")
	for want, there := range map[string]bool{"172.16.0.0/12": true, "192.0.2.3": true, "240.0.0.0/4": false, "192.0.2.2": false, "masquerade": true} {
		if strings.Contains(text, want) != there {
			t.Errorf("%q: want %v in\n%s", want, there, text)
		}
	}
	// A second agent run keeps the nodes that the first knew.
	again, _ := w.keeper()
	s := full()
	s.Nodes = nil
	must(t, again.Set(s))
	if text = w.run("nft", "list", "set", "inet", "fairlead", "nodes"); !strings.Contains(text, "192.0.2.3") {
		t.Errorf("the former run's nodes are forgotten:\n%s", text)
	}
}

func TestOnlyOneFamily(t *testing.T) {
	w := newWorld(t)
	k, _ := w.keeper()
	s := full()
	s.Masquerade6 = false
	must(t, k.Set(s))
	if text := w.run("nft", "list", "ruleset"); strings.Contains(text, "ip6") || !strings.Contains(text, "masquerade") {
		t.Errorf("want rules of version 4 alone:\n%s", text)
	}
	if gone, err := k.Repair(); len(gone) > 0 || err != nil {
		t.Errorf("something is missing at once: %v, %v", gone, err)
	}
}

func TestFlushedRulesetComesBack(t *testing.T) {
	w := newWorld(t)
	k, _ := w.keeper()
	s := full()
	s.NoTrack, s.Proxies = true, &Marks{Mask: 0xf00, FromEgressProxy: 0xb00, ToProxy: 0x200}
	must(t, k.Set(s))
	before := w.run("nft", "list", "ruleset")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	for round := range uint64(3) {
		w.run("nft", "flush", "ruleset")
		deadline := time.Now().Add(10 * time.Second)
		for k.State().Repairs <= round {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: not repaired; state %+v", round, k.State())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if after := w.run("nft", "list", "ruleset"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	state := k.State()
	if state.Err != nil || state.LastRepair.IsZero() || !slices.Contains(state.LastMissing, TableName) || !slices.Contains(state.LastMissing, "ip raw FAIRLEAD-NOTRACK") ||
		!slices.Contains(state.LastMissing, ProxiesTableName) {
		t.Errorf("state %+v", state)
	}
	// One rule alone is missed as well.
	w.run("iptables", "-t", "raw", "-D", "OUTPUT", "1")
	deadline := time.Now().Add(10 * time.Second)
	for k.State().Repairs < 4 {
		if time.Now().After(deadline) {
			t.Fatalf("the jump is not back; state %+v", k.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
	proxies := w.run("nft", "list", "table", "inet", ProxiesTableName)
	// So is one of the proxies' rules, and their table by itself.
	for round, command := range [][]string{{"flush", "chain", "inet", ProxiesTableName, "output"}, {"delete", "table", "inet", ProxiesTableName}} {
		w.run("nft", command...)
		for k.State().Repairs < uint64(5+round) {
			if time.Now().After(deadline) {
				t.Fatalf("after %v the proxies' rules are not back; state %+v", command, k.State())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if after := w.run("nft", "list", "table", "inet", ProxiesTableName); after != proxies {
		t.Errorf("before:\n%s\nafter:\n%s", proxies, after)
	}
	stop()
	<-done
}

func TestNoTrackIsShownByIptables(t *testing.T) {
	w := newWorld(t)
	if v := w.run("iptables", "--version"); !strings.Contains(v, "nf_tables") {
		t.Skipf("iptables is not the nft one: %s", v)
	}
	w.run("iptables", "-t", "raw", "-A", "PREROUTING", "-s", "198.51.100.1", "-j", "ACCEPT")
	k, journal := w.keeper()
	s := Spec{PodCIDRs: full().PodCIDRs, NoTrack: true}
	must(t, k.Set(s))
	want := `-P PREROUTING ACCEPT
-P OUTPUT ACCEPT
-N FAIRLEAD-NOTRACK
-A PREROUTING -j FAIRLEAD-NOTRACK
-A PREROUTING -s 198.51.100.1/32 -j ACCEPT
-A OUTPUT -j FAIRLEAD-NOTRACK
-A FAIRLEAD-NOTRACK -s 10.77.1.0/24 -j CT --notrack
-A FAIRLEAD-NOTRACK -d 10.77.1.0/24 -j CT --notrack
`
	if got := w.run("iptables", "-t", "raw", "-S"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := w.run("ip6tables", "-t", "raw", "-S"); !strings.Contains(got, "-A FAIRLEAD-NOTRACK -s fd00:77:1::/64 -j CT --notrack") {
		t.Errorf("version 6:\n%s", got)
	}
	if !slices.ContainsFunc(*journal, func(e entry) bool { return e.subject == "ip raw FAIRLEAD-NOTRACK" }) {
		t.Errorf("not in the journal: %v", *journal)
	}
	// Again changes nothing.
	must(t, k.Set(s))
	if got := w.run("iptables", "-t", "raw", "-S"); got != want {
		t.Errorf("after the second time:\n%s", got)
	}
	// Switched off: ours goes, the other's stays, and a table that only we used goes with it.
	s.NoTrack = false
	must(t, k.Set(s))
	if got := w.run("iptables", "-t", "raw", "-S"); got != "-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n-A PREROUTING -s 198.51.100.1/32 -j ACCEPT\n" {
		t.Errorf("switched off:\n%s", got)
	}
	if got := w.run("nft", "list", "ruleset"); strings.Contains(got, "ip6 raw") || strings.Contains(got, "FAIRLEAD") {
		t.Errorf("left over:\n%s", got)
	}
}

func TestForwardPolicyOfOthers(t *testing.T) {
	w := newWorld(t)
	if v := w.run("iptables", "--version"); !strings.Contains(v, "nf_tables") {
		t.Skipf("iptables is not the nft one: %s", v)
	}
	k, _ := w.keeper()
	s := full()
	s.Forward = true
	must(t, k.Set(s))
	if got := w.run("nft", "list", "ruleset"); strings.Contains(got, "FORWARD") {
		t.Errorf("nobody forbids anything, yet:\n%s", got)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	defer func() { stop(); <-done }()
	// docker comes.
	w.run("iptables", "-P", "FORWARD", "DROP")
	w.run("nft", "add", "table", "inet", "other")
	w.run("nft", "add", "chain", "inet", "other", "strict", "{ type filter hook forward priority 10; policy drop; }")
	deadline := time.Now().Add(10 * time.Second)
	for len(k.State().Shared) == 0 || len(k.State().Foreign) == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("no way through: %+v", k.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
	got := w.run("iptables", "-S")
	for _, want := range []string{"-P FORWARD DROP", "-A FORWARD -j FAIRLEAD-FORWARD", "-A FAIRLEAD-FORWARD -s 10.77.1.0/24 -j ACCEPT", "-A FAIRLEAD-FORWARD -d 10.77.1.0/24 -j ACCEPT"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	state := k.State()
	if state.Repairs != 0 || !slices.Equal(state.Foreign, []string{"other strict"}) {
		t.Errorf("state %+v", state)
	}
}

func TestMigrationKeepsTheHook(t *testing.T) {
	w := newWorld(t)
	k, _ := w.keeper()
	programs := Spec{PodCIDRs: full().PodCIDRs, KeepConnections: true}
	must(t, k.Set(programs))
	if got := w.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("a node that never had rules got some:\n%s", got)
	}
	must(t, k.Set(full()))
	must(t, k.Set(programs))
	got := w.run("nft", "list", "ruleset")
	if !strings.Contains(got, "hook postrouting") || strings.Contains(got, "oifname") || strings.Contains(got, "saddr") {
		t.Errorf("want the hook and no rules:\n%s", got)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.run("iptables", "-P", "FORWARD", "DROP")
	k, _ := w.keeper()
	s := full()
	s.NoTrack, s.Forward = true, true
	must(t, k.Set(s))
	c, err := w.connect()
	must(t, err)
	if got := Traces(c); len(got) != 4 {
		t.Errorf("traces %v, want the table and three chains", got)
	}
	for range 2 {
		must(t, Remove(c))
	}
	if got := Traces(c); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if got := w.run("nft", "list", "ruleset"); strings.Contains(got, "FAIRLEAD") || strings.Contains(got, "fairlead") || !strings.Contains(got, "policy drop") {
		t.Errorf("left:\n%s", got)
	}
}

func TestRanges(t *testing.T) {
	show := func(r []Range) string {
		var out []string
		for _, x := range r {
			out = append(out, x.From.String()+"-"+x.To.String())
		}
		return strings.Join(out, " ")
	}
	for _, test := range []struct {
		in   []netip.Prefix
		v6   bool
		want string
	}{
		{nil, false, ""},
		{prefixes("10.0.0.0/8"), false, "10.0.0.0-10.255.255.255"},
		{prefixes("10.0.0.0/8"), true, ""},
		{prefixes("10.1.0.0/16", "10.0.0.0/8", "10.255.0.0/16"), false, "10.0.0.0-10.255.255.255"},
		{prefixes("10.0.1.0/24", "10.0.0.0/24"), false, "10.0.0.0-10.0.1.255"},
		{prefixes("240.0.0.0/4", "10.0.0.5/32", "0.0.0.0/8"), false, "0.0.0.0-0.255.255.255 10.0.0.5-10.0.0.5 240.0.0.0-255.255.255.255"},
		{prefixes("0.0.0.0/0", "10.0.0.0/8"), false, "0.0.0.0-255.255.255.255"},
		{prefixes("fe80::/10", "fd00::/8"), true, "fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{prefixes("::ffff:10.0.0.0/104"), false, "10.0.0.0-10.255.255.255"},
	} {
		if got := show(Ranges(test.in, test.v6)); got != test.want {
			t.Errorf("%v: got %s, want %s", test.in, got, test.want)
		}
	}
}

// What the journal does not take is not made.
func TestNothingIsWrittenUnrecorded(t *testing.T) {
	w := newWorld(t)
	full := errors.New("no space left on device")
	k := NewKeeper(w.connect, func(string, string, string, string, string) error { return full }, slog.New(slog.DiscardHandler))
	if err := k.Set(Spec{PodCIDRs: prefixes("10.77.1.0/24"), Devices: []string{"lo"}, Masquerade: true}); !errors.Is(err, ErrNotRecorded) || !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	c, err := w.connect()
	if err != nil {
		t.Fatal(err)
	}
	if hasOwn(c) {
		t.Error("the table is there")
	}
}
