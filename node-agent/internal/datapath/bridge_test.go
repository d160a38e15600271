package datapath_test

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// newBridge is what the bridge CNI plugin makes: two namespaces on a bridge, no policy, no programs.
func newBridge(b testing.TB) (client, server *space, address string) {
	b.Helper()
	requireRoot(b)
	host := newSpace(b)
	spaces := []*space{newSpace(b), newSpace(b)}
	must(b, host.in(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(bridge); err != nil {
			return err
		}
		for i, s := range spaces {
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: []string{"v0", "v1"}[i]}, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.File.Fd())}
			if err := netlink.LinkAdd(veth); err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(veth, bridge); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(veth); err != nil {
				return err
			}
		}
		return nil
	}))
	for i, s := range spaces {
		must(b, s.in(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			ip := net.IPv4(10, 88, 0, byte(10+i))
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}})
		}))
	}
	return spaces[0], spaces[1], "10.88.0.11"
}
