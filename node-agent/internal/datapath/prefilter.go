package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
)

// prefilterNetworks is how many refused networks have counters of their own (PREFILTER_NETWORKS).
const prefilterNetworks = 65536

// prefilterMaps are those that only the prefilter has.
var prefilterMaps = []string{"refused4", "refused6", "refused_first4", "refused"}

// Refused is what came from one refused network and was dropped.
type Refused struct {
	Network        netip.Prefix
	Packets, Bytes uint64
}

// refusedTable is what is in the prefilter's maps. It belongs to one caller at a time.
type refusedTable struct {
	// indexes of the counters; nil until they were read.
	indexes map[netip.Prefix]uint32
	free    []uint32
	next    uint32
	// settled: the lines by first bits are as they should be.
	settled bool
}

type network4Key struct {
	Length  uint32
	Address [4]byte
}

type network6Key struct {
	Length  uint32
	Address [16]byte
}

func refusedEntry(maps map[string]*ebpf.Map, n netip.Prefix) (*ebpf.Map, any) {
	if n.Addr().Is4() {
		return maps["refused4"], network4Key{uint32(n.Bits()), n.Addr().As4()}
	}
	return maps["refused6"], network6Key{uint32(n.Bits()), n.Addr().As16()}
}

// restore reads what an earlier run left, whose counters go on.
func (t *refusedTable) restore(maps map[string]*ebpf.Map) error {
	if t.indexes != nil {
		return nil
	}
	found := map[netip.Prefix]uint32{}
	taken := map[uint32]bool{}
	var key4 network4Key
	var key6 network6Key
	var index uint32
	note := func(n netip.Prefix) {
		found[n], taken[index] = index, true
		t.next = max(t.next, index+1)
	}
	all := maps["refused4"].Iterate()
	for all.Next(&key4, &index) {
		note(netip.PrefixFrom(netip.AddrFrom4(key4.Address), int(key4.Length)))
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the prefilter: %w", err)
	}
	all = maps["refused6"].Iterate()
	for all.Next(&key6, &index) {
		note(netip.PrefixFrom(netip.AddrFrom16(key6.Address), int(key6.Length)))
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the prefilter: %w", err)
	}
	for i := range t.next {
		if !taken[i] {
			t.free = append(t.free, i)
		}
	}
	t.indexes = found
	return nil
}

// set makes exactly these networks refused. Counters of those that stay go on; those of a new one begin at nothing.
func (t *refusedTable) set(maps map[string]*ebpf.Map, networks []netip.Prefix) error {
	if err := t.restore(maps); err != nil {
		return err
	}
	wanted := map[netip.Prefix]bool{}
	for _, n := range networks {
		wanted[n.Masked()] = true
	}
	var changing []netip.Prefix
	for n := range t.indexes {
		if !wanted[n] {
			changing = append(changing, n)
		}
	}
	gone := len(changing)
	for n := range wanted {
		if _, has := t.indexes[n]; !has {
			changing = append(changing, n)
		}
	}
	if len(changing) == 0 && t.settled {
		return nil
	}
	t.settled = false
	if err := askFirst(maps["refused_first4"], changing); err != nil {
		return err
	}
	for _, n := range changing[:gone] {
		m, key := refusedEntry(maps, n)
		if err := ignoreMissing(m.Delete(key)); err != nil {
			return fmt.Errorf("taking %s from the prefilter: %w", n, err)
		}
		t.free = append(t.free, t.indexes[n])
		delete(t.indexes, n)
	}
	if err := t.add(maps, changing[gone:]); err != nil {
		return err
	}
	if err := settleFirst(maps["refused_first4"], t.indexes); err != nil {
		return err
	}
	t.settled = true
	return nil
}

// add refuses networks that were not.
func (t *refusedTable) add(maps map[string]*ebpf.Map, networks []netip.Prefix) error {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("counting processors: %w", err)
	}
	for _, n := range networks {
		index, err := t.number()
		if err != nil {
			return fmt.Errorf("refusing %s: %w", n, err)
		}
		m, key := refusedEntry(maps, n)
		if err := maps["refused"].Put(index, make([]counterLayout, processors)); err != nil {
			return fmt.Errorf("clearing the counter of %s: %w", n, err)
		}
		if err := m.Put(key, index); err != nil {
			return fmt.Errorf("refusing %s: %w", n, err)
		}
		t.indexes[n] = index
	}
	return nil
}

func (t *refusedTable) number() (uint32, error) {
	if n := len(t.free); n > 0 {
		index := t.free[n-1]
		t.free = t.free[:n-1]
		return index, nil
	}
	if t.next == prefilterNetworks {
		return 0, fmt.Errorf("the prefilter holds %d networks and no more", prefilterNetworks)
	}
	t.next++
	return t.next - 1, nil
}

// counters are the drops of every refused network.
func (t *refusedTable) counters(maps map[string]*ebpf.Map) ([]Refused, error) {
	if err := t.restore(maps); err != nil {
		return nil, err
	}
	out := make([]Refused, 0, len(t.indexes))
	for n, index := range t.indexes {
		var each []counterLayout
		if err := maps["refused"].Lookup(index, &each); err != nil {
			return nil, fmt.Errorf("reading the counter of %s: %w", n, err)
		}
		r := Refused{Network: n}
		for _, c := range each {
			r.Packets, r.Bytes = r.Packets+c.Packets, r.Bytes+c.Bytes
		}
		out = append(out, r)
	}
	return out, nil
}

// SetRefused implements Datapath.
func (k *kernel) SetRefused(ctx context.Context, networks []netip.Prefix) error {
	return k.change(ctx, "refusing networks", func() error {
		if k.objects.maps["refused"] == nil {
			if len(networks) == 0 {
				return nil
			}
			return errors.New("the prefilter is off")
		}
		return k.refused.set(k.objects.maps, networks)
	})
}

// Refused implements Datapath.
func (k *kernel) Refused() (out []Refused, err error) {
	err = k.read("reading the prefilter", func() error {
		if k.objects.maps["refused"] == nil {
			return nil
		}
		out, err = k.refused.counters(k.objects.maps)
		return err
	})
	return out, err
}

// refusedNetwork is the network whose counters have this index; invalid where it is none any more.
func (k *kernel) refusedNetwork(index uint32) (network netip.Prefix, err error) {
	err = k.read("reading the prefilter", func() error {
		if k.objects.maps["refused"] == nil {
			return nil
		}
		if err := k.refused.restore(k.objects.maps); err != nil {
			return err
		}
		for n, i := range k.refused.indexes {
			if i == index {
				network = n
			}
		}
		return nil
	})
	return network, err
}

// removePrefilterPins gives back the memory of a prefilter that is off now, which no program reads any more.
func (k *kernel) removePrefilterPins() error {
	for _, name := range prefilterMaps {
		if k.objects.maps[name] != nil {
			continue
		}
		if err := os.Remove(mapPin(k.mapDirectory(), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the map %s: %w", name, err)
		}
	}
	return nil
}
