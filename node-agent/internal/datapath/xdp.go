package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/xdpfeatures"
)

// Acceleration of services by XDP, as LoadBalancer.Acceleration has it.
const (
	AccelerationDisabled   = "disabled"
	AccelerationNative     = "native"
	AccelerationBestEffort = "best-effort"
)

// XDPDevice is what happens on one device before the kernel's stack sees a packet, and why.
type XDPDevice struct {
	Device, Driver string
	// Services says whether clients of services are sent on to other nodes from there, Why how or why not.
	Services bool
	Why      string
	// Prefilter says whether refused networks are dropped there, PrefilterWhy how or why not.
	Prefilter    bool
	PrefilterWhy string
	// Absent: there is no such interface at the moment.
	Absent bool
}

// The programs of xdp_netdev.bpf.c. They are always in the driver: where a driver has no XDP the kernel's own (generic) one
// costs more than tc.
const (
	xdpServices  = "xdp_netdev"
	xdpPrefilter = "prefilter"
	xdpBoth      = "xdp_filtered"
)

// Bits of xdpDeviceLayout.Flags.
const (
	xdpFlagServices = 1 << iota
	xdpFlagVirtual
	xdpFlagTransmit
)

type xdpDeviceLayout struct {
	MAC   [6]byte
	Flags uint16
}

// xdpPlan is what is to be tried on a device, and then what became of it.
type xdpPlan struct {
	link                netlink.Link
	services, prefilter bool
	state               XDPDevice
}

func (p xdpPlan) program() string {
	switch {
	case p.services && p.prefilter:
		return xdpBoth
	case p.services:
		return xdpServices
	case p.prefilter:
		return xdpPrefilter
	}
	return ""
}

func (p xdpPlan) attachment() attachment {
	a := p.link.Attrs()
	return attachment{program: p.program(), device: a.Name, ifindex: a.Index, xdp: true}
}

// planXDP says for each device what is to be tried there. Whether the driver can is found out by attaching.
func planXDP(c Config, devices []netlink.Link) ([]xdpPlan, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []xdpPlan
	for _, l := range devices {
		p := xdpPlan{link: l, prefilter: c.Prefilter, state: XDPDevice{Device: l.Attrs().Name, Driver: driverOf(l)}}
		p.state.PrefilterWhy = "not asked for"
		p.state.Why = withoutXDP(c, l, all)
		p.services = p.state.Why == ""
		out = append(out, p)
	}
	return out, nil
}

// withoutXDP is the reason not to try to serve clients at a device's XDP hook; "" where there is none.
func withoutXDP(c Config, device netlink.Link, all []netlink.Link) string {
	switch {
	case !c.KubeProxyReplacement:
		return "services are kube-proxy's"
	case cmp.Or(c.LoadBalancer.Acceleration, AccelerationDisabled) == AccelerationDisabled:
		return "loadBalancer.acceleration is disabled"
	case c.Routing == RoutingTunnel && c.underlay6():
		return "the tunnel between the nodes is over IPv6, and such headers are put on at tc"
	case c.LoadBalancer.Acceleration == AccelerationNative:
		return ""
	case device.Type() == "veth":
		return "a virtual cable: XDP would take segmentation offload from its other end, which slows everything else; " +
			"loadBalancer.acceleration: native does it nevertheless"
	}
	for _, l := range all {
		if l.Type() == "vlan" && l.Attrs().ParentIndex == device.Attrs().Index {
			return fmt.Sprintf("the VLAN %s is on it: a driver may take the tag off before XDP sees the packet", l.Attrs().Name)
		}
	}
	return ""
}

func driverOf(l netlink.Link) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return l.Type()
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, l.Attrs().Name)
	if err != nil {
		return l.Type()
	}
	return cmp.Or(unix.ByteSliceToString(info.Driver[:]), l.Type())
}

// xdpPrograms are the names of those that the plans need.
func xdpPrograms(plans []xdpPlan) []string {
	names := map[string]bool{}
	for _, p := range plans {
		if name := p.program(); name != "" {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// xdpCollection is the object with no more than these programs and their maps.
func xdpCollection(programs []string) (*ebpf.CollectionSpec, error) {
	c, err := parseObject("xdp_netdev")
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for name, p := range c.Programs {
		if !slices.Contains(programs, name) {
			delete(c.Programs, name)
			continue
		}
		for _, i := range p.Instructions {
			if i.IsLoadFromMap() {
				used[i.Reference()] = true
			}
		}
	}
	for name := range c.Maps {
		if !used[name] {
			delete(c.Maps, name)
		}
	}
	for name, v := range c.Variables {
		if !used[v.SectionName] {
			delete(c.Variables, name)
		}
	}
	return c, nil
}

// loadAll loads everything. Where the kernel refuses the programs of XDP, everything else: tc does the same as they.
func (k *kernel) loadAll() error {
	load := func() (err error) {
		s, err := k.makeSpec()
		if err != nil {
			return err
		}
		k.objects, err = s.load(k.mapDirectory())
		k.carried = append(k.carried, s.carried...)
		return err
	}
	err := load()
	if err == nil || len(k.config.xdpPrograms) == 0 {
		return err
	}
	k.config.xdpPrograms = nil
	if load() != nil {
		return err
	}
	k.options.log.Warn("the kernel refuses the programs of XDP", "error", err)
	k.xdpRefused = "this kernel refuses the program: the agent's log has its verifier's words"
	for i := range k.xdp {
		k.xdp[i].refused(k.xdpRefused)
	}
	return nil
}

// attachXDP puts the planned programs on the devices. A device that does not take one is served at tc, and says why. The
// pins of what is attached join `wanted`.
func (k *kernel) attachXDP(wanted map[string]bool) error {
	for i := range k.xdp {
		p := &k.xdp[i]
		if p.program() == "" {
			continue
		}
		if err := k.putXDPDevice(*p, true); err != nil {
			return err
		}
		if err := k.attach(p.attachment()); err != nil {
			k.options.log.Info("a device takes no XDP program", "device", p.state.Device, "error", err)
			p.refused(xdpRefusal(err, p.link, p.state.Driver))
			continue
		}
		sends := transmits(p.link.Attrs().Index)
		if p.services && !sends && p.link.Type() == "veth" {
			if err := k.withoutServices(p, "whoever is at the other end of this virtual cable takes no frames from XDP: turn GRO on there (ethtool -K … gro on)"); err != nil {
				return err
			}
		} else if err := k.putXDPDevice(*p, sends); err != nil {
			return err
		}
		how := fmt.Sprintf("in the driver %s, receive queues: %d", p.state.Driver, p.link.Attrs().NumRxQueues)
		if p.services {
			p.state.Services, p.state.Why = true, how
		}
		if p.prefilter {
			p.state.Prefilter, p.state.PrefilterWhy = true, how
		}
		if p.program() != "" {
			wanted[filepath.Base(p.attachment().pin(k.linkDirectory()))] = true
		}
	}
	return k.forgetXDPDevices()
}

// withoutServices leaves of a plan what is not about services.
func (k *kernel) withoutServices(p *xdpPlan, why string) error {
	p.services, p.state.Services, p.state.Why = false, false, why
	if p.program() == "" {
		return nil
	}
	return k.attach(p.attachment())
}

func (p *xdpPlan) refused(why string) {
	if p.services {
		p.state.Services, p.state.Why = false, why
	}
	if p.prefilter {
		p.state.Prefilter, p.state.PrefilterWhy = false, why
	}
	p.services, p.prefilter = false, false
}

// transmits says whether frames can be sent by the device from XDP; kernels that do not know are trusted.
func transmits(index int) bool {
	features, err := xdpfeatures.Of(index)
	return err != nil || features&xdpfeatures.Transmit != 0
}

// putXDPDevice publishes a device whose clients are served.
func (k *kernel) putXDPDevice(p xdpPlan, sends bool) error {
	m := k.objects.maps["xdp_devices"]
	if m == nil || !p.services {
		return nil
	}
	a := p.link.Attrs()
	value := xdpDeviceLayout{Flags: xdpFlagServices}
	copy(value.MAC[:], a.HardwareAddr)
	if sends {
		value.Flags |= xdpFlagTransmit
	}
	// A network card completes checksums and receives complete ones; whoever is at the end of something virtual may not.
	if kind := p.link.Type(); kind != "device" && kind != "bond" {
		value.Flags |= xdpFlagVirtual
	}
	if err := m.Put(uint32(a.Index), value); err != nil {
		return fmt.Errorf("publishing %s to XDP: %w", a.Name, err)
	}
	return nil
}

// forgetXDPDevices removes devices whose clients are not served.
func (k *kernel) forgetXDPDevices() error {
	m := k.objects.maps["xdp_devices"]
	if m == nil {
		return nil
	}
	served := map[uint32]bool{}
	for _, p := range k.xdp {
		if p.services {
			served[uint32(p.link.Attrs().Index)] = true
		}
	}
	var index uint32
	var value xdpDeviceLayout
	var gone []uint32
	all := m.Iterate()
	for all.Next(&index, &value) {
		if !served[index] {
			gone = append(gone, index)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the devices of XDP: %w", err)
	}
	for _, index := range gone {
		if err := ignoreMissing(m.Delete(index)); err != nil {
			return fmt.Errorf("removing interface %d from XDP: %w", index, err)
		}
	}
	return nil
}

// xdpRefusal says in words why a driver does not take a program.
func xdpRefusal(err error, l netlink.Link, driver string) string {
	a := l.Attrs()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Sprintf("the driver %s has no XDP", driver)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "another XDP program is attached"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EFBIG), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		return fmt.Sprintf("the driver %s refuses it as it is set up (MTU %d, receive queues: %d): it may need a smaller MTU, fewer queues or LRO off; the kernel's log may say more",
			driver, a.MTU, a.NumRxQueues)
	}
	text := err.Error()
	return "the kernel refuses it: " + text[strings.LastIndex(text, ": ")+1:]
}

// XDP implements Datapath.
func (k *kernel) XDP() []XDPDevice {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []XDPDevice
	for _, p := range k.xdp {
		out = append(out, p.state)
	}
	for _, name := range k.absent {
		const why = "the interface is not there"
		out = append(out, XDPDevice{Device: name, Why: why, PrefilterWhy: why, Absent: true})
	}
	return out
}
