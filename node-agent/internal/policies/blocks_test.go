package policies

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

func fromBlock(name, block string) string {
	return `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"` + name + `","namespace":"a"},
"spec":{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"from":[{"ipBlock":` + block + `}],"ports":[{"port":80}]}]}}`
}

// lets asks what the kernel would say of a pod with an address, out of what the fake datapath holds.
func (r *rig) lets(t *testing.T, address string) bool {
	t.Helper()
	blocks, err := r.dp.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	var around datapath.Block
	for _, b := range blocks {
		if b.Prefix.Contains(netip.MustParseAddr(address)) && (!around.Prefix.IsValid() || b.Prefix.Bits() > around.Prefix.Bits()) {
			around = b
		}
	}
	lines, _ := r.dp.Policy(1)
	return slices.ContainsFunc(lines, func(l datapath.PolicyEntry) bool {
		return !l.Deny && l.Direction == datapath.Ingress && around.Number != 0 && l.Identity == around.Number && l.Port == 80
	})
}

func TestBlocksComeAndGoWithTheirLines(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	check := func(when string, want map[string]bool) {
		t.Helper()
		for address, wanted := range want {
			if r.lets(t, address) != wanted {
				t.Errorf("%s: %s is let in: %v, want %v", when, address, !wanted, wanted)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Upsert(ctx, parse(t, fromBlock("wide", `{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}`))))
	check("one block", map[string]bool{"10.2.0.1": true, "10.1.0.1": false, "11.0.0.1": false})
	must(r.Upsert(ctx, parse(t, fromBlock("narrow", `{"cidr":"10.1.2.0/24"}`))))
	check("a second one inside of what is excepted", map[string]bool{"10.2.0.1": true, "10.1.0.1": false, "10.1.2.1": true})
	must(r.Delete(ctx, policy.Ref{Kind: policy.KindKubernetesNetworkPolicy, Namespace: "a", Name: "wide"}))
	check("the second alone", map[string]bool{"10.2.0.1": false, "10.1.2.1": true})
	if got := r.blockAround(netip.MustParseAddr("10.1.2.9")); !got.IsBlock() || r.blockAround(netip.MustParseAddr("10.2.0.1")) != policy.AnyPeer {
		t.Errorf("the manager finds %d", got)
	}
	must(r.Upsert(ctx, parse(t, fromBlock("narrow", `{"cidr":"0.0.0.0/0","except":["10.1.2.0/24"]}`))))
	check("everybody but some", map[string]bool{"10.2.0.1": true, "10.1.2.1": false})
	must(r.Delete(ctx, policy.Ref{Kind: policy.KindKubernetesNetworkPolicy, Namespace: "a", Name: "narrow"}))
	if blocks, _ := r.dp.Blocks(); len(blocks) > 0 {
		t.Errorf("left behind: %v", blocks)
	}
	if lines, _ := r.dp.Policy(1); len(lines) > 0 {
		t.Errorf("lines left behind: %v", lines)
	}
}

// TestNobodyIsInABlockWithoutLines: at every moment a published range has the lines of the widest rule around it, so that a
// narrower ipBlock cuts nobody off who may come in by a wider one.
func TestNobodyIsInABlockWithoutLines(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, fromBlock("wide", `{"cidr":"10.0.0.0/8"}`))); err != nil {
		t.Fatal(err)
	}
	before := len(r.dp.Calls())
	if err := r.Upsert(ctx, parse(t, fromBlock("narrow", `{"cidr":"10.1.0.0/16"}`))); err != nil {
		t.Fatal(err)
	}
	calls := r.dp.Calls()[before:]
	lines, published := slices.Index(calls, "ApplyPolicy"), slices.Index(calls, "UpsertBlocks")
	if lines < 0 || published < lines {
		t.Errorf("the range is published before its lines are written: %v", calls)
	}
}

// TestBlocksSurviveARestart: the numbers stay, so that nothing that is pinned means anybody else, and what nobody names any
// more goes.
func TestBlocksSurviveARestart(t *testing.T) {
	ctx := context.Background()
	first := newRig(t, ModeDefault)
	for name, block := range map[string]string{"p": `{"cidr":"10.0.0.0/8"}`, "q": `{"cidr":"fd00::/8"}`, "gone": `{"cidr":"172.16.0.0/12"}`} {
		if err := first.Upsert(ctx, parse(t, fromBlock(name, block))); err != nil {
			t.Fatal(err)
		}
	}
	numbers := map[netip.Prefix]uint32{}
	blocks, _ := first.dp.Blocks()
	for _, b := range blocks {
		numbers[b.Prefix] = b.Number
	}
	again := New(first.dp, ipcache.New(slog.Default()), ModeDefault, slog.Default())
	err := again.Restore(filepath.Join(t.TempDir(), "ranges.json"), nil)
	for _, block := range []string{`{"cidr":"192.168.0.0/16"}`, `{"cidr":"fd00::/8"}`, `{"cidr":"10.0.0.0/8"}`} {
		err = errors.Join(err, again.Upsert(ctx, parse(t, fromBlock("n"+block[10:12], block))))
	}
	if err = errors.Join(err, again.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	blocks, _ = first.dp.Blocks()
	for _, b := range blocks {
		want, known := numbers[b.Prefix]
		if known && b.Number != want {
			t.Errorf("%s had number %d and has %d", b.Prefix, want, b.Number)
		}
		for prefix, number := range numbers {
			if prefix != b.Prefix && number == b.Number {
				t.Errorf("%s got the number of %s", b.Prefix, prefix)
			}
		}
	}
	if len(blocks) != 3 {
		t.Errorf("after the restart there is %v", blocks)
	}
}

func TestRefusedBlocksAreWrittenAgain(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	r.dp.Fail("UpsertBlocks", errors.New("map is full"))
	if err := r.Upsert(ctx, parse(t, fromBlock("p", `{"cidr":"10.0.0.0/8"}`))); err == nil {
		t.Error("the error was swallowed")
	}
	r.dp.Fail("UpsertBlocks", nil)
	if _, err := r.Retry(ctx); err != nil {
		t.Fatal(err)
	}
	if blocks, _ := r.dp.Blocks(); len(blocks) != 1 {
		t.Errorf("after the retry there is %v", blocks)
	}
}
