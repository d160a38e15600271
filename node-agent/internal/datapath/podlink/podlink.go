// Package podlink makes and removes the interface of a pod: a veth whose one end is the pod's eth0. It uses netlink
// only; the programs on the host's end are the datapath's.
package podlink

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prefix of the host ends' names; eight hexadecimal digits follow.
const prefix = "fl"

const soNetnsCookie = 71

// Params of a pod's interface.
type Params struct {
	// Addresses of the pod, one per family; it gets them without any others of their range.
	Addresses []netip.Addr
	// Routers are the node's own addresses out of the pods' ranges, the pod's only gateways; one for each address.
	Routers []netip.Addr
	// MTU of the pod's default route in bytes; the device itself keeps 1500 or more.
	MTU int
}

// Details are what an endpoint of the datapath needs.
type Details struct {
	// Interface is the host end's name.
	Interface       string
	InterfaceIndex  int
	PodMAC, HostMAC [6]byte
	// NetnsCookie is 0 where the kernel (before 5.14) does not tell.
	NetnsCookie uint64
}

// SetupPodInterface makes the interface ifName in the network namespace at netnsPath, with address, routes and a static
// neighbour entry of the gateway. An interface of that name that is already there (a repeated ADD) is replaced. On an
// error nothing is left.
func SetupPodInterface(netnsPath, ifName string, p Params) (Details, error) {
	if len(p.Addresses) == 0 || len(p.Addresses) != len(p.Routers) {
		return Details{}, fmt.Errorf("making %s: needs an address of the pod and of its router for each family", ifName)
	}
	for i, a := range p.Addresses {
		if !a.IsValid() || a.Is4() != p.Routers[i].Is4() {
			return Details{}, fmt.Errorf("making %s: %s and %s are not of the same family", ifName, a, p.Routers[i])
		}
	}
	ns, err := os.Open(netnsPath)
	if err != nil {
		return Details{}, fmt.Errorf("opening the pod's network namespace: %w", err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(nsHandle(ns), unix.NETLINK_ROUTE)
	if err != nil {
		return Details{}, fmt.Errorf("talking to the pod's network namespace: %w", err)
	}
	defer inside.Close()
	if old, err := inside.LinkByName(ifName); err == nil {
		if err := inside.LinkDel(old); err != nil {
			return Details{}, fmt.Errorf("replacing %s: %w", ifName, err)
		}
	}
	name, podMAC, hostMAC, err := invent()
	if err != nil {
		return Details{}, err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: max(p.MTU, 1500), HardwareAddr: hostMAC},
		PeerName:  ifName, PeerNamespace: netlink.NsFd(ns.Fd()), PeerHardwareAddr: podMAC,
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return Details{}, fmt.Errorf("adding %s: %w", name, err)
	}
	d, err := configure(ns, inside, name, ifName, p, hostMAC)
	if err != nil {
		if l, findErr := netlink.LinkByName(name); findErr == nil {
			_ = netlink.LinkDel(l)
		}
		return Details{}, err
	}
	copy(d.PodMAC[:], podMAC)
	copy(d.HostMAC[:], hostMAC)
	d.NetnsCookie = cookie(ns)
	return d, nil
}

func configure(ns *os.File, inside *netlink.Handle, name, ifName string, p Params, hostMAC net.HardwareAddr) (Details, error) {
	host, err := netlink.LinkByName(name)
	if err != nil {
		return Details{}, fmt.Errorf("finding %s: %w", name, err)
	}
	pod, err := inside.LinkByName(ifName)
	if err != nil {
		return Details{}, fmt.Errorf("finding %s: %w", ifName, err)
	}
	// The host's end needs no address of its own, and no duplicate address detection to wait for. Only with IPv6 on may
	// packets of it come in.
	off := "1"
	if slices.ContainsFunc(p.Addresses, netip.Addr.Is6) {
		off = "0"
		if err := enableIPv6(ns, ifName); err != nil {
			return Details{}, err
		}
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte("1"), 0o644)
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte(off), 0o644)
	if err := netlink.LinkSetUp(host); err != nil {
		return Details{}, fmt.Errorf("bringing %s up: %w", name, err)
	}
	if loopback, err := inside.LinkByName("lo"); err == nil {
		if err := inside.LinkSetUp(loopback); err != nil {
			return Details{}, fmt.Errorf("bringing lo up: %w", err)
		}
	}
	if err := inside.LinkSetUp(pod); err != nil {
		return Details{}, fmt.Errorf("bringing %s up: %w", ifName, err)
	}
	for i, a := range p.Addresses {
		if err := address(inside, pod, a, p.Routers[i], p.MTU, hostMAC); err != nil {
			return Details{}, err
		}
	}
	return Details{Interface: name, InterfaceIndex: host.Attrs().Index}, nil
}

// address gives the pod one address with its way out.
func address(inside *netlink.Handle, pod netlink.Link, a, router netip.Addr, mtu int, hostMAC net.HardwareAddr) error {
	index, gateway, family := pod.Attrs().Index, net.IP(router.AsSlice()), unix.AF_INET
	everywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	own := &netlink.Addr{IPNet: single(a)}
	if a.Is6() {
		family, everywhere = unix.AF_INET6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		// The agent gave it to nobody else, so there is nothing to wait for.
		own.Flags = unix.IFA_F_NODAD
	}
	if err := inside.AddrAdd(pod, own); err != nil {
		return fmt.Errorf("adding %s: %w", a, err)
	}
	if err := inside.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: hostMAC,
	}); err != nil {
		return fmt.Errorf("recording the gateway's hardware address: %w", err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: index, Dst: single(router), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("routing to the gateway: %w", err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: index, Dst: everywhere, Gw: gateway, MTU: mtu}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return nil
}

// enableIPv6 turns IPv6 on inside of the pod, where runtimes like to turn it off, and has it believe no router.
func enableIPv6(ns *os.File, ifName string) error {
	result := make(chan error, 1)
	go func() {
		// The thread is in the pod's namespace from here on, so it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering the pod's network namespace: %w", err)
			return
		}
		var errs []error
		for _, s := range [][2]string{{ifName + "/accept_ra", "0"}, {"lo/disable_ipv6", "0"}, {ifName + "/disable_ipv6", "0"}} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+s[0], []byte(s[1]), 0o644); err != nil {
				errs = append(errs, fmt.Errorf("setting net/ipv6/conf/%s in the pod: %w", s[0], err))
			}
		}
		result <- errors.Join(errs...)
	}()
	return <-result
}

// TeardownPodInterface removes the interface by its host end; one that is gone already is fine.
func TeardownPodInterface(hostInterface string) error {
	l, err := netlink.LinkByName(hostInterface)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil
		}
		return fmt.Errorf("finding %s: %w", hostInterface, err)
	}
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing %s: %w", hostInterface, err)
	}
	return nil
}

// List gives the names of all host ends, to find those that no endpoint has.
func List() ([]string, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []string
	for _, l := range all {
		if l.Type() == "veth" && IsHostEnd(l.Attrs().Name) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// IsHostEnd says whether an interface's name is one that this package gives to the host's end of a pod's.
func IsHostEnd(name string) bool {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok || len(digits) != 8 {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}

// invent gives a name and two locally administered hardware addresses.
func invent() (name string, podMAC, hostMAC net.HardwareAddr, err error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", nil, nil, fmt.Errorf("inventing names: %w", err)
	}
	mac := func(raw []byte) net.HardwareAddr {
		out := net.HardwareAddr(append([]byte{}, raw...))
		out[0] = out[0]&0xfe | 2
		return out
	}
	return prefix + hex.EncodeToString(b[12:]), mac(b[:6]), mac(b[6:12]), nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
