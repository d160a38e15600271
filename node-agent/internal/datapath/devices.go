package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath/podlink"
)

const (
	hostName = "fairlead_host"
	netName  = "fairlead_net"
	// routeProtocol marks our routes, so that cleanup finds them and nobody else's.
	routeProtocol = 241
	minimalMTU    = 1280
)

func (k *kernel) devices() ([]netlink.Link, error) {
	var out []netlink.Link
	for _, name := range k.config.Devices {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil, &Problem{
				Code: "device.missing", What: fmt.Sprintf("The interface %s is not there.", name), Why: "It is configured as one of this node's devices.",
				Fix: "Correct `devices`, or bring the interface up.", Cause: err,
			}
		}
		out = append(out, l)
	}
	return out, nil
}

func (k *kernel) workOutMTU(devices []netlink.Link) int {
	if k.config.MTU > 0 {
		return k.config.MTU
	}
	mtu := devices[0].Attrs().MTU
	for _, d := range devices {
		mtu = min(mtu, d.Attrs().MTU)
	}
	return max(mtu-k.config.overhead(), minimalMTU)
}

// prepareHost sets what the kernel needs to forward pods' packets, masquerading included.
func (k *kernel) prepareHost() error {
	if err := k.sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := k.prepareIPv6(); err != nil {
		return err
	}
	// The stricter of `all` and the device's own value counts, so `all` has to let ours be 0. Others keep what they had.
	if all, err := readSysctl("net/ipv4/conf/all/rp_filter"); err == nil && all != "0" {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("listing interfaces: %w", err)
		}
		for _, l := range links {
			own := "net/ipv4/conf/" + l.Attrs().Name + "/rp_filter"
			if v, err := readSysctl(own); err == nil && v < all && !ours(l.Attrs().Name) && !podlink.IsHostEnd(l.Attrs().Name) {
				if err := k.sysctl(own, all); err != nil {
					return err
				}
			}
		}
		if err := k.sysctl("net/ipv4/conf/all/rp_filter", "0"); err != nil {
			return err
		}
	}
	return k.reserveNodePorts()
}

func ours(name string) bool { return strings.HasPrefix(name, "fairlead_") }

// ensureInterfaces makes the tunnel device and the host's end towards other nodes' pods.
func (k *kernel) ensureInterfaces() (netlink.Link, error) {
	host, err := netlink.LinkByName(hostName)
	if err != nil {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: hostName}, PeerName: netName}
		if err := netlink.LinkAdd(veth); err != nil {
			return nil, fmt.Errorf("adding %s: %w", hostName, err)
		}
		if host, err = netlink.LinkByName(hostName); err != nil {
			return nil, fmt.Errorf("finding %s: %w", hostName, err)
		}
	}
	for _, name := range []string{hostName, netName} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("finding %s: %w", name, err)
		}
		// Nobody answers there, and the frames' addresses do not matter.
		if err := netlink.LinkSetARPOff(l); err != nil {
			return nil, fmt.Errorf("turning ARP off on %s: %w", name, err)
		}
		if err := writeSysctl("net/ipv4/conf/"+name+"/rp_filter", "0"); err != nil {
			return nil, err
		}
		if err := k.quietIPv6(name); err != nil {
			return nil, err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return nil, fmt.Errorf("bringing %s up: %w", name, err)
		}
	}
	for _, v6 := range []bool{false, true} {
		if err := k.addressHost(host, v6); err != nil {
			return nil, err
		}
		if err := k.routePodRange(host, k.config.PodCIDR(v6)); err != nil {
			return nil, err
		}
	}
	return host, k.ensureTunnel()
}

// addressHost gives the host's end the router's address of one family, and no other.
func (k *kernel) addressHost(host netlink.Link, v6 bool) error {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	router := k.config.router(v6)
	present, err := netlink.AddrList(host, family)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", hostName, err)
	}
	for _, a := range present {
		if !a.IP.Equal(router.AsSlice()) {
			if err := netlink.AddrDel(host, &a); err != nil {
				return fmt.Errorf("removing the old address of %s: %w", hostName, err)
			}
		}
	}
	if !router.IsValid() {
		return nil
	}
	address := &netlink.Addr{IPNet: hostNet(router)}
	if v6 {
		// Nobody else can have it, so there is nothing to wait for.
		address.Flags = unix.IFA_F_NODAD
	} else {
		address.Scope = int(netlink.SCOPE_LINK)
	}
	if err := netlink.AddrReplace(host, address); err != nil {
		return fmt.Errorf("addressing %s: %w", hostName, err)
	}
	return nil
}

// routePodRange keeps addresses that no pod has from wandering to the default route. Without a route per pod, the range
// leads to from_host, which knows the pods.
func (k *kernel) routePodRange(host netlink.Link, p netip.Prefix) error {
	if !p.IsValid() {
		return nil
	}
	unreachable := &netlink.Route{Dst: toIPNet(p), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Priority: 1 << 20}
	if err := netlink.RouteReplace(unreachable); err != nil {
		return fmt.Errorf("routing unused pod addresses: %w", err)
	}
	through := &netlink.Route{
		LinkIndex: host.Attrs().Index, Dst: toIPNet(p), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, Priority: 1 << 10,
		Src: net.IP(k.config.router(p.Addr().Is6()).AsSlice()),
	}
	if k.config.EndpointRoutes {
		if err := netlink.RouteDel(through); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("withdrawing the route to all pods: %w", err)
		}
		return nil
	}
	if err := netlink.RouteReplace(through); err != nil {
		return fmt.Errorf("routing pods' addresses: %w", err)
	}
	return nil
}

// prepareIPv6 turns on what the kernel needs to forward pods' packets of version 6.
func (k *kernel) prepareIPv6() error {
	if _, v6 := k.config.families(); !v6 {
		return nil
	}
	if _, err := os.Stat(sysctlPath("net/ipv6")); err != nil {
		return &Problem{
			Code: "kernel.no-ipv6", What: "This node's kernel has no IPv6.", Why: "Pods are to have addresses of version 6.",
			Fix: "Boot without ipv6.disable=1, or set ipv6.enabled: false.", Cause: err,
		}
	}
	// A node that forwards ignores routers' advertisements, unless told otherwise: it would lose its default route.
	for _, device := range k.config.Devices {
		name := "net/ipv6/conf/" + device + "/accept_ra"
		if v, err := readSysctl(name); err == nil && v == "1" {
			if err := k.sysctl(name, "2"); err != nil {
				return err
			}
		}
	}
	return k.sysctl("net/ipv6/conf/all/forwarding", "1")
}

// quietIPv6 lets an interface of ours carry IPv6 without saying anything of its own; or turns it off.
func (k *kernel) quietIPv6(name string) error {
	if _, v6 := k.config.families(); !v6 && !k.config.underlay6() {
		_ = writeSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
		return nil
	}
	return errors.Join(writeSysctl("net/ipv6/conf/"+name+"/addr_gen_mode", "1"), writeSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0"))
}

func hostNet(a netip.Addr) *net.IPNet {
	a = a.Unmap()
	return toIPNet(netip.PrefixFrom(a, a.BitLen()))
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func sysctlPath(name string) string { return filepath.Join("/proc/sys", name) }

func readSysctl(name string) (string, error) {
	raw, err := os.ReadFile(sysctlPath(name))
	return strings.TrimSpace(string(raw)), err
}

func writeSysctl(name, value string) error {
	if now, err := readSysctl(name); err == nil && now == value {
		return nil
	}
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// sysctl sets a value of the host and journals the change; own interfaces need no journal.
func (k *kernel) sysctl(name, value string) error {
	before, err := readSysctl(name)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if before == value {
		return nil
	}
	// Names of interfaces may hold dots, so the undo keeps the slashes, which sysctl takes as well.
	if err := k.options.journal("sysctl", name, before, value, "sysctl -w "+name+"="+strconv.Quote(before)); err != nil {
		return err
	}
	return writeSysctl(name, value)
}
