package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Views of a service: whom new clients inside of the cluster and outside get.
const (
	internal = iota
	external
)

// serviceTable is what the maps hold of services. The zero value is empty and ready.
type serviceTable struct {
	byID map[ServiceID]*serviceState
	// restored ones have no name yet; the first UpsertService with one of their frontends takes them over.
	restored map[uint32]*serviceState
	owners   map[serviceKeyLayout]*serviceState
	// Numbers are never used again, so that a connection cannot mistake a new backend for its own.
	lastService, lastList, lastBackend uint32
}

// serviceState is one service. Its maps follow every single write, so that after an error the next attempt knows what is there.
type serviceState struct {
	service   Service
	id        uint32
	frontends map[serviceKeyLayout]serviceLayout
	// lists of backends by view; one list where both views have the same.
	lists    [2]*backendList
	backends map[netip.AddrPort]numbered
	ranges   map[netip.Prefix]struct{}
}

type numbered struct {
	id    uint32
	value backendLayout
}

// backendList is numbers of backends by slot, as the map has them.
type backendList struct {
	id    uint32
	slots []uint32
}

func (t *serviceTable) init() {
	if t.byID == nil {
		t.byID, t.restored, t.owners = map[ServiceID]*serviceState{}, map[uint32]*serviceState{}, map[serviceKeyLayout]*serviceState{}
	}
}

// all gives every service, restored ones included.
func (t *serviceTable) all(yield func(*serviceState) bool) {
	for _, s := range t.byID {
		if !yield(s) {
			return
		}
	}
	for _, s := range t.restored {
		if !yield(s) {
			return
		}
	}
}

func newServiceState(id uint32) *serviceState {
	return &serviceState{id: id, frontends: map[serviceKeyLayout]serviceLayout{}, backends: map[netip.AddrPort]numbered{}, ranges: map[netip.Prefix]struct{}{}}
}

func serviceKey(f Frontend) serviceKeyLayout {
	return serviceKeyLayout{Address: toWire(f.Address), Port: toPort(f.Port), Protocol: f.Protocol}
}

// find gives the service's state: its own, or that which an earlier run left under one of its frontends, or a new one.
func (t *serviceTable) find(s Service) *serviceState {
	if state := t.byID[s.ServiceID]; state != nil {
		return state
	}
	for _, f := range s.Frontends {
		if state := t.owners[serviceKey(f)]; state != nil && t.restored[state.id] == state {
			delete(t.restored, state.id)
			t.byID[s.ServiceID] = state
			return state
		}
	}
	t.lastService++
	state := newServiceState(t.lastService)
	t.byID[s.ServiceID] = state
	return state
}

// arrange gives the wanted numbers in an order that leaves as many slots as possible as they are.
func arrange(slots, wanted []uint32) []uint32 {
	missing := make(map[uint32]struct{}, len(wanted))
	for _, id := range wanted {
		missing[id] = struct{}{}
	}
	out := make([]uint32, len(wanted))
	for i := range out {
		if i < len(slots) {
			if _, ok := missing[slots[i]]; ok {
				out[i] = slots[i]
				delete(missing, slots[i])
			}
		}
	}
	rest := slices.Sorted(maps.Keys(missing))
	for i := range out {
		if out[i] == 0 {
			out[i], rest = rest[0], rest[1:]
		}
	}
	return out
}

const (
	backendInternal = 1 << iota
	backendExternal
	backendTerminating
)

func backendFlags(b Backend) (flags uint8) {
	for bit, set := range map[uint8]bool{backendInternal: b.Internal, backendExternal: b.External, backendTerminating: b.Terminating} {
		if set {
			flags |= bit
		}
	}
	return flags
}

const (
	serviceRanges = 1 << iota
	serviceDropInternal
	serviceDropExternal
	serviceExternalLocal
	serviceInternalLocal
	serviceMaglev
	serviceExternalInside
)

// value is what a frontend of that kind has in the map.
func (s *serviceState) value(kind ServiceKind, counts [2]int, maglev bool) serviceLayout {
	out := serviceLayout{ID: s.id, Affinity: s.service.AffinitySeconds, Kind: uint8(kind)}
	for view, list := range s.lists {
		out.View[view].List, out.View[view].Count = list.id, uint32(counts[view])
	}
	for bit, set := range map[uint16]bool{
		serviceRanges:         kind == ServiceLoadBalancer && len(s.service.SourceRanges) > 0,
		serviceDropInternal:   s.service.DropInternal,
		serviceDropExternal:   s.service.DropExternal,
		serviceExternalLocal:  s.service.ExternalLocal,
		serviceInternalLocal:  s.service.InternalLocal,
		serviceMaglev:         maglev,
		serviceExternalInside: kind == ServiceExternalIP && s.service.ExternalInside,
	} {
		if set {
			out.Flags |= bit
		}
	}
	return out
}

// UpsertService implements Datapath.
func (k *kernel) UpsertService(ctx context.Context, s Service) error {
	return k.change(ctx, fmt.Sprintf("publishing service %s/%s", s.Namespace, s.Name), func() error {
		s.Backends, s.Frontends, s.SourceRanges = slices.Clone(s.Backends), slices.Clone(s.Frontends), slices.Clone(s.SourceRanges)
		k.services.init()
		return k.writeService(k.services.find(s), s)
	})
}

// writeService goes from what is added to what refers to it to what nothing refers to any more: at every moment each slot
// below a count is a backend of the old list or of the new one, and each number that a slot has is a backend's.
func (k *kernel) writeService(state *serviceState, s Service) error {
	state.service = s
	wanted, err := k.writeBackends(state, s.Backends)
	if err != nil {
		return err
	}
	before := state.lists
	k.chooseLists(state, wanted)
	var counts [2]int
	for view, list := range state.lists {
		counts[view] = len(wanted[view])
		if view == external && list == state.lists[internal] {
			continue
		}
		if err := k.writeSlots(list, arrange(list.slots, wanted[view])); err != nil {
			return err
		}
	}
	maglev, err := k.writeMaglev(state, wanted[external])
	if err != nil {
		return err
	}
	if err := k.addRanges(state); err != nil {
		return err
	}
	if err := k.writeFrontends(state, counts, maglev); err != nil {
		return err
	}
	// Nothing refers to these any more.
	errs := []error{k.deleteRanges(state)}
	for view, list := range before {
		if list != nil && list != state.lists[internal] && list != state.lists[external] && (view == internal || list != before[internal]) {
			errs = append(errs, k.deleteList(list))
		}
	}
	for view, list := range state.lists {
		if view == internal || list != state.lists[internal] {
			errs = append(errs, k.shorten(list, counts[view]))
		}
		if list != state.lists[external] || !maglev {
			errs = append(errs, k.deleteMaglev(list.id))
		}
	}
	return errors.Join(append(errs, k.deleteBackends(state, s.Backends))...)
}

// writeBackends writes new and changed backends, and gives the numbers of each view's.
func (k *kernel) writeBackends(state *serviceState, list []Backend) (wanted [2][]uint32, err error) {
	for _, b := range list {
		key := netip.AddrPortFrom(b.Address.Unmap(), b.Port)
		entry := numbered{id: state.backends[key].id, value: backendLayout{
			Address: toWire(b.Address), Port: toPort(b.Port), Protocol: state.service.Protocol, Flags: backendFlags(b), Service: state.id}}
		if entry.id == 0 {
			k.services.lastBackend++
			entry.id = k.services.lastBackend
		}
		if entry != state.backends[key] {
			if err := k.objects.maps["backends"].Put(entry.id, entry.value); err != nil {
				return wanted, fmt.Errorf("writing backend %s: %w", key, err)
			}
			state.backends[key] = entry
		}
		for view, in := range []bool{b.Internal, b.External} {
			if in && !slices.Contains(wanted[view], entry.id) {
				wanted[view] = append(wanted[view], entry.id)
			}
		}
	}
	for view := range wanted {
		slices.Sort(wanted[view])
	}
	return wanted, nil
}

// chooseLists lets both views share a list where they want the same.
func (k *kernel) chooseLists(state *serviceState, wanted [2][]uint32) {
	fresh := func() *backendList {
		k.services.lastList++
		return &backendList{id: k.services.lastList}
	}
	if state.lists[internal] == nil {
		state.lists[internal] = fresh()
	}
	switch same := slices.Equal(wanted[internal], wanted[external]); {
	case same:
		state.lists[external] = state.lists[internal]
	case state.lists[external] == nil || state.lists[external] == state.lists[internal]:
		state.lists[external] = fresh()
	}
}

func (k *kernel) writeSlots(list *backendList, numbers []uint32) error {
	for i, id := range numbers {
		if i < len(list.slots) && list.slots[i] == id {
			continue
		}
		if err := k.objects.maps["slots"].Put(slotKeyLayout{list.id, uint32(i)}, id); err != nil {
			return fmt.Errorf("writing backend slot %d: %w", i, err)
		}
		if i < len(list.slots) {
			list.slots[i] = id
		} else {
			list.slots = append(list.slots, id)
		}
	}
	return nil
}

func (k *kernel) shorten(list *backendList, count int) error {
	for i := len(list.slots) - 1; i >= count; i-- {
		if err := ignoreMissing(k.objects.maps["slots"].Delete(slotKeyLayout{list.id, uint32(i)})); err != nil {
			return fmt.Errorf("deleting backend slot %d: %w", i, err)
		}
		list.slots = list.slots[:i]
	}
	return nil
}

func (k *kernel) deleteList(list *backendList) error {
	return errors.Join(k.shorten(list, 0), k.deleteMaglev(list.id))
}

func (k *kernel) writeFrontends(state *serviceState, counts [2]int, maglev bool) error {
	wanted := make(map[serviceKeyLayout]struct{}, len(state.service.Frontends))
	for _, f := range state.service.Frontends {
		key, value := serviceKey(f), state.value(f.Kind, counts, maglev && f.Kind != ServiceClusterIP)
		wanted[key] = struct{}{}
		if old, ok := state.frontends[key]; ok && old == value {
			continue
		}
		if err := k.objects.maps["services"].Put(key, value); err != nil {
			return fmt.Errorf("writing frontend %s: %w", netip.AddrPortFrom(f.Address, f.Port), err)
		}
		if owner := k.services.owners[key]; owner != nil && owner != state {
			delete(owner.frontends, key)
		}
		state.frontends[key], k.services.owners[key] = value, state
	}
	for key := range state.frontends {
		if _, ok := wanted[key]; ok {
			continue
		}
		if err := ignoreMissing(k.objects.maps["services"].Delete(key)); err != nil {
			return fmt.Errorf("deleting frontend %s: %w", netip.AddrPortFrom(fromWire(key.Address), fromPort(key.Port)), err)
		}
		delete(state.frontends, key)
		delete(k.services.owners, key)
	}
	return nil
}

func (k *kernel) deleteBackends(state *serviceState, list []Backend) error {
	kept := make(map[netip.AddrPort]struct{}, len(list))
	for _, b := range list {
		kept[netip.AddrPortFrom(b.Address.Unmap(), b.Port)] = struct{}{}
	}
	for key, entry := range state.backends {
		if _, ok := kept[key]; ok {
			continue
		}
		if err := ignoreMissing(k.objects.maps["backends"].Delete(entry.id)); err != nil {
			return fmt.Errorf("deleting backend %s: %w", key, err)
		}
		delete(state.backends, key)
		k.backendGone(key, entry.value.Protocol)
	}
	return nil
}

func rangeKey(service uint32, p netip.Prefix) rangeKeyLayout {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return rangeKeyLayout{PrefixLen: uint32(32 + bits), Service: service, Address: toWire(p.Masked().Addr())}
}

func (k *kernel) addRanges(state *serviceState) error {
	for _, p := range state.service.SourceRanges {
		if _, ok := state.ranges[p]; ok {
			continue
		}
		if err := k.objects.maps["source_ranges"].Put(rangeKey(state.id, p), uint8(1)); err != nil {
			return fmt.Errorf("writing the source range %s: %w", p, err)
		}
		state.ranges[p] = struct{}{}
	}
	return nil
}

func (k *kernel) deleteRanges(state *serviceState) error {
	for p := range state.ranges {
		if slices.Contains(state.service.SourceRanges, p) {
			continue
		}
		if err := ignoreMissing(k.objects.maps["source_ranges"].Delete(rangeKey(state.id, p))); err != nil {
			return fmt.Errorf("deleting the source range %s: %w", p, err)
		}
		delete(state.ranges, p)
	}
	return nil
}

// DeleteService implements Datapath.
func (k *kernel) DeleteService(ctx context.Context, id ServiceID) error {
	return k.change(ctx, fmt.Sprintf("deleting service %s/%s", id.Namespace, id.Name), func() error {
		state := k.services.byID[id]
		if state == nil {
			return nil
		}
		if err := k.removeService(state); err != nil {
			return err
		}
		delete(k.services.byID, id)
		return nil
	})
}

// removeService removes frontends first, then what they referred to.
func (k *kernel) removeService(state *serviceState) error {
	state.service.Frontends, state.service.SourceRanges = nil, nil
	if err := k.writeFrontends(state, [2]int{}, false); err != nil {
		return err
	}
	errs := []error{k.deleteRanges(state)}
	for view, list := range state.lists {
		if list != nil && (view == internal || list != state.lists[internal]) {
			errs = append(errs, k.deleteList(list))
		}
	}
	return errors.Join(append(errs, k.deleteBackends(state, nil))...)
}

// PruneServices implements Datapath.
func (k *kernel) PruneServices(ctx context.Context) error {
	return k.change(ctx, "removing services that are gone", func() error {
		var errs []error
		for id, state := range k.services.restored {
			if err := k.removeService(state); err != nil {
				errs = append(errs, err)
				continue
			}
			delete(k.services.restored, id)
		}
		return errors.Join(errs...)
	})
}

// Services implements Datapath.
func (k *kernel) Services() ([]Service, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := []Service{}
	for state := range k.services.all {
		s := state.service
		s.Backends, s.Frontends, s.SourceRanges = slices.Clone(s.Backends), nil, slices.Clone(s.SourceRanges)
		for key, value := range state.frontends {
			s.Frontends = append(s.Frontends, frontendFromLayout(key, value))
		}
		slices.SortFunc(s.Frontends, compareFrontends)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.PortName, b.PortName),
			cmp.Compare(a.Protocol, b.Protocol), slices.CompareFunc(a.Frontends, b.Frontends, compareFrontends))
	})
	return out, nil
}

func frontendFromLayout(key serviceKeyLayout, value serviceLayout) Frontend {
	return Frontend{Address: fromWire(key.Address), Port: fromPort(key.Port), Protocol: key.Protocol, Kind: ServiceKind(value.Kind)}
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// eachEntry visits a whole map, which nobody else changes meanwhile.
func eachEntry[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var key K
	var value V
	all := m.Iterate()
	for all.Next(&key, &value) {
		visit(key, value)
	}
	return all.Err()
}
