package datapath

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// Compiled from bpf/ by bpf/build.sh; check-objects.sh compares.
//
//go:embed objects/*.o
var compiled embed.FS

// hookObjects are the object files, by the name that they share with their C file.
var hookObjects = []string{"from_pod", "to_pod", "from_netdev", "to_netdev", "from_overlay", "from_host", "to_proxy", "sockets"}

// defaultReportInterval is Hubble's habit at its medium aggregation.
const defaultReportInterval = 5 * time.Second

// parseObject gives what an object has, for the caller to change. Nothing is kept of it: it takes some tens of milliseconds at
// a start, and would take megabytes for good. Tests, which start often, do keep it.
var parseObject = func(name string) (*ebpf.CollectionSpec, error) {
	raw, err := compiled.ReadFile("objects/" + name + ".o")
	if err != nil {
		return nil, fmt.Errorf("reading the object of %s: %w", name, err)
	}
	c, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("parsing the object of %s: %w", name, err)
	}
	return c, nil
}

// spec is what should be loaded: nothing here refers to the kernel.
type spec struct {
	collections map[string]*ebpf.CollectionSpec
	// carried is what its maps took over from an agent of another version when they were made.
	carried []Carried
}

func newSpec(c Config, tunnelIfindex, mtu int, has abilities) (*spec, error) {
	values := configLayout{
		NodeAddress: toWire(c.NodeAddress), NodeAddress6: toWire(c.NodeAddress6),
		RouterAddress: toWire(c.RouterAddress), RouterAddress6: toWire(c.RouterAddress6),
		TunnelIfindex: uint32(tunnelIfindex), TunnelPort: toPort(c.tunnelPort()), MTU: uint16(mtu),
		Bandwidth: Bandwidth{Mode: c.bandwidth}.layout(), ReportInterval: uint64(cmp.Or(c.MonitorAggregationInterval, defaultReportInterval)),
	}
	values.PodNet, values.PodMask = netAndMask(c.PodCIDR(false))
	values.PodNet6, values.PodMask6 = netAndMask(c.PodCIDR(true))
	values.NativeNet, values.NativeMask = netAndMask(c.NativeRoutingCIDR)
	values.NativeNet6, values.NativeMask6 = netAndMask(c.NativeRoutingCIDR6)
	if c.Routing == RoutingTunnel || c.untunnel {
		values.Untunnel = tunnelVXLAN
		if c.tunnelProtocol() == TunnelGeneve {
			values.Untunnel = tunnelGeneve
		}
	}
	if c.Routing == RoutingTunnel {
		values.Tunnel = values.Untunnel
	}
	if c.L7Proxy {
		values.ProxyIfindex = uint32(c.hostIfindex)
	}
	for field, set := range map[*uint32]bool{
		&values.Underlay6: c.underlay6(), &values.Services: c.KubeProxyReplacement, &values.Aggregate: c.MonitorAggregation,
		&values.SetRetval: has.setRetval, &values.HostSockets: c.LoadBalancer.HostNamespaceOnly,
		&values.HostFirewall: c.HostFirewall,
	} {
		if set {
			*field = 1
		}
	}
	values.DSR = c.LoadBalancer.dsr()
	values.IPv6OnlyAt, values.IPv6OnlyBit = has.ipv6Only.at, has.ipv6Only.bit
	values.MaglevSize, values.HostCookie = uint32(c.LoadBalancer.tableSize()), hostCookie()
	values.Masquerade, values.NATFirst, values.NATSeed = masqueradeBits(c), c.natFirst(), natSeed()
	values.NATLowest = min(values.NATFirst, cmp.Or(c.natLowest, values.NATFirst))
	out := &spec{collections: map[string]*ebpf.CollectionSpec{}}
	for _, name := range hookObjects {
		collection, err := parseObject(name)
		if err != nil {
			return nil, err
		}
		if v := collection.Variables["config"]; v != nil {
			if err := v.Set(values); err != nil {
				return nil, fmt.Errorf("specialising %s: %w", name, err)
			}
		}
		for _, m := range collection.Maps {
			if m.InnerMap != nil {
				m.InnerMap.MaxEntries = values.MaglevSize
			}
		}
		out.collections[name] = collection
	}
	if len(c.xdpPrograms) > 0 {
		collection, err := xdpCollection(c.xdpPrograms)
		if err != nil {
			return nil, err
		}
		if v := collection.Variables["config"]; v != nil {
			if err := v.Set(values); err != nil {
				return nil, fmt.Errorf("specialising xdp_netdev: %w", err)
			}
		}
		if m := collection.Maps["maglev"]; m != nil {
			m.InnerMap.MaxEntries = values.MaglevSize
		}
		out.collections["xdp_netdev"] = collection
	}
	out.resize(sizesFromMemory(memoryBytes(), c.MapDynamicSizeRatio, out.sizes()))
	out.resize(map[string]uint32{
		"nat": uint32(c.NATMax), "nat_openings": uint32(c.NATMax / 2), "connections": uint32(c.ConntrackMax), "openings": uint32(c.ConntrackMax / 2), "policy": uint32(c.PolicyMax), "ipcache": uint32(c.IPCacheMax),
		"services": uint32(c.LoadBalancer.ServicesMax), "slots": uint32(4 * c.LoadBalancer.ServicesMax),
		"backends": uint32(4 * c.LoadBalancer.ServicesMax), "maglev": uint32(max(c.LoadBalancer.ServicesMax, leastMaglevTables)),
	})
	return out, nil
}

// leastMaglevTables is how many tables the map of them has room for at least, whatever was configured: services grow when there are
// more of them than that, and a map of maps does not. So many tables take 4 GB, their map 1 MB.
const leastMaglevTables = 65536

// mapSpecs lists every shared map once.
func (s *spec) mapSpecs() map[string]*ebpf.MapSpec {
	out := map[string]*ebpf.MapSpec{}
	for _, c := range s.collections {
		for name, m := range c.Maps {
			if name[0] != '.' {
				out[name] = m
			}
		}
	}
	return out
}

// objects are the kernel's: maps that are shared and pinned, programs by name.
type objects struct {
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	// configured are the maps' sizes by configuration, of which they may be multiples (grow.go).
	configured map[string]uint32
}

func (o *objects) close() {
	for _, m := range o.maps {
		m.Close()
	}
	for _, p := range o.programs {
		p.Close()
	}
}

func mapPin(directory, name string) string {
	return filepath.Join(directory, fmt.Sprintf("%s_v%d", name, layoutVersion))
}

// load opens or creates the pinned maps and loads the programs on top of them.
func (s *spec) load(directory string) (*objects, error) {
	o := &objects{maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}, configured: s.sizes()}
	specs := s.mapSpecs()
	made := map[string]*ebpf.Map{}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		specs[name].MaxEntries = roomFor(specs[name], directory, name)
		m, isNew, err := takeMap(specs[name], mapPin(directory, name))
		if err != nil {
			o.close()
			return nil, fmt.Errorf("opening map %s: %w", name, err)
		}
		if o.maps[name] = m; isNew {
			made[name] = m
		}
	}
	var err error
	if s.carried, err = carryOver(o.maps, made, directory); err != nil {
		o.close()
		return nil, err
	}
	// A pin says that the map has what there was to take over.
	for _, name := range slices.Sorted(maps.Keys(made)) {
		if err := made[name].Pin(mapPin(directory, name)); err != nil {
			o.close()
			return nil, fmt.Errorf("pinning map %s: %w", name, err)
		}
	}
	programs, err := s.loadPrograms(o.maps)
	if err != nil {
		o.close()
		return nil, err
	}
	o.programs = programs
	return o, nil
}

// loadPrograms loads every object's programs on top of the given maps.
func (s *spec) loadPrograms(shared map[string]*ebpf.Map) (map[string]*ebpf.Program, error) {
	programs := map[string]*ebpf.Program{}
	// Each object by itself: the verifier's work is most of an agent's start, and it runs on every core.
	var group errgroup.Group
	var mu sync.Mutex
	for name, c := range s.collections {
		replacements := map[string]*ebpf.Map{}
		for mapName, ms := range c.Maps {
			if m := shared[mapName]; m != nil {
				ms.MaxEntries = m.MaxEntries()
				replacements[mapName] = m
			}
		}
		group.Go(func() error {
			loaded, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: replacements})
			if err != nil {
				return loadProblem(name, err)
			}
			defer loaded.Close()
			mu.Lock()
			defer mu.Unlock()
			for programName, p := range loaded.Programs {
				programs[programName] = p
				delete(loaded.Programs, programName)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		for _, p := range programs {
			p.Close()
		}
		return nil, err
	}
	return programs, nil
}

// takeMap takes over the pinned map of an earlier run. One that is smaller than configured now is made larger once the
// programs run (grow.go); one that is larger stays, since its entries outweigh a setting. Where there is none, it makes one
// that has no pin yet.
func takeMap(s *ebpf.MapSpec, pin string) (m *ebpf.Map, made bool, err error) {
	s.Pinning = ebpf.PinNone
	if m, err := ebpf.LoadPinnedMap(pin, nil); err == nil {
		compare := s.Copy()
		compare.MaxEntries = m.MaxEntries()
		err := compare.Compatible(m)
		if err == nil {
			err = innerFits(s, m)
		}
		if err == nil {
			return m, false, nil
		}
		m.Close()
		if err := os.Remove(pin); err != nil {
			return nil, false, fmt.Errorf("replacing an incompatible map: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, false, fmt.Errorf("opening the pin %s: %w", pin, err)
	}
	m, err = ebpf.NewMap(s)
	return m, true, err
}

// innerFits tells of a map of maps whether it takes such as the specification says: the kernel does not tell the size that they
// have to have, and refuses others.
func innerFits(s *ebpf.MapSpec, m *ebpf.Map) error {
	if s.InnerMap == nil {
		return nil
	}
	inner, err := ebpf.NewMap(s.InnerMap.Copy())
	if err != nil {
		return fmt.Errorf("making a map for %s: %w", s.Name, err)
	}
	defer inner.Close()
	// Nobody's: lists begin at 1.
	if err := m.Put(uint32(0), inner); err != nil {
		return fmt.Errorf("trying a map in %s: %w", s.Name, err)
	}
	return m.Delete(uint32(0))
}

// openMap is takeMap for one that takes nothing over from other versions.
func openMap(s *ebpf.MapSpec, pin string) (*ebpf.Map, error) {
	m, made, err := takeMap(s, pin)
	if err != nil || !made {
		return m, err
	}
	if err := m.Pin(pin); err != nil {
		m.Close()
		return nil, fmt.Errorf("pinning at %s: %w", pin, err)
	}
	return m, nil
}

func loadProblem(name string, err error) error {
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		return &Problem{
			Code: "kernel.program-rejected", What: fmt.Sprintf("The kernel refused the program %s.", name),
			Why:   "Its verifier does not accept the program; this kernel is older or was changed by its distributor.",
			Fix:   "Boot a kernel of 5.15 or newer; report the kernel's version together with this message.",
			Cause: err,
		}
	}
	return fmt.Errorf("loading %s: %w", name, err)
}
