package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// field is an integer of a key or a value; members of structures are named as in C, "view[1].list".
type field struct {
	name         string
	offset, size uint32
	// network says that the bytes are in network order, so that it means nothing with more or fewer of them.
	network bool
}

func (f field) padding() bool { return f.name == "pad" || strings.HasPrefix(f.name, "pad[") }

// fieldsOf lists the integers that a type consists of, in their order.
func fieldsOf(t btf.Type, name string, offset uint32, out []field) ([]field, error) {
	network := false
	for {
		if named, ok := t.(*btf.Typedef); ok {
			network, t = network || strings.HasPrefix(named.Name, "__be"), named.Type
			continue
		}
		break
	}
	switch t := t.(type) {
	case *btf.Int:
		return append(out, field{name, offset, t.Size, network}), nil
	case *btf.Array:
		size, err := btf.Sizeof(t.Type)
		for i := range t.Nelems {
			if err == nil {
				out, err = fieldsOf(t.Type, fmt.Sprintf("%s[%d]", name, i), offset+i*uint32(size), out)
			}
		}
		return out, err
	case *btf.Struct:
		var err error
		for _, m := range t.Members {
			if m.BitfieldSize != 0 {
				return nil, fmt.Errorf("%s has bit fields", t.Name)
			}
			path := m.Name
			if name != "" {
				path = name + "." + m.Name
			}
			if out, err = fieldsOf(m.Type, path, offset+m.Offset.Bytes(), out); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s is a %T", name, t)
}

// mapTypes are what the kernel knows about a map's keys and values.
func mapTypes(m *ebpf.Map) (key, value btf.Type, err error) {
	// The beginning of struct bpf_map_info; the library does not give the types' numbers.
	var info struct {
		_                          [64]byte
		btf, keyType, valueType, _ uint32
	}
	attr := struct {
		fd, size uint32
		info     uintptr
	}{uint32(m.FD()), uint32(unsafe.Sizeof(info)), uintptr(unsafe.Pointer(&info))}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return nil, nil, fmt.Errorf("asking for a map's types: %w", errno)
	}
	if info.btf == 0 || info.keyType == 0 || info.valueType == 0 {
		return nil, nil, errNoTypes
	}
	handle, err := btf.NewHandleFromID(btf.ID(info.btf))
	if err != nil {
		return nil, nil, fmt.Errorf("opening a map's types: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a map's types: %w", err)
	}
	key, err = types.TypeByID(btf.TypeID(info.keyType))
	if err == nil {
		value, err = types.TypeByID(btf.TypeID(info.valueType))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("looking for a map's types: %w", err)
	}
	return key, value, nil
}

var errNoTypes = errors.New("the kernel does not know what its entries consist of")

// move takes an integer from its place in one layout to that in the other.
type move struct{ from, to field }

// reshaping makes keys, or values, of one layout out of those of another: by the names of their fields. What the other one
// does not have is zero.
type reshaping struct {
	size  uint32
	moves []move
	// gone are fields that there are no more.
	gone []field
	// same says that both layouts have the same fields in the same places.
	same bool
}

func newReshaping(from, to btf.Type, size uint32) (r reshaping, err error) {
	r.size = size
	old, err := fieldsOf(from, "", 0, nil)
	if err != nil {
		return r, err
	}
	fresh, err := fieldsOf(to, "", 0, nil)
	if err != nil {
		return r, err
	}
	r.same = slices.Equal(old, fresh)
	for _, f := range fresh {
		at := slices.IndexFunc(old, func(o field) bool { return o.name == f.name })
		if f.padding() || at < 0 {
			continue
		}
		if o := old[at]; o.network != f.network || f.network && o.size != f.size {
			return r, fmt.Errorf("%s has %d bytes in one version and %d in the other, and is no plain number", f.name, o.size, f.size)
		}
		r.moves = append(r.moves, move{old[at], f})
	}
	for _, o := range old {
		if !o.padding() && !slices.ContainsFunc(fresh, func(f field) bool { return f.name == o.name }) {
			r.gone = append(r.gone, o)
		}
	}
	// A number in one version and a structure in the other is the same thing under the same name.
	for _, one := range [][2][]field{{old, fresh}, {fresh, old}} {
		for _, a := range one[0] {
			for _, b := range one[1] {
				if a.name != "" && (strings.HasPrefix(b.name, a.name+".") || strings.HasPrefix(b.name, a.name+"[")) {
					return r, fmt.Errorf("%s is one number in one version and several in the other", a.name)
				}
			}
		}
	}
	return r, nil
}

func number(b []byte) (n uint64) {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(b))
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}

func (f field) in(b []byte) []byte { return b[f.offset : f.offset+f.size] }

// of gives false where a number has no room in the new layout.
func (r reshaping) of(b []byte) ([]byte, bool) {
	out := make([]byte, r.size)
	for _, m := range r.moves {
		from, to := m.from.in(b), m.to.in(out)
		if len(from) == len(to) {
			copy(to, from)
			continue
		}
		n := number(from)
		switch len(to) {
		case 1:
			to[0] = byte(n)
		case 2:
			binary.NativeEndian.PutUint16(to, uint16(n))
		case 4:
			binary.NativeEndian.PutUint32(to, uint32(n))
		default:
			binary.NativeEndian.PutUint64(to, n)
		}
		if number(to) != n {
			return nil, false
		}
	}
	return out, true
}

// tells gives false where a key differs from others by a field that there is no more.
func (r reshaping) tells(key []byte) bool {
	for _, f := range r.gone {
		for _, b := range f.in(key) {
			if b != 0 {
				return false
			}
		}
	}
	return true
}

// conversion is how entries of a map of another layout become entries of ours.
type conversion struct{ key, value reshaping }

// newConversion gives an error that says why there is none. nil is a plain copy.
func newConversion(to, from *ebpf.Map) (*conversion, error) {
	if to.Type() != from.Type() {
		return nil, fmt.Errorf("it is a %s in one version and a %s in the other", from.Type(), to.Type())
	}
	oldKey, oldValue, err := mapTypes(from)
	if err == nil {
		var key, value btf.Type
		if key, value, err = mapTypes(to); err == nil {
			c := &conversion{}
			if c.key, err = newReshaping(oldKey, key, to.KeySize()); err != nil {
				return nil, fmt.Errorf("its key: %w", err)
			}
			if c.value, err = newReshaping(oldValue, value, to.ValueSize()); err != nil {
				return nil, fmt.Errorf("its value: %w", err)
			}
			if c.key.same && c.value.same {
				return nil, nil
			}
			if to.Type() == ebpf.LPMTrie && !c.key.same {
				return nil, errors.New("its key, whose length is counted in bits, has other fields")
			}
			return c, nil
		}
	}
	if errors.Is(err, errNoTypes) && to.KeySize() == from.KeySize() && to.ValueSize() == from.ValueSize() {
		return nil, nil
	}
	return nil, err
}

// updateLater is for convert alone: an entry that is there already stays, unless it expires earlier.
const updateLater ebpf.MapUpdateFlags = 1 << 63

// expiry is the field of a map's values that says when an entry is over; nil where there is none.
func expiry(m *ebpf.Map) *field {
	_, value, err := mapTypes(m)
	if err != nil {
		return nil
	}
	fields, err := fieldsOf(value, "", 0, nil)
	if i := slices.IndexFunc(fields, func(f field) bool { return f.name == "expires" }); err == nil && i >= 0 {
		return &fields[i]
	}
	return nil
}

// convert puts what `from` holds into `to`, and counts what it took over and what it could not.
func (c *conversion) convert(to, from *ebpf.Map, how ebpf.MapUpdateFlags) (entries, lost int, err error) {
	var until *field
	if how == updateLater {
		until, how = expiry(to), ebpf.UpdateAny
	}
	err = eachUsed(from, func(key, value []byte) error {
		if c != nil {
			var keyFits, valueFits bool
			tells := c.key.tells(key)
			key, keyFits = c.key.of(key)
			value, valueFits = c.value.of(value)
			if !tells || !keyFits || !valueFits {
				lost++
				return nil
			}
		}
		if until != nil {
			if ours, err := to.LookupBytes(key); err == nil && ours != nil && number(until.in(ours)) >= number(until.in(value)) {
				entries++
				return nil
			}
		}
		if err := to.Update(key, value, how); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("copying an entry: %w", err)
		}
		entries++
		return nil
	})
	return entries, lost, err
}

// eachUsed visits what was written: an array has every key from the beginning, and zero where nothing was.
func eachUsed(m *ebpf.Map, visit func(key, value []byte) error) error {
	return eachRaw(m, func(key, value []byte) error {
		if m.Type() == ebpf.Array && !slices.ContainsFunc(value, func(b byte) bool { return b != 0 }) {
			return nil
		}
		return visit(key, value)
	})
}
