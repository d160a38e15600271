package datapath

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// serviceState is what the maps hold of a service, and names that they do not hold.
type serviceState struct {
	service Service
	id      uint32
	slots   []backendLayout
	value   serviceLayout
}

func serviceKey(f Frontend) serviceKeyLayout {
	return serviceKeyLayout{Address: toWire(f.Address), Port: toPort(f.Port), Protocol: f.Protocol}
}

// withoutKind is how a frontend is looked up: an address, port and protocol has one owner.
func withoutKind(f Frontend) Frontend {
	f.Kind = 0
	f.Address = f.Address.Unmap()
	return f
}

// restoreServices reads back what an earlier run left; names come with the agent's first UpsertService.
func (k *kernel) restoreServices() error {
	slots := map[backendKeyLayout]backendLayout{}
	var slot backendKeyLayout
	var backend backendLayout
	all := k.objects.maps["backends"].Iterate()
	for all.Next(&slot, &backend) {
		slots[slot] = backend
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading backends: %w", err)
	}
	var key serviceKeyLayout
	var value serviceLayout
	all = k.objects.maps["services"].Iterate()
	for all.Next(&key, &value) {
		f := Frontend{Address: fromWire(key.Address), Port: fromPort(key.Port), Protocol: key.Protocol, Kind: ServiceKind(value.Kind)}
		state := &serviceState{id: value.ID, value: value, service: Service{Frontend: f, AffinitySeconds: value.Affinity}}
		for i := range value.Count {
			b := slots[backendKeyLayout{value.ID, i}]
			state.slots = append(state.slots, b)
			state.service.Backends = append(state.service.Backends, Backend{Address: fromWire(b.Address), Port: fromPort(b.Port)})
		}
		k.services[withoutKind(f)] = state
		k.nextService = max(k.nextService, value.ID)
		k.generation = max(k.generation, value.Generation)
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading services: %w", err)
	}
	return nil
}

// usableBackends are those that are not about to go, or all where no other is left; in a stable order.
func usableBackends(in []Backend) []backendLayout {
	pick := func(terminating bool) (out []backendLayout) {
		for _, b := range in {
			if b.Terminating == terminating {
				out = append(out, backendLayout{Address: toWire(b.Address), Port: toPort(b.Port)})
			}
		}
		return out
	}
	out := pick(false)
	if len(out) == 0 {
		out = pick(true)
	}
	slices.SortFunc(out, func(a, b backendLayout) int {
		return cmp.Or(slices.Compare(a.Address[:], b.Address[:]), slices.Compare(a.Port[:], b.Port[:]))
	})
	return slices.Compact(out)
}

// UpsertService implements Datapath.
func (k *kernel) UpsertService(ctx context.Context, s Service) error {
	return k.change(ctx, fmt.Sprintf("publishing service %s/%s at %s", s.Namespace, s.Name, netip.AddrPortFrom(s.Frontend.Address, s.Frontend.Port)), func() error {
		slots := usableBackends(s.Backends)
		name := withoutKind(s.Frontend)
		state, known := k.services[name]
		if !known {
			k.nextService++
			state = &serviceState{id: k.nextService}
		}
		s.Backends = slices.Clone(s.Backends)
		value := state.value
		value.ID, value.Count, value.Affinity, value.Kind = state.id, uint32(len(slots)), s.AffinitySeconds, uint32(s.Frontend.Kind)
		if known && slices.Equal(slots, state.slots) && value == state.value {
			state.service = s
			return nil
		}
		if !slices.Equal(slots, state.slots) || !known {
			k.generation++
			value.Generation = k.generation
		}
		// Slots before the count that makes them visible, and the count before the slots that it hides go: at every
		// moment each slot below the count is a backend of the old list or of the new one.
		put := func() error {
			for i, b := range slots {
				if i < len(state.slots) && state.slots[i] == b {
					continue
				}
				if err := k.objects.maps["backends"].Put(backendKeyLayout{state.id, uint32(i)}, b); err != nil {
					return fmt.Errorf("writing backend %d: %w", i, err)
				}
			}
			return nil
		}
		if err := put(); err != nil {
			return err
		}
		if err := k.objects.maps["services"].Put(serviceKey(s.Frontend), value); err != nil {
			return fmt.Errorf("writing the frontend: %w", err)
		}
		if err := k.deleteSlots(state.id, len(slots), len(state.slots)); err != nil {
			return err
		}
		state.slots, state.value, state.service = slots, value, s
		k.services[name] = state
		return nil
	})
}

func (k *kernel) deleteSlots(id uint32, from, to int) error {
	for i := from; i < to; i++ {
		if err := ignoreMissing(k.objects.maps["backends"].Delete(backendKeyLayout{id, uint32(i)})); err != nil {
			return fmt.Errorf("deleting backend %d: %w", i, err)
		}
	}
	return nil
}

// DeleteService implements Datapath.
func (k *kernel) DeleteService(ctx context.Context, f Frontend) error {
	return k.change(ctx, "deleting a service", func() error {
		state, known := k.services[withoutKind(f)]
		// The address and port may belong to a frontend of another kind by now.
		if !known || state.service.Frontend.Kind != f.Kind {
			return nil
		}
		if err := ignoreMissing(k.objects.maps["services"].Delete(serviceKey(f))); err != nil {
			return fmt.Errorf("deleting the frontend: %w", err)
		}
		delete(k.services, withoutKind(f))
		return k.deleteSlots(state.id, 0, len(state.slots))
	})
}

// Services implements Datapath.
func (k *kernel) Services() ([]Service, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Service, 0, len(k.services))
	for _, s := range k.services {
		copied := s.service
		copied.Backends = slices.Clone(copied.Backends)
		out = append(out, copied)
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(a.Frontend.Address.Compare(b.Frontend.Address), cmp.Compare(a.Frontend.Port, b.Frontend.Port),
			cmp.Compare(a.Frontend.Protocol, b.Frontend.Protocol))
	})
	return out, nil
}
