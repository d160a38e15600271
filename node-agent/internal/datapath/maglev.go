package datapath

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

const (
	defaultMaglevTableSize = 16381
	defaultMaglevHashSeed  = "JLfvgnHc2kaSUFaI"
)

// maglevTable gives each place of a table one of the backends (an index), so that every backend has nearly the same share and
// that a backend that comes or goes changes few other places. It depends on nothing but its arguments, so all nodes that
// know the same backends have the same table. The size has to be a prime above the number of backends.
func maglevTable(backends []netip.AddrPort, size int, seed string) []int {
	n := len(backends)
	if n == 0 || size < n {
		return nil
	}
	// By address, whatever order they are given in.
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(backends[a].Addr().Compare(backends[b].Addr()), cmp.Compare(backends[a].Port(), backends[b].Port()))
	})
	next, skip := make([]uint64, n), make([]uint64, n)
	for at, i := range order {
		sum := sha256.Sum256([]byte(seed + backends[i].String()))
		next[at] = binary.BigEndian.Uint64(sum[:]) % uint64(size)
		skip[at] = binary.BigEndian.Uint64(sum[8:])%uint64(size-1) + 1
	}
	table := make([]int, size)
	for i := range table {
		table[i] = -1
	}
	for filled := 0; filled < size; {
		for at := range order {
			for table[next[at]] >= 0 {
				next[at] = (next[at] + skip[at]) % uint64(size)
			}
			table[next[at]] = order[at]
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

func (l LoadBalancer) tableSize() int { return cmp.Or(l.MaglevTableSize, defaultMaglevTableSize) }

func (l LoadBalancer) seed() string {
	raw, err := base64.StdEncoding.DecodeString(cmp.Or(l.MaglevHashSeed, defaultMaglevHashSeed))
	if err != nil {
		return l.MaglevHashSeed
	}
	return string(raw)
}

// writeMaglev makes the table of a service that clients outside of the cluster can reach, and puts it in the place of the
// old one with one write. It tells whether there is one.
func (k *kernel) writeMaglev(state *serviceState, numbers []uint32) (bool, error) {
	list := state.lists[external].id
	outside := slices.ContainsFunc(state.service.Frontends, func(f Frontend) bool { return f.Kind != ServiceClusterIP })
	if k.config.LoadBalancer.Algorithm != "maglev" || !outside || len(numbers) == 0 || len(numbers) > k.config.LoadBalancer.tableSize() {
		return false, nil
	}
	if k.maglev == nil {
		k.maglev = map[uint32][]uint32{}
	}
	if slices.Equal(k.maglev[list], numbers) {
		return true, nil
	}
	addresses := map[uint32]netip.AddrPort{}
	for key, b := range state.backends {
		addresses[b.id] = key
	}
	backends := make([]netip.AddrPort, len(numbers))
	for i, id := range numbers {
		backends[i] = addresses[id]
	}
	size := k.config.LoadBalancer.tableSize()
	keys, values := make([]uint32, size), make([]uint32, size)
	for place, i := range maglevTable(backends, size, k.config.LoadBalancer.seed()) {
		keys[place], values[place] = uint32(place), numbers[i]
	}
	inner, err := ebpf.NewMap(&ebpf.MapSpec{Name: "maglev_table", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: uint32(size)})
	if err != nil {
		return false, fmt.Errorf("making the Maglev table: %w", err)
	}
	defer inner.Close()
	if _, err := inner.BatchUpdate(keys, values, nil); err != nil {
		return false, fmt.Errorf("filling the Maglev table: %w", err)
	}
	if err := k.objects.maps["maglev"].Put(list, inner); err != nil {
		return false, fmt.Errorf("publishing the Maglev table: %w", err)
	}
	k.maglev[list] = slices.Clone(numbers)
	return true, nil
}

func (k *kernel) deleteMaglev(list uint32) error {
	if _, ok := k.maglev[list]; !ok {
		return nil
	}
	if err := ignoreMissing(k.objects.maps["maglev"].Delete(list)); err != nil {
		return fmt.Errorf("deleting the Maglev table: %w", err)
	}
	delete(k.maglev, list)
	return nil
}

// restoreMaglev remembers which lists have a table; each is made again with the service's first change. Where there is none, since
// the map was made anew (another layout, another size of the tables), it is made of the backends that were restored, so that
// clients go where they went before and not anywhere until the agent has heard of the service.
func (k *kernel) restoreMaglev(lists map[uint32]*backendList) error {
	k.maglev = map[uint32][]uint32{}
	var doomed []uint32
	if err := eachEntry(k.objects.maps["maglev"], func(list, _ uint32) {
		if lists[list] == nil {
			doomed = append(doomed, list)
		}
		k.maglev[list] = nil
	}); err != nil {
		return fmt.Errorf("reading Maglev tables: %w", err)
	}
	for _, list := range doomed {
		if err := k.deleteMaglev(list); err != nil {
			return err
		}
	}
	for _, state := range k.services.restored {
		for _, value := range state.frontends {
			view := value.View[external]
			if _, has := k.maglev[view.List]; has || value.Flags&serviceMaglev == 0 {
				continue
			}
			numbers := slices.Clone(state.lists[external].slots[:view.Count])
			slices.Sort(numbers)
			if _, err := k.writeMaglev(state, numbers); err != nil {
				return err
			}
		}
	}
	return nil
}
