package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func podAttachments(e Endpoint) []attachment {
	return []attachment{
		{program: "from_pod", device: e.Interface, ifindex: e.InterfaceIndex, ingress: true},
		{program: "to_pod", device: e.Interface, ifindex: e.InterfaceIndex},
	}
}

// restoreEndpoints reads the endpoints of an earlier run and forgets those whose interface is gone.
func (k *kernel) restoreEndpoints() error {
	var address wireAddress
	var value endpointLayout
	found := map[EndpointID]Endpoint{}
	all := k.objects.maps["endpoints"].Iterate()
	for all.Next(&address, &value) {
		k.revision = max(k.revision, value.Revision)
		if address == hostKey {
			continue
		}
		e, ok := found[EndpointID(value.ID)]
		if !ok {
			e = endpointFromLayout(value)
		}
		e.Addresses = append(e.Addresses, fromWire(address))
		found[e.ID] = e
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading endpoints: %w", err)
	}
	if err := k.restoreHost(); err != nil {
		return err
	}
	for id, e := range found {
		l, err := netlink.LinkByIndex(e.InterfaceIndex)
		k.endpoints[id] = e
		if err != nil || [6]byte(macOf(l)) != e.HostMAC {
			k.options.log.Warn("the interface of an endpoint is gone", "endpoint", id, "addresses", e.Addresses)
			if err := k.forget(e); err != nil {
				return err
			}
			continue
		}
		e.Interface = l.Attrs().Name
		k.endpoints[id] = e
	}
	return nil
}

func macOf(l netlink.Link) []byte {
	if mac := l.Attrs().HardwareAddr; len(mac) == 6 {
		return mac
	}
	return make([]byte, 6)
}

// UpsertEndpoint implements Datapath.
func (k *kernel) UpsertEndpoint(ctx context.Context, e Endpoint) error {
	return k.change(ctx, fmt.Sprintf("publishing endpoint %d", e.ID), func() error {
		if e.ID == 0 || len(e.Addresses) == 0 || e.Interface == "" {
			return fmt.Errorf("it needs an id, an interface and an address")
		}
		l, err := netlink.LinkByName(e.Interface)
		if err != nil {
			return fmt.Errorf("finding %s: %w", e.Interface, err)
		}
		e.InterfaceIndex = l.Attrs().Index
		e.Addresses = slices.Clone(e.Addresses)
		before, known := k.endpoints[e.ID]
		if known && before.InterfaceIndex != e.InterfaceIndex {
			for _, a := range podAttachments(before) {
				if err := k.detach(a); err != nil {
					return err
				}
			}
			if err := ignoreMissing(k.objects.maps["interfaces"].Delete(uint32(before.InterfaceIndex))); err != nil {
				return fmt.Errorf("forgetting the former interface: %w", err)
			}
		}
		k.endpoints[e.ID] = e
		undo := func(err error) error {
			if known {
				k.endpoints[e.ID] = before
				return errors.Join(err, k.writeRates(before))
			}
			_ = k.forget(e)
			return err
		}
		for _, a := range before.Addresses {
			if !slices.Contains(e.Addresses, a) {
				if err := ignoreMissing(k.objects.maps["endpoints"].Delete(toWire(a))); err != nil {
					return undo(fmt.Errorf("forgetting %s: %w", a, err))
				}
			}
		}
		// Before the flags that make programs look for them.
		if err := k.writeRates(e); err != nil {
			return undo(err)
		}
		// A change of identity concerns the other endpoints' connections with this one as well.
		if !known || before.Identity != e.Identity {
			err = k.judgeAgain(append(slices.Collect(maps.Keys(k.endpoints)), HostEndpoint)...)
		} else if before.PolicyIngress != e.PolicyIngress || before.PolicyEgress != e.PolicyEgress || before.Audit != e.Audit {
			err = k.judgeAgain(e.ID)
		} else {
			err = k.publish(e, k.revision)
		}
		if err != nil {
			return undo(err)
		}
		if err := k.routeToPod(e); err != nil {
			return undo(err)
		}
		for _, a := range podAttachments(e) {
			if err := k.attach(a); err != nil {
				return undo(err)
			}
		}
		return nil
	})
}

// judgeAgain raises the endpoints' revision: their connections are judged by the present policy from now on.
func (k *kernel) judgeAgain(ids ...EndpointID) error {
	k.revision++
	var failed []error
	for _, id := range ids {
		if id == HostEndpoint {
			failed = append(failed, k.publishHost(k.revision))
		}
		if e, ok := k.endpoints[id]; ok {
			failed = append(failed, k.publish(e, k.revision))
		}
	}
	return errors.Join(failed...)
}

func (k *kernel) publish(e Endpoint, revision uint32) error {
	value := endpointToLayout(e, revision)
	if err := k.objects.maps["interfaces"].Put(value.Ifindex, value); err != nil {
		return fmt.Errorf("publishing interface %d: %w", value.Ifindex, err)
	}
	if e.NetnsCookie != 0 {
		owner := socketOwnerLayout{Address: toWire(e.Addresses[0]), Identity: e.Identity, ID: uint16(e.ID)}
		if err := k.objects.maps["namespaces"].Put(e.NetnsCookie, owner); err != nil {
			return fmt.Errorf("publishing the namespace of endpoint %d: %w", e.ID, err)
		}
	}
	for _, a := range e.Addresses {
		if err := k.objects.maps["endpoints"].Put(toWire(a), value); err != nil {
			return fmt.Errorf("publishing %s: %w", a, err)
		}
	}
	return nil
}

// routeToPod lets the host's own packets find the pod.
func (k *kernel) routeToPod(e Endpoint) error {
	if err := writeSysctl("net/ipv4/conf/"+e.Interface+"/rp_filter", "0"); err != nil {
		return err
	}
	if _, v6 := k.config.families(); v6 {
		if err := k.quietIPv6(e.Interface); err != nil {
			return err
		}
	}
	for _, a := range e.Addresses {
		family := unix.AF_INET
		if a.Unmap().Is6() {
			family = unix.AF_INET6
		}
		route := &netlink.Route{
			LinkIndex: e.InterfaceIndex, Dst: hostNet(a), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
			Src: net.IP(k.config.router(a.Unmap().Is6()).AsSlice()),
		}
		if !k.config.EndpointRoutes {
			if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("withdrawing the route to %s: %w", a, err)
			}
		} else if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("routing %s to %s: %w", a, e.Interface, err)
		}
		neighbour := &netlink.Neigh{
			LinkIndex: e.InterfaceIndex, State: netlink.NUD_PERMANENT, Family: family,
			IP: a.Unmap().AsSlice(), HardwareAddr: e.PodMAC[:],
		}
		if err := netlink.NeighSet(neighbour); err != nil {
			return fmt.Errorf("recording the hardware address of %s: %w", a, err)
		}
	}
	return nil
}

// RemoveEndpoint implements Datapath.
func (k *kernel) RemoveEndpoint(ctx context.Context, id EndpointID) error {
	return k.change(ctx, fmt.Sprintf("removing endpoint %d", id), func() error {
		e, ok := k.endpoints[id]
		if !ok {
			// Policy may have been applied before the endpoint was published.
			return k.forget(Endpoint{ID: id})
		}
		for _, a := range e.Addresses {
			_ = netlink.RouteDel(&netlink.Route{LinkIndex: e.InterfaceIndex, Dst: hostNet(a), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol})
		}
		return k.forget(e)
	})
}

// forget removes the endpoint from all maps; its interface may be gone already.
func (k *kernel) forget(e Endpoint) error {
	// No address first: nothing is delivered any more while the policy goes.
	for _, a := range e.Addresses {
		var value endpointLayout
		key := toWire(a)
		if err := k.objects.maps["endpoints"].Lookup(key, &value); err == nil && EndpointID(value.ID) != e.ID {
			continue
		}
		if err := ignoreMissing(k.objects.maps["endpoints"].Delete(key)); err != nil {
			return fmt.Errorf("forgetting %s: %w", a, err)
		}
	}
	if e.InterfaceIndex != 0 {
		for _, a := range podAttachments(e) {
			if err := k.detach(a); err != nil {
				return err
			}
		}
		if err := ignoreMissing(k.objects.maps["interfaces"].Delete(uint32(e.InterfaceIndex))); err != nil {
			return fmt.Errorf("forgetting interface %d: %w", e.InterfaceIndex, err)
		}
	}
	if e.NetnsCookie != 0 {
		if err := ignoreMissing(k.objects.maps["namespaces"].Delete(e.NetnsCookie)); err != nil {
			return fmt.Errorf("forgetting the namespace of endpoint %d: %w", e.ID, err)
		}
	}
	delete(k.endpoints, e.ID)
	if err := k.writeRates(Endpoint{ID: e.ID}); err != nil {
		return err
	}
	lines, err := k.policyLines(e.ID)
	if err != nil {
		return err
	}
	for key := range lines {
		if err := ignoreMissing(k.objects.maps["policy"].Delete(key)); err != nil {
			return fmt.Errorf("deleting a line of policy: %w", err)
		}
	}
	for _, name := range connectionTables {
		if _, err := deleteConnections(k.objects.maps[name], func(key *connectionKeyLayout, _ *connectionLayout) bool {
			return EndpointID(key.Endpoint) == e.ID
		}); err != nil {
			return err
		}
	}
	return nil
}

// Endpoints implements Datapath.
func (k *kernel) Endpoints() ([]Endpoint, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Endpoint, 0, len(k.endpoints))
	for _, id := range slices.Sorted(maps.Keys(k.endpoints)) {
		e := k.endpoints[id]
		e.Addresses = slices.Clone(e.Addresses)
		out = append(out, e)
	}
	return out, nil
}

// policyLines of one endpoint; 0 gives everybody's.
func (k *kernel) policyLines(id EndpointID) (map[policyKeyLayout]policyValueLayout, error) {
	out := map[policyKeyLayout]policyValueLayout{}
	var key policyKeyLayout
	var value policyValueLayout
	all := k.objects.maps["policy"].Iterate()
	for all.Next(&key, &value) {
		if id == 0 || EndpointID(key.Endpoint) == id {
			out[key] = value
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	return out, nil
}

// ApplyPolicy implements Datapath.
func (k *kernel) ApplyPolicy(ctx context.Context, add []PolicyEntry, remove []PolicyKey) error {
	return k.change(ctx, "applying policy", func() error {
		lines := k.objects.maps["policy"]
		touched := map[EndpointID]bool{}
		// What was written counts even where something else was not: connections are judged again in any case.
		var failed []error
		if slices.ContainsFunc(add, func(e PolicyEntry) bool { return e.ProxyPort != 0 }) {
			if err := k.ensureProxyRoutes(); err != nil {
				// The lines are in force all the same: what they give to a proxy is not let pass without it.
				failed = append(failed, err)
			}
		}
		for _, e := range add {
			key := policyKeyToLayout(e.PolicyKey)
			value := policyValueLayout{Rule: e.Rule, PrefixLen: uint8(key.PrefixLen), ProxyPort: toPort(e.ProxyPort)}
			if e.Deny {
				value.Deny = 1
			}
			if err := lines.Update(key, value, ebpf.UpdateAny); err != nil {
				failed = append(failed, fmt.Errorf("adding a line of endpoint %d: %w", e.Endpoint, err))
			}
			touched[e.Endpoint] = true
		}
		for _, r := range remove {
			if err := ignoreMissing(lines.Delete(policyKeyToLayout(r))); err != nil {
				failed = append(failed, fmt.Errorf("deleting a line of endpoint %d: %w", r.Endpoint, err))
			}
			touched[r.Endpoint] = true
		}
		return errors.Join(append(failed, k.judgeAgain(slices.Collect(maps.Keys(touched))...))...)
	})
}

// Policy implements Datapath.
func (k *kernel) Policy(id EndpointID) ([]PolicyEntry, error) {
	var out []PolicyEntry
	err := k.read("listing policy", func() error {
		lines, err := k.policyLines(id)
		for key, value := range lines {
			out = append(out, PolicyEntry{policyKeyFromLayout(key), PolicyValue{Deny: value.Deny != 0, Rule: value.Rule, ProxyPort: fromPort(value.ProxyPort)}})
		}
		return err
	})
	return out, err
}
