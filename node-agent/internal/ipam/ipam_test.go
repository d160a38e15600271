package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestPool(t *testing.T) {
	p, err := New(netip.MustParsePrefix("10.77.1.0/29"))
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Unix(1000, 0)
	p.now = func() time.Time { return clock }
	if p.Router().String() != "10.77.1.1" || p.Capacity() != 5 {
		t.Fatalf("router %s, capacity %d", p.Router(), p.Capacity())
	}
	seen := map[netip.Addr]bool{}
	for i := range p.Capacity() {
		a, err := p.Allocate(fmt.Sprintf("default/p%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if seen[a] || a == p.Router() || !netip.MustParsePrefix("10.77.1.0/29").Contains(a) {
			t.Fatalf("address %s", a)
		}
		seen[a] = true
	}
	var exhausted *ExhaustedError
	if _, err := p.Allocate("default/late"); !errors.As(err, &exhausted) || exhausted.Used != 5 {
		t.Fatalf("got %v", err)
	}
	// A released address rests while another is free, and is used when none is.
	p.Release(netip.MustParseAddr("10.77.1.3"))
	clock = clock.Add(time.Second)
	p.Release(netip.MustParseAddr("10.77.1.5"))
	clock = clock.Add(reuseAfter - time.Second)
	for _, want := range []string{"10.77.1.3", "10.77.1.5"} {
		if a, err := p.Allocate("default/again"); err != nil || a.String() != want {
			t.Fatalf("got %s %v, want %s", a, err, want)
		}
	}
	p.Release(p.Router())
	if len(p.Allocations()) != 6 {
		t.Fatalf("the router's address was released: %v", p.Allocations())
	}
}

// An address that was released just now rests, while one that has rested for long is given.
func TestReleasedAddressesRest(t *testing.T) {
	for _, text := range []string{"10.77.1.0/28", "fd00:77::/124"} {
		p, err := New(netip.MustParsePrefix(text))
		if err != nil {
			t.Fatal(err)
		}
		clock := time.Unix(1000, 0)
		p.now = func() time.Time { return clock }
		var all []netip.Addr
		for range p.Capacity() {
			a, err := p.Allocate("default/p")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
		}
		first, later := all[0], all[7]
		p.Release(later)
		clock = clock.Add(reuseAfter - time.Second)
		p.Release(first)
		clock = clock.Add(time.Second)
		if a, err := p.Allocate("default/q"); err != nil || a != later {
			t.Errorf("%s: got %s, %v; want %s, which was free for longer than %s", text, a, err, later, first)
		}
		// Before a pod is refused one that rests is given after all.
		if a, err := p.Allocate("default/r"); err != nil || a != first {
			t.Errorf("%s: got %s, %v, want %s", text, a, err, first)
		}
	}
}

func TestClaim(t *testing.T) {
	p, _ := New(netip.MustParsePrefix("10.77.1.0/24"))
	if err := p.Claim(netip.MustParseAddr("10.77.1.9"), "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ address, owner string }{{"10.77.1.9", "a/c"}, {"10.77.2.9", "a/c"}, {"10.77.1.1", "a/c"}} {
		if err := p.Claim(netip.MustParseAddr(tt.address), tt.owner); err == nil {
			t.Errorf("%v was accepted", tt)
		}
	}
	if a, err := p.Allocate("a/d"); err != nil || a.String() != "10.77.1.10" {
		t.Fatalf("got %s %v", a, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, prefix := range []string{"10.0.0.0/31", "fd00::/127"} {
		if _, err := New(netip.MustParsePrefix(prefix)); err == nil {
			t.Errorf("%s was accepted", prefix)
		}
	}
}

func TestPoolOfIPv6(t *testing.T) {
	p, err := New(netip.MustParsePrefix("fd00:10:77:1::/64"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Router().String() != "fd00:10:77:1::1" || p.Capacity() < 1<<20 {
		t.Errorf("router %s, capacity %d", p.Router(), p.Capacity())
	}
	for _, want := range []string{"fd00:10:77:1::2", "fd00:10:77:1::3"} {
		if a, err := p.Allocate("default/p"); err != nil || a.String() != want {
			t.Errorf("got %s, %v, want %s", a, err, want)
		}
	}
	// What was freed is not the next one.
	p.Release(netip.MustParseAddr("fd00:10:77:1::2"))
	if a, _ := p.Allocate("default/q"); a.String() != "fd00:10:77:1::4" {
		t.Errorf("got %s", a)
	}
	if err := p.Claim(netip.MustParseAddr("fd00:10:77:1::4"), "default/r"); err == nil {
		t.Error("an address was given twice")
	}
	small, err := New(netip.MustParsePrefix("fd00::/126"))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := small.Allocate("default/p"); err != nil || a.String() != "fd00::2" {
		t.Errorf("got %s, %v", a, err)
	}
	var exhausted *ExhaustedError
	if _, err := small.Allocate("default/late"); !errors.As(err, &exhausted) {
		t.Errorf("got %v", err)
	}
}
