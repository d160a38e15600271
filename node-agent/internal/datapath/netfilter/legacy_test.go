package netfilter

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// in runs fn on a thread of its own in the namespace.
func (w *world) in(fn func()) {
	w.t.Helper()
	must(w.t, w.In(func() error { fn(); return nil }))
}

func TestForwardPolicyOfLegacyTables(t *testing.T) {
	w := newWorld(t)
	if _, err := os.Stat("/proc/self/net/ip_tables_names"); err != nil {
		t.Skipf("this kernel has no tables of iptables-legacy: %v", err)
	}
	look := func() (out []string) {
		w.in(func() { out = LegacyForwardDrops() })
		return out
	}
	tables := func() (out string) {
		w.in(func() {
			text, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names")
			out = string(text)
		})
		return out
	}
	if got := look(); len(got) > 0 || strings.Contains(tables(), "filter") {
		t.Errorf("without any table: %v, and then there is %q", got, tables())
	}
	w.run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
	if got := look(); len(got) > 0 {
		t.Errorf("FORWARD accepts: %v", got)
	}
	w.run("iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
	if got := look(); len(got) > 0 {
		t.Errorf("a rule drops, the policy does not: %v", got)
	}
	w.run("iptables-legacy", "-P", "FORWARD", "DROP")
	if got := look(); !slices.Equal(got, []string{"iptables-legacy filter FORWARD"}) {
		t.Errorf("FORWARD drops: %v", got)
	}
	w.run("ip6tables-legacy", "-P", "FORWARD", "DROP")
	w.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
	if got := look(); !slices.Equal(got, []string{"ip6tables-legacy filter FORWARD"}) {
		t.Errorf("FORWARD of version 6 drops: %v", got)
	}
	// The keeper tells of it.
	k, _ := w.keeper()
	k.Legacy = look
	s := full()
	s.Forward = true
	must(t, k.Set(s))
	if got := k.State().Foreign; !slices.Contains(got, "ip6tables-legacy filter FORWARD") {
		t.Errorf("the state names %v", got)
	}
}
