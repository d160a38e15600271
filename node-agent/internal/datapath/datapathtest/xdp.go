package datapathtest

import (
	"context"
	"net/netip"
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
)

// XDP implements datapath.Datapath.
func (f *Fake) XDP() []datapath.XDPDevice {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.xdp)
}

// SetXDP makes XDP return these.
func (f *Fake) SetXDP(devices ...datapath.XDPDevice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.xdp = devices
}

// SetRefused implements datapath.Datapath.
func (f *Fake) SetRefused(ctx context.Context, networks []netip.Prefix) error {
	return f.change(ctx, "SetRefused", func() error {
		f.refused = slices.Clone(networks)
		return nil
	})
}

// Refused implements datapath.Datapath; nothing came.
func (f *Fake) Refused() (out []datapath.Refused, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.refused {
		out = append(out, datapath.Refused{Network: n})
	}
	return out, nil
}
