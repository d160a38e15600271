package datapath

import (
	"context"
	"fmt"
	"net/netip"
)

// identityHost is IDENTITY_HOST of bpf/lib/types.h.
const identityHost = 1

// hostKey is where the node itself stands among the endpoints: no packet has this address.
var hostKey = toWire(netip.IPv6Unspecified())

// UpsertHost implements Datapath.
func (k *kernel) UpsertHost(ctx context.Context, h Host) error {
	return k.change(ctx, "publishing the node as an endpoint", func() error {
		before := k.host
		k.host = &h
		if err := k.judgeAgain(HostEndpoint); err != nil {
			k.host = before
			return err
		}
		return nil
	})
}

func (k *kernel) publishHost(revision uint32) error {
	if k.host == nil {
		return nil
	}
	value := endpointToLayout(Endpoint{ID: HostEndpoint, Identity: identityHost, PolicyIngress: k.host.PolicyIngress,
		PolicyEgress: k.host.PolicyEgress, Audit: k.host.Audit}, revision)
	if err := k.objects.maps["endpoints"].Put(hostKey, value); err != nil {
		return fmt.Errorf("publishing the node: %w", err)
	}
	return nil
}

// restoreHost takes over how the node was governed before a restart, so that nothing is open or closed in between; where
// the host firewall was switched off, it forgets that it ever was.
func (k *kernel) restoreHost() error {
	var value endpointLayout
	if err := k.objects.maps["endpoints"].Lookup(hostKey, &value); err != nil {
		return nil
	}
	if k.config.HostFirewall {
		e := endpointFromLayout(value)
		k.host = &Host{PolicyIngress: e.PolicyIngress, PolicyEgress: e.PolicyEgress, Audit: e.Audit}
		return nil
	}
	return k.forget(Endpoint{ID: HostEndpoint, Addresses: []netip.Addr{netip.IPv6Unspecified()}})
}
