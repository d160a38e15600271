package datapathtest

import (
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
)

// KernelDrops implements datapath.Datapath.
func (f *Fake) KernelDrops() ([]datapath.KernelDrop, error) { return nil, nil }

// SeesKernelDrops implements datapath.Datapath.
func (f *Fake) SeesKernelDrops() error { return nil }

// Drops implements datapath.Datapath.
func (f *Fake) Drops(only ...uint8) ([]datapath.DropCount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.drops)
	if len(only) > 0 {
		out = slices.DeleteFunc(out, func(c datapath.DropCount) bool { return !slices.Contains(only, c.Reason) })
	}
	return out, f.failures["Drops"]
}

// CarriedOver implements datapath.Datapath.
func (f *Fake) CarriedOver() []datapath.Carried {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.carried)
}

// SetCarried has CarriedOver give these.
func (f *Fake) SetCarried(all ...datapath.Carried) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.carried = all
}
