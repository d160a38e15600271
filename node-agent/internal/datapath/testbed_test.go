package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
)

// testbed is the maps and programs of one configuration in the kernel. Tests of that configuration have it one after the
// other, with empty maps, and it lives as long as the test binary: the verifier, which takes longer than all packets of
// most tests together, sees a program once per configuration, and only if some test runs it.
type testbed struct {
	maps     map[string]*ebpf.Map
	programs *programs
}

// Testbeds that nobody has at the moment, by their configuration.
var (
	testbedsMu sync.Mutex
	testbeds   = map[string][]*testbed{}
)

// everyAbility is what this kernel can, said once for all tests.
var everyAbility = sync.OnceValue(func() abilities {
	has := abilitiesOf(KernelProbes{}, slog.New(slog.DiscardHandler))
	has.setRetval = true
	return has
})

// newTestbed makes the maps, with these sizes instead of the usual ones.
func newTestbed(t testing.TB, c Config, sizes map[string]uint32) *testbed {
	t.Helper()
	s, err := newSpec(c, 1, 1450, everyAbility())
	if err != nil {
		t.Fatal(err)
	}
	s.resize(sizes)
	b := &testbed{maps: map[string]*ebpf.Map{}}
	for name, m := range s.mapSpecs() {
		m.Pinning = ebpf.PinNone
		if b.maps[name], err = ebpf.NewMap(m); err != nil {
			b.close()
			t.Fatalf("making map %s: %v", name, err)
		}
	}
	b.programs = newPrograms(s, b.maps)
	return b
}

func (b *testbed) close() {
	for _, m := range b.maps {
		m.Close()
	}
	if b.programs != nil {
		b.programs.close()
	}
}

// borrowTestbed gives the test a testbed of the configuration with empty maps, until it ends.
func borrowTestbed(t testing.TB, c Config) *testbed {
	t.Helper()
	key := fmt.Sprintf("%+v", c)
	testbedsMu.Lock()
	var b *testbed
	if free := testbeds[key]; len(free) > 0 {
		b, testbeds[key] = free[len(free)-1], free[:len(free)-1]
	}
	testbedsMu.Unlock()
	if b == nil {
		// Otherwise these would take tens of megabytes per configuration.
		b = newTestbed(t, c, map[string]uint32{"nat": 8192, "nat_openings": 4096, "sockets": 1024, "affinity": 4096})
	}
	t.Cleanup(func() {
		err := errors.Join(b.unworn(), b.empty())
		if err != nil {
			b.close()
			t.Error(err)
			return
		}
		testbedsMu.Lock()
		defer testbedsMu.Unlock()
		testbeds[key] = append(testbeds[key], b)
	})
	if err := b.isEmpty(); err != nil {
		t.Fatal(err)
	}
	return b
}

// unworn says whether the tables that evict can serve another test. The kernel gives an entry's room back to the processor
// that it was made on, and would rather evict an entry of another processor than take room from there: after a test that
// filled a table, the next one might lose the connection that it has just made.
func (b *testbed) unworn() error {
	for name, m := range b.maps {
		if m.Type() != ebpf.LRUHash {
			continue
		}
		if n, err := countEntries(m); err != nil {
			return err
		} else if uint32(n) > m.MaxEntries()/4 {
			return fmt.Errorf("%d of %d entries of %s were used: have the test run on a testbed of its own (newOwnRig)", n, m.MaxEntries(), name)
		}
	}
	return nil
}

// isEmpty names the maps that have something in them.
func (b *testbed) isEmpty() (err error) {
	for _, name := range slices.Sorted(maps.Keys(b.maps)) {
		empty, problem := mapIsEmpty(b.maps[name])
		if problem == nil && !empty {
			problem = errors.New("an earlier test left something")
		}
		if problem != nil {
			err = errors.Join(err, fmt.Errorf("map %s: %w", name, problem))
		}
	}
	return err
}

func (b *testbed) empty() (err error) {
	for name, m := range b.maps {
		if problem := emptyMap(m); problem != nil {
			err = errors.Join(err, fmt.Errorf("emptying map %s: %w", name, problem))
		}
	}
	return err
}

func mapIsEmpty(m *ebpf.Map) (bool, error) {
	switch m.Type() {
	case ebpf.RingBuf:
		r, err := newRingReader(m)
		if err != nil {
			return false, err
		}
		defer r.Close()
		return r.AvailableBytes() == 0, nil
	case ebpf.Array, ebpf.PerCPUArray:
		_, _, used, err := arrayOf(m)
		return !used, err
	}
	key, err := m.NextKeyBytes(nil)
	return key == nil, err
}

func emptyMap(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.RingBuf:
		d := dryRun{}
		var err error
		if d.ring, err = newRingReader(m); err != nil {
			return err
		}
		defer d.ring.Close()
		return d.drain(func([]byte) {})
	case ebpf.Array, ebpf.PerCPUArray:
		keys, values, used, err := arrayOf(m)
		if err != nil || !used {
			return err
		}
		slice, raw := values.slice, values.raw
		clear(raw)
		_, err = m.BatchUpdate(keys, slice, nil)
		return err
	case ebpf.Hash, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie, ebpf.HashOfMaps:
		for {
			key, err := m.NextKeyBytes(nil)
			if err != nil || key == nil {
				return err
			}
			if err := m.Delete(key); ignoreMissing(err) != nil {
				return err
			}
		}
	}
	return fmt.Errorf("nobody has said how to empty a map of type %s", m.Type())
}

// arrayValues are all of an array's, of every processor.
type arrayValues struct {
	slice any
	raw   []byte
}

// arrayOf reads an array in one call; used says whether anything in it is not zero.
func arrayOf(m *ebpf.Map) (keys []uint32, values arrayValues, used bool, err error) {
	n, processors := m.MaxEntries(), 1
	if m.Type() == ebpf.PerCPUArray {
		if processors, err = ebpf.PossibleCPU(); err != nil {
			return nil, values, false, err
		}
	}
	keys = make([]uint32, n)
	values.slice, values.raw = rawEntries(n*uint32(processors), m.ValueSize())
	var cursor ebpf.MapBatchCursor
	got, err := m.BatchLookup(&cursor, keys, values.slice, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, values, false, fmt.Errorf("reading an array: %w", err)
	}
	if uint32(got) != n {
		return nil, values, false, fmt.Errorf("read %d of %d values of an array", got, n)
	}
	return keys, values, slices.ContainsFunc(values.raw, func(b byte) bool { return b != 0 }), nil
}

// programs are loaded one by one, each when it is asked for.
type programs struct {
	spec *spec
	maps map[string]*ebpf.Map

	mu     sync.Mutex
	loaded map[string]*ebpf.Program
}

func newPrograms(s *spec, shared map[string]*ebpf.Map) *programs {
	return &programs{spec: s, maps: shared, loaded: map[string]*ebpf.Program{}}
}

func (p *programs) close() {
	for _, one := range p.loaded {
		one.Close()
	}
}

func (p *programs) get(name string) (*ebpf.Program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.loaded[name]; one != nil {
		return one, nil
	}
	for object, c := range p.spec.collections {
		if c.Programs[name] == nil {
			continue
		}
		alone := &spec{collections: map[string]*ebpf.CollectionSpec{object: c.Copy()}}
		maps.DeleteFunc(alone.collections[object].Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
		loaded, err := alone.loadPrograms(p.maps)
		if err != nil {
			return nil, err
		}
		p.loaded[name] = loaded[name]
		return loaded[name], nil
	}
	return nil, fmt.Errorf("no object has a program %s: %w", name, os.ErrNotExist)
}

// What a test leaves in any map is seen, and gone before the next one.
func TestTestbedsAreEmptied(t *testing.T) {
	needsRoot(t)
	c := rigConfig(RoutingTunnel)
	c.Prefilter, c.xdpPrograms = true, []string{xdpBoth}
	b := newTestbed(t, c, nil)
	t.Cleanup(b.close)
	if err := b.isEmpty(); err != nil {
		t.Fatalf("new, and not empty: %v", err)
	}
	var filled []string
	for name, m := range b.maps {
		switch m.Type() {
		case ebpf.RingBuf:
			// Only programs write to it: a packet from nobody's interface is an event.
			p, err := b.programs.get("from_pod")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Run(&ebpf.RunOptions{Data: frame{source: podA, destination: podB, protocol: 17}.bytes(), Context: skb{Ifindex: 1}}); err != nil {
				t.Fatal(err)
			}
		case ebpf.HashOfMaps:
			inner, err := ebpf.NewMap(b.programs.spec.mapSpecs()[name].InnerMap)
			if err != nil {
				t.Fatal(err)
			}
			defer inner.Close()
			if err := m.Put(uint32(7), inner); err != nil {
				t.Fatal(err)
			}
		default:
			value := slices.Repeat([]byte{1}, int(m.ValueSize()))
			var values any = value
			if m.Type() == ebpf.PerCPUArray || m.Type() == ebpf.LRUCPUHash {
				values = slices.Repeat([][]byte{value}, ebpf.MustPossibleCPU())
			}
			if err := m.Put(make([]byte, m.KeySize()), values); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		filled = append(filled, name)
	}
	err := b.isEmpty()
	if err == nil {
		t.Fatal("full, and taken for empty")
	}
	for _, name := range filled {
		if !strings.Contains(err.Error(), "map "+name+":") {
			t.Errorf("what is in %s is not seen: %v", name, err)
		}
	}
	if err := errors.Join(b.empty(), b.isEmpty()); err != nil {
		t.Error(err)
	}
}
