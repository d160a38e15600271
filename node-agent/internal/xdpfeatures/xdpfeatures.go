// Package xdpfeatures asks the kernel what drivers say of their XDP.
package xdpfeatures

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/netdev.h; kernels from 6.3 say what a driver's XDP can do.
const (
	netdevDeviceGet   = 1
	netdevIfindex     = 1
	netdevXDPFeatures = 3
)

// Features of a driver (enum netdev_xdp_act).
const (
	// Basic: programs run in the driver, and can drop, pass and send back.
	Basic = 1
	// Transmit: frames that a program redirects can be sent by this device.
	Transmit = 4
)

// Of gives an interface's features; an error where the kernel does not say. One at a time: in a list of all, the kernel does
// not mark that more follow, and the library would stop at the first.
func Of(index int) (uint64, error) {
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return 0, fmt.Errorf("asking for a driver's XDP features: %w", err)
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: netdevDeviceGet, Version: 1})
	request.AddData(nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(index))))
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("asking for the XDP features of interface %d: %w", index, err)
	}
	for _, answer := range answers {
		if len(answer) < nl.SizeofGenlmsg {
			continue
		}
		attributes, err := nl.ParseRouteAttr(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("reading the XDP features of interface %d: %w", index, err)
		}
		for _, a := range attributes {
			if a.Attr.Type == netdevXDPFeatures && len(a.Value) >= 8 {
				return binary.NativeEndian.Uint64(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("asking for the XDP features of interface %d: the kernel did not say", index)
}

// Mode is native, generic or unknown: how programs run at the interface.
func Mode(index int) string {
	value, err := Of(index)
	switch {
	case err != nil:
		return "unknown"
	case value&Basic != 0:
		return "native"
	default:
		return "generic"
	}
}
