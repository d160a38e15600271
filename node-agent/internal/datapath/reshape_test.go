package datapath

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Reshaped is how another version of the agent would have had a key or a value: members by their names in C.
type Reshaped struct {
	// Sized members have another size, Without are not there, Ahead are additional ones of four bytes at the beginning, with
	// what they hold.
	Sized   map[string]uint32
	Without []string
	Ahead   map[string]uint32
	// Type is the name of the type of sized members, "__u32" where it is not given.
	Type string
}

// LeaveAs pins what a map holds in the layout of another version, in the place of ours.
func LeaveAs(directory, name string, version int, key, value Reshaped) error {
	pin := mapPin(directory, name)
	ours, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return err
	}
	defer ours.Close()
	keyType, valueType, err := mapTypes(ours)
	if err != nil {
		return err
	}
	s := &ebpf.MapSpec{Name: name, Type: ours.Type(), MaxEntries: ours.MaxEntries(), Flags: ours.Flags()}
	var newKey, newValue func([]byte) []byte
	s.Key, s.KeySize, newKey = key.apply(keyType, ours.KeySize())
	s.Value, s.ValueSize, newValue = value.apply(valueType, ours.ValueSize())
	theirs, err := ebpf.NewMap(s)
	if err != nil {
		return fmt.Errorf("making %s of another layout: %w", name, err)
	}
	defer theirs.Close()
	if err := eachRaw(ours, func(key, value []byte) error { return theirs.Put(newKey(key), newValue(value)) }); err != nil {
		return err
	}
	if err := theirs.Pin(filepath.Join(directory, fmt.Sprintf("%s_v%d", name, version))); err != nil {
		return err
	}
	return os.Remove(pin)
}

func (r Reshaped) apply(t btf.Type, size uint32) (btf.Type, uint32, func([]byte) []byte) {
	ours, ok := t.(*btf.Struct)
	if !ok || r.Sized == nil && r.Without == nil && r.Ahead == nil {
		return t, size, bytes.Clone
	}
	theirs := &btf.Struct{Name: ours.Name}
	var steps []func(from, to []byte)
	add := func(name string, t btf.Type, size uint32, fill func(from, to []byte)) {
		at := theirs.Size
		theirs.Members = append(theirs.Members, btf.Member{Name: name, Type: t, Offset: btf.Bits(at * 8)})
		theirs.Size += size
		steps = append(steps, func(from, to []byte) { fill(from, to[at:at+size]) })
	}
	for name, holds := range r.Ahead {
		add(name, &btf.Int{Name: "unsigned int", Size: 4}, 4, func(_, to []byte) {
			for i := range to {
				to[i] = byte(holds >> (8 * i))
			}
		})
	}
	for _, m := range ours.Members {
		if slices.Contains(r.Without, m.Name) {
			continue
		}
		at, length := m.Offset.Bytes(), uint32(0)
		if n, err := btf.Sizeof(m.Type); err == nil {
			length = uint32(n)
		}
		kind, sized := m.Type, r.Sized[m.Name]
		if sized == 0 {
			sized = length
		} else {
			kind = &btf.Int{Name: fmt.Sprintf("u%d", sized*8), Size: sized}
			if strings.HasPrefix(r.Type, "__be") {
				kind = &btf.Typedef{Name: r.Type, Type: kind}
			}
		}
		// All processors that this runs on have the low byte first.
		add(m.Name, kind, sized, func(from, to []byte) { copy(to, from[at:at+length]) })
	}
	return theirs, theirs.Size, func(b []byte) []byte {
		out := make([]byte, theirs.Size)
		for _, step := range steps {
			step(b, out)
		}
		return out
	}
}
