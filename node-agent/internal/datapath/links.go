package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// The node's devices may change while the agent runs: their hardware address, their MTU, a VLAN on them; they may go and come
// back, as another interface of the same name. The kernel says so, and everything that was worked out for them is worked out again.

const (
	// linkRetry is how long after a change that could not be followed it is tried again.
	linkRetry = time.Second
	// linkInterval is how often the devices are looked at without that. Of whether the other end of a virtual cable takes frames
	// from XDP the kernel says nothing.
	linkInterval = 30 * time.Second
)

// watchedLink is what of a device matters to the datapath.
type watchedLink struct {
	name             string
	index, mtu, rx   int
	mac, kind, noXDP string
	transmits        bool
}

// presentDevices are the configured devices that are there, and the names of the others.
func (k *kernel) presentDevices() (present []netlink.Link, absent []string, err error) {
	for _, name := range k.config.Devices {
		l, err := netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			absent = append(absent, name)
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("finding %s: %w", name, err)
		}
		present = append(present, l)
	}
	return present, absent, nil
}

// watch notes what a device is like now; the plans say why it has no XDP.
func watch(plans []xdpPlan) (out []watchedLink) {
	for _, p := range plans {
		a := p.link.Attrs()
		out = append(out, watchedLink{
			name: a.Name, index: a.Index, mtu: a.MTU, rx: a.NumRxQueues, mac: a.HardwareAddr.String(), kind: p.link.Type(), noXDP: p.state.Why,
			transmits: transmits(a.Index),
		})
	}
	return out
}

func indices(watched []watchedLink) (out []int) {
	for _, w := range watched {
		out = append(out, w.index)
	}
	return out
}

// useDevices takes the devices in. They are the ones that are there.
func (k *kernel) useDevices(devices []netlink.Link) error {
	plans, err := planXDP(k.config, devices)
	if err != nil {
		return err
	}
	k.links, k.watched, k.xdp = devices, watch(plans), plans
	return nil
}

// linksChanged makes everything fit the devices as they are now. What is attached to those that stay is replaced in place. The
// caller holds the lock and is in the datapath's namespace.
func (k *kernel) linksChanged() error {
	devices, absent, err := k.presentDevices()
	if err != nil {
		return err
	}
	plans, err := planXDP(k.config, devices)
	if err != nil {
		return err
	}
	now := watch(plans)
	if slices.Equal(now, k.watched) && slices.Equal(absent, k.absent) && !k.linksBehind {
		return nil
	}
	k.options.log.Info("the node's devices changed", "devices", describeLinks(now), "before", describeLinks(k.watched), "missing", absent)
	others := !slices.Equal(indices(now), indices(k.watched))
	mtu := k.mtu
	if len(devices) > 0 {
		mtu = k.workOutMTU(devices)
	}
	again := others || mtu != k.mtu || k.linksBehind
	k.linksBehind = true
	reload := mtu != k.mtu
	if again {
		k.mtu = mtu
		before := k.config.bandwidth
		if err := errors.Join(k.prepareHost(), k.chooseBandwidth(devices), k.useMasqueradingDevices(devices)); err != nil {
			return err
		}
		reload = reload || before != k.config.bandwidth
	}
	k.links, k.watched, k.absent, k.xdp = devices, now, absent, plans
	if k.xdpRefused != "" {
		for i := range k.xdp {
			k.xdp[i].refused(k.xdpRefused)
		}
	} else if needed := xdpPrograms(plans); slices.ContainsFunc(needed, func(name string) bool { return k.objects.programs[name] == nil }) {
		k.config.xdpPrograms = needed
		reload = true
		if err := k.addMaps(); err != nil {
			return err
		}
	}
	if reload {
		err = k.grow(nil)
	} else {
		err = k.reattach()
	}
	if err != nil {
		return err
	}
	if again {
		// Routes go with their device, and have an MTU.
		for _, name := range slices.Sorted(maps.Keys(k.nodes)) {
			for _, p := range k.nodes[name].PodCIDRs {
				err = errors.Join(err, k.routeToNode(k.nodes[name], p))
			}
		}
	}
	k.linksBehind = err != nil
	return err
}

func (m *masquerade) setDevices(devices []netlink.Link) {
	m.devices, m.sources = map[int]string{}, map[int][]netip.Addr{}
	for _, d := range devices {
		m.devices[d.Attrs().Index] = d.Attrs().Name
	}
}

// useMasqueradingDevices is for devices that changed.
func (k *kernel) useMasqueradingDevices(devices []netlink.Link) error {
	k.masquerade.setDevices(devices)
	return k.writeDevices()
}

// addMaps opens maps that no program needed until now.
func (k *kernel) addMaps() error {
	s, err := k.makeSpec()
	if err != nil {
		return err
	}
	for name, m := range s.mapSpecs() {
		if k.objects.maps[name] != nil {
			continue
		}
		opened, err := openMap(m, mapPin(k.mapDirectory(), name))
		if err != nil {
			return fmt.Errorf("opening map %s: %w", name, err)
		}
		k.objects.maps[name], k.objects.configured[name] = opened, m.MaxEntries
	}
	return nil
}

func describeLinks(watched []watchedLink) (out []string) {
	for _, w := range watched {
		out = append(out, fmt.Sprintf("%s (interface %d, %s, MTU %d)", w.name, w.index, w.mac, w.mtu))
	}
	return out
}

// concerns tells whether a change of an interface is about one of the devices, or a VLAN on one.
func (k *kernel) concerns(l netlink.Link) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := l.Attrs()
	return slices.Contains(k.config.Devices, a.Name) || slices.ContainsFunc(k.watched, func(w watchedLink) bool {
		return w.index == a.Index || l.Type() == "vlan" && w.index == a.ParentIndex
	})
}

// followLinks follows the devices until ctx ends.
func (k *kernel) followLinks(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		changes, err := subscribe(k.namespace, func(changes chan<- netlink.LinkUpdate, lost func(error)) error {
			return netlink.LinkSubscribeWithOptions(changes, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: lost})
		})
		for err == nil && ctx.Err() == nil {
			failed := k.change(ctx, "following the node's devices", k.linksChanged)
			again := time.After(linkInterval)
			if failed == nil {
				said = ""
			} else {
				again = time.After(linkRetry)
				if text := failed.Error(); text != said && ctx.Err() == nil {
					said = text
					k.options.log.Warn("the node's devices cannot be followed yet; trying again", "error", failed)
				}
			}
			err = changes.until(ctx, again, func(c netlink.LinkUpdate) bool { return c.Link != nil && k.concerns(c.Link) })
		}
		if ctx.Err() != nil {
			return
		}
		k.options.log.Debug("watching interfaces again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(linkRetry):
		}
	}
}
