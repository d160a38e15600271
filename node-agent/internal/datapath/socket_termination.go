package datapath

import "net/netip"

// backendGone is told of each backend that no service has under that number any more.
func (k *kernel) backendGone(backend netip.AddrPort, protocol uint8) {}
