package datapath

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelProtocol is how packets between nodes are wrapped in tunnel routing.
type TunnelProtocol string

const (
	// TunnelVXLAN is the default.
	TunnelVXLAN TunnelProtocol = "vxlan"
	// TunnelGeneve needs a kernel with CONFIG_GENEVE.
	TunnelGeneve TunnelProtocol = "geneve"
)

const (
	vxlanPort  = 8472
	genevePort = 6081
	// tunnelOverhead is what the inner packet is prefixed with behind the outer IP header: UDP, VXLAN or Geneve, Ethernet.
	tunnelOverhead   = 8 + 8 + 14
	ipv4HeaderLength = 20
	ipv6HeaderLength = 40
)

func (c Config) tunnelProtocol() TunnelProtocol { return cmp.Or(c.TunnelProtocol, TunnelVXLAN) }

// tunnelPort is the UDP port of the tunnel.
func (c Config) tunnelPort() uint16 {
	if c.TunnelPort == 0 && c.tunnelProtocol() == TunnelGeneve {
		return genevePort
	}
	return cmp.Or(c.TunnelPort, vxlanPort)
}

// TunnelDevice is the name of the interface that packets travel through in tunnel routing.
func (c Config) TunnelDevice() string { return tunnelDevice(c.tunnelProtocol()) }

func tunnelDevice(p TunnelProtocol) string { return "fairlead_" + string(p) }

// underlay6 says whether nodes reach each other by IPv6: only where this one has no other address.
func (c Config) underlay6() bool { return !c.NodeAddress.IsValid() }

// Primary is the address by which others reach this node.
func (c Config) Primary() netip.Addr {
	if c.underlay6() {
		return c.NodeAddress6
	}
	return c.NodeAddress
}

// families says of each whether pods have such addresses.
func (c Config) families() (v4, v6 bool) {
	return c.PodCIDR(false).IsValid(), c.PodCIDR(true).IsValid()
}

// router is the pods' gateway of one family.
func (c Config) router(v6 bool) netip.Addr {
	if v6 {
		return c.RouterAddress6
	}
	return c.RouterAddress
}

// overhead is how much less a pod's packet may have than the wire's MTU.
func (c Config) overhead() int {
	switch {
	case c.Routing != RoutingTunnel:
		return 0
	case c.underlay6():
		return ipv6HeaderLength + tunnelOverhead
	}
	return ipv4HeaderLength + tunnelOverhead
}

// ensureTunnel makes the device of the tunnel as it should be, and none of the other kind. Without tunnel it keeps one that is
// there until no other node sends by it (modes.go). A device that served until now goes last: where the kernel refuses the new
// one, the programs of before go on with it.
func (k *kernel) ensureTunnel() error {
	wanted := k.config.TunnelDevice()
	l, err := netlink.LinkByName(wanted)
	if err == nil && portOf(l) != k.config.tunnelPort() {
		if err := netlink.LinkDel(l); err != nil {
			return fmt.Errorf("removing %s: %w", wanted, err)
		}
		l, err = netlink.LinkByName(wanted)
	}
	if k.config.Routing != RoutingTunnel {
		if k.config.untunnel = err == nil; k.config.untunnel {
			k.modes.untunnel, k.modes.tunnelIfindex = true, l.Attrs().Index
		}
		return k.removeOtherTunnels()
	}
	if err != nil {
		k.modes.fresh = true
		if err := netlink.LinkAdd(k.config.tunnelLink()); err != nil {
			return tunnelProblem(k.config, err)
		}
		if l, err = netlink.LinkByName(wanted); err != nil {
			return fmt.Errorf("finding %s: %w", wanted, err)
		}
	}
	// From here on the kernel has what is asked for, and both kinds may share a port.
	if err := k.removeOtherTunnels(); err != nil {
		return err
	}
	if err := writeSysctl("net/ipv4/conf/"+wanted+"/rp_filter", "0"); err != nil {
		return err
	}
	if err := k.quietIPv6(wanted); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return tunnelProblem(k.config, err)
	}
	k.modes.tunnelIfindex = l.Attrs().Index
	return nil
}

// removeOtherTunnels removes devices of the kind that is not configured.
func (k *kernel) removeOtherTunnels() error {
	for _, p := range []TunnelProtocol{TunnelVXLAN, TunnelGeneve} {
		name := tunnelDevice(p)
		l, err := netlink.LinkByName(name)
		if err != nil || name == k.config.TunnelDevice() {
			continue
		}
		if err := netlink.LinkDel(l); err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	return nil
}

// tunnelLink is the device as it should be; its addresses come with each packet.
func (c Config) tunnelLink() netlink.Link {
	attributes := netlink.LinkAttrs{Name: c.TunnelDevice()}
	if c.tunnelProtocol() == TunnelGeneve {
		return &netlink.Geneve{LinkAttrs: attributes, FlowBased: true, Dport: c.tunnelPort(), UdpZeroCsum6Tx: 1, UdpZeroCsum6Rx: 1}
	}
	return &netlink.Vxlan{LinkAttrs: attributes, FlowBased: true, Port: int(c.tunnelPort()), UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true}
}

func portOf(l netlink.Link) uint16 {
	switch l := l.(type) {
	case *netlink.Vxlan:
		return uint16(l.Port)
	case *netlink.Geneve:
		return l.Dport
	}
	return 0
}

func tunnelProblem(c Config, err error) error {
	kind := string(c.tunnelProtocol())
	switch {
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		return &Problem{
			Code: "tunnel.port-taken", What: fmt.Sprintf("The %s device cannot be brought up.", kind),
			Why:   fmt.Sprintf("Another one already receives on UDP port %d, often that of a former network plugin.", c.tunnelPort()),
			Fix:   fmt.Sprintf("Find it with `ip -d link show type %s` and remove it, or set tunnelPort.", kind),
			Cause: err,
		}
	case errors.Is(err, unix.EOPNOTSUPP):
		return &Problem{
			Code: "kernel.no-" + kind, What: fmt.Sprintf("This node's kernel has no %s.", kind),
			Why:   fmt.Sprintf("tunnelProtocol is %s, and the kernel's module %s is neither loaded nor built in.", kind, kind),
			Fix:   fmt.Sprintf("Load it (modprobe %s), set another tunnelProtocol, or use native routing.", kind),
			Cause: err,
		}
	}
	return fmt.Errorf("adding %s: %w", c.TunnelDevice(), err)
}

// tunnelValue is an ipcache entry's tunnel: an IPv4 address, or where nodes have none, the node's number.
func (k *kernel) tunnelValue(a netip.Addr) ([4]byte, error) {
	if !k.config.underlay6() || !a.IsValid() {
		return toWire4(a), nil
	}
	var out [4]byte
	number, ok := k.tunnelNumbers[a]
	if !ok {
		number = uint32(len(k.tunnelNumbers)) + 1
		if err := k.objects.maps["tunnels"].Update(number, toWire(a), ebpf.UpdateAny); err != nil {
			return out, fmt.Errorf("numbering node %s: %w", a, err)
		}
		k.tunnelNumbers[a] = number
	}
	binary.NativeEndian.PutUint32(out[:], number)
	return out, nil
}

// tunnelAddress is the other way round.
func (k *kernel) tunnelAddress(value [4]byte) netip.Addr {
	if !k.config.underlay6() {
		return fromWire4(value)
	}
	number := binary.NativeEndian.Uint32(value[:])
	for a, n := range k.tunnelNumbers {
		if n == number {
			return a
		}
	}
	return netip.Addr{}
}

// restoreTunnels reads the numbers of an earlier run, which are in the ipcache and in connections.
func (k *kernel) restoreTunnels() error {
	k.tunnelNumbers = map[netip.Addr]uint32{}
	if !k.config.underlay6() {
		return nil
	}
	m := k.objects.maps["tunnels"]
	for number := uint32(1); number < m.MaxEntries(); number++ {
		var a wireAddress
		if err := m.Lookup(number, &a); err != nil {
			return fmt.Errorf("reading the number of a node: %w", err)
		}
		if a == (wireAddress{}) {
			return nil
		}
		k.tunnelNumbers[fromWire(a)] = number
	}
	return nil
}
