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
)

const (
	tunnelName = "fairlead_vxlan"
	hostName   = "fairlead_host"
	netName    = "fairlead_net"
	tunnelPort = 8472
	// vxlanOverhead is outer Ethernet (inside the outer packet: the inner frame's), IPv4, UDP and VXLAN headers.
	vxlanOverhead = 50
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
	if k.config.Routing == RoutingTunnel {
		mtu -= vxlanOverhead
	}
	return max(mtu, minimalMTU)
}

// prepareHost sets what the kernel needs to forward pods' packets, masquerading included.
func (k *kernel) prepareHost(devices []netlink.Link) error {
	if err := k.sysctl("net/ipv4/ip_forward", "1"); err != nil {
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
			if v, err := readSysctl(own); err == nil && v < all && !ours(l.Attrs().Name) {
				if err := k.sysctl(own, all); err != nil {
					return err
				}
			}
		}
		if err := k.sysctl("net/ipv4/conf/all/rp_filter", "0"); err != nil {
			return err
		}
	}
	if err := k.ensureMasquerade(devices); err != nil {
		return err
	}
	return nil
}

func ours(name string) bool { return strings.HasPrefix(name, "fairlead_") }

// ensureInterfaces makes the tunnel device and the host's end towards other nodes' pods.
func (k *kernel) ensureInterfaces() (int, netlink.Link, error) {
	host, err := netlink.LinkByName(hostName)
	if err != nil {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: hostName}, PeerName: netName}
		if err := netlink.LinkAdd(veth); err != nil {
			return 0, nil, fmt.Errorf("adding %s: %w", hostName, err)
		}
		if host, err = netlink.LinkByName(hostName); err != nil {
			return 0, nil, fmt.Errorf("finding %s: %w", hostName, err)
		}
	}
	for _, name := range []string{hostName, netName} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return 0, nil, fmt.Errorf("finding %s: %w", name, err)
		}
		// Nobody answers there, and the frames' addresses do not matter.
		if err := netlink.LinkSetARPOff(l); err != nil {
			return 0, nil, fmt.Errorf("turning ARP off on %s: %w", name, err)
		}
		if err := writeSysctl("net/ipv4/conf/"+name+"/rp_filter", "0"); err != nil {
			return 0, nil, err
		}
		_ = writeSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
		if err := netlink.LinkSetUp(l); err != nil {
			return 0, nil, fmt.Errorf("bringing %s up: %w", name, err)
		}
	}
	router := &netlink.Addr{IPNet: hostNet(k.config.RouterAddress), Scope: int(netlink.SCOPE_LINK)}
	present, err := netlink.AddrList(host, unix.AF_INET)
	if err != nil {
		return 0, nil, fmt.Errorf("listing addresses of %s: %w", hostName, err)
	}
	for _, a := range present {
		if !a.IP.Equal(router.IP) {
			if err := netlink.AddrDel(host, &a); err != nil {
				return 0, nil, fmt.Errorf("removing the old address of %s: %w", hostName, err)
			}
		}
	}
	if err := netlink.AddrReplace(host, router); err != nil {
		return 0, nil, fmt.Errorf("addressing %s: %w", hostName, err)
	}
	// Addresses that no pod has must not wander to the default route.
	unreachable := &netlink.Route{Dst: toIPNet(k.config.PodCIDR(false)), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Priority: 1 << 20}
	if err := netlink.RouteReplace(unreachable); err != nil {
		return 0, nil, fmt.Errorf("routing unused pod addresses: %w", err)
	}
	if k.config.Routing != RoutingTunnel {
		return 0, host, k.removeTunnel()
	}
	index, err := ensureTunnel()
	return index, host, err
}

func (k *kernel) removeTunnel() error {
	if l, err := netlink.LinkByName(tunnelName); err == nil {
		if err := netlink.LinkDel(l); err != nil {
			return fmt.Errorf("removing %s: %w", tunnelName, err)
		}
	}
	return nil
}

func ensureTunnel() (int, error) {
	l, err := netlink.LinkByName(tunnelName)
	if err != nil {
		vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: tunnelName}, FlowBased: true, Port: tunnelPort}
		if err := netlink.LinkAdd(vxlan); err != nil {
			return 0, tunnelProblem(err)
		}
		if l, err = netlink.LinkByName(tunnelName); err != nil {
			return 0, fmt.Errorf("finding %s: %w", tunnelName, err)
		}
	}
	if err := writeSysctl("net/ipv4/conf/"+tunnelName+"/rp_filter", "0"); err != nil {
		return 0, err
	}
	_ = writeSysctl("net/ipv6/conf/"+tunnelName+"/disable_ipv6", "1")
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, tunnelProblem(err)
	}
	return l.Attrs().Index, nil
}

func tunnelProblem(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EEXIST):
		return &Problem{
			Code: "tunnel.port-taken", What: "The VXLAN device cannot be brought up.", Why: "Another one already receives on UDP port 8472, often that of a former network plugin.",
			Fix: "Find it with `ip -d link show type vxlan` and remove it.", Cause: err,
		}
	case errors.Is(err, unix.EOPNOTSUPP):
		return &Problem{
			Code: "kernel.no-vxlan", What: "This node's kernel has no VXLAN.", Why: "Tunnel routing needs it (CONFIG_VXLAN).",
			Fix: "Load the module vxlan, or use native routing.", Cause: err,
		}
	}
	return fmt.Errorf("adding %s: %w", tunnelName, err)
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
	k.options.journal("sysctl", name, before, value, "sysctl -w "+name+"="+strconv.Quote(before))
	return writeSysctl(name, value)
}
