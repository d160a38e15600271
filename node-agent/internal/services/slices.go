package services

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"fairlead.dev/node-agent/internal/datapath"
)

// endpoint is one address of a service, as one port sees it.
type endpoint struct {
	address                     netip.Addr
	port                        uint16
	ready, serving, terminating bool
	node                        string
	zoneHints, nodeHints        []string
}

// endpointsOf lists the endpoints of one port, sorted; those that neither serve nor are ready are left out. It reads slices as
// kube-proxy does (pkg/proxy/endpointslicecache.go), hand-made ones included: of a state that is not said the better is meant,
// of several addresses the first, and what has no port that can be sent to has no endpoints. node is this node's name.
func endpointsOf(list []*discoveryv1.EndpointSlice, id datapath.ServiceID, notReady bool, node string) []endpoint {
	byAddress := map[netip.AddrPort]endpoint{}
	for _, slice := range list {
		if !isRead(slice, id.V6) {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || *p.Port < 1 || *p.Port > math.MaxUint16 || deref(p.Name, "") != id.PortName || protocols[deref(p.Protocol, corev1.ProtocolTCP)] != id.Protocol {
				continue
			}
			for i := range slice.Endpoints {
				e, ok := fromSlice(&slice.Endpoints[i], uint16(*p.Port), notReady)
				if !ok || e.address.Is6() != id.V6 {
					continue
				}
				key := netip.AddrPortFrom(e.address, e.port)
				if old, known := byAddress[key]; !known || compareTwins(e, old, node) > 0 {
					byAddress[key] = e
				}
			}
		}
	}
	out := make([]endpoint, 0, len(byAddress))
	for _, e := range byAddress {
		if e.ready || e.serving {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.port, b.port)) })
	return out
}

// isRead leaves out slices of the other family, of names, and those that are labelled as nobody's or another proxy's.
func isRead(slice *discoveryv1.EndpointSlice, v6 bool) bool {
	for _, label := range []string{proxyNameLabel, headlessLabel} {
		if _, theirs := slice.Labels[label]; theirs {
			return false
		}
	}
	wanted := discoveryv1.AddressTypeIPv4
	if v6 {
		wanted = discoveryv1.AddressTypeIPv6
	}
	return slice.AddressType == wanted
}

func fromSlice(e *discoveryv1.Endpoint, port uint16, notReady bool) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	address, ok := parseAddress(e.Addresses[0])
	x := endpoint{address: address, port: port, ready: deref(e.Conditions.Ready, true) || notReady,
		serving: deref(e.Conditions.Serving, true), terminating: deref(e.Conditions.Terminating, false), node: deref(e.NodeName, "")}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			x.zoneHints = append(x.zoneHints, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			x.nodeHints = append(x.nodeHints, n.Name)
		}
	}
	return x, ok
}

// compareTwins is positive where a counts and not b, of two entries of one endpoint: it can be in two slices for a moment, or for
// good where slices are hand-made. One that is on this node counts before one that is not, whatever its state, as with kube-proxy;
// then the better state. The rest has no meaning, but all orders of the slices have to give one result.
func compareTwins(a, b endpoint, node string) int {
	rank := func(e endpoint) (n int) {
		for i, has := range []bool{e.serving, e.serving && e.terminating, e.ready, e.node == node} {
			if has {
				n |= 1 << i
			}
		}
		return n
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.node, b.node), slices.Compare(a.zoneHints, b.zoneHints), slices.Compare(a.nodeHints, b.nodeHints))
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
