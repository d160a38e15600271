package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Maps implements Datapath.
func (k *kernel) Maps() ([]MapInfo, error) {
	var out []MapInfo
	err := k.read("listing maps", func() error {
		k.countAgentMaps()
		for _, name := range slices.Sorted(maps.Keys(k.objects.maps)) {
			m := k.objects.maps[name]
			info, err := m.Info()
			if err != nil {
				return fmt.Errorf("asking about map %s: %w", name, err)
			}
			id, _ := info.ID()
			memory, _ := info.Memlock()
			out = append(out, MapInfo{
				Name: name, Type: info.Type.String(), ID: uint32(id), MaxEntries: info.MaxEntries, Entries: k.entries(name),
				MemoryBytes: memory, PinPath: mapPin(k.mapDirectory(), name), KeyBytes: info.KeySize, ValueBytes: info.ValueSize,
				Grows: grows(name, info.Type, info.Flags),
			})
		}
		return nil
	})
	return out, err
}

// entries as of the last count; maps that cannot be full have none.
func (k *kernel) entries(name string) int {
	k.pressureMu.Lock()
	defer k.pressureMu.Unlock()
	if p, ok := k.pressures[name]; ok {
		return int(p.Entries)
	}
	return -1
}

// Programs implements Datapath.
func (k *kernel) Programs() ([]ProgramInfo, error) {
	var out []ProgramInfo
	err := k.read("listing programs", func() error {
		links, err := k.attached()
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(k.objects.programs)) {
			info, err := k.objects.programs[name].Info()
			if err != nil {
				return fmt.Errorf("asking about program %s: %w", name, err)
			}
			id, _ := info.ID()
			p := ProgramInfo{Name: name, Type: info.Type.String(), ID: uint32(id)}
			if since, ok := info.LoadTime(); ok {
				p.LoadedAt = bootTime().Add(since)
			}
			if memory, ok := info.Memlock(); ok {
				p.MemoryBytes = memory
			}
			if stats, err := k.objects.programs[name].Stats(); err == nil {
				p.RunCount, p.RunTime = stats.RunCount, stats.Runtime
			}
			for pin, program := range links {
				if program == ebpf.ProgramID(id) {
					p.Attach = append(p.Attach, pin)
				}
			}
			slices.Sort(p.Attach)
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

func bootTime() time.Time {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(t.Nano()))
}

// dropPolicyDeny is DROP_POLICY_DENY.
const dropPolicyDeny = 181

// refusedSum is what the prefilter dropped, which counts by network and not by reason.
func (k *kernel) refusedSum() (sum Refused, err error) {
	if k.objects.maps["refused"] == nil {
		return sum, nil
	}
	each, err := k.refused.counters(k.objects.maps)
	for _, r := range each {
		sum.Packets, sum.Bytes = sum.Packets+r.Packets, sum.Bytes+r.Bytes
	}
	return sum, err
}

// Drops implements Datapath: the counters that are not zero.
func (k *kernel) Drops(only ...uint8) ([]DropCount, error) {
	var reasons, pairs []uint32
	for _, reason := range only {
		reasons, pairs = append(reasons, uint32(reason)), append(pairs, uint32(reason)*2, uint32(reason)*2+1)
	}
	var out []DropCount
	err := k.read("reading counters", func() error {
		var refused Refused
		var err error
		if len(only) == 0 || slices.Contains(only, dropPolicyDeny) {
			if refused, err = k.refusedSum(); err != nil {
				return err
			}
		}
		counters, err := sumsPerProcessor(k.objects.maps["metrics"], addCounter, pairs...)
		if err != nil {
			return fmt.Errorf("packets: %w", err)
		}
		var held []uint64
		if m := k.objects.maps["suppressed"]; m != nil {
			if held, err = sumsPerProcessor(m, func(sum *uint64, n uint64) { *sum += n }, reasons...); err != nil {
				return fmt.Errorf("events that were held back: %w", err)
			}
		}
		for index, n := range counters {
			c := DropCount{Reason: uint8(index / 2), Forwarded: index < 2, Direction: Direction(index % 2), Packets: n.Packets, Bytes: n.Bytes}
			if c.Reason == dropPolicyDeny && c.Direction == Ingress {
				c.Packets, c.Bytes = c.Packets+refused.Packets, c.Bytes+refused.Bytes
			}
			if !c.Forwarded && c.Direction == Ingress && int(c.Reason) < len(held) {
				c.Suppressed = held[c.Reason]
			}
			if (c.Packets > 0 || c.Suppressed > 0) && (len(only) == 0 || slices.Contains(only, c.Reason)) {
				out = append(out, c)
			}
		}
		return nil
	})
	return out, err
}

func addCounter(sum *counterLayout, n counterLayout) {
	sum.Packets, sum.Bytes = sum.Packets+n.Packets, sum.Bytes+n.Bytes
}

// sumsPerProcessor reads an array of values per processor and gives the sum of each: in one call where the kernel can, one by
// one where it cannot. With only given, the others are not read and stay zero.
func sumsPerProcessor[T any](m *ebpf.Map, add func(sum *T, n T), only ...uint32) ([]T, error) {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	sums := make([]T, m.MaxEntries())
	if len(only) > 0 {
		each := make([]T, processors)
		for _, index := range only {
			if err := m.Lookup(index, each); err != nil {
				return nil, fmt.Errorf("reading counter %d: %w", index, err)
			}
			for _, n := range each {
				add(&sums[index], n)
			}
		}
		return sums, nil
	}
	keys, values := make([]uint32, m.MaxEntries()), make([]T, int(m.MaxEntries())*processors)
	var cursor ebpf.MapBatchCursor
	if n, err := m.BatchLookup(&cursor, keys, values, nil); n != len(keys) || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		for index := range m.MaxEntries() {
			if err := m.Lookup(index, values[int(index)*processors:int(index+1)*processors]); err != nil {
				return nil, fmt.Errorf("reading counter %d: %w", index, err)
			}
		}
	}
	for i, n := range values {
		add(&sums[i/processors], n)
	}
	return sums, nil
}
