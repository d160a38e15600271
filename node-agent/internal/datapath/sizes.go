package datapath

import "golang.org/x/sys/unix"

// Tables whose size follows the machine's memory, with the bytes that an entry takes, the kernel's own included.
var sizedByMemory = map[string]uint64{
	"connections": 200, "openings": 200, "nat": 128, "nat_openings": 128, "sockets": 96, "affinity": 112,
}

// DefaultMapDynamicSizeRatio is the share of the memory that these tables get together; Cilium's default.
const DefaultMapDynamicSizeRatio = 0.0025

// memoryBytes of the machine; 0 where the kernel does not say.
func memoryBytes() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}

// sizesFromMemory gives each table its default size, and more where the share of the memory allows: all of them grow in
// the same proportion. A ratio of 0 leaves the defaults.
func sizesFromMemory(memory uint64, ratio float64, defaults map[string]uint32) map[string]uint32 {
	out := map[string]uint32{}
	var usual uint64
	for name, bytes := range sizedByMemory {
		usual += bytes * uint64(defaults[name])
	}
	if usual == 0 {
		return out
	}
	factor := max(1, float64(memory)*ratio/float64(usual))
	for name := range sizedByMemory {
		if n := defaults[name]; n > 0 {
			out[name] = uint32(min(float64(n)*factor, 1<<24))
		}
	}
	return out
}

// sizes are the maps' present ones.
func (s *spec) sizes() map[string]uint32 {
	out := map[string]uint32{}
	for name, m := range s.mapSpecs() {
		out[name] = m.MaxEntries
	}
	return out
}

// resize sets the sizes that are not 0.
func (s *spec) resize(sizes map[string]uint32) {
	for _, c := range s.collections {
		for name, m := range c.Maps {
			if n := sizes[name]; n > 0 {
				m.MaxEntries = n
			}
		}
	}
}
