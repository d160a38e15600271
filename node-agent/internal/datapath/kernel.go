package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the Datapath that is in the kernel.
type kernel struct {
	config  Config
	options options
	// namespace in which all interfaces are.
	namespace *namespace
	objects   *objects
	// carried is what was taken over from an agent of another version.
	carried []Carried
	tcx     bool
	mtu     int
	nodes   map[string]Node
	// tunnelNumbers are those of nodes without IPv4 addresses.
	tunnelNumbers map[netip.Addr]uint32

	// mu serialises changes; the packet programs need no lock.
	mu        sync.Mutex
	endpoints map[EndpointID]Endpoint
	services  serviceTable
	// maglev is the backends, by number, of each list's table.
	maglev map[uint32][]uint32
	// gone are backends whose sockets are still to be ended.
	gone      map[goneBackend]time.Time
	bandwidth Bandwidth
	// revision rises with each change that may revoke something.
	revision uint32
	// shortcuts is how often anything was changed, as programs are told; 0 until the table was read.
	shortcuts uint32
	// host is how policies govern the node; nil until somebody said.
	host     *Host
	lostBase uint64
	// mapGeneration rises whenever a map is replaced by a larger one.
	mapGeneration uint64
	// makeSpec gives what should be loaded, with the sizes that are configured; reattach puts the programs on all hooks.
	makeSpec func() (*spec, error)
	reattach func() error
	dry      dryRun
	// kernelDrops says why the kernel's own drops are not seen; nil where they are.
	kernelDrops error

	modes modes

	pressureMu sync.Mutex
	pressures  map[string]MapPressure
	masquerade masquerade
	// proxyRoutes says that the proxies' rule and route are there.
	proxyRoutes bool
	// xdp is what is on the devices' XDP hooks; refused the prefilter's networks.
	xdp     []xdpPlan
	refused refusedTable
	// xdpRefused is why the kernel takes none of the programs of XDP.
	xdpRefused string
	// links are the devices that are there, watched what they were like when everything was made to fit; absent are the
	// others' names. linksBehind: the last change could not be followed.
	links       []netlink.Link
	watched     []watchedLink
	absent      []string
	linksBehind bool

	stop context.CancelFunc
	done sync.WaitGroup
}

var _ Datapath = (*kernel)(nil)

// Open loads the programs, attaches them to the devices, the tunnel and the cgroup, and takes over what an earlier run
// left pinned: maps keep their entries, links their hooks, and pods' interfaces get the new programs in place. It works
// in the network namespace of the calling thread and stays with it.
func Open(ctx context.Context, c Config, opts ...Option) (Datapath, error) {
	o := options{journal: func(string, string, string, string, string) error { return nil }, log: slog.Default(), probes: KernelProbes{}}
	for _, apply := range opts {
		apply(&o)
	}
	if err := validate(c); err != nil {
		return nil, err
	}
	if err := requireFeatures(ctx, o.probes); err != nil {
		return nil, err
	}
	ns, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	k := &kernel{
		config: c, options: o, namespace: ns, nodes: map[string]Node{},
		endpoints: map[EndpointID]Endpoint{}, pressures: map[string]MapPressure{},
	}
	if err := ns.do(func() error { return k.open() }); err != nil {
		k.Close()
		return nil, fmt.Errorf("opening the datapath: %w", err)
	}
	background, stop := context.WithCancel(context.Background())
	k.stop = stop
	k.done.Go(func() { k.maintain(background) })
	if c.KubeProxyReplacement && !c.LoadBalancer.SocketsOff {
		k.done.Go(func() { k.terminateSockets(background) })
	}
	k.keepMasquerading(background)
	k.done.Go(func() { k.keepSettings(background) })
	k.done.Go(func() { k.followLinks(background) })
	return k, nil
}

func validate(c Config) error {
	problem := func(what, fix string) error {
		return &Problem{Code: "config.invalid", What: what, Why: "The datapath cannot be specialised without it.", Fix: fix}
	}
	switch {
	case !c.Primary().IsValid():
		return problem("The node has no address.", "Give the node an InternalIP.")
	case c.NodeAddress.IsValid() && !c.NodeAddress.Is4(), c.NodeAddress6.IsValid() && !c.NodeAddress6.Is6():
		return problem("The node's addresses are not of the families that they should be.", "Give the node an InternalIP of each family.")
	case len(c.PodCIDRs) == 0 || !routersFit(c):
		return problem("The router's address is not out of the node's pod range.", "Set spec.podCIDR of the node and take the address out of it.")
	case len(c.Devices) == 0:
		return problem("No outward interface is configured.", "Name at least one in `devices`.")
	case c.tunnelProtocol() != TunnelVXLAN && c.tunnelProtocol() != TunnelGeneve:
		return problem(fmt.Sprintf("%q is no tunnel protocol.", c.TunnelProtocol), "Use `vxlan` or `geneve`.")
	case c.Routing != RoutingTunnel && c.Routing != RoutingNative:
		return problem(fmt.Sprintf("%q is no routing mode.", c.Routing), "Use `tunnel` or `native`.")
	case c.BPFFS == "":
		return problem("No bpf file system is configured.", "Mount one at /sys/fs/bpf.")
	case c.KubeProxyReplacement && c.CgroupRoot == "":
		return problem("No cgroup2 directory is configured.", "Mount cgroup2 and name its directory.")
	}
	return nil
}

// routersFit says whether each range of pods has its gateway.
func routersFit(c Config) bool {
	for _, v6 := range []bool{false, true} {
		if p := c.PodCIDR(v6); p.IsValid() != c.router(v6).IsValid() || p.IsValid() && !p.Contains(c.router(v6)) {
			return false
		}
	}
	return true
}

func (k *kernel) pinDirectory() string  { return filepath.Join(k.config.BPFFS, "fairlead") }
func (k *kernel) mapDirectory() string  { return filepath.Join(k.pinDirectory(), "maps") }
func (k *kernel) linkDirectory() string { return filepath.Join(k.pinDirectory(), "links") }

func (k *kernel) open() error {
	for _, d := range []string{k.mapDirectory(), k.linkDirectory()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return &Problem{
				Code: "bpffs.not-mounted", What: "The bpf file system cannot be written.", Why: "Maps and links have to outlive the agent.",
				Fix: "Mount it: mount -t bpf bpf " + k.config.BPFFS, Cause: err,
			}
		}
	}
	devices, err := k.devices()
	if err != nil {
		return err
	}
	k.mtu = k.workOutMTU(devices)
	if err := k.prepareHost(); err != nil {
		return err
	}
	hostLink, err := k.ensureInterfaces()
	if err != nil {
		return err
	}
	k.config.hostIfindex = hostLink.Attrs().Index
	if err := k.chooseBandwidth(devices); err != nil {
		return err
	}
	if err := k.useDevices(devices); err != nil {
		return err
	}
	k.config.xdpPrograms = xdpPrograms(k.xdp)
	if k.config.natLowest, err = lowestTranslation(k.mapDirectory()); err != nil {
		return err
	}
	has := abilitiesOf(k.options.probes, k.options.log)
	k.makeSpec = func() (*spec, error) { return newSpec(k.config, k.modes.tunnelIfindex, k.mtu, has) }
	k.reattach = func() error { return k.attachAll(k.links, k.modes.tunnelIfindex, hostLink) }
	if err := k.loadAll(); err != nil {
		return err
	}
	k.tcx = k.options.probes.Probe("tcx") == nil
	if err := k.restore(); err != nil {
		return err
	}
	if err := k.startMasquerading(devices); err != nil {
		return err
	}
	// Whoever masquerades from now on begins before the other one ends.
	steps := []func() error{k.startNetfilter, k.reattach}
	if k.config.BPFMasquerade {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	// The programs that needed more exemptions are gone.
	if err := k.writeUnmasqueraded(); err != nil {
		return err
	}
	if k.modes.untunnel {
		// Connections of before remember the tunnel; asked again, they forget it.
		if err := k.identitiesChanged(true); err != nil {
			return err
		}
	}
	if err := k.carryTheRest(); err != nil {
		return err
	}
	if err := k.forgetShortcuts(); err != nil {
		return err
	}
	if err := k.removeOtherPins(); err != nil {
		return err
	}
	if err := k.removePrefilterPins(); err != nil {
		return err
	}
	if k.kernelDrops = k.watchKernelDrops(); k.kernelDrops != nil {
		k.options.log.Warn("what the kernel itself drops of pods' packets is not seen", "error", k.kernelDrops)
	}
	return nil
}

// restore reads back what the maps hold.
func (k *kernel) restore() error {
	if err := k.restoreTunnels(); err != nil {
		return err
	}
	if err := k.restoreModes(); err != nil {
		return err
	}
	if err := k.restoreEndpoints(); err != nil {
		return err
	}
	if err := k.restoreRates(); err != nil {
		return err
	}
	if err := k.restoreServices(); err != nil {
		return err
	}
	if err := k.startProxyRoutes(); err != nil {
		return err
	}
	if m := k.objects.maps["refused_first4"]; m != nil {
		if err := forgetFirst(m); err != nil {
			return err
		}
	}
	n, err := k.readLost()
	if err != nil {
		return err
	}
	k.lostBase = n
	return nil
}

func (k *kernel) attachAll(devices []netlink.Link, tunnelIfindex int, hostLink netlink.Link) error {
	var all []attachment
	// Devices first: what pods send past the host's stack is masqueraded there.
	for _, d := range devices {
		all = append(all,
			attachment{program: "from_netdev", device: d.Attrs().Name, ifindex: d.Attrs().Index, ingress: true},
			attachment{program: "to_netdev", device: d.Attrs().Name, ifindex: d.Attrs().Index})
	}
	for _, e := range k.endpoints {
		all = append(all, podAttachments(e)...)
	}
	if tunnelIfindex != 0 {
		all = append(all, attachment{program: "from_overlay", device: k.config.TunnelDevice(), ifindex: tunnelIfindex, ingress: true})
	}
	if tunnelIfindex != 0 || !k.config.EndpointRoutes {
		all = append(all, attachment{program: "from_host", device: hostName, ifindex: hostLink.Attrs().Index})
	}
	if k.config.L7Proxy {
		all = append(all, attachment{program: "to_proxy", device: hostName, ifindex: hostLink.Attrs().Index, ingress: true})
	}
	if k.config.KubeProxyReplacement && !k.config.LoadBalancer.SocketsOff {
		for program, kind := range socketHooks {
			all = append(all, attachment{program: program, cgroup: k.config.CgroupRoot, kind: kind})
		}
	}
	wanted := map[string]bool{kernelDropsPin: true}
	for _, a := range all {
		if err := k.attach(a); err != nil {
			return err
		}
		wanted[filepath.Base(a.pin(k.linkDirectory()))] = true
	}
	if err := k.attachXDP(wanted); err != nil {
		return err
	}
	// Links of devices that are no longer configured or gone.
	entries, err := os.ReadDir(k.linkDirectory())
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			if err := os.Remove(filepath.Join(k.linkDirectory(), e.Name())); err != nil {
				return fmt.Errorf("removing the link %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}

// socketHooks are the programs of sockets.bpf.c and where they go.
var socketHooks = map[string]ebpf.AttachType{
	"connect4": ebpf.AttachCGroupInet4Connect, "sendmsg4": ebpf.AttachCGroupUDP4Sendmsg,
	"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "getpeername4": ebpf.AttachCgroupInet4GetPeername,
	"connect6": ebpf.AttachCGroupInet6Connect, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
	"recvmsg6": ebpf.AttachCGroupUDP6Recvmsg, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"post_bind4": ebpf.AttachCGroupInet4PostBind, "post_bind6": ebpf.AttachCGroupInet6PostBind,
	"sock_release": ebpf.AttachCgroupInetSockRelease,
}

// MTU implements Datapath.
func (k *kernel) MTU() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mtu
}

// Close implements Datapath; closing again is fine.
func (k *kernel) Close() error {
	if k.stop != nil {
		k.stop()
		k.done.Wait()
	}
	k.closeDryRun()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects != nil {
		k.objects.close()
		k.objects = nil
	}
	if err := k.namespace.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("closing the network namespace: %w", err)
	}
	return nil
}

var errClosed = errors.New("the datapath is closed")

// change runs fn under the lock, in the datapath's namespace.
func (k *kernel) change(ctx context.Context, doing string, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil {
		return fmt.Errorf("%s: %w", doing, errClosed)
	}
	err := k.namespace.do(func() (err error) {
		defer func() { err = errors.Join(err, k.forgetShortcuts()) }()
		err = fn()
		// Of a hash and of a trie.
		if !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ENOSPC) {
			return err
		}
		// A map was full. With more room everything is done once more, which changes nothing where it was done before.
		grown, growErr := k.growFull()
		if growErr != nil || !grown {
			return errors.Join(err, growErr)
		}
		return fn()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// read runs fn under the lock.
func (k *kernel) read(doing string, fn func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil {
		return fmt.Errorf("%s: %w", doing, errClosed)
	}
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
