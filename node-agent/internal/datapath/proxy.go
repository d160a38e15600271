package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Marks of packets, as bpf/lib/proxy.h has them. The agent's proxies give theirs to all that they send.
const (
	markMask             = 0xf00
	markToProxy          = 0x200
	MarkFromIngressProxy = 0xa00
	MarkFromEgressProxy  = 0xb00
)

const (
	// proxyTable has one route: everything is local. proxyPriority puts the rule before the main table.
	proxyTable    = 2004
	proxyPriority = 9
)

func proxyRule(family int) *netlink.Rule {
	mask := uint32(markMask)
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Mask, rule.Table, rule.Priority = family, markToProxy, &mask, proxyTable, proxyPriority
	rule.Protocol = routeProtocol
	return rule
}

func proxyRoute(family int) (*netlink.Route, error) {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("finding the loopback interface: %w", err)
	}
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		Table: proxyTable, Protocol: routeProtocol, Family: family}, nil
}

// families that the node can route.
func families() []int {
	out := []int{unix.AF_INET}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/lo"); err == nil {
		out = append(out, unix.AF_INET6)
	}
	return out
}

// startProxyRoutes keeps what an earlier run made while policy has lines for proxies, and removes it where the proxies are
// off. Without such lines there is none of it: a rule of any kind makes the kernel walk all rules for each packet that is
// routed, of every pod, which takes a quarter of the time that from_pod does.
func (k *kernel) startProxyRoutes() error {
	if !k.config.L7Proxy {
		return removeProxyRoutes()
	}
	lines, err := k.policyLines(0)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if line.ProxyPort != (big16{}) {
			return k.ensureProxyRoutes()
		}
	}
	return nil
}

// ensureProxyRoutes has the stack deliver packets for the proxies locally, whatever their address; before the first line
// that names a proxy.
func (k *kernel) ensureProxyRoutes() error {
	if k.proxyRoutes {
		return nil
	}
	// Servers of the node itself answer with the node's address, and it comes in by this interface.
	if err := writeSysctl("net/ipv4/conf/"+hostName+"/accept_local", "1"); err != nil {
		return err
	}
	for _, family := range families() {
		route, err := proxyRoute(family)
		if err != nil {
			return err
		}
		if err := k.options.journal("route", fmt.Sprintf("table %d %s", proxyTable, familyName(family)), "", "local default dev lo", "fairlead-agent cleanup"); err != nil {
			return err
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("adding the route of the proxies: %w", err)
		}
		if err := k.options.journal("rule", fmt.Sprintf("fwmark 0x%x/0x%x %s", markToProxy, markMask, familyName(family)), "", fmt.Sprintf("lookup %d", proxyTable), "fairlead-agent cleanup"); err != nil {
			return err
		}
		if err := netlink.RuleAdd(proxyRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the rule of the proxies: %w", err)
		}
	}
	k.proxyRoutes = true
	return nil
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

// removeProxyRoutes is the reverse of ensureProxyRoutes; what is not there is fine.
func removeProxyRoutes() error {
	var problems []error
	for _, family := range families() {
		for {
			err := netlink.RuleDel(proxyRule(family))
			if err == nil {
				continue
			}
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) {
				problems = append(problems, fmt.Errorf("removing the rule of the proxies: %w", err))
			}
			break
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: proxyTable, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			problems = append(problems, fmt.Errorf("listing the routes of the proxies: %w", err))
		}
		for _, r := range routes {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				problems = append(problems, fmt.Errorf("removing the route of the proxies: %w", err))
			}
		}
	}
	return errors.Join(problems...)
}

func proxyMark(d Direction) int {
	if d == Egress {
		return MarkFromEgressProxy
	}
	return MarkFromIngressProxy
}

// control makes a proxy's socket transparent and marks it before it is bound.
func control(d Direction, more ...func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = transparent(int(fd), network, proxyMark(d))
			for _, option := range more {
				if failed == nil {
					failed = option(int(fd))
				}
			}
		})
		return errors.Join(err, failed)
	}
}

const ipv6Transparent = 75 // IPV6_TRANSPARENT

func transparent(fd int, network string, mark int) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if network[len(network)-1] == '6' {
		level, option = unix.SOL_IPV6, ipv6Transparent
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("making a socket transparent, which takes NET_ADMIN: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		return fmt.Errorf("marking a socket, which takes NET_ADMIN: %w", err)
	}
	return nil
}

// ListenProxy opens the TCP listeners of a proxy, of both families on one port of the loopback addresses. to_proxy gives them
// the connections of pods; an accepted connection's own address is the one that the pod called. It works in the calling
// thread's network namespace. The wanted port is taken where it is free; 0 takes any.
func ListenProxy(ctx context.Context, d Direction, wanted uint16) (listeners []net.Listener, port uint16, err error) {
	config := net.ListenConfig{Control: control(d), KeepAlive: -1}
	for attempt := 0; ; attempt++ {
		first, err := config.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", wanted))
		if err != nil {
			if wanted != 0 && errors.Is(err, unix.EADDRINUSE) {
				wanted = 0
				continue
			}
			return nil, 0, fmt.Errorf("opening the listener of a proxy: %w", err)
		}
		port := first.Addr().(*net.TCPAddr).AddrPort().Port()
		if len(families()) == 1 {
			return []net.Listener{first}, port, nil
		}
		second, err := config.Listen(ctx, "tcp6", fmt.Sprintf("[::1]:%d", port))
		switch {
		case err == nil:
			return []net.Listener{first, second}, port, nil
		case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
			return []net.Listener{first}, port, nil
		}
		first.Close()
		if wanted = 0; attempt == 10 {
			return nil, 0, fmt.Errorf("opening the IPv6 listener of a proxy: %w", err)
		}
	}
}

// DialProxy connects to a server as if it were the client: the client's address is the source, and the answers come to the
// proxy. It works in the calling thread's network namespace.
func DialProxy(ctx context.Context, d Direction, network string, client netip.Addr, server netip.AddrPort) (net.Conn, error) {
	family := "4"
	if server.Addr().Is6() {
		family = "6"
	}
	// The port is chosen with the connection, so that as many are possible as there are pairs of addresses.
	late := func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	local := netip.AddrPortFrom(client, 0)
	dialer := net.Dialer{KeepAlive: -1}
	if network == "udp" {
		dialer.Control, dialer.LocalAddr = control(d), net.UDPAddrFromAddrPort(local)
	} else {
		dialer.Control, dialer.LocalAddr = control(d, late), net.TCPAddrFromAddrPort(local)
	}
	c, err := dialer.DialContext(ctx, network+family, server.String())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s for %s: %w", server, client, err)
	}
	return c, nil
}
