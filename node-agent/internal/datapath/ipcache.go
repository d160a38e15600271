package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// UpsertIP implements Datapath.
func (k *kernel) UpsertIP(ctx context.Context, entries ...IPEntry) error {
	return k.change(ctx, "publishing addresses", func() error {
		changed := false
		var failed []error
		for _, e := range entries {
			did, err := k.putIP(e, ebpf.UpdateAny)
			changed = changed || did
			failed = append(failed, err)
		}
		return errors.Join(append(failed, k.identitiesChanged(changed))...)
	})
}

// identitiesChanged has connections ask again who their peer is.
func (k *kernel) identitiesChanged(changed bool) error {
	if !changed {
		return nil
	}
	return k.judgeAgain(slices.Collect(maps.Keys(k.endpoints))...)
}

func (k *kernel) putIP(e IPEntry, how ebpf.MapUpdateFlags) (changed bool, err error) {
	tunnel, err := k.tunnelValue(e.TunnelEndpoint)
	if err != nil {
		return false, err
	}
	key, value := prefixToKey(e.Prefix), ipcacheValueLayout{Identity: e.Identity, Tunnel: tunnel}
	var before ipcacheValueLayout
	// A lookup gives the longest match, which may be another line: equal values then are no proof, so it is written.
	same := k.objects.maps["ipcache"].Lookup(key, &before) == nil && before == value
	if err := k.objects.maps["ipcache"].Update(key, value, how); err != nil {
		if how == ebpf.UpdateNoExist && errors.Is(err, ebpf.ErrKeyExist) {
			return false, nil
		}
		return false, fmt.Errorf("publishing %s: %w", e.Prefix, err)
	}
	return !same, nil
}

// DeleteIP implements Datapath.
func (k *kernel) DeleteIP(ctx context.Context, prefixes ...netip.Prefix) error {
	return k.change(ctx, "forgetting addresses", func() error {
		var failed []error
		for _, p := range prefixes {
			if err := ignoreMissing(k.objects.maps["ipcache"].Delete(prefixToKey(p))); err != nil {
				failed = append(failed, fmt.Errorf("forgetting %s: %w", p, err))
			}
		}
		return errors.Join(append(failed, k.identitiesChanged(len(prefixes) > 0))...)
	})
}

// IPs implements Datapath.
func (k *kernel) IPs() ([]IPEntry, error) {
	var out []IPEntry
	err := k.read("listing addresses", func() error {
		var key ipcacheKeyLayout
		var value ipcacheValueLayout
		all := k.objects.maps["ipcache"].Iterate()
		for all.Next(&key, &value) {
			out = append(out, IPEntry{Prefix: keyToPrefix(key), Identity: value.Identity, TunnelEndpoint: k.tunnelAddress(value.Tunnel)})
		}
		return all.Err()
	})
	return out, err
}

const (
	identityWorld      = 2
	identityRemoteNode = 6
)

// nodeEntries are what makes a node reachable before its pods are known one by one. What the agent publishes of the same
// prefix wins.
func (k *kernel) nodeEntries(n Node) []IPEntry {
	var out []IPEntry
	var via netip.Addr
	if k.config.Routing == RoutingTunnel {
		via = k.underlay(n)
		for _, p := range n.PodCIDRs {
			out = append(out, IPEntry{Prefix: p, Identity: identityWorld, TunnelEndpoint: via})
		}
	}
	for _, a := range n.Addresses() {
		e := IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: identityRemoteNode}
		if a == n.RouterAddress || a == n.RouterAddress6 {
			e.TunnelEndpoint = via
		}
		out = append(out, e)
	}
	return out
}

// underlay is the address by which packets to the node's pods travel.
func (k *kernel) underlay(n Node) netip.Addr {
	if k.config.underlay6() {
		return n.Address6
	}
	return n.Address
}

// UpsertNode implements Datapath.
func (k *kernel) UpsertNode(ctx context.Context, n Node) error {
	return k.change(ctx, "publishing node "+n.Name, func() error {
		if n.Name == k.config.NodeName || k.underlay(n) == k.config.Primary() {
			return nil
		}
		if !k.underlay(n).IsValid() {
			return &Problem{
				Code: "node.no-address", What: fmt.Sprintf("Node %s has no address of the family by which nodes reach each other.", n.Name),
				Why: fmt.Sprintf("This node's is %s.", k.config.Primary()), Fix: "Give all nodes an InternalIP of the same family.",
			}
		}
		changed := false
		var failed []error
		before, ok := k.nodes[n.Name]
		moved := ok && (!slices.Equal(before.Addresses(), n.Addresses()) ||
			slices.ContainsFunc(before.PodCIDRs, func(p netip.Prefix) bool { return !slices.Contains(n.PodCIDRs, p) }))
		if moved {
			changed = true
			failed = append(failed, k.removeNode(before))
		}
		route := func() {
			for _, p := range n.PodCIDRs {
				failed = append(failed, k.routeToNode(n, p))
			}
		}
		// What the programs send as it is follows the routing table, which has to lead to the node by then: as long as it leads into
		// the tunnel's device, from_host finds that there is no tunnel to the node and drops it. What they send by the tunnel does
		// not ask the table.
		if k.sendsPlain(n) {
			route()
		}
		did, err := k.followMode(n)
		changed, failed = changed || did, append(failed, err)
		for _, e := range k.nodeEntries(n) {
			did, err := k.putIP(e, ebpf.UpdateNoExist)
			changed = changed || did
			failed = append(failed, err)
		}
		if !k.sendsPlain(n) {
			route()
		}
		k.nodes[n.Name] = n
		if moved {
			failed = append(failed, k.forgetMode(before), k.addressesLeft(before, n))
		}
		failed = append(failed, k.nodeReached(n, true), k.identitiesChanged(changed))
		return errors.Join(failed...)
	})
}

func (k *kernel) routeToNode(n Node, p netip.Prefix) error {
	v6 := p.Addr().Is6()
	if !k.config.PodCIDR(v6).IsValid() {
		return nil
	}
	route := &netlink.Route{Dst: toIPNet(p), Protocol: routeProtocol, MTU: k.mtu}
	switch {
	case k.sendsPlain(n):
		return k.routeAsIs(n, route, v6)
	case k.tunnels(n):
		host, err := netlink.LinkByName(hostName)
		if err != nil {
			return fmt.Errorf("finding %s: %w", hostName, err)
		}
		route.LinkIndex, route.Scope, route.Src = host.Attrs().Index, netlink.SCOPE_LINK, net.IP(k.config.router(v6).AsSlice())
	case k.config.AutoDirectNodeRoutes:
		via := n.Address
		if v6 {
			via = n.Address6
		}
		if !via.IsValid() {
			return &Problem{
				Code: "route.no-address", What: fmt.Sprintf("Node %s has no address of the family of its pods' range %s.", n.Name, p),
				Why: "A direct route needs a next hop of the same family.", Fix: "Give the node an InternalIP of that family, or use tunnel routing.",
			}
		}
		hops, err := netlink.RouteGet(net.IP(via.AsSlice()))
		if err != nil || len(hops) == 0 {
			return fmt.Errorf("finding the way to %s: %w", via, err)
		}
		if hops[0].Gw != nil {
			return &Problem{
				Code: "route.not-direct", What: fmt.Sprintf("Node %s is not on the same link as this one.", n.Name),
				Why: "Direct routes to its pods would end at a router that does not know them.",
				Fix: "Use tunnel routing, or turn autoDirectNodeRoutes off and let your routers carry the pods' ranges.",
			}
		}
		route.LinkIndex, route.Gw = hops[0].LinkIndex, net.IP(via.AsSlice())
	default:
		// One into the tunnel may be left from when this node had one.
		_ = netlink.RouteDel(&netlink.Route{Dst: toIPNet(p), Protocol: routeProtocol})
		return nil
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("routing %s to node %s: %w", p, n.Name, err)
	}
	return nil
}

// DeleteNode implements Datapath.
func (k *kernel) DeleteNode(ctx context.Context, n Node) error {
	return k.change(ctx, "forgetting node "+n.Name, func() error {
		if before, ok := k.nodes[n.Name]; ok {
			n = before
		}
		failed := []error{k.removeNode(n)}
		delete(k.nodes, n.Name)
		failed = append(failed, k.forgetMode(n), k.nodeReached(n, false), k.identitiesChanged(true))
		return errors.Join(failed...)
	})
}

func (k *kernel) removeNode(n Node) error {
	for _, p := range n.PodCIDRs {
		_ = netlink.RouteDel(&netlink.Route{Dst: toIPNet(p), Protocol: routeProtocol})
	}
	var failed []error
	for _, e := range k.nodeEntries(n) {
		if err := ignoreMissing(k.objects.maps["ipcache"].Delete(prefixToKey(e.Prefix))); err != nil {
			failed = append(failed, fmt.Errorf("forgetting %s: %w", e.Prefix, err))
		}
	}
	return errors.Join(failed...)
}
