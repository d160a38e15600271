package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath/netfilter"
)

// defaultNATFirst is the port after the default range of node ports.
const defaultNATFirst = 32768

// natFirst is the first port that translated flows get.
func (c Config) natFirst() uint16 {
	return cmp.Or(c.NATFirst, cmp.Or(c.LoadBalancer.NodePortMax, defaultNATFirst-1)+1)
}

// Masquerading is how traffic that leaves the cluster is translated.
type Masquerading struct {
	// Mode is "BPF", "nftables" or "off".
	Mode string
	// Sources are the addresses that packets leaving by a device get, by the device's name.
	Sources map[string][]netip.Addr
	// FirstPort of those that are given to flows, up to 65535; of BPF only.
	FirstPort uint16
	// Rules is how many destinations the operator exempted.
	Rules int
	// Netfilter is how the tables are that nftables and iptables hold.
	Netfilter netfilter.State
	// Err is why something is not as it should be.
	Err error
}

// masquerade is the part of kernel that this file is about; kernel.mu guards it.
type masquerade struct {
	keeper *netfilter.Keeper
	// devices by index, and the addresses last written for each.
	devices map[int]string
	sources map[int][]netip.Addr
	// nodes are reached with pods' own addresses in native mode; rules are the operator's.
	nodes map[netip.Addr]struct{}
	rules []netip.Prefix
	err   error
}

func masqueradeBits(c Config) (bits uint32) {
	if c.BPFMasquerade && c.Masquerade {
		bits |= masqueradeV4
	}
	if c.BPFMasquerade && c.Masquerade6 {
		bits |= masqueradeV6
	}
	return bits
}

// startNetfilter makes the tables of nftables and iptables as the configuration wants them.
func (k *kernel) startNetfilter() error {
	k.masquerade.keeper = netfilter.NewKeeper(func() (*nftables.Conn, error) { return connectNetfilter(k.namespace) }, netfilter.Journal(k.options.journal), k.options.log)
	k.masquerade.keeper.Legacy = func() (out []string) {
		if err := k.namespace.do(func() error { out = netfilter.LegacyForwardDrops(); return nil }); err != nil {
			k.options.log.Debug("the tables of iptables-legacy were not looked at", "error", err)
		}
		return out
	}
	err := k.masquerade.keeper.Set(k.netfilterSpec())
	if errors.Is(err, netfilter.ErrNotRecorded) {
		return err
	}
	if err != nil {
		return &Problem{
			Code: "nftables.failed", What: "The packet filter's rules cannot be written.", Why: "Masquerading, or exempting pods' packets from tracking, needs them, and the kernel's nftables refused.",
			Fix: "Load the modules nf_tables, nft_masq, nf_nat and xt_CT; or set bpf.masquerade: true and installNoConntrackIptablesRules: false.", Cause: err,
		}
	}
	return nil
}

func connectNetfilter(ns *namespace) (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(ns.file.Fd())))
}

func (k *kernel) netfilterSpec() netfilter.Spec {
	c := k.config
	s := netfilter.Spec{
		PodCIDRs: c.PodCIDRs, Devices: c.Devices, NoTrack: c.NoConntrack, Forward: true, KeepConnections: c.BPFMasquerade,
		Masquerade: c.Masquerade && !c.BPFMasquerade, Masquerade6: c.Masquerade6 && !c.BPFMasquerade,
		Nodes: k.directNodes(), Unmasqueraded: k.exempted(),
	}
	if c.L7Proxy {
		s.Proxies = &netfilter.Marks{Mask: markMask, FromEgressProxy: MarkFromEgressProxy, ToProxy: markToProxy}
	}
	for _, p := range []netip.Prefix{c.NativeRoutingCIDR, c.NativeRoutingCIDR6} {
		if p.IsValid() {
			s.NativeCIDRs = append(s.NativeCIDRs, p)
		}
	}
	return s
}

// directNodes are the nodes' addresses that pods reach as they are, this node's included; sorted. In tunnel mode other
// nodes' addresses are masqueraded, since the wire has no route back to a pod.
func (k *kernel) directNodes() []netip.Addr {
	if k.config.Routing != RoutingNative {
		return nil
	}
	var out []netip.Addr
	for _, a := range []netip.Addr{k.config.NodeAddress, k.config.NodeAddress6} {
		if a.IsValid() {
			out = append(out, a.Unmap())
		}
	}
	for a := range k.masquerade.nodes {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// startMasquerading fills the maps that to_netdev reads, before it is attached.
func (k *kernel) startMasquerading(devices []netlink.Link) error {
	m := &k.masquerade
	m.nodes = map[netip.Addr]struct{}{}
	m.setDevices(devices)
	// What an earlier run knew stays until this one knows better.
	var key ipcacheKeyLayout
	var flags uint32
	all := k.objects.maps["unmasqueraded"].Iterate()
	for all.Next(&key, &flags) {
		p := keyToPrefix(key)
		if flags&unmasqueradedNode != 0 && p.IsSingleIP() && k.config.Routing == RoutingNative {
			m.nodes[p.Addr()] = struct{}{}
		}
		if flags&unmasqueradedRule != 0 {
			m.rules = append(m.rules, p)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the destinations that are not masqueraded: %w", err)
	}
	sortPrefixes(m.rules)
	// Nothing is taken away yet: the programs of before are still there, and in another routing mode they need other exemptions.
	// One that is missed masquerades an open connection for good, and the other pod resets what it does not know.
	_, err := k.exemptWanted()
	return errors.Join(err, k.writeDevices())
}

func sortPrefixes(p []netip.Prefix) {
	slices.SortFunc(p, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
}

// writeUnmasqueraded makes the map equal to what is known.
func (k *kernel) writeUnmasqueraded() error {
	gone, err := k.exemptWanted()
	// Also where something could not be added: what goes makes room for it.
	failed := []error{err}
	for _, key := range gone {
		if err := ignoreMissing(k.objects.maps["unmasqueraded"].Delete(key)); err != nil {
			failed = append(failed, fmt.Errorf("masquerading towards %s again: %w", keyToPrefix(key), err))
		}
	}
	return errors.Join(failed...)
}

// exemptWanted adds what is missing in the map, and gives what is in it without being wanted.
func (k *kernel) exemptWanted() (gone []ipcacheKeyLayout, err error) {
	want := map[ipcacheKeyLayout]uint32{}
	for a := range k.masquerade.nodes {
		want[prefixToKey(netip.PrefixFrom(a, a.BitLen()))] |= unmasqueradedNode
	}
	for _, p := range k.masquerade.rules {
		want[prefixToKey(p)] |= unmasqueradedRule
	}
	for p := range k.modes.ranges {
		want[prefixToKey(p)] |= unmasqueradedNode
	}
	m := k.objects.maps["unmasqueraded"]
	var key ipcacheKeyLayout
	var flags uint32
	all := m.Iterate()
	for all.Next(&key, &flags) {
		switch value, ok := want[key]; {
		case !ok:
			gone = append(gone, key)
		case value == flags:
			delete(want, key)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("reading the destinations that are not masqueraded: %w", err)
	}
	var failed []error
	for key, flags := range want {
		if err := m.Update(key, flags, ebpf.UpdateAny); err != nil {
			failed = append(failed, fmt.Errorf("exempting %s from masquerading: %w", keyToPrefix(key), err))
		}
	}
	return gone, errors.Join(failed...)
}

// nodeReached notes that pods reach a node's addresses with their own, or that it is gone.
func (k *kernel) nodeReached(n Node, there bool) error {
	changed := false
	for _, a := range []netip.Addr{n.Address.Unmap(), n.Address6} {
		if _, known := k.masquerade.nodes[a]; k.config.Routing != RoutingNative || known == there || !a.IsValid() {
			continue
		}
		if changed = true; there {
			k.masquerade.nodes[a] = struct{}{}
		} else {
			delete(k.masquerade.nodes, a)
		}
	}
	if !changed {
		return nil
	}
	return errors.Join(k.writeUnmasqueraded(), k.masquerade.keeper.SetNodes(k.directNodes()))
}

// addressesLeft has packets to addresses that a node no longer has masqueraded as those to anybody.
func (k *kernel) addressesLeft(before, now Node) error {
	if before.Address == now.Address {
		before.Address = netip.Addr{}
	}
	if before.Address6 == now.Address6 {
		before.Address6 = netip.Addr{}
	}
	return k.nodeReached(before, false)
}

// SetUnmasqueraded implements Datapath.
func (k *kernel) SetUnmasqueraded(ctx context.Context, prefixes []netip.Prefix) error {
	return k.change(ctx, "exempting destinations from masquerading", func() error {
		rules := slices.Clone(prefixes)
		sortPrefixes(rules)
		k.masquerade.rules = slices.Compact(rules)
		return errors.Join(k.writeUnmasqueraded(), k.masquerade.keeper.SetUnmasqueraded(k.exempted()))
	})
}

// writeDevices has packets get the addresses that the devices have now.
func (k *kernel) writeDevices() error {
	m := k.objects.maps["devices"]
	var failed []error
	for index := range k.masquerade.devices {
		sources, err := k.sourcesOf(index)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		var value deviceLayout
		for _, a := range sources {
			if a.Is4() {
				value.Address = toWire(a)
			} else {
				value.Address6 = toWire(a)
			}
		}
		if err := m.Put(uint32(index), value); err != nil {
			failed = append(failed, fmt.Errorf("writing the addresses of %s: %w", k.masquerade.devices[index], err))
			continue
		}
		k.masquerade.sources[index] = sources
	}
	var index uint32
	var value deviceLayout
	var gone []uint32
	all := m.Iterate()
	for all.Next(&index, &value) {
		if _, ok := k.masquerade.devices[int(index)]; !ok {
			gone = append(gone, index)
		}
	}
	for _, index := range gone {
		failed = append(failed, ignoreMissing(m.Delete(index)))
	}
	return errors.Join(append(failed, all.Err())...)
}

// sourcesOf chooses one address per family: the node's own where the device has it, else the first that others can
// answer to.
func (k *kernel) sourcesOf(index int) ([]netip.Addr, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", k.masquerade.devices[index], err)
	}
	var out []netip.Addr
	for _, f := range []struct {
		family int
		node   netip.Addr
	}{{unix.AF_INET, k.config.NodeAddress}, {unix.AF_INET6, k.config.NodeAddress6}} {
		list, err := netlink.AddrList(link, f.family)
		if err != nil {
			return nil, fmt.Errorf("listing addresses of %s: %w", link.Attrs().Name, err)
		}
		var chosen netip.Addr
		for _, x := range list {
			a, ok := netip.AddrFromSlice(x.IP)
			a = a.Unmap()
			if !ok || x.Scope != unix.RT_SCOPE_UNIVERSE || x.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED|unix.IFA_F_TEMPORARY) != 0 && a.Is6() {
				continue
			}
			if a == f.node.Unmap() {
				chosen = a
				break
			}
			if !chosen.IsValid() {
				chosen = a
			}
		}
		if chosen.IsValid() {
			out = append(out, chosen)
		}
	}
	return out, nil
}

// keepMasquerading follows the devices' addresses and what others do to our rules, until ctx ends.
func (k *kernel) keepMasquerading(ctx context.Context) {
	k.done.Add(2)
	go func() {
		defer k.done.Done()
		k.masquerade.keeper.Run(ctx)
	}()
	go func() {
		defer k.done.Done()
		k.followAddresses(ctx)
	}()
}

// followAddresses writes the devices' addresses whenever one of them changes.
func (k *kernel) followAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		changes, err := subscribe(k.namespace, func(changes chan<- netlink.AddrUpdate, lost func(error)) error {
			return netlink.AddrSubscribeWithOptions(changes, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: lost})
		})
		if err != nil {
			k.options.log.Warn("changes of the devices' addresses cannot be watched; trying again", "error", err)
		} else {
			k.addressesChanged(0)
			err = changes.until(ctx, nil, func(c netlink.AddrUpdate) bool {
				k.addressesChanged(c.LinkIndex)
				return false
			})
		}
		if ctx.Err() != nil {
			return
		}
		k.options.log.Debug("watching addresses again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// addressesChanged is about an interface, which may be none of the devices; 0 is all of them.
func (k *kernel) addressesChanged(index int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ours := k.masquerade.devices[index]; k.objects == nil || index != 0 && !ours {
		return
	}
	if k.masquerade.err = k.namespace.do(k.writeDevices); k.masquerade.err != nil {
		k.options.log.Warn("the devices' addresses could not be followed", "error", k.masquerade.err)
	}
}

// Masquerading implements Datapath.
func (k *kernel) Masquerading() Masquerading {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := &k.masquerade
	out := Masquerading{Mode: "off", Sources: map[string][]netip.Addr{}, Rules: len(m.rules), Netfilter: m.keeper.State(), Err: m.err}
	if k.config.Masquerade || k.config.Masquerade6 {
		out.Mode = "nftables"
		if k.config.BPFMasquerade {
			out.Mode, out.FirstPort = "BPF", k.config.natFirst()
		}
	}
	for index, name := range m.devices {
		out.Sources[name] = slices.Clone(m.sources[index])
	}
	return out
}

func removeRules(ns *namespace) error {
	c, err := connectNetfilter(ns)
	if err != nil {
		return fmt.Errorf("talking to nftables: %w", err)
	}
	return netfilter.Remove(c)
}
