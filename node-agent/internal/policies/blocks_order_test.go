package policies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

// watched lets each single entry be written by itself, as the kernel does, and tells after each.
type watched struct {
	datapath.Datapath
	after func()
}

func (w *watched) ApplyPolicy(ctx context.Context, add []datapath.PolicyEntry, remove []datapath.PolicyKey) (err error) {
	for _, e := range add {
		err = errors.Join(err, w.Datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{e}, nil))
		w.after()
	}
	for _, k := range remove {
		err = errors.Join(err, w.Datapath.ApplyPolicy(ctx, nil, []datapath.PolicyKey{k}))
		w.after()
	}
	return err
}

func (w *watched) UpsertBlocks(ctx context.Context, blocks ...datapath.Block) (err error) {
	for _, b := range blocks {
		err = errors.Join(err, w.Datapath.UpsertBlocks(ctx, b))
		w.after()
	}
	return err
}

func (w *watched) DeleteBlocks(ctx context.Context, prefixes ...netip.Prefix) (err error) {
	for _, p := range prefixes {
		err = errors.Join(err, w.Datapath.DeleteBlocks(ctx, p))
		w.after()
	}
	return err
}

// somePolicies are ipBlocks inside of each other, some with exceptions.
func somePolicies(d *rand.Rand) (out []string) {
	ranges := []string{"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.0/28", "10.1.3.0/24", "10.2.0.0/16", "11.0.0.0/8"}
	for i, r := range ranges {
		if d.IntN(2) == 0 {
			continue
		}
		block := fmt.Sprintf(`{"cidr":%q`, r)
		if inner := ranges[d.IntN(len(ranges))]; d.IntN(3) == 0 {
			wide, narrow := netip.MustParsePrefix(r), netip.MustParsePrefix(inner)
			if wide.Bits() < narrow.Bits() && wide.Contains(narrow.Addr()) {
				block += fmt.Sprintf(`,"except":[%q]`, inner)
			}
		}
		out = append(out, fromBlock(fmt.Sprintf("p%d", i), block+"}"))
	}
	return out
}

// TestNothingIsDroppedAtAStart: policies changed while the agent was away. At no moment of its start is an address kept out that
// comes in by those of before and by those of now.
func TestNothingIsDroppedAtAStart(t *testing.T) {
	ctx := context.Background()
	addresses := []string{"10.1.2.1", "10.1.2.20", "10.1.3.1", "10.1.9.1", "10.2.0.1", "10.9.0.1", "11.0.0.1", "12.0.0.1"}
	kept, moments := 0, 0
	for seed := range uint64(200) {
		d := rand.New(rand.NewPCG(seed, 1))
		before, now := somePolicies(d), somePolicies(d)
		r := newRig(t, ModeDefault)
		if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
			t.Fatal(err)
		}
		for _, p := range before {
			if err := r.Upsert(ctx, parse(t, p)); err != nil {
				t.Fatal(err)
			}
		}
		look := func() map[string]bool {
			out := map[string]bool{}
			for _, a := range addresses {
				out[a] = r.lets(t, a)
			}
			return out
		}
		states := []map[string]bool{look()}
		again := New(&watched{r.dp, func() { states = append(states, look()) }}, ipcache.New(slog.Default()), ModeDefault, slog.Default())
		err := again.Restore(filepath.Join(t.TempDir(), "ranges.json"), nil)
		_, added := again.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
		err = errors.Join(err, added)
		for _, p := range now {
			err = errors.Join(err, again.Upsert(ctx, parse(t, p)))
		}
		if err = errors.Join(err, again.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		last := states[len(states)-1]
		for _, a := range addresses {
			if !states[0][a] || !last[a] {
				continue
			}
			kept++
			for i, s := range states {
				if !s[a] {
					t.Fatalf("seed %d: %s is kept out after %d of %d writes\nbefore %v\nnow %v", seed, a, i, len(states)-1, before, now)
				}
			}
		}
		moments += len(states)
		// What is left is what an agent would have that never knew the former ones.
		fresh := newRig(t, ModeDefault)
		_, err = fresh.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
		for _, p := range now {
			err = errors.Join(err, fresh.Upsert(ctx, parse(t, p)))
		}
		if err != nil {
			t.Fatal(err)
		}
		have, _ := r.dp.Blocks()
		want, _ := fresh.dp.Blocks()
		if len(have) != len(want) {
			t.Fatalf("seed %d: ranges %v, want %v", seed, have, want)
		}
		for _, a := range addresses {
			if last[a] != fresh.lets(t, a) {
				t.Fatalf("seed %d: %s comes in: %v, and with a new agent %v", seed, a, last[a], !last[a])
			}
		}
	}
	t.Logf("%d moments of 200 starts; %d addresses came in before and after", moments, kept)
	if kept < 100 {
		t.Errorf("only %d addresses came in before and after", kept)
	}
}

// TestRestoredBlocksAreKnown: what the start looks at while policies come one by one is not given up by those that come first.
func TestRestoredBlocksAreKnown(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	if err := errors.Join(r.Upsert(ctx, parse(t, fromBlock("p", `{"cidr":"10.0.0.0/8"}`))), r.Upsert(ctx, parse(t, fromBlock("q", `{"cidr":"10.1.0.0/16"}`)))); err != nil {
		t.Fatal(err)
	}
	again := New(r.dp, ipcache.New(slog.Default()), ModeDefault, slog.Default())
	err := errors.Join(again.Restore(filepath.Join(t.TempDir(), "ranges.json"), nil), again.Upsert(ctx, parse(t, fromBlock("p", `{"cidr":"10.0.0.0/8"}`))))
	if err != nil {
		t.Fatal(err)
	}
	if got := again.blockAround(netip.MustParseAddr("10.1.0.1")); got == policy.AnyPeer || got == again.blockAround(netip.MustParseAddr("10.2.0.1")) {
		t.Errorf("before the start the narrower range has number %d", got)
	}
	if err := again.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got := again.blockAround(netip.MustParseAddr("10.1.0.1")); got != again.blockAround(netip.MustParseAddr("10.2.0.1")) {
		t.Errorf("after the start nobody names the narrower range, and it has number %d", got)
	}
}
