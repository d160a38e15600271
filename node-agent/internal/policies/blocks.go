package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// blockTable has the ranges that ipBlocks name, with the numbers under which the kernel finds their lines.
type blockTable struct {
	numbers *numbers
	// all is replaced as a whole by every change, since the proxies read it without the manager's lock.
	all *atomic.Pointer[map[netip.Prefix]policy.NumericIdentity]
	// dirty tells that the kernel refused something.
	dirty bool
}

func newBlockTable() blockTable {
	out := blockTable{numbers: newNumbers(policy.IdentityBlockMin, policy.IdentityBlockMax), all: &atomic.Pointer[map[netip.Prefix]policy.NumericIdentity]{}}
	out.all.Store(&map[netip.Prefix]policy.NumericIdentity{})
	return out
}

func (t blockTable) change(apply func(map[netip.Prefix]policy.NumericIdentity)) {
	next := maps.Clone(*t.all.Load())
	apply(next)
	t.all.Store(&next)
}

// blockAround gives the number of the longest ipBlock around an address, as the kernel finds it; 0 where there is none.
func (m *Manager) blockAround(address netip.Addr) policy.NumericIdentity {
	all := *m.blocks.all.Load()
	address = address.Unmap()
	for bits := address.BitLen(); bits >= 0 && len(all) > 0; bits-- {
		if prefix, err := address.Prefix(bits); err == nil {
			if number, ok := all[prefix]; ok {
				return number
			}
		}
	}
	return policy.AnyPeer
}

// restoreBlocks takes over the ranges of before a restart with their numbers. Until Start they count as if somebody named them:
// so they get the lines of the ranges around them before those of before go, also where nobody names them any more.
func (m *Manager) restoreBlocks() error {
	blocks, err := m.dp.Blocks()
	if err != nil {
		return fmt.Errorf("reading the ipBlocks of before the restart: %w", err)
	}
	for _, b := range blocks {
		m.blocks.numbers.restore(b.Prefix, policy.NumericIdentity(b.Number))
		if _, valid := m.blocks.numbers.before[b.Prefix]; !valid {
			continue
		}
		number, err := m.blocks.numbers.take(b.Prefix)
		if err != nil {
			return err
		}
		m.engine.AddIdentity(number, policy.LabelsForBlock(b.Prefix))
		m.blocks.change(func(all map[netip.Prefix]policy.NumericIdentity) { all[b.Prefix] = number })
	}
	return nil
}

// addBlocks gives ranges their numbers: first the lines that they inherit of the ranges around them, then their places in the
// kernel.
func (m *Manager) addBlocks(ctx context.Context, prefixes []netip.Prefix) error {
	var errs []error
	var fresh []datapath.Block
	for _, prefix := range prefixes {
		if _, ok := (*m.blocks.all.Load())[prefix]; ok {
			continue
		}
		number, err := m.blocks.numbers.take(prefix)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fresh = append(fresh, datapath.Block{Prefix: prefix, Number: uint32(number)})
		errs = append(errs, m.apply(ctx, m.engine.AddIdentity(number, policy.LabelsForBlock(prefix))))
	}
	if len(fresh) == 0 {
		return errors.Join(errs...)
	}
	m.blocks.change(func(all map[netip.Prefix]policy.NumericIdentity) {
		for _, b := range fresh {
			all[b.Prefix] = policy.NumericIdentity(b.Number)
		}
	})
	if m.live {
		err := m.dp.UpsertBlocks(ctx, fresh...)
		m.blocks.dirty = m.blocks.dirty || err != nil
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// pruneBlocks withdraws the ranges that no ipBlock in force names any more; those of before a restart when Start has compared.
func (m *Manager) pruneBlocks(ctx context.Context) error {
	if !m.live {
		return nil
	}
	wanted := m.engine.Blocks()
	gone := make(map[netip.Prefix]policy.NumericIdentity)
	for prefix, number := range *m.blocks.all.Load() {
		if _, ok := slices.BinarySearchFunc(wanted, prefix, netip.Prefix.Compare); !ok {
			gone[prefix] = number
		}
	}
	if len(gone) == 0 {
		return nil
	}
	m.blocks.change(func(all map[netip.Prefix]policy.NumericIdentity) {
		maps.DeleteFunc(all, func(prefix netip.Prefix, _ policy.NumericIdentity) bool { _, is := gone[prefix]; return is })
	})
	err := m.dp.DeleteBlocks(ctx, slices.Collect(maps.Keys(gone))...)
	m.blocks.dirty = m.blocks.dirty || err != nil
	errs := []error{err}
	for _, number := range gone {
		m.blocks.numbers.release(number)
		errs = append(errs, m.apply(ctx, m.engine.RemoveIdentity(number)))
	}
	return errors.Join(errs...)
}

// publishBlocks makes the kernel's ranges equal to the known ones.
func (m *Manager) publishBlocks(ctx context.Context) error {
	m.blocks.dirty = true
	present, err := m.dp.Blocks()
	if err != nil {
		return fmt.Errorf("comparing ipBlocks: %w", err)
	}
	var adds []datapath.Block
	var deletes []netip.Prefix
	there := make(map[netip.Prefix]uint32, len(present))
	for _, b := range present {
		there[b.Prefix] = b.Number
		if _, ok := (*m.blocks.all.Load())[b.Prefix]; !ok {
			deletes = append(deletes, b.Prefix)
		}
	}
	for prefix, number := range *m.blocks.all.Load() {
		if have, ok := there[prefix]; !ok || have != uint32(number) {
			adds = append(adds, datapath.Block{Prefix: prefix, Number: uint32(number)})
		}
	}
	if len(adds) > 0 {
		// The narrowest first: a range's lines are for addresses that no narrower one has.
		slices.SortFunc(adds, func(a, b datapath.Block) int { return b.Prefix.Bits() - a.Prefix.Bits() })
		err = m.dp.UpsertBlocks(ctx, adds...)
	}
	if len(deletes) > 0 {
		err = errors.Join(err, m.dp.DeleteBlocks(ctx, deletes...))
	}
	m.blocks.dirty = err != nil
	return err
}
