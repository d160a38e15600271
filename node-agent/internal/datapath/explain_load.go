package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// dryIdle is how long the programs for dry runs stay loaded after the last question.
const dryIdle = time.Minute

// privateMaps are those that a dry run has for itself: what it may write, and the ring that its steps come by. All others
// are the node's own, which the programs do not write when config.dry_run is set.
var privateMaps = map[string]uint32{"events": 1 << 16, "fragments": 64, "sockets": 64, "refused": 1}

// isPrivate tells whether a dry run has a map for itself, and of which size (0: the usual one). All maps with a value per
// processor are, since they are counters or room to work in.
func isPrivate(name string, m *ebpf.MapSpec) (size uint32, private bool) {
	if size, private := privateMaps[name]; private {
		return size, true
	}
	switch m.Type {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return 0, true
	}
	return 0, false
}

// dryRun holds the programs for dry runs, loaded with the first question and again when a map was replaced.
type dryRun struct {
	// mu is held through a whole question: there is one ring.
	mu      sync.Mutex
	objects *objects
	ring    *ringbuf.Reader
	// generation of the maps that the programs were loaded with.
	generation uint64
	idle       *time.Timer
}

func (d *dryRun) close() {
	if d.ring != nil {
		d.ring.Close()
		d.ring = nil
	}
	if d.objects != nil {
		d.objects.close()
		d.objects = nil
	}
}

// closeDryRun waits for a question that is being answered.
func (k *kernel) closeDryRun() {
	k.dry.mu.Lock()
	defer k.dry.mu.Unlock()
	if k.dry.idle != nil {
		k.dry.idle.Stop()
	}
	k.dry.close()
}

// snapshot is what a walk needs to know of the datapath.
type snapshot struct {
	endpoints  map[EndpointID]Endpoint
	nodes      map[string]Node
	maps       map[string]*ebpf.Map
	generation uint64
	// prefiltered are the devices where refused networks are dropped.
	prefiltered map[string]bool
}

// snapshot clones the maps' descriptors, so that nothing is waited for while programs are loaded and run.
func (k *kernel) snapshot(before uint64) (snapshot, error) {
	var out snapshot
	err := k.read("preparing", func() error {
		out.endpoints, out.nodes, out.generation = maps.Clone(k.endpoints), maps.Clone(k.nodes), k.mapGeneration
		out.prefiltered = map[string]bool{}
		for _, p := range k.xdp {
			out.prefiltered[p.state.Device] = p.state.Prefilter
		}
		if out.generation == before && k.dry.objects != nil {
			return nil
		}
		out.maps = map[string]*ebpf.Map{}
		for name, m := range k.objects.maps {
			c, err := m.Clone()
			if err != nil {
				return fmt.Errorf("cloning map %s: %w", name, err)
			}
			out.maps[name] = c
		}
		return nil
	})
	return out, err
}

// prepareDryRun loads the programs unless those of the last question serve. The caller holds k.dry.mu.
func (k *kernel) prepareDryRun() (snapshot, error) {
	s, err := k.snapshot(k.dry.generation)
	if err != nil {
		return s, err
	}
	if k.dry.idle != nil {
		k.dry.idle.Stop()
	}
	k.dry.idle = time.AfterFunc(dryIdle, func() {
		k.dry.mu.Lock()
		defer k.dry.mu.Unlock()
		k.dry.close()
	})
	if s.maps == nil {
		return s, nil
	}
	k.dry.close()
	if k.dry.objects, err = loadDryRun(k.makeSpec, s.maps); err != nil {
		return s, err
	}
	k.dry.generation = s.generation
	k.dry.ring, err = newRingReader(k.dry.objects.maps["events"])
	return s, err
}

// loadDryRun takes over the maps.
func loadDryRun(makeSpec func() (*spec, error), shared map[string]*ebpf.Map) (*objects, error) {
	o := &objects{maps: shared, programs: map[string]*ebpf.Program{}}
	fail := func(err error) (*objects, error) {
		o.close()
		return nil, err
	}
	s, err := makeSpec()
	if err != nil {
		return fail(err)
	}
	if err := s.addExplain(); err != nil {
		return fail(err)
	}
	// Of the programs of XDP the prefilter alone decides something that those of tc do not.
	delete(s.collections, "xdp_netdev")
	if shared["refused"] != nil {
		if s.collections["xdp_netdev"], err = xdpCollection([]string{xdpPrefilter}); err != nil {
			return fail(err)
		}
	}
	for name, m := range s.mapSpecs() {
		size, private := isPrivate(name, m)
		if _, known := o.maps[name]; known && !private {
			continue
		}
		if size > 0 {
			m.MaxEntries = size
		}
		m.Pinning = ebpf.PinNone
		own, err := ebpf.NewMap(m)
		if err != nil {
			return fail(fmt.Errorf("making map %s: %w", name, err))
		}
		if node := o.maps[name]; node != nil {
			node.Close()
		}
		o.maps[name] = own
	}
	for name, c := range s.collections {
		if v := c.Variables["config"]; v != nil {
			var values configLayout
			if err := v.Get(&values); err != nil {
				return fail(fmt.Errorf("reading the configuration of %s: %w", name, err))
			}
			values.DryRun = 1
			if err := v.Set(values); err != nil {
				return fail(fmt.Errorf("specialising %s: %w", name, err))
			}
		}
		for programName, p := range c.Programs {
			if p.Type != ebpf.SchedCLS && p.Type != ebpf.XDP {
				delete(c.Programs, programName)
			}
		}
	}
	if o.programs, err = s.loadPrograms(o.maps); err != nil {
		return fail(fmt.Errorf("for dry runs: %w", err))
	}
	return o, nil
}

// addExplain adds the object that only dry runs have.
func (s *spec) addExplain() error {
	c, err := parseObject("explain")
	if err != nil {
		return err
	}
	for _, other := range s.collections {
		if v, own := other.Variables["config"], c.Variables["config"]; v != nil && own != nil {
			var values configLayout
			if err := errors.Join(v.Get(&values), own.Set(values)); err != nil {
				return fmt.Errorf("specialising explain: %w", err)
			}
			break
		}
	}
	s.collections["explain"] = c
	return nil
}

// drain reads what the last run left in the ring.
func (d *dryRun) drain(handle func([]byte)) error {
	var record ringbuf.Record
	for {
		d.ring.SetDeadline(time.Unix(1, 0))
		err := d.ring.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading steps: %w", err)
		}
		handle(record.RawSample)
	}
}

func newRingReader(m *ebpf.Map) (*ringbuf.Reader, error) { return ringbuf.NewReader(m) }
