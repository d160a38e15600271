// Package ipam hands out the addresses of a node's pod CIDR.
package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ExhaustedError says that no address is left.
type ExhaustedError struct {
	Prefix netip.Prefix
	Used   int
}

// Error says what to do about it.
func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("no address is left in this node's pod CIDR %s: %d are in use; delete pods of this node, or give it a larger pod CIDR", e.Prefix, e.Used)
}

// Allocation is an address with its owner: "namespace/pod", or "router".
type Allocation struct {
	Address netip.Addr
	Owner   string
}

// Pool hands out addresses. All methods are safe for concurrent use.
type Pool struct {
	mu     sync.Mutex
	prefix netip.Prefix
	router netip.Addr
	used   map[netip.Addr]string
	// freed holds when an address was released: it is reused last, so that no late packet reaches another pod.
	freed map[netip.Addr]time.Time
	next  netip.Addr
	now   func() time.Time
}

// reuseAfter is how long a released address rests while others are free.
const reuseAfter = 30 * time.Second

// New makes a pool. The first usable address is the router's; network and broadcast address are never handed out.
func New(prefix netip.Prefix) (*Pool, error) {
	prefix = prefix.Masked()
	if !prefix.IsValid() || prefix.Bits() > prefix.Addr().BitLen()-2 {
		return nil, fmt.Errorf("pod CIDR %s cannot be used: its length has to be at most 30, or 126 for IPv6", prefix)
	}
	router := prefix.Addr().Next()
	return &Pool{
		prefix: prefix, router: router, next: router.Next(), now: time.Now,
		used:  map[netip.Addr]string{router: "router"},
		freed: map[netip.Addr]time.Time{},
	}, nil
}

// Router is this node's own address in the range.
func (p *Pool) Router() netip.Addr { return p.router }

// Capacity is how many addresses there are for pods; of a large range of IPv6, as many as are counted.
func (p *Pool) Capacity() int { return CapacityOf(p.prefix) }

// CapacityOf a range, as Capacity of a pool made of it.
func CapacityOf(prefix netip.Prefix) int {
	return 1<<min(prefix.Addr().BitLen()-prefix.Bits(), 30) - 3
}

// broadcast is the last address; IPv6 has none, and does without it.
func (p *Pool) broadcast(a netip.Addr) bool { return !p.prefix.Contains(a.Next()) }

// Allocate gives the next free address, going round the range.
func (p *Pool) Allocate(owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var oldest netip.Addr
	// Beyond those in use or at rest the next one is free.
	for i, a := 0, p.next; i <= min(p.Capacity(), len(p.used)+len(p.freed))+2; i, a = i+1, a.Next() {
		if !p.prefix.Contains(a) || p.broadcast(a) {
			a = p.router
			continue
		}
		if _, taken := p.used[a]; taken {
			continue
		}
		if at, rests := p.freed[a]; rests && p.now().Sub(at) < reuseAfter {
			if !oldest.IsValid() || at.Before(p.freed[oldest]) {
				oldest = a
			}
			continue
		}
		return p.take(a, owner), nil
	}
	if oldest.IsValid() {
		return p.take(oldest, owner), nil
	}
	return netip.Addr{}, &ExhaustedError{Prefix: p.prefix, Used: len(p.used) - 1}
}

func (p *Pool) take(a netip.Addr, owner string) netip.Addr {
	delete(p.freed, a)
	p.used[a] = owner
	p.next = a.Next()
	return a
}

// Claim takes a certain address, for endpoints that were there before a restart.
func (p *Pool) Claim(a netip.Addr, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.prefix.Contains(a) {
		return fmt.Errorf("address %s of %s is not in this node's pod CIDR %s", a, owner, p.prefix)
	}
	if other, taken := p.used[a]; taken && other != owner {
		return fmt.Errorf("address %s of %s is taken by %s", a, owner, other)
	}
	p.take(a, owner)
	return nil
}

// Release gives an address back; a free one is left alone.
func (p *Pool) Release(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.used[a]; ok && a != p.router {
		delete(p.used, a)
		p.freed[a] = p.now()
	}
}

// Allocations lists what is in use, sorted by address.
func (p *Pool) Allocations() []Allocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Allocation, 0, len(p.used))
	for a, owner := range p.used {
		out = append(out, Allocation{a, owner})
	}
	slices.SortFunc(out, func(a, b Allocation) int { return cmp.Or(a.Address.Compare(b.Address), 0) })
	return out
}
