package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func maglevBackends(n int) []netip.AddrPort {
	out := make([]netip.AddrPort, n)
	for i := range out {
		out[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080)
	}
	return out
}

// owners is the table by address, whatever the order of the backends was.
func owners(t *testing.T, backends []netip.AddrPort, size int) []netip.AddrPort {
	t.Helper()
	table := maglevTable(backends, size, "seed")
	out := make([]netip.AddrPort, len(table))
	for i, b := range table {
		if b < 0 || b >= len(backends) {
			t.Fatalf("place %d has backend %d of %d", i, b, len(backends))
		}
		out[i] = backends[b]
	}
	return out
}

func TestMaglevSharesAreEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 100} {
		const size = 16381
		count := map[netip.AddrPort]int{}
		for _, b := range owners(t, maglevBackends(n), size) {
			count[b]++
		}
		low, high := size, 0
		for _, c := range count {
			low, high = min(low, c), max(high, c)
		}
		if len(count) != n || float64(high) > 1.02*float64(size)/float64(n)+1 || float64(low) < 0.98*float64(size)/float64(n)-1 {
			t.Errorf("%d backends: %d used, shares from %d to %d of %d", n, len(count), low, high, size/n)
		}
	}
}

// All nodes have to have the same table, in whatever order they heard of the backends.
func TestMaglevDoesNotDependOnOrder(t *testing.T) {
	backends := maglevBackends(20)
	want := owners(t, backends, 2039)
	for range 5 {
		rand.Shuffle(len(backends), func(i, j int) { backends[i], backends[j] = backends[j], backends[i] })
		if !slices.Equal(owners(t, backends, 2039), want) {
			t.Fatal("another order gave another table")
		}
	}
	if slices.Equal(maglevTable(backends, 2039, "seed"), maglevTable(backends, 2039, "another")) {
		t.Error("the seed does not matter")
	}
}

// With a table a hundred times as large as there are backends, few of the flows of backends that stay move when one goes: the
// Maglev paper's price for even shares, a few in a hundred at the worst.
func TestMaglevMovesFewFlows(t *testing.T) {
	for _, test := range []struct{ n, size int }{{10, 1021}, {40, 4093}, {100, 16381}, {160, 16381}} {
		backends := maglevBackends(test.n)
		before := owners(t, backends, test.size)
		worst, sum := 0.0, 0.0
		for i := range test.n {
			gone := backends[i]
			after := owners(t, slices.Delete(slices.Clone(backends), i, i+1), test.size)
			moved := 0
			for place := range before {
				if before[place] != gone && before[place] != after[place] {
					moved++
				}
			}
			share := float64(moved) / float64(test.size)
			worst, sum = max(worst, share), sum+share
		}
		t.Logf("%d backends, %d places: %.2f %% of the others' flows move, at most %.2f %%", test.n, test.size, sum/float64(test.n)*100, worst*100)
		if worst > 0.03 {
			t.Errorf("%d backends, %d places: %.2f %% of the others' flows moved", test.n, test.size, worst*100)
		}
	}
}

func BenchmarkMaglevTable(b *testing.B) {
	for _, n := range []int{10, 100} {
		backends := maglevBackends(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				maglevTable(backends, defaultMaglevTableSize, "seed")
			}
		})
	}
}
