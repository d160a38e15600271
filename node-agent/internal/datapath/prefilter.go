package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// prefilterNetworks is how many refused networks have counters of their own (PREFILTER_NETWORKS).
const prefilterNetworks = 65536

// Refused is what came from one refused network and was dropped.
type Refused struct {
	Network        netip.Prefix
	Packets, Bytes uint64
}

// Prefilter drops packets of refused networks in XDP, where a packet costs least. It belongs to one caller.
type Prefilter struct {
	collection *ebpf.Collection
	links      []link.Link
	indexes    map[netip.Prefix]uint32
	free       []uint32
	next       uint32
}

type network4Key struct {
	Length  uint32
	Address [4]byte
}

type network6Key struct {
	Length  uint32
	Address [16]byte
}

// NewPrefilter loads the program; it refuses nothing and is attached nowhere yet. `shared` are maps of the datapath
// by name (events, lost), so that samples join its events; those that are missing are its own.
func NewPrefilter(shared map[string]*ebpf.Map) (*Prefilter, error) {
	raw, err := compiled.ReadFile("objects/prefilter.o")
	if err != nil {
		return nil, fmt.Errorf("reading the object of prefilter: %w", err)
	}
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("parsing the object of prefilter: %w", err)
	}
	replacements := map[string]*ebpf.Map{}
	for name := range s.Maps {
		if m := shared[name]; m != nil {
			replacements[name] = m
		}
	}
	c, err := ebpf.NewCollectionWithOptions(s, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, fmt.Errorf("loading prefilter: %w", err)
	}
	return &Prefilter{collection: c, indexes: map[netip.Prefix]uint32{}}, nil
}

// Attach puts the program on a device: in its driver, or else (generic) before the stack. It says which.
func (p *Prefilter) Attach(ifindex int) (native bool, err error) {
	for _, mode := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		var l link.Link
		l, err = link.AttachXDP(link.XDPOptions{Program: p.collection.Programs["prefilter"], Interface: ifindex, Flags: mode})
		if err == nil {
			p.links = append(p.links, l)
			return mode == link.XDPDriverMode, nil
		}
	}
	return false, fmt.Errorf("attaching prefilter to interface %d: %w", ifindex, err)
}

func (p *Prefilter) entry(n netip.Prefix) (*ebpf.Map, any) {
	if n.Addr().Is4() {
		return p.collection.Maps["refused4"], network4Key{uint32(n.Bits()), n.Addr().As4()}
	}
	return p.collection.Maps["refused6"], network6Key{uint32(n.Bits()), n.Addr().As16()}
}

// Set makes exactly these networks refused. Counters of those that stay go on; those of a new one begin at nothing.
func (p *Prefilter) Set(networks []netip.Prefix) error {
	wanted := map[netip.Prefix]bool{}
	for _, n := range networks {
		wanted[n.Masked()] = true
	}
	for n, index := range p.indexes {
		if wanted[n] {
			continue
		}
		m, key := p.entry(n)
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("taking %s from the prefilter: %w", n, err)
		}
		delete(p.indexes, n)
		p.free = append(p.free, index)
	}
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("counting processors: %w", err)
	}
	for n := range wanted {
		if _, has := p.indexes[n]; has {
			continue
		}
		index, err := p.number()
		if err != nil {
			return fmt.Errorf("refusing %s: %w", n, err)
		}
		m, key := p.entry(n)
		if err := p.collection.Maps["refused"].Put(index, make([]counterLayout, processors)); err != nil {
			return fmt.Errorf("clearing the counter of %s: %w", n, err)
		}
		if err := m.Put(key, index); err != nil {
			return fmt.Errorf("refusing %s: %w", n, err)
		}
		p.indexes[n] = index
	}
	return nil
}

func (p *Prefilter) number() (uint32, error) {
	if n := len(p.free); n > 0 {
		index := p.free[n-1]
		p.free = p.free[:n-1]
		return index, nil
	}
	if p.next == prefilterNetworks {
		return 0, fmt.Errorf("the prefilter holds %d networks and no more", prefilterNetworks)
	}
	p.next++
	return p.next - 1, nil
}

// Counters are the drops of every refused network.
func (p *Prefilter) Counters() ([]Refused, error) {
	out := make([]Refused, 0, len(p.indexes))
	for n, index := range p.indexes {
		var each []counterLayout
		if err := p.collection.Maps["refused"].Lookup(index, &each); err != nil {
			return nil, fmt.Errorf("reading the counter of %s: %w", n, err)
		}
		r := Refused{Network: n}
		for _, c := range each {
			r.Packets, r.Bytes = r.Packets+c.Packets, r.Bytes+c.Bytes
		}
		out = append(out, r)
	}
	return out, nil
}

// Close detaches and unloads it.
func (p *Prefilter) Close() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.collection.Close()
	return errors.Join(errs...)
}
