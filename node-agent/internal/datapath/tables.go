package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

const (
	// sweepBatch entries are read and deleted at a time: 160 kB of them.
	sweepBatch   = 1024
	sweepFast    = 5 * time.Second
	sweepRegular = 30 * time.Second
	sweepSlow    = 2 * time.Minute
	// sweepGrace is how long an entry has to be over before it is deleted: what is used again just now is not.
	sweepGrace = uint64(time.Second)
	// reopenGrace is the same of a connection: until shortly before, one by the same ports takes its place (bpf/lib/openings.h).
	reopenGrace = uint64(5 * time.Second)
	// PressureWarning is the share of a map from which on it is spoken of.
	PressureWarning = 0.8
)

// MapPressure is how full one map is.
type MapPressure struct {
	Name                string
	Entries, MaxEntries uint32
	// Evicts tells of a table that forgets its oldest entries when it is full, so that nothing fails.
	Evicts bool
	// Grown counts how often it was made larger since the agent's start; Problem is why it could not be.
	Grown   uint32
	Problem string
}

// Share of the map that is in use, 0 to 1.
func (p MapPressure) Share() float64 {
	if p.MaxEntries == 0 {
		return 0
	}
	return float64(p.Entries) / float64(p.MaxEntries)
}

// visitTable visits a table in batches; visit returns false to end.
func visitTable[K, V any](m *ebpf.Map, visit func(*K, *V) bool) error {
	keys, values := make([]K, collectBatch), make([]V, collectBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("reading a table: %w", err)
		}
		for i := range n {
			if !visit(&keys[i], &values[i]) {
				return nil
			}
		}
		if err != nil {
			return nil
		}
	}
}

// listTables gives what `entry` makes of the entries of some tables, leaving out those that are not listed; at most `limit`, or all
// where that is 0.
func listTables[K, V, E any](k *kernel, doing string, tables []string, limit int, entry func(table string, key *K, value *V, now uint64) (e E, listed bool)) ([]E, error) {
	var out []E
	err := k.read(doing, func() error {
		now := monotonic()
		for _, table := range tables {
			if limit > 0 && len(out) >= limit {
				break
			}
			if err := visitTable(k.objects.maps[table], func(key *K, value *V) bool {
				if e, listed := entry(table, key, value, now); listed {
					out = append(out, e)
				}
				return limit <= 0 || len(out) < limit
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// sweepTable reads a table in batches and deletes what doomed says. It counts what is left.
func sweepTable[K, V any](m *ebpf.Map, doomed func(*K, *V) bool) (left, deleted int, err error) {
	keys, values := make([]K, sweepBatch), make([]V, sweepBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return left, deleted, fmt.Errorf("reading a table: %w", err)
		}
		over := keys[:0:0]
		for i := range n {
			if doomed(&keys[i], &values[i]) {
				over = append(over, keys[i])
			} else {
				left++
			}
		}
		gone, deleteErr := deleteBatch(m, over)
		deleted += gone
		if deleteErr != nil {
			return left, deleted, deleteErr
		}
		if err != nil {
			return left, deleted, nil
		}
	}
}

// deleteBatch deletes keys, of which some may be gone already.
func deleteBatch[K any](m *ebpf.Map, keys []K) (deleted int, err error) {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		deleted += n
		switch {
		case err == nil:
			return deleted, nil
		case errors.Is(err, ebpf.ErrKeyNotExist) && n < len(keys):
			// The one at n had been evicted.
			keys = keys[n+1:]
		default:
			return deleted, fmt.Errorf("deleting of a table: %w", err)
		}
	}
	return deleted, nil
}

// sweeps clean the tables that the programs write, by name.
var sweeps = map[string]func(m *ebpf.Map, now uint64) (left, deleted int, err error){
	"connections":  sweepConnections,
	"openings":     sweepConnections,
	"nat":          sweepNAT,
	"nat_openings": sweepNAT,
}

func sweepConnections(m *ebpf.Map, now uint64) (left, deleted int, err error) {
	return sweepTable(m, func(_ *connectionKeyLayout, v *connectionLayout) bool { return v.Expires+reopenGrace < now })
}

// nextSweep is how long to wait, by how full the fullest table is and by how much of it was over: the more there was to do,
// the sooner it is done again.
func nextSweep(fill, over float64) time.Duration {
	switch {
	case fill > 0.5 || over > 0.5 && fill > 0.05:
		return sweepFast
	case fill > 0.05:
		return sweepRegular
	}
	return sweepSlow
}

// cloneMap gives a descriptor of its own, since the map may be replaced by a larger one meanwhile; nil where there is none.
func (k *kernel) cloneMap(name string) (m *ebpf.Map, err error) {
	err = k.read("opening map "+name, func() error {
		if shared := k.objects.maps[name]; shared != nil {
			m, err = shared.Clone()
		}
		return err
	})
	return m, err
}

// maintain cleans tables, takes note of how full maps are, and makes larger what fills up, until ctx ends.
func (k *kernel) maintain(ctx context.Context) {
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = k.sweep()
		k.measure()
		k.growWherePressed(ctx)
		if err := k.change(ctx, "ending a change of routing modes", func() error { return k.settleModes(time.Now()) }); err != nil && ctx.Err() == nil {
			k.options.log.Warn("what was kept for a change of routing modes is still there", "error", err)
		}
		if k.config.ConntrackGCInterval > 0 {
			wait = k.config.ConntrackGCInterval
		}
	}
}

// sweep cleans all tables once and says when to do it again.
func (k *kernel) sweep() time.Duration {
	fill, over := 0.0, 0.0
	for _, name := range slices.Sorted(maps.Keys(sweeps)) {
		m, err := k.cloneMap(name)
		if m == nil {
			continue
		}
		left, deleted := 0, 0
		if err == nil {
			left, deleted, err = sweeps[name](m, monotonic())
		}
		size := float64(m.MaxEntries())
		m.Close()
		if err != nil {
			k.options.log.Warn("a table could not be cleaned; it evicts by itself what is oldest", "table", name, "error", err)
			continue
		}
		k.notePressure(name, func(p *MapPressure) { p.Entries = uint32(left) })
		fill = max(fill, float64(left)/size)
		if left+deleted > 0 {
			over = max(over, float64(deleted)/float64(left+deleted))
		}
	}
	return nextSweep(fill, over)
}

func (k *kernel) notePressure(name string, change func(*MapPressure)) {
	k.pressureMu.Lock()
	defer k.pressureMu.Unlock()
	p := k.pressures[name]
	p.Name = name
	change(&p)
	k.pressures[name] = p
}

// counted are maps whose entries are counted; others have as many as they have room, or, as shortcuts, are full as a rule:
// what is evicted from these costs a closer look and nothing else.
func counted(name string, t ebpf.MapType) bool {
	return name != "shortcuts" && (t == ebpf.Hash || t == ebpf.LPMTrie || t == ebpf.LRUHash || t == ebpf.HashOfMaps)
}

// measure counts the entries of every map that can be full.
func (k *kernel) measure() {
	var names []string
	if err := k.read("counting entries", func() error {
		for name, m := range k.objects.maps {
			if counted(name, m.Type()) {
				names = append(names, name)
			}
		}
		return nil
	}); err != nil {
		return
	}
	for _, name := range names {
		m, err := k.cloneMap(name)
		if err != nil || m == nil {
			continue
		}
		n, swept := 0, sweeps[name] != nil
		if !swept {
			n, err = countEntries(m)
		}
		k.notePressure(name, func(p *MapPressure) {
			if err == nil && !swept {
				p.Entries = uint32(n)
			}
			p.MaxEntries, p.Evicts = m.MaxEntries(), m.Type() == ebpf.LRUHash
		})
		m.Close()
	}
}

// countEntries walks a map in batches of raw keys.
func countEntries(m *ebpf.Map) (n int, err error) {
	return n, eachRaw(m, func(_, _ []byte) error { n++; return nil })
}

// rawEntries is room for n keys or values of a size that is known when running only.
func rawEntries(n, size uint32) (slice any, raw []byte) {
	v := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), int(n), int(n))
	return v.Interface(), unsafe.Slice((*byte)(v.UnsafePointer()), n*size)
}

// eachRaw visits every entry as bytes, in batches where the kernel can, one by one where it cannot.
func eachRaw(m *ebpf.Map, visit func(key, value []byte) error) error {
	keySize, valueSize := m.KeySize(), m.ValueSize()
	keys, rawKeys := rawEntries(sweepBatch, keySize)
	values, rawValues := rawEntries(sweepBatch, valueSize)
	var cursor ebpf.MapBatchCursor
	for first := true; ; first = false {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && first && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return eachRawSlowly(m, visit)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("reading a map: %w", err)
		}
		for i := range uint32(n) {
			if err := visit(rawKeys[i*keySize:(i+1)*keySize], rawValues[i*valueSize:(i+1)*valueSize]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

func eachRawSlowly(m *ebpf.Map, visit func(key, value []byte) error) error {
	var key, value []byte
	all := m.Iterate()
	for all.Next(&key, &value) {
		if err := visit(key, value); err != nil {
			return err
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading a map: %w", err)
	}
	return nil
}

// Pressure implements Datapath: every map that can be full, fullest first.
func (k *kernel) Pressure() []MapPressure {
	k.pressureMu.Lock()
	defer k.pressureMu.Unlock()
	out := slices.Collect(maps.Values(k.pressures))
	slices.SortFunc(out, func(a, b MapPressure) int {
		if a.Share() != b.Share() {
			if a.Share() > b.Share() {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// countAgentMaps counts again what the agent itself writes, for a listing. The caller holds the lock.
func (k *kernel) countAgentMaps() {
	for name, m := range k.objects.maps {
		if !counted(name, m.Type()) || m.Type() == ebpf.LRUHash && k.entries(name) >= 0 {
			continue
		}
		if n, err := countEntries(m); err == nil {
			k.notePressure(name, func(p *MapPressure) {
				p.Entries, p.MaxEntries, p.Evicts = uint32(n), m.MaxEntries(), m.Type() == ebpf.LRUHash
			})
		}
	}
}
