package facts

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs the test in a network namespace of its own; skipped where that is not allowed.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("needs root: a network namespace cannot be made: %v", err)
	}
	// The thread is thrown away with the test: it is never unlocked.
}

func TestInterfacesAndTheirAddresses(t *testing.T) {
	inNamespace(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink", MTU: 1400}, PeerName: "other"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	address, _ := netlink.ParseAddr("192.0.2.1/24")
	if err := netlink.AddrAdd(veth, address); err != nil {
		t.Fatal(err)
	}
	f := Read("/does/not/exist")
	if len(f.Problems) > 0 {
		t.Errorf("problems: %v", f.Problems)
	}
	found := false
	for _, i := range f.Interfaces {
		if i.Name == "uplink" {
			found = true
			if i.MTU != 1400 || i.Kind != "veth" || len(i.Addresses) == 0 || i.Addresses[0] != "192.0.2.1/24" {
				t.Errorf("uplink is %+v", i)
			}
		}
	}
	if !found {
		t.Fatalf("uplink is not among %+v", f.Interfaces)
	}
	if len(f.Cards) == 0 || f.Cards[0].Driver != "veth" {
		t.Errorf("cards are %+v", f.Cards)
	}
}

func TestRulesAreReadAndSorted(t *testing.T) {
	inNamespace(t)
	connection, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := connection.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	connection.AddChain(&nftables.Chain{Name: "KUBE-SVC-ABC", Table: table})
	masquerading := connection.AddChain(&nftables.Chain{Name: "POSTROUTING", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	connection.AddRule(&nftables.Rule{Table: table, Chain: masquerading, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 0, 0, 1}}, &expr.Masq{}}})
	connection.AddRule(&nftables.Rule{Table: table, Chain: masquerading, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 0, 0}, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{10, 77, 0, 0}}, &expr.Verdict{Kind: expr.VerdictReturn}}})
	raw := connection.AddTable(&nftables.Table{Name: "fairlead", Family: nftables.TableFamilyINet})
	chain := connection.AddChain(&nftables.Chain{Name: "raw", Table: raw, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	connection.AddRule(&nftables.Rule{Table: raw, Chain: chain, Exprs: []expr.Any{&expr.Notrack{}}})
	if err := connection.Flush(); err != nil {
		t.Fatal(err)
	}
	f := Read("")
	if f.Services.NFTables != 1 {
		t.Errorf("%d service chains, one was made", f.Services.NFTables)
	}
	if len(f.NoTrack) != 1 || f.NoTrack[0].Owner != "fairlead" {
		t.Errorf("notrack rules: %+v", f.NoTrack)
	}
	texts := []string{}
	for _, r := range f.Rules {
		texts = append(texts, r.Table+" "+r.Chain+": "+r.Text)
	}
	if all := strings.Join(texts, "\n"); !strings.Contains(all, "ip nat POSTROUTING: ip saddr == 10.0.0.1 masquerade") || !strings.Contains(all, "ip daddr&/16 != 10.77.0.0 return") {
		t.Errorf("rules are\n%s", all)
	}
}

func TestChainsOfTheOldIptablesAreCountedOnce(t *testing.T) {
	entries := []byte("xx\x00KUBE-SVC-A\x00KUBE-SVC-A\x00KUBE-FIREWALL\x00KUBE-SEP-B\x00\x00KUBE-NODEPORTS\x00KUBE-broken")
	if got := countChains(entries); got != 3 {
		t.Errorf("%d chains, want 3", got)
	}
}
