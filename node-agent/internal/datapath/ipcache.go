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
	key, value := prefixToKey(e.Prefix), ipcacheValueLayout{Identity: e.Identity, Tunnel: toWire4(e.TunnelEndpoint)}
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
			out = append(out, IPEntry{Prefix: keyToPrefix(key), Identity: value.Identity, TunnelEndpoint: fromWire4(value.Tunnel)})
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
		via = n.Address
		for _, p := range n.PodCIDRs {
			out = append(out, IPEntry{Prefix: p, Identity: identityWorld, TunnelEndpoint: via})
		}
	}
	if n.RouterAddress.IsValid() {
		out = append(out, IPEntry{Prefix: netip.PrefixFrom(n.RouterAddress, n.RouterAddress.BitLen()), Identity: identityRemoteNode, TunnelEndpoint: via})
	}
	return append(out, IPEntry{Prefix: netip.PrefixFrom(n.Address, n.Address.BitLen()), Identity: identityRemoteNode})
}

// UpsertNode implements Datapath.
func (k *kernel) UpsertNode(ctx context.Context, n Node) error {
	return k.change(ctx, "publishing node "+n.Name, func() error {
		if n.Address == k.config.NodeAddress || n.Name == k.config.NodeName {
			return nil
		}
		changed := false
		var failed []error
		if before, ok := k.nodes[n.Name]; ok {
			for _, p := range before.PodCIDRs {
				if before.Address != n.Address || !slices.Contains(n.PodCIDRs, p) {
					changed = true
					failed = append(failed, k.removeNode(before))
					break
				}
			}
		}
		for _, e := range k.nodeEntries(n) {
			did, err := k.putIP(e, ebpf.UpdateNoExist)
			changed = changed || did
			failed = append(failed, err)
		}
		for _, p := range n.PodCIDRs {
			failed = append(failed, k.routeToNode(n, p))
		}
		k.nodes[n.Name] = n
		failed = append(failed, k.updateNodeSet(), k.identitiesChanged(changed))
		return errors.Join(failed...)
	})
}

func (k *kernel) routeToNode(n Node, p netip.Prefix) error {
	if !p.Addr().Is4() {
		return nil
	}
	route := &netlink.Route{Dst: toIPNet(p), Protocol: routeProtocol, MTU: k.mtu}
	switch {
	case k.config.Routing == RoutingTunnel:
		host, err := netlink.LinkByName(hostName)
		if err != nil {
			return fmt.Errorf("finding %s: %w", hostName, err)
		}
		route.LinkIndex, route.Scope, route.Src = host.Attrs().Index, netlink.SCOPE_LINK, net.IP(k.config.RouterAddress.AsSlice())
	case k.config.AutoDirectNodeRoutes:
		hops, err := netlink.RouteGet(net.IP(n.Address.AsSlice()))
		if err != nil || len(hops) == 0 {
			return fmt.Errorf("finding the way to %s: %w", n.Address, err)
		}
		if hops[0].Gw != nil {
			return &Problem{
				Code: "route.not-direct", What: fmt.Sprintf("Node %s is not on the same link as this one.", n.Name),
				Why: "Direct routes to its pods would end at a router that does not know them.",
				Fix: "Use tunnel routing, or turn autoDirectNodeRoutes off and let your routers carry the pods' ranges.",
			}
		}
		route.LinkIndex, route.Gw = hops[0].LinkIndex, net.IP(n.Address.AsSlice())
	default:
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
		failed = append(failed, k.updateNodeSet(), k.identitiesChanged(true))
		return errors.Join(failed...)
	})
}

func (k *kernel) removeNode(n Node) error {
	for _, p := range n.PodCIDRs {
		if p.Addr().Is4() {
			_ = netlink.RouteDel(&netlink.Route{Dst: toIPNet(p), Protocol: routeProtocol})
		}
	}
	var failed []error
	for _, e := range k.nodeEntries(n) {
		if err := ignoreMissing(k.objects.maps["ipcache"].Delete(prefixToKey(e.Prefix))); err != nil {
			failed = append(failed, fmt.Errorf("forgetting %s: %w", e.Prefix, err))
		}
	}
	return errors.Join(failed...)
}
