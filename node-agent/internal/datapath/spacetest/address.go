package spacetest

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress gives an interface of the calling thread's namespace an address that may be used at once. It waits until others find
// it: the kernel joins the group in which they ask for an address of version 6 some time after the address is there, and who asks
// before asks again after a second.
func AddAddress(l netlink.Link, address *netlink.Addr) error {
	v6 := address.IP.To4() == nil
	if v6 {
		address.Flags |= unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, address); err != nil {
		return fmt.Errorf("adding %s to %s: %w", address.IPNet, l.Attrs().Name, err)
	}
	if !v6 {
		return nil
	}
	ip := address.IP.To16()
	group := fmt.Sprintf("ff0200000000000000000001ff%02x%02x%02x", ip[13], ip[14], ip[15])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		raw, err := os.ReadFile("/proc/thread-self/net/igmp6")
		if err != nil {
			return fmt.Errorf("reading the groups of %s: %w", l.Attrs().Name, err)
		}
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == l.Attrs().Name && f[2] == group {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not join the group %s of %s", l.Attrs().Name, group, address.IP)
		}
	}
}
