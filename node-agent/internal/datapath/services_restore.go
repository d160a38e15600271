package datapath

import (
	"fmt"
	"net/netip"
)

// restoreServices reads back what an earlier run left; names come with the agent's first UpsertService. What no frontend
// leads to, left behind by a run that was ended between two writes, is deleted.
func (k *kernel) restoreServices() error {
	k.services.init()
	t := &k.services
	at := func(id uint32) *serviceState {
		if t.restored[id] == nil {
			t.restored[id] = newServiceState(id)
			t.lastService = max(t.lastService, id)
		}
		return t.restored[id]
	}
	lists := map[uint32]*backendList{}
	list := func(id, count uint32) *backendList {
		if lists[id] == nil {
			lists[id] = &backendList{id: id}
			t.lastList = max(t.lastList, id)
		}
		for len(lists[id].slots) < int(count) {
			lists[id].slots = append(lists[id].slots, 0)
		}
		return lists[id]
	}
	if err := eachEntry(k.objects.maps["services"], func(key serviceKeyLayout, value serviceLayout) {
		state := at(value.ID)
		state.frontends[key], t.owners[key] = value, state
		state.service.Frontends = append(state.service.Frontends, frontendFromLayout(key, value))
		state.service.Protocol, state.service.V6, state.service.AffinitySeconds = key.Protocol, fromWire(key.Address).Is6(), value.Affinity
		for view := range state.lists {
			state.lists[view] = list(value.View[view].List, value.View[view].Count)
		}
	}); err != nil {
		return fmt.Errorf("reading services: %w", err)
	}
	var doomedSlots []slotKeyLayout
	if err := eachEntry(k.objects.maps["slots"], func(key slotKeyLayout, id uint32) {
		t.lastBackend, t.lastList = max(t.lastBackend, id), max(t.lastList, key.List)
		if l := lists[key.List]; l != nil && int(key.Slot) < len(l.slots) {
			l.slots[key.Slot] = id
			return
		}
		doomedSlots = append(doomedSlots, key)
	}); err != nil {
		return fmt.Errorf("reading slots: %w", err)
	}
	var doomedBackends []uint32
	if err := eachEntry(k.objects.maps["backends"], func(id uint32, value backendLayout) {
		t.lastBackend = max(t.lastBackend, id)
		state := t.restored[value.Service]
		if state == nil {
			doomedBackends = append(doomedBackends, id)
			return
		}
		state.backends[netip.AddrPortFrom(fromWire(value.Address), fromPort(value.Port))] = numbered{id, value}
		state.service.Backends = append(state.service.Backends, Backend{
			Address: fromWire(value.Address), Port: fromPort(value.Port), Internal: value.Flags&backendInternal != 0,
			External: value.Flags&backendExternal != 0, Terminating: value.Flags&backendTerminating != 0})
	}); err != nil {
		return fmt.Errorf("reading backends: %w", err)
	}
	var doomedRanges []rangeKeyLayout
	if err := eachEntry(k.objects.maps["source_ranges"], func(key rangeKeyLayout, _ uint8) {
		p := keyToPrefix(ipcacheKeyLayout{PrefixLen: key.PrefixLen - 32, Address: key.Address})
		if state := t.restored[key.Service]; state != nil {
			state.ranges[p] = struct{}{}
			state.service.SourceRanges = append(state.service.SourceRanges, p)
			return
		}
		doomedRanges = append(doomedRanges, key)
	}); err != nil {
		return fmt.Errorf("reading source ranges: %w", err)
	}
	if err := k.restoreChoices(); err != nil {
		return err
	}
	for _, key := range doomedSlots {
		if err := ignoreMissing(k.objects.maps["slots"].Delete(key)); err != nil {
			return fmt.Errorf("deleting a slot of nobody: %w", err)
		}
	}
	for _, id := range doomedBackends {
		if err := ignoreMissing(k.objects.maps["backends"].Delete(id)); err != nil {
			return fmt.Errorf("deleting a backend of nobody: %w", err)
		}
	}
	for _, key := range doomedRanges {
		if err := ignoreMissing(k.objects.maps["source_ranges"].Delete(key)); err != nil {
			return fmt.Errorf("deleting a source range of nobody: %w", err)
		}
	}
	return k.restoreMaglev(lists)
}

// restoreChoices has no backend get a number that somebody still knows: clients with affinity, or a flow of datagrams, would take it
// for the one of before, which may be gone.
func (k *kernel) restoreChoices() error {
	t := &k.services
	if err := visitTable(k.objects.maps["affinity"], func(_ *affinityKeyLayout, v *affinityLayout) bool {
		t.lastBackend = max(t.lastBackend, v.Backend)
		return true
	}); err != nil {
		return fmt.Errorf("reading affinity: %w", err)
	}
	for _, name := range connectionTables {
		if err := visitTable(k.objects.maps[name], func(_ *connectionKeyLayout, v *connectionLayout) bool {
			if v.Flags&connectionService != 0 {
				t.lastBackend = max(t.lastBackend, v.Revision)
			}
			return true
		}); err != nil {
			return fmt.Errorf("reading choices of backends: %w", err)
		}
	}
	return nil
}
