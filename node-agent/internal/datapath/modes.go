package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// A cluster changes its routing mode node by node. Meanwhile each node says what it does (Node.Routing), and the others go by
// that:
//
//	this node	the other	to its pods	from its pods
//	tunnel		tunnel		tunnel		tunnel
//	tunnel		to-native	tunnel		tunnel, or as they are
//	tunnel		native		as they are	tunnel, or as they are
//	native		any		as they are	tunnel while the tunnel's device is kept, or as they are
//
// A node that stopped sending packets as they are is believed to go on with that for modeGrace.

// RoutingToNative is what a node says that is about to leave the tunnel.
const RoutingToNative RoutingMode = "to-native"

// modeGrace is how long after a change the form of before is taken.
const modeGrace = time.Minute

// PLAIN_* of bpf/lib/types.h.
const (
	plainSend   = 1 << 0
	plainAccept = 1 << 1
)

// thisNode is where a node without tunnel notes that it has none, for its next start.
var thisNode [4]byte

// modes is what a node knows of the others' routing.
type modes struct {
	// untunnel: packets are taken out of the tunnel though none are sent into it.
	untunnel bool
	// fresh: this node sends by a tunnel now, and did not until now.
	fresh         bool
	tunnelIfindex int
	// ranges of pods that are reached as they are, from a node of tunnel routing: zero, or when one that is no longer reached so
	// stops being exempted from masquerading. The time is the range's, not a node's: where a node that went leaves its range to
	// another within the grace, followMode has it exempted for as long as that one has no tunnel. Where that one has a tunnel, the
	// grace runs out as it would have: what is sent to it by the tunnel leaves with nodes' addresses, which no exemption is about.
	ranges map[netip.Prefix]time.Time
	// until is when nodes, by their value in the ipcache, are no longer believed to send packets as they are.
	until map[[4]byte]time.Time
	// changed is when a node's mode, or this one's, changed for the last time.
	changed time.Time
}

// sendsPlain tells whether the other node's pods are reached as they are, from a node of tunnel routing.
func (k *kernel) sendsPlain(n Node) bool {
	return k.config.Routing == RoutingTunnel && n.Routing == RoutingNative
}

// tunnels tells whether the other node's pods are reached by the tunnel.
func (k *kernel) tunnels(n Node) bool { return k.config.Routing == RoutingTunnel && !k.sendsPlain(n) }

func (k *kernel) plainFlags(key [4]byte) (flags uint32, err error) {
	if err := ignoreMissing(k.objects.maps["plain_nodes"].Lookup(key, &flags)); err != nil {
		return 0, fmt.Errorf("reading how a node sends: %w", err)
	}
	return flags, nil
}

func (k *kernel) setPlain(key [4]byte, flags uint32) error {
	m := k.objects.maps["plain_nodes"]
	if flags == 0 {
		delete(k.modes.until, key)
		return ignoreMissing(m.Delete(key))
	}
	if err := m.Update(key, flags, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("noting how a node sends: %w", err)
	}
	return nil
}

// followMode writes how the node is treated; true: packets to its pods take another way than before.
func (k *kernel) followMode(n Node) (changed bool, err error) {
	if before := k.nodes[n.Name]; before.Routing != n.Routing {
		k.modes.changed = time.Now()
	}
	if k.config.Routing != RoutingTunnel {
		return false, nil
	}
	key, err := k.tunnelValue(k.underlay(n))
	if err != nil {
		return false, err
	}
	before, err := k.plainFlags(key)
	if err != nil {
		return false, err
	}
	delete(k.modes.until, key)
	flags := uint32(0)
	switch {
	case n.Routing == RoutingNative:
		flags = plainSend | plainAccept
	case n.Routing == RoutingToNative:
		flags = plainAccept
	case before != 0:
		flags = plainAccept
		k.modes.until[key] = time.Now().Add(modeGrace)
	}
	added := false
	for _, p := range n.PodCIDRs {
		if flags&plainSend == 0 {
			k.endRange(p)
			continue
		}
		_, known := k.modes.ranges[p.Masked()]
		added = added || !known
		k.modes.ranges[p.Masked()] = time.Time{}
	}
	changed = before&plainSend != flags&plainSend
	if !changed && !added {
		return false, k.setPlain(key, flags)
	}
	if !changed {
		return false, errors.Join(k.exemptRanges(), k.setPlain(key, flags))
	}
	k.options.log.Info("packets to a node's pods take another way", "node", n.Name, "its routing", n.Routing, "by the tunnel", flags&plainSend == 0)
	// What is sent as it is must not be masqueraded: the exemption comes first, and goes with the time of grace (settleModes), since
	// packets may be on their way to the device, or wait for its neighbour, that from_pod saw before.
	if flags&plainSend != 0 {
		return true, errors.Join(k.exemptRanges(), k.setPlain(key, flags))
	}
	return true, errors.Join(k.setPlain(key, flags), k.identitiesChanged(true))
}

// endRange has a range exempted for the time of grace and no longer; one whose time runs already keeps it.
func (k *kernel) endRange(p netip.Prefix) {
	if until, known := k.modes.ranges[p.Masked()]; known && until.IsZero() {
		k.modes.ranges[p.Masked()] = time.Now().Add(modeGrace)
	}
}

// forgetMode is for a node that went, or for what it was before its address or ranges changed: nodes says what is there now, and
// what one of them has is left alone. Open connections are asked again only after this (identitiesChanged), and what from_pod
// left to the wire before is not at the device yet. So its ranges stay exempted for the time of grace (settleModes).
func (k *kernel) forgetMode(n Node) error {
	if k.config.Routing != RoutingTunnel {
		return nil
	}
	taken, kept := false, map[netip.Prefix]struct{}{}
	for _, other := range k.nodes {
		taken = taken || k.underlay(other) == k.underlay(n)
		for _, p := range other.PodCIDRs {
			if k.sendsPlain(other) {
				kept[p.Masked()] = struct{}{}
			}
		}
	}
	for _, p := range n.PodCIDRs {
		if _, ok := kept[p.Masked()]; !ok {
			k.endRange(p)
		}
	}
	if taken {
		return nil
	}
	key, err := k.tunnelValue(k.underlay(n))
	if err != nil {
		return err
	}
	return k.setPlain(key, 0)
}

// exemptRanges has pods reach the pods of nodes without tunnel with their own addresses.
func (k *kernel) exemptRanges() error {
	return errors.Join(k.writeUnmasqueraded(), k.masquerade.keeper.SetUnmasqueraded(k.exempted()))
}

// exempted are ranges that are not masqueraded, sorted: the operator's, and those of nodes that have no tunnel, or had none.
func (k *kernel) exempted() []netip.Prefix {
	out := append(slices.Clone(k.masquerade.rules), slices.Collect(maps.Keys(k.modes.ranges))...)
	sortPrefixes(out)
	return slices.Compact(out)
}

// restoreModes takes over what an earlier run knew. Where this node had no tunnel until now, nobody else has: they are
// reached as before until they say otherwise.
func (k *kernel) restoreModes() error {
	m := &k.modes
	m.ranges, m.until, m.changed = map[netip.Prefix]time.Time{}, map[[4]byte]time.Time{}, time.Now()
	if k.config.Routing != RoutingTunnel {
		return k.setPlain(thisNode, plainSend)
	}
	own, err := k.plainFlags(thisNode)
	if err != nil {
		return err
	}
	m.fresh = m.fresh || own != 0
	now := time.Now()
	plain := map[[4]byte]uint32{}
	var node [4]byte
	var flags uint32
	all := k.objects.maps["plain_nodes"].Iterate()
	for all.Next(&node, &flags) {
		if node == thisNode {
			continue
		}
		plain[node] = flags
		if flags == plainAccept {
			m.until[node] = now.Add(modeGrace)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading how nodes send: %w", err)
	}
	var key ipcacheKeyLayout
	var value ipcacheValueLayout
	all = k.objects.maps["ipcache"].Iterate()
	for all.Next(&key, &value) {
		if value.Tunnel == ([4]byte{}) || value.Tunnel == toWire4(k.config.NodeAddress) {
			continue
		}
		if m.fresh && plain[value.Tunnel] != plainSend|plainAccept {
			plain[value.Tunnel] = plainSend | plainAccept
			delete(m.until, value.Tunnel)
			if err := k.setPlain(value.Tunnel, plainSend|plainAccept); err != nil {
				return err
			}
		}
		if p := keyToPrefix(key); plain[value.Tunnel]&plainSend != 0 && !p.IsSingleIP() {
			m.ranges[p.Masked()] = time.Time{}
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the addresses of before: %w", err)
	}
	if err := k.restoreGrace(now); err != nil {
		return err
	}
	return k.setPlain(thisNode, 0)
}

// restoreGrace is for ranges that an earlier run exempted and that no node without tunnel has: their grace begins again. Single
// addresses are nodes', which native routing exempted.
func (k *kernel) restoreGrace(now time.Time) error {
	var key ipcacheKeyLayout
	var flags uint32
	all := k.objects.maps["unmasqueraded"].Iterate()
	for all.Next(&key, &flags) {
		p := keyToPrefix(key).Masked()
		if _, known := k.modes.ranges[p]; !known && flags&unmasqueradedNode != 0 && !p.IsSingleIP() {
			k.modes.ranges[p] = now.Add(modeGrace)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the destinations that are not masqueraded: %w", err)
	}
	return nil
}

// settleModes ends what was kept for a change of modes once it is over.
func (k *kernel) settleModes(now time.Time) error {
	var failed []error
	for key, until := range k.modes.until {
		if now.After(until) {
			failed = append(failed, k.setPlain(key, 0))
		}
	}
	known := len(k.modes.ranges)
	maps.DeleteFunc(k.modes.ranges, func(_ netip.Prefix, until time.Time) bool { return !until.IsZero() && now.After(until) })
	if len(k.modes.ranges) != known {
		failed = append(failed, k.exemptRanges())
	}
	over := k.modes.untunnel && now.Sub(k.modes.changed) > modeGrace
	for _, n := range k.nodes {
		over = over && n.Routing != RoutingTunnel && n.Routing != RoutingToNative
	}
	if over {
		failed = append(failed, k.leaveTunnel())
	}
	return errors.Join(failed...)
}

// leaveTunnel takes the device of the tunnel away that was kept for nodes which still sent by it.
func (k *kernel) leaveTunnel() error {
	index := k.modes.tunnelIfindex
	k.modes.untunnel, k.modes.tunnelIfindex, k.config.untunnel = false, 0, false
	if err := k.grow(nil); err != nil {
		k.modes.untunnel, k.modes.tunnelIfindex, k.config.untunnel = true, index, true
		return fmt.Errorf("loading the programs without a tunnel: %w", err)
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("removing %s: %w", l.Attrs().Name, err)
	}
	k.options.log.Info("no node sends by the tunnel any more; its device is gone", "device", l.Attrs().Name)
	return nil
}

// routeAsIs is the way of the node itself to the pods of a node without tunnel: straight where both are on one link, else
// whatever the network does.
func (k *kernel) routeAsIs(n Node, route *netlink.Route, v6 bool) error {
	via := n.Address
	if v6 {
		via = n.Address6
	}
	if via.IsValid() {
		if hops, err := netlink.RouteGet(net.IP(via.AsSlice())); err == nil && len(hops) > 0 && hops[0].Gw == nil {
			route.LinkIndex, route.Gw = hops[0].LinkIndex, net.IP(via.AsSlice())
			return netlink.RouteReplace(route)
		}
	}
	// The one into the tunnel has to go.
	_ = netlink.RouteDel(&netlink.Route{Dst: route.Dst, Protocol: routeProtocol})
	return nil
}
