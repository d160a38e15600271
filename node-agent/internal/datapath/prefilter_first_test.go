package datapath

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// What the lines by first bits say never changes what the search would: for random sets, each made out of the one before,
// every address is refused by the longest network that has it, and counted there.
func TestPrefilterFirstBits(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	p := newPrefilter(t)
	bits := []int{0, 1, 7, 8, 13, 15, 16, 17, 20, 24, 31, 32}
	// Addresses are close together, so that networks lie within each other.
	address := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10 + byte(random.IntN(2)), byte(random.IntN(3)), byte(random.IntN(2)), byte(random.IntN(4))})
	}
	refused := map[netip.Prefix]bool{}
	drops, asked := 0, 0
	for round := range 60 {
		for range 1 + random.IntN(4) {
			n := netip.PrefixFrom(address(), bits[random.IntN(len(bits))]).Masked()
			if refused[n] {
				delete(refused, n)
			} else {
				refused[n] = true
			}
		}
		networks := []netip.Prefix{}
		for n := range refused {
			// Everything at once would hide the others; it has its rounds.
			if n.Bits() > 15 || round%5 == 0 {
				networks = append(networks, n)
			}
		}
		if err := p.Set(networks); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			from := address()
			var longest netip.Prefix
			for _, n := range networks {
				if n.Contains(from) && (!longest.IsValid() || n.Bits() > longest.Bits()) {
					longest = n
				}
			}
			want, before := uint32(xdpPass), uint64(0)
			if longest.IsValid() {
				want, before = xdpDrop, p.packets(t, longest.String())
				drops++
			}
			var line uint32
			a := from.As4()
			if err := p.collection.Maps["refused_first4"].Lookup(uint32(a[0])<<8|uint32(a[1]), &line); err != nil {
				t.Fatal(err)
			}
			if line == firstAsk {
				asked++
			}
			if got := p.verdict(t, datagram(from.String(), "192.0.2.1")); got != want {
				t.Fatalf("seed %d, round %d: from %s with %v refused: verdict %d, want %d", seed, round, from, networks, got, want)
			}
			if longest.IsValid() && p.packets(t, longest.String()) != before+1 {
				t.Fatalf("seed %d, round %d: from %s: %s did not count it", seed, round, from, longest)
			}
		}
	}
	if drops < 500 || drops > 2300 || asked < 300 || asked > 2100 {
		t.Errorf("%d of 2400 packets were dropped and %d needed a search: these sets prove little", drops, asked)
	}
}

// Lines are as few searches as can be: none where a network has whole lines or no network is.
func TestFirstLines(t *testing.T) {
	lines := firstLines(map[netip.Prefix]uint32{
		netip.MustParsePrefix("198.18.0.0/15"):     5,
		netip.MustParsePrefix("198.19.0.0/16"):     0,
		netip.MustParsePrefix("203.0.113.0/24"):    6,
		netip.MustParsePrefix("255.255.0.0/16"):    7,
		netip.MustParsePrefix("2001:db8::/32"):     8,
		netip.MustParsePrefix("198.18.255.255/32"): 9,
	})
	for line, want := range map[int]uint32{
		198<<8 | 17: firstNone, 198<<8 | 18: firstAsk, 198<<8 | 19: firstNetwork, 198<<8 | 20: firstNone,
		203 << 8: firstAsk, 203<<8 | 1: firstNone, 0: firstNone, firstCount - 1: firstNetwork + 7, 0x2001: firstNone,
	} {
		if lines[line] != want {
			t.Errorf("line %d.%d: %d, want %d", line>>8, line&255, lines[line], want)
		}
	}
}

// A line is never believed while the networks behind it may be others.
func TestPrefilterForgetsFirstBits(t *testing.T) {
	p := newPrefilter(t, "198.18.0.0/15")
	first := p.collection.Maps["refused_first4"]
	// Another version, which does not know of lines, takes this network away and refuses another.
	key, other := network4Of("198.18.0.0/15"), network4Of("192.0.2.0/24")
	if err := p.collection.Maps["refused4"].Delete(key); err != nil {
		t.Fatal(err)
	}
	if err := p.collection.Maps["refused4"].Put(other, uint32(1)); err != nil {
		t.Fatal(err)
	}
	if got := p.verdict(t, datagram("192.0.2.7", "10.0.0.1")); got != xdpPass {
		t.Fatal("the lines said nothing of this network: the test proves nothing")
	}
	if err := forgetFirst(first); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]uint32{"198.18.0.1": xdpPass, "192.0.2.7": xdpDrop} {
		if got := p.verdict(t, datagram(from, "10.0.0.1")); got != want {
			t.Errorf("from %s: verdict %d, want %d", from, got, want)
		}
	}
	// The next one to set them reads what is there.
	p.table = refusedTable{}
	if err := p.Set(prefixes("192.0.2.0/24")); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]uint32{"198.18.0.1": xdpPass, "192.0.2.7": xdpDrop} {
		if got := p.verdict(t, datagram(from, "10.0.0.1")); got != want {
			t.Errorf("settled, from %s: verdict %d, want %d", from, got, want)
		}
	}
}

func network4Of(text string) network4Key {
	n := netip.MustParsePrefix(text)
	return network4Key{uint32(n.Bits()), n.Addr().As4()}
}
