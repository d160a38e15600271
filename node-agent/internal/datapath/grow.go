package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// growthLimit bounds how often a map's size may be doubled: to 32 times what was configured.
const growthLimit = 5

// grows tells whether a map is made larger when it fills up: those that only the agent writes and that take memory by the
// entry, and the tables of what is open. Other tables evict what is oldest, which is what they are for.
func grows(name string, kind ebpf.MapType, flags uint32) bool {
	switch kind {
	case ebpf.Hash, ebpf.LPMTrie:
		return flags&unix.BPF_F_NO_PREALLOC != 0
	case ebpf.LRUHash:
		return name == "connections" || name == "nat"
	}
	return false
}

// wantedSize is the size that a map should have: as configured, and twice as much again while it is nearly full.
func wantedSize(configured uint32, p MapPressure) uint32 {
	size := max(p.MaxEntries, configured)
	if p.Share() < PressureWarning || p.MaxEntries < configured {
		return size
	}
	if doubled := uint64(size) * 2; doubled <= uint64(configured)<<growthLimit {
		return uint32(doubled)
	}
	return size
}

// growWherePressed makes maps larger that are nearly full, or smaller than configured since they were made by a run with
// another configuration.
func (k *kernel) growWherePressed(ctx context.Context) {
	pressures, sizes := k.Pressure(), map[string]uint32{}
	err := k.read("looking for maps without room", func() error {
		for _, p := range pressures {
			m := k.objects.maps[p.Name]
			if m == nil || p.MaxEntries == 0 || !grows(p.Name, m.Type(), m.Flags()) {
				continue
			}
			if size := wantedSize(k.objects.configured[p.Name], p); size > p.MaxEntries {
				sizes[p.Name] = size
			}
		}
		return nil
	})
	if err != nil || len(sizes) == 0 {
		return
	}
	if err := k.change(ctx, "making maps larger", func() error { return k.grow(sizes) }); err != nil {
		k.options.log.Warn("maps stay as large as they are", "maps", slices.Sorted(maps.Keys(sizes)), "error", err)
		for name := range sizes {
			k.notePressure(name, func(p *MapPressure) { p.Problem = err.Error() })
		}
		return
	}
	k.measure()
}

// growFull makes those maps larger that have no room left, for a change that was just refused. It gives false where no map
// was full. The caller holds the lock and is in the datapath's namespace.
func (k *kernel) growFull() (bool, error) {
	sizes := map[string]uint32{}
	for name, m := range k.objects.maps {
		if m.Type() == ebpf.LRUHash || !grows(name, m.Type(), m.Flags()) {
			continue
		}
		n, err := countEntries(m)
		if err != nil {
			return false, err
		}
		p := MapPressure{Entries: uint32(n), MaxEntries: m.MaxEntries()}
		if size := wantedSize(k.objects.configured[name], p); size > p.MaxEntries {
			sizes[name] = size
		}
	}
	if len(sizes) == 0 {
		return false, nil
	}
	return true, k.grow(sizes)
}

// grow replaces maps by larger ones without touching traffic: the new ones get all entries, all programs are loaded again on
// them and put in place of the old ones atomically, and the pins are swapped. Until then the old ones serve. The caller
// holds the lock, so the agent writes to none of them meanwhile; what packets write to a table meanwhile is copied after.
func (k *kernel) grow(sizes map[string]uint32) (err error) {
	s, err := k.makeSpec()
	if err != nil {
		return err
	}
	specs := s.mapSpecs()
	all := maps.Clone(k.objects.maps)
	made := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			for _, m := range made {
				m.Close()
			}
		}
	}()
	for name, size := range sizes {
		spec := specs[name].Copy()
		spec.MaxEntries, spec.Pinning = size, ebpf.PinNone
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fmt.Errorf("making a map %s of %d entries: %w", name, size, err)
		}
		made[name], all[name] = m, m
		if err := copyEntries(all[name], k.objects.maps[name], ebpf.UpdateAny); err != nil {
			return fmt.Errorf("copying %s: %w", name, err)
		}
	}
	programs, err := s.loadPrograms(all)
	if err != nil {
		return err
	}
	before := k.objects
	k.objects = &objects{maps: all, programs: programs, configured: before.configured}
	if err := k.reattach(); err != nil {
		// Some programs may be in place already; those of before go back everywhere.
		k.objects = before
		err = errors.Join(err, k.reattach())
		for _, p := range programs {
			p.Close()
		}
		return err
	}
	for _, p := range before.programs {
		p.Close()
	}
	var failed []error
	for name, m := range made {
		old := before.maps[name]
		if specs[name].Type == ebpf.LRUHash {
			failed = append(failed, copyEntries(m, old, ebpf.UpdateNoExist))
		}
		failed = append(failed, swapPin(m, mapPin(k.mapDirectory(), name)))
		k.options.log.Info("a map was made larger", "map", name, "from", old.MaxEntries(), "to", m.MaxEntries())
		old.Close()
		k.notePressure(name, func(p *MapPressure) { p.Grown++; p.MaxEntries, p.Problem = m.MaxEntries(), "" })
	}
	k.mapGeneration++
	return errors.Join(failed...)
}

// copyEntries puts what `from` holds into `to`.
func copyEntries(to, from *ebpf.Map, how ebpf.MapUpdateFlags) error {
	return eachRaw(from, func(key, value []byte) error {
		if err := to.Update(key, value, how); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("copying an entry: %w", err)
		}
		return nil
	})
}

// largerSuffix is that of a pin that is about to replace another.
const largerSuffix = "_larger"

// swapPin pins a map in the place of another, so that there is a map at every moment.
func swapPin(m *ebpf.Map, pin string) error {
	fresh := pin + largerSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", fresh, err)
	}
	if err := m.Pin(fresh); err != nil {
		return fmt.Errorf("pinning at %s: %w", fresh, err)
	}
	if err := os.Rename(fresh, pin); err != nil {
		return fmt.Errorf("replacing the pin %s: %w", pin, err)
	}
	return nil
}
