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

// Get gives the drivers' features by interface index; an error where the kernel does not say.
func Get() (map[int]uint64, error) {
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return nil, fmt.Errorf("asking for drivers' XDP features: %w", err)
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_DUMP)
	request.AddData(&nl.Genlmsg{Command: netdevDeviceGet, Version: 1})
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, fmt.Errorf("asking for drivers' XDP features: %w", err)
	}
	features := map[int]uint64{}
	for _, answer := range answers {
		if len(answer) < nl.SizeofGenlmsg {
			continue
		}
		attributes, err := nl.ParseRouteAttr(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return nil, fmt.Errorf("reading drivers' XDP features: %w", err)
		}
		index, value := -1, uint64(0)
		for _, a := range attributes {
			switch {
			case a.Attr.Type == netdevIfindex && len(a.Value) >= 4:
				index = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type == netdevXDPFeatures && len(a.Value) >= 8:
				value = binary.NativeEndian.Uint64(a.Value)
			}
		}
		features[index] = value
	}
	return features, nil
}

// Mode is native, generic or unknown: how programs run at the interface.
func Mode(features map[int]uint64, index int) string {
	value, known := features[index]
	switch {
	case !known:
		return "unknown"
	case value&Basic != 0:
		return "native"
	default:
		return "generic"
	}
}
